"""What every decoder shares: limits of size, stretching to uint8, channels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prognobench.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "JPEG2000", "WEBP", "PPM")
"""Image files that are read, beside DICOM, as Pillow calls them."""

TIFF_MARKS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
"""First bytes of TIFF files, in either order; the last two are those of BigTIFF."""

MAX_PIXELS = 80_000_000
"""The largest image that is decoded; a mammogram at full resolution has 25 million pixels."""

EXACT = 1 << 24
"""The largest whole number up to which single precision holds every one."""


def refuse_bomb(path: Path, width: int, height: int) -> None:
    """Refuse an image whose header announces more pixels than are decoded."""
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{path}: {width} x {height} pixels are more than the {MAX_PIXELS:,} that are decoded; "
            "scale the image down, or leave it out with dataset.exclude"
        )


def refuse_frames(path: Path, frames: int) -> None:
    """Refuse a file that holds a series instead of one image."""
    if frames > 1:
        raise DataError(
            f"{path}: holds {frames} frames, an image has one; export the frame that is meant, "
            "or leave the file out with dataset.exclude"
        )


def stretch(values: NDArray[np.floating | np.integer]) -> NDArray[np.uint8]:
    """Map darkest to 0 and brightest to 255; an image of one value becomes black."""
    x = _finite(values, np.float32)
    low, high = float(x.min()), float(x.max())
    # Single precision is twice as quick, and exact for all 16-bit and most other images.
    if values.dtype.itemsize > 2 and max(-low, high) > EXACT:
        x = _finite(values, np.float64)
        low, high = float(x.min()), float(x.max())
    x -= low
    x *= 255 / (high - low) if high > low else 0.0
    pixels: NDArray[np.uint8] = np.rint(x, out=x).astype(np.uint8)
    return pixels


def _finite(
    values: NDArray[np.floating | np.integer], dtype: type[np.floating]
) -> NDArray[np.floating]:
    x = values.astype(dtype)
    if values.dtype.kind == "f":
        np.nan_to_num(x, copy=False, posinf=0, neginf=0)
    return x


def convert_channels(pixels: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Give a grey or RGB array the number of channels that was asked for."""
    if channels == 3:
        return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.ndim == 2:
        return pixels
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).convert("L"))
