"""The anatomy of a synthetic frontal chest X-ray, as a sum of crude attenuations.

Coordinates: ``x`` grows to the right of the image, ``y`` downwards, both from -1 to 1; ``u`` is the
distance from the patient's midline. The patient's left is on the right of the image. Every plane is
of the image's shape, ``(size, size)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Plane: TypeAlias = Any
"""A float32 array; NumPy's types cannot follow that it stays so beside Python's numbers."""

APEX = -0.74
"""Where the lungs begin."""


@dataclass(frozen=True)
class Body:
    """A patient's build, the same on all images: lengths in image units, the rest around 0 or 1."""

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
        width, length, heart, tilt, phase, slope = normals(
            random, 0.03, 0.06, 0.1, 0.025, 0.5, 0.06
        )
        return cls(
            female=female,
            age_score=age_score,
            fat=min(max(1 + 0.3 * habitus, 0.4), 1.9),
            half_width=0.70 + width - 0.03 * female,
            length=1.16 + length - 0.05 * habitus,
            heart=min(max(1 + heart + 0.06 * habitus + 0.05 * age_score, 0.7), 1.45),
            tilt=tilt,
            rib_phase=phase,
            rib_slope=0.42 + slope,
        )


@dataclass(frozen=True)
class View:
    """The coordinates of one image, and where the lungs lie on it.

    Attributes
    ----------
    dome
        Height ``y`` of the diaphragm at each place.
    lungs
        1 in the lungs, 0 elsewhere.
    depth
        0 at the midline, 1 at the chest wall.
    """

    x: Plane
    y: Plane
    u: Plane
    dome: Plane
    lungs: Plane
    depth: Plane

    @classmethod
    def of(cls, body: Body, image_size: int, day: np.random.Generator) -> View:
        angle, zoom, across, down, breath = normals(day, 0.03, 0.03, 0.03, 0.03, 0.04)
        ticks = (np.arange(image_size, dtype=np.float32) + 0.5) * (2 / image_size) - 1
        columns, rows = ticks[None, :] - across, ticks[:, None] - down
        x = (columns + angle * rows) * (1 + zoom)
        y = (rows - angle * columns) * (1 + zoom)
        u = np.abs(x)
        top = APEX + body.length + breath
        off = u - 0.38
        dome = top - 0.02 + 0.06 * ramp(x, 0.5) + (0.7 * off + 1.1 * np.maximum(off, 0)) * off
        height = np.clip((top + 0.26 - y) * (1 / (top + 0.26 - APEX)), 0, 1)
        wall = 0.10 + (body.half_width - 0.10) * np.sqrt(1 - height * height * height)
        medial = 0.10 + 0.04 * height
        lungs = ramp(wall - u, 0.06) * ramp(u - medial, 0.10) * ramp(dome - y, 0.05)
        return cls(x, y, u, dome, lungs, np.minimum(u / wall, 1.5))


def normals(random: np.random.Generator, *spreads: float) -> list[float]:
    """Independent normal numbers with these standard deviations."""
    return [spread * float(random.standard_normal()) for spread in spreads]


