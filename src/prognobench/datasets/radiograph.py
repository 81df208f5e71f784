"""The drawing of a synthetic chest film: a sum of crude attenuations seen through a device.

Coordinates: ``x`` grows to the right of the film, ``y`` downwards, both from -1 to 1; ``u`` is the
distance from the patient's midline. Functions of the anatomy return attenuation, film-shaped. The patient's left is on the right of the film.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float32]

GLYPHS = {
    "L": ("1000", "1000", "1000", "1000", "1000", "1111"),
    "R": ("1110", "1001", "1001", "1110", "1010", "1001"),
}


@dataclass(frozen=True)
class Body:
    """A patient's build, the same on all films: lengths in film units, the rest around 0 or 1."""

    female: bool
    age_score: float
    fat: float
    half_width: float
    length: float
    heart: float
    tilt: float
    rib_phase: float
    rib_slope: float

    @classmethod
    def of(
        cls, *, female: bool, age_score: float, habitus: float, random: np.random.Generator
    ) -> Body:
        noise = random.standard_normal(6)
        return cls(
            female=female,
            age_score=age_score,
            fat=float(np.clip(1 + 0.3 * habitus, 0.4, 1.9)),
            half_width=0.70 + 0.03 * noise[0] - 0.03 * female,
            length=1.16 + 0.06 * noise[1] - 0.05 * habitus,
            heart=float(np.clip(1 + 0.1 * noise[2] + 0.06 * habitus + 0.05 * age_score, 0.7, 1.45)),
            tilt=0.08 * noise[3],
            rib_phase=0.5 * noise[4],
            rib_slope=0.42 + 0.06 * noise[5],
        )


