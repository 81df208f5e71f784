"""The device that takes a synthetic image: hardware on the patient, exposure, grain and labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prognobench.datasets.synthetic.anatomy import Plane, normals

if TYPE_CHECKING:
    from numpy.typing import NDArray

GLYPHS = {
    "L": ("1000", "1000", "1000", "1000", "1000", "1111"),
    "R": ("1110", "1001", "1001", "1110", "1010", "1001"),
}


@dataclass(frozen=True)
class Device:
    """How one centre takes, processes and labels its images.

    Attributes
    ----------
    window
        Attenuations that become black and white.
    grain
        Standard deviation of the noise, in attenuation.
    blur
        Width of the point spread in image units.
    portable
        Share of images taken in bed, with leads and tubes on them.
    """

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
        """Draw a centre's device; ``effect`` 0 gives every centre the same but for its marker."""
        tone, low, high, grain, blur, vignette, portable = (
            effect * float(draw) for draw in random.uniform(-1, 1, 7)
        )
        return cls(
            gamma=math.exp(0.25 * tone),
            window=(0.13 + 0.05 * low, 1.25 + 0.12 * high),
            grain=0.018 * math.exp(0.7 * grain),
            blur=0.012 * math.exp(0.5 * blur),
            vignette=0.10 + 0.05 * vignette,
            border=0.05 * effect * (random.random() < 0.35),
            marker="R" if random.random() < 0.3 else "L",
            marker_height=float(random.uniform(0.10, 0.16)),
            portable=min(max(0.45 + 0.4 * portable, 0.0), 1.0),
        )


def hardware(image_size: int, device: Device, day: np.random.Generator) -> Plane:
    """The side marker and, on portable images, electrodes with their leads, and tubes."""
    layer = np.zeros((image_size, image_size), np.uint8)
    _mark(layer, device, day)
    along = np.linspace(0, 1, 12)
    portable = day.random() < device.portable
    leads, intubated, central_line = day.integers(1, 4), day.random() < 0.4, day.random() < 0.4
    for _ in range(leads if portable else 0):
        x, y, bend, end = day.uniform((-0.6, -0.5, -0.4, -1), (0.6, 0.3, 0.4, 1))
        _line(
            layer,
            x + (end - x) * along + 2 * bend * along * (1 - along),
            y + (1.1 - y) * along**1.3,
            70,
            1,
        )
        _electrode(layer, x, y)
    if portable and intubated:
        wobble, tip = day.uniform((-0.03, -0.35), (0.03, -0.15))
        _line(layer, 0.01 + wobble * along, -1 + (tip + 1) * along, 90, 2)
    if portable and central_line:
        hook, tip = day.uniform((0.25, -0.1), (0.5, 0.15))
        _line(layer, -0.06 - hook * (1 - along) ** 3, -0.75 + (tip + 0.75) * along, 80, 1)
    return layer * np.float32(1 / 255)


def _mark(layer: NDArray[np.uint8], device: Device, day: np.random.Generator) -> None:
    """Stamp the side marker into the upper corner of its side."""
    import cv2

    image_size = len(layer)
    glyph = np.array([[int(dot) for dot in row] for row in GLYPHS[device.marker]], np.uint8)
    height = max(6, round(device.marker_height * image_size / 2))
    width = round(0.7 * height)
    sign = cv2.resize(glyph * 255, (width, height), interpolation=cv2.INTER_LINEAR)
    top, edge = (round(image_size * float(share)) for share in day.uniform(0.04, 0.10, 2))
    left = image_size - edge - width if device.marker == "L" else edge
    layer[top : top + height, left : left + width] = sign


def _line(
    layer: NDArray[np.uint8], x: NDArray[np.float64], y: NDArray[np.float64], grey: int, width: int
) -> None:
    import cv2

    image_size = len(layer)
    sixteenths = np.round((np.stack([x, y], 1) + 1) * image_size * 8).astype(np.int32)
    thickness = max(1, round(width * image_size / 96))
    cv2.polylines(layer, [sixteenths], False, grey, thickness, cv2.LINE_AA, 4)


def _electrode(layer: NDArray[np.uint8], x: float, y: float) -> None:
    import cv2

    unit = len(layer) * 8
    centre = (round((x + 1) * unit), round((y + 1) * unit))
    cv2.circle(layer, centre, round(0.035 * unit), 150, -1, cv2.LINE_AA, 4)


def expose(
    attenuation: Plane, metal: Plane, fat: float, device: Device, day: np.random.Generator
) -> NDArray[np.uint8]:
    """Turn attenuation into the grey values of the centre's device: uint8 ``(size, size)``."""
    import cv2

    image_size = len(attenuation)
    gain, lift = normals(day, 0.05, 0.03)
    margin = round(device.border * image_size * float(day.random()))
    gain -= 0.10 * (fat - 1)  # automatic exposure
    haze = 0.12 + 0.05 * fat
    scatter = cv2.resize(attenuation, (8, 8), interpolation=cv2.INTER_AREA)
    scatter = cv2.resize(scatter, (image_size, image_size), interpolation=cv2.INTER_CUBIC)
    seen = (1 - haze) * attenuation + haze * scatter + 0.5 * metal
    seen = cv2.GaussianBlur(seen, (0, 0), device.blur * image_size / 2)
    seen += device.grain * math.sqrt(fat) * _grain(day, image_size)
    low, high = device.window
    tone = np.clip((seen * (1 + gain) - (low + lift)) * (1 / (high - low)), 0, 1)
    tone = tone ** np.float32(device.gamma)
    fall = device.vignette * np.linspace(-1, 1, image_size, dtype=np.float32) ** 2
    tone *= 1 - 0.5 * (fall[:, None] + fall[None, :])
    if margin:
        tone[:margin] = tone[-margin:] = 0
        tone[:, :margin] = tone[:, -margin:] = 0
    image: NDArray[np.uint8] = np.round(tone * 255).astype(np.uint8)
    return image


def _grain(day: np.random.Generator, image_size: int) -> Plane:
    """Noise of unit variance, part of it correlated over neighbouring pixels."""
    import cv2

    white = day.standard_normal((image_size, image_size), dtype=np.float32)
    return 0.7 * white + 1.6 * cv2.blur(white, (3, 3))