def ramp(distance: Plane, width: float) -> Plane:
    """Smooth step from 0 to 1 while the signed distance goes over ``width`` around zero."""
    t = np.clip(distance * (1 / width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def bump(distance: Plane, width: float) -> Plane:
    """Smooth bump of height 1 around zero, zero beyond ``width``."""
    t = np.maximum(1 - np.abs(distance) * (1 / width), 0)
    return t * t * (3 - 2 * t)


def disc(x: Plane, y: Plane, width: float, height: float, softness: float = 0.5) -> Plane:
    """An ellipse around the origin with these half axes."""
    x, y = x * (1 / width), y * (1 / height)
    return ramp(1 - x * x - y * y, softness)


def texture(random: np.random.Generator, cells: int, image_size: int) -> Plane:
    """Smooth random field of about unit variance with ``cells`` grains along a side."""
    import cv2

    coarse = random.standard_normal((cells, cells), dtype=np.float32)
    return cv2.resize(coarse, (image_size, image_size), interpolation=cv2.INTER_CUBIC)


def soft_tissue(view: View, body: Body) -> Plane:
    """Trunk, neck and shoulders, with the air of the lungs taken out."""
    x, y, u = view.x, view.y, view.u
    waist = body.half_width + 0.16 + 0.12 * body.fat
    slope = np.sqrt(np.clip((y + 1.02) * 2.2, 0, 1))
    slope *= slope * slope
    trunk = ramp(0.22 + (waist + 0.04) * slope - 0.08 * np.maximum(y, -0.1) - u, 0.06)
    roundness = u * (1 / (waist + 0.12))
    thickness = 0.35 + 0.65 * np.sqrt(np.maximum(1 - roundness * roundness, 0))
    tissue = trunk * thickness * (0.55 + 0.16 * body.fat)
    below = y - view.dome
    tissue += 0.24 * ramp(below, 0.05) * trunk
    tissue -= 0.16 * disc(x - 0.36, below - 0.13, 0.15, 0.08, 1.0)
    if body.female:
        tissue += 0.10 * body.fat * disc(u - 0.42, y - 0.28, 0.30, 0.26)
    return tissue - 0.42 * view.lungs


def bones(view: View, body: Body) -> Plane:
    """Ribs, back and front, clavicles, shoulders and spine; fainter with age."""
    y, u, depth = view.y, view.u, view.depth
    hardness = min(max(1 - 0.08 * body.age_score, 0.75), 1.2)
    cage = ramp(1.06 - depth, 0.06) * ramp(y - APEX - 0.02, 0.06)
    cage *= 1 - 0.8 * ramp(y - view.dome - 0.03, 0.1)
    back = (y - body.rib_slope * depth * (1.25 - depth)) * (1 / 0.142) + body.rib_phase
    front = (y + 0.75 * u) * (1 / 0.19) + body.rib_phase
    ribs = 0.12 * _rib(back) * ramp(u - 0.12, 0.1) + 0.06 * _rib(front) * ramp(u - 0.3, 0.2)
    ribs *= cage * (1 + 0.6 * ramp(depth - 0.85, 0.3))
    collar = bump(y + 0.58 + 0.16 * u - 0.06 * bump(u - 0.35, 0.3), 0.055)
    collar *= ramp(u - 0.07, 0.04) * ramp(0.74 - u, 0.06)
    joint = disc(u - 0.92, y + 0.62, 0.13, 0.15)
    blade = bump(u - 0.72 + 0.25 * y, 0.03) * bump(y + 0.3, 0.35)
    spine = bump(u, 0.17) * (0.8 + 0.2 * np.sin(38 * y[:, :1]))
    shoulder = 0.13 * collar + 0.14 * joint + 0.08 * blade
    return hardness * (ribs + shoulder + 0.09 * spine)


def _rib(phase: Plane) -> Plane:
    """Periodic bands, one a unit: the two cortical edges brighter than the middle."""
    distance = np.abs(phase - np.round(phase))
    return 0.6 * ramp(0.27 - distance, 0.12) + 0.5 * bump(distance - 0.25, 0.09)


def mediastinum(view: View, body: Body, random: np.random.Generator) -> Plane:
    """Heart, great vessels, airway, hila and the vessels that leave them."""
    x, y = view.x - body.tilt, view.y
    middle, size = APEX + body.length - 0.13, body.heart
    low = y - middle
    ventricles = disc(x - 0.12 - 0.45 * low, low, 0.32 * size, 0.34 * size)
    atrium = disc(x + 0.05, low, 0.19 * size, 0.30)
    arch = disc(x - 0.10, y + 0.30, 0.12 + 0.015 * body.age_score, 0.13, 0.7)
    lower = ramp(y + 0.15, 0.7)
    column = ramp(0.13 + 0.09 * lower - np.abs(x - 0.02), 0.16) * (0.35 + 0.4 * lower)
    mass = np.maximum(np.maximum(ventricles, 0.9 * atrium), np.maximum(column, 0.6 * arch))
    mass *= ramp(view.dome + 0.14 - y, 0.3)
    trachea = bump(x + 0.01, 0.07) * ramp(-0.15 - y, 0.15)
    return 0.40 * mass - 0.09 * trachea + _vessels(view, random)


def _vessels(view: View, random: np.random.Generator) -> Plane:
    """Hila, and lung vessels as ridges that leave them and fade outwards."""
    dx, dy = view.u - 0.17, view.y + 0.04
    radius = np.sqrt(dx * dx + dy * dy)
    angle = np.arctan2(dy, dx) + np.where(view.x > 0, np.float32(2), np.float32(0))
    wide, fine = random.uniform(0, 2 * math.pi, 2).tolist()
    ridges = np.sin(9 * angle + wide + 4 * radius) + np.sin(15 * angle + fine - 7 * radius)
    fade = np.exp(-3.2 * radius)
    hilum = bump(dx, 0.11) * bump(dy, 0.20)
    return view.lungs * 0.055 * fade * (np.maximum(ridges, -0.3) + 0.8) + 0.13 * hilum


def opacity(
    view: View, severity: float, pattern: np.random.Generator, day: np.random.Generator
) -> Plane:
    """Disease: patches that spread from the periphery of the lower zones as severity grows.

    A patient has a fixed field of susceptibility; where it exceeds a threshold that falls with
    severity there is ground glass, and where it exceeds it by far, consolidation.
    """
    image_size = len(view.y)
    field = 0.55 * texture(pattern, 6, image_size) + 0.35 * texture(pattern, 12, image_size)
    grain = 1 + 0.22 * texture(pattern, 24, image_size)
    lean = 0.3 * float(pattern.standard_normal())
    field += 0.12 * texture(day, 9, image_size) + lean * np.sign(view.x)
    excess = field + 1.1 * (view.depth - 0.6) + 0.9 * (view.y + 0.1) - (1.3 - 0.9 * severity)
    return view.lungs * grain * (0.20 * ramp(excess, 1.2) + 0.24 * ramp(excess - 1.1, 1.4))