@dataclass(frozen=True)
class View:
    """The coordinates of one film, and where the lungs end on it."""

    x: Plane
    y: Plane
    u: Plane
    left: NDArray[np.bool_]
    apex: float
    dome: Plane
    lungs: Plane
    depth: Plane
    """0 at the midline, 1 at the chest wall."""

    @classmethod
    def of(cls, body: Body, side: int, day: np.random.Generator) -> View:
        angle, zoom, dx, dy, breath = day.standard_normal(5) * (0.03, 0.03, 0.03, 0.03, 0.04)
        ticks = (np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1
        across, down = ticks[None, :] - np.float32(dx), ticks[:, None] - np.float32(dy)
        scale = np.float32(1 + zoom)
        x = (across + np.float32(angle) * down) * scale
        y = (down - np.float32(angle) * across) * scale
        u, left = np.abs(x), x > 0
        apex = -0.74
        top = apex + body.length + breath
        peak = np.float32(top) + 0.06 * ramp(x, 0.5) - 0.02
        dome = peak + 1.5 * np.maximum(u - 0.36, 0) ** 2 + 0.6 * np.minimum(u - 0.36, 0) ** 2
        height = np.clip((top + 0.25 - y) / (top + 0.25 - apex), 0, 1)
        wall = 0.10 + (body.half_width - 0.10) * np.sqrt(1 - height**3.2)
        lungs = ramp(wall - u, 0.05) * ramp(u - 0.11, 0.05) * ramp(dome - y, 0.04)
        return cls(x, y, u, left, apex, dome, lungs, np.clip(u / wall, 0, 1.5))


def ramp(distance: Plane, width: float) -> Plane:
    """Smooth step from 0 to 1 while the signed distance goes over ``width`` around zero."""
    t = np.clip(distance * np.float32(1 / width) + np.float32(0.5), 0, 1)
    smooth: Plane = t * t * (3 - 2 * t)
    return smooth


def bump(distance: Plane, width: float) -> Plane:
    """Smooth bump of height 1 around zero, zero beyond ``width``."""
    t = np.clip(1 - np.abs(distance) * np.float32(1 / width), 0, 1)
    smooth: Plane = t * t * (3 - 2 * t)
    return smooth


def texture(random: np.random.Generator, cells: int, side: int) -> Plane:
    """Smooth random field of unit variance, with ``cells`` grains along a side."""
    import cv2

    coarse = random.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def soft_tissue(view: View, body: Body) -> Plane:
    """Trunk, neck and shoulders, with the air of the lungs taken out."""
    x, y, u = view.x, view.y, view.u
    shoulder = np.clip((y + 1.0) / 0.42, 0, 1) ** 1.5
    waist = body.half_width + 0.14 + 0.10 * body.fat
    trunk = ramp(0.22 + (waist + 0.28 - 0.22) * shoulder - 0.22 * np.clip((y + 0.1), 0, 1) - u, 0.06)
    thickness = 0.35 + 0.65 * np.sqrt(np.clip(1 - (u / (waist + 0.1)) ** 2, 0, 1))
    tissue = trunk * thickness * np.float32(0.55 + 0.16 * body.fat)
    tissue += 0.24 * ramp(y - view.dome, 0.05) * trunk
    bubble = ((x - 0.35) / 0.14) ** 2 + ((y - view.dome - 0.13) / 0.07) ** 2
    tissue -= 0.16 * ramp(1 - bubble, 1.0)
    if body.female:
        breast = ((u - 0.42) / 0.30) ** 2 + ((y - 0.28) / 0.26) ** 2
        tissue += np.float32(0.10 * body.fat) * ramp(1 - breast, 0.5)
    return tissue - 0.42 * view.lungs


def bones(view: View, body: Body) -> Plane:
    """Ribs, front and back, clavicles, spine and shoulder joints; fainter with age."""
    x, y, u = view.x, view.y, view.u
    hardness = np.float32(np.clip(1 - 0.08 * body.age_score, 0.75, 1.2))
    cage = ramp(1.06 - view.depth, 0.06) * ramp(y - view.apex - 0.02, 0.06) 
    cage *= 1 - 0.75 * ramp(y - view.dome - 0.03, 0.1)
    back = (y + 0.05 - body.rib_slope * view.depth * (1.25 - view.depth)) / 0.142 + body.rib_phase
    front = (y - 0.25 + 0.75 * (u - 0.3)) / 0.19 + body.rib_phase
    away = ramp(u - 0.10, 0.05)
    ribs = 0.12 * _band(back) * away + 0.06 * _band(front) * ramp(u - 0.22, 0.15)
    ribs *= 1 + 0.6 * ramp(view.depth - 0.85, 0.3)
    clavicle = y + 0.60 + 0.16 * (u - 0.10) - 0.10 * np.sin(np.float32(5.5) * (u - 0.08))
    collar = bump(clavicle, 0.055) * ramp(u - 0.07, 0.04) * ramp(0.72 - u, 0.06)
    joint = ramp(1 - ((u - 0.92) / 0.13) ** 2 - ((y + 0.62) / 0.15) ** 2, 0.5)
    blade = bump(u - 0.80 + 0.25 * (y + 0.3), 0.03) * ramp(0.15 - np.abs(y + 0.3), 0.1)
    vertebrae = 0.75 + 0.25 * np.sin(np.float32(38) * y)
    spine = bump(u, 0.15) * vertebrae
    return hardness * (ribs * cage + 0.13 * collar + 0.14 * joint + 0.08 * blade + 0.10 * spine)


def _band(phase: Plane) -> Plane:
    """A periodic rib, one a unit: its two cortical edges brighter than its middle."""
    distance = np.abs(phase - np.round(phase))
    return 0.6 * ramp(0.27 - distance, 0.12) + 0.5 * bump(distance - 0.25, 0.09)


def mediastinum(view: View, body: Body, random: np.random.Generator) -> Plane:
    """Heart, great vessels, airway, hila and the vessels that leave them."""
    x, y = view.x - body.tilt * 0.3, view.y
    base = view.apex + body.length
    size = np.float32(body.heart)
    a, b = (x - 0.12) / (0.36 * size), (y - base + 0.13) / (0.34 * size)
    ventricles = ramp(1 - (a * a + b * b - 0.9 * a * b), 0.55)
    atrium = ramp(1 - ((x + 0.05) / (0.19 * size)) ** 2 - ((y - base + 0.13) / 0.30) ** 2, 0.5)
    arch = ((x - 0.10) ** 2 + (y + 0.30) ** 2) / np.float32(0.014 + 0.004 * body.age_score)
    trunk = 0.12 + 0.10 * ramp(y + 0.15, 0.5)
    column = ramp(trunk - np.abs(x - 0.02), 0.14) * (0.45 + 0.4 * ramp(y + 0.3, 0.9))
    trachea = bump(x + 0.01, 0.07) * ramp(-0.15 - y, 0.15)
    mass = np.maximum(np.maximum(ventricles, 0.9 * atrium), column)
    mass = np.maximum(mass, 0.6 * ramp(1 - arch, 0.7)) * ramp(view.dome + 0.14 - y, 0.3)
    return 0.40 * mass - 0.09 * trachea + _vessels(view, random)


def _vessels(view: View, random: np.random.Generator) -> Plane:
    """Hila, and lung vessels as ridges that leave them and fade outwards."""
    dx, dy = view.u - 0.17, view.y - np.where(view.left, np.float32(-0.06), np.float32(-0.02))
    radius = np.sqrt(dx * dx + dy * dy)
    angle = np.arctan2(dy, dx) + np.where(view.left, np.float32(2.0), np.float32(0))
    p, q = random.uniform(0, 6.28, 2).astype(np.float32)
    ridges = np.sin(9 * angle + p + 4 * radius) + np.sin(15 * angle + q - 7 * radius)
    fade = np.exp(-3.2 * radius)
    hilum = bump(dx / 0.8, 0.14) * bump(dy, 0.20)
    return view.lungs * (0.055 * fade * (np.maximum(ridges, -0.3) + 0.8)) + 0.13 * hilum


def opacity(
    view: View, severity: float, pattern: np.random.Generator, day: np.random.Generator
) -> Plane:
    """Disease: patches that spread from the periphery of the lower zones as severity grows.

    A patient has a fixed field of susceptibility; what exceeds a threshold that falls with
    severity is ground glass, and what exceeds it by far is consolidated.
    """
    side = len(view.y)
    field = 0.55 * texture(pattern, 5, side) + 0.35 * texture(pattern, 11, side)
    field += 0.12 * texture(day, 9, side)
    lean = np.float32(0.5 * pattern.standard_normal())
    place = 1.1 * (view.depth - 0.6) + 0.9 * (view.y + 0.1) + lean * np.sign(view.x)
    excess = field + place - np.float32(1.3 - 0.9 * severity)
    grain = 1 + 0.22 * texture(pattern, 24, side)
    return (0.20 * ramp(excess, 1.2) + 0.20 * ramp(excess - 1.2, 1.4)) * grain


@dataclass(frozen=True)
class Device:
    """How one centre takes, processes and labels its films."""

    gamma: float
    window: tuple[float, float]
    grain: float
    blur: float
    vignette: float
    border: float
    marker: str
    marker_height: float
    portable: float

    @classmethod
    def of(cls, random: np.random.Generator, effect: float) -> Device:
        tone, low, high, grain, blur, vignette = effect * random.uniform(-1, 1, 6)
        return cls(
            gamma=float(np.exp(0.25 * tone)),
            window=(0.13 + 0.05 * low, 1.22 + 0.14 * high),
            grain=0.018 * float(np.exp(0.7 * grain)),
            blur=0.012 * float(np.exp(0.5 * blur)),
            vignette=0.10 + 0.10 * vignette,
            border=float(0.05 * effect * (random.random() < 0.35)),
            marker="R" if random.random() < 0.3 else "L",
            marker_height=float(random.uniform(0.1, 0.16)),
            portable=float(np.clip(0.45 + 0.4 * effect * random.uniform(-1, 1), 0, 1)),
        )


def hardware(side: int, device: Device, day: np.random.Generator) -> Plane:
    """The side marker and, on portable films, electrodes with their leads and tubes."""
    import cv2

    layer = np.zeros((side, side), np.uint8)
    unit = side / 2 * 16  # sixteenths of a pixel, for smooth lines

    def draw(points: NDArray[np.float64], grey: int, width: float) -> None:
        path = np.round((points + 1) * unit).astype(np.int32)
        thickness = max(1, round(width * side / 96))
        cv2.polylines(layer, [path], False, grey, thickness, cv2.LINE_AA, shift=4)

    glyph = np.array([[int(dot) for dot in row] for row in GLYPHS[device.marker]], np.uint8)
    high = max(6, round(device.marker_height * side / 2))
    sign = cv2.resize(glyph * 255, (round(high * 0.7), high), interpolation=cv2.INTER_AREA)
    top = round(side * day.uniform(0.04, 0.10))
    edge = round(side * day.uniform(0.05, 0.09))
    start = side - edge - sign.shape[1] if device.marker == "L" else edge
    layer[top : top + high, start : start + sign.shape[1]] = sign
    t = np.linspace(0, 1, 12)
    if day.random() < device.portable:
        for _ in range(day.integers(1, 4)):
            x, y, bend, end = day.uniform((-0.6, -0.5, -0.4, -1), (0.6, 0.3, 0.4, 1))
            lead = np.stack([x + (end - x) * t + bend * t * (1 - t) * 2, y + (1.1 - y) * t**1.3], 1)
            draw(lead, 70, 1)
            spot = (round((x + 1) * unit), round((y + 1) * unit))
            cv2.circle(layer, spot, round(0.035 * unit), 150, -1, cv2.LINE_AA, shift=4)
    if day.random() < 0.4 * device.portable:
        wobble, depth = day.uniform((-0.03, -0.35), (0.03, -0.15))
        draw(np.stack([0.01 + wobble * t, -1 + (depth + 1) * t], 1), 90, 2)
    if day.random() < 0.4 * device.portable:
        hook, depth = day.uniform((0.25, -0.1), (0.5, 0.15))
        draw(np.stack([-0.06 - hook * (1 - t) ** 3, -0.75 + (depth + 0.75) * t], 1), 80, 1)
    return layer.astype(np.float32) * np.float32(1 / 255)


def expose(
    attenuation: Plane, metal: Plane, fat: float, device: Device, day: np.random.Generator
) -> NDArray[np.uint8]:
    """Turn attenuation into the grey values of the centre's device: uint8 ``(side, side)``."""
    import cv2

    side = len(attenuation)
    gain, lift, edge = day.standard_normal(3) * (0.05, 0.03, 0.5)
    scatter = cv2.GaussianBlur(attenuation, (0, 0), 0.10 * side)
    haze = np.float32(0.12 + 0.05 * fat)
    seen = (1 - haze) * attenuation + haze * scatter + 0.55 * metal
    seen = cv2.GaussianBlur(seen, (0, 0), device.blur * side / 2)
    low, high = device.window
    ticks = np.linspace(-1, 1, side, dtype=np.float32) ** 2
    grain = day.standard_normal((side, side), dtype=np.float32)
    grain = 0.6 * grain + 0.8 * cv2.GaussianBlur(grain, (0, 0), 0.9)
    seen += np.float32(device.grain * fat**0.5) * grain
    tone = np.clip((seen * np.float32(1 + gain) - np.float32(low + lift)) / (high - low), 0, 1)
    tone = tone ** np.float32(device.gamma)
    tone *= 1 - np.float32(device.vignette) * (ticks[:, None] + ticks[None, :]) * 0.5
    margin = round(device.border * side * np.clip(0.5 + edge, 0, 1))
    if margin:
        tone[:margin] = tone[-margin:] = 0
        tone[:, :margin] = tone[:, -margin:] = 0
    return np.round(tone * 255).astype(np.uint8)
