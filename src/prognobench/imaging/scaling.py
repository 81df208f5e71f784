"""Images are scaled by antialiasing filters: to Pillow's bits, grey ones in half of its time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

FILTERS = {
    "nearest": "NEAREST",
    "bilinear": "BILINEAR",
    "bicubic": "BICUBIC",
    "area": "BOX",
    "lanczos": "LANCZOS",
}
"""Interpolation -> Pillow's filter; all but the nearest average when an image shrinks."""

BITS = 22
"""Weights are whole numbers of ``2 ** -BITS``, so that sums of 8-bit values fit 32 bits."""

HALVED_FROM = 2.5
"""An image so many times as large as what is wanted is halved first."""


def scaled(
    image: NDArray[np.uint8], height: int, width: int, interpolation: str
) -> NDArray[np.uint8]:
    """Scale an image; one much too large is halved before it is filtered.

    Parameters
    ----------
    image
        uint8 ``(height, width)`` or ``(height, width, 3)``.
    height, width
        Of the result, in pixels.
    interpolation
        One of ``FILTERS``.

    Returns
    -------
    uint8 ``(height, width)`` or ``(height, width, 3)``.
    """
    rows, columns = (float(length) for length in image.shape[:2])
    # Averaging 2 x 2 pixels is ten times quicker than a filter over many, and changes the result
    # by a fifth of a grey value.
    while interpolation != "nearest" and min(rows / height, columns / width) >= HALVED_FROM:
        image = _halved(image)
        rows, columns = rows / 2, columns / 2
    return filtered(image, height, width, interpolation, (rows, columns))


def filtered(
    image: NDArray[np.uint8],
    height: int,
    width: int,
    interpolation: str,
    part: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """Do as ``PIL.Image.resize``, to the same bits.

    Parameters
    ----------
    part
        How many rows and columns of the image are wanted, from the first; all unless told.
    """
    rows, columns = part or (float(image.shape[0]), float(image.shape[1]))
    if image.shape[:2] == (height, width) and (rows, columns) == (height, width):
        return image
    # Pillow 13 scales some images that are tall, or that shrink more in height, from top to bottom
    # first, which rounds otherwise; they stay with the version that is installed.
    wide = rows <= columns and 1 <= rows / height <= columns / width
    if wide and image.ndim == 2 and interpolation in KERNELS:
        across = _shrunk(image, _weights(image.shape[1], columns, width, interpolation))
        return _shrunk(across, _weights(image.shape[0], rows, height, interpolation))
    from PIL import Image

    film = Image.fromarray(np.ascontiguousarray(image))
    resample = Image.Resampling[FILTERS[interpolation]]
    return np.asarray(film.resize((width, height), resample, box=(0.0, 0.0, columns, rows)))


def _halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average 2 x 2 pixels; an odd last row or column is repeated."""
    import cv2

    odd = (image.shape[0] % 2, image.shape[1] % 2)
    if any(odd):
        image = np.pad(image, [(0, odd[0]), (0, odd[1]), (0, 0)][: image.ndim], mode="edge")
    half = (image.shape[1] // 2, image.shape[0] // 2)
    return np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _box(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _triangle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    kernel: NDArray[np.float64] = np.maximum(1 - np.abs(x), 0)
    return kernel


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys's kernel with a = -1/2 (1981)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    kernel: NDArray[np.float64] = np.where(x < 1, near, np.where(x < 2, far, 0))
    return kernel


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    kernel: NDArray[np.float64] = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
    return kernel


KERNELS: dict[str, tuple[float, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "area": (0.5, _box),
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, _lanczos),
}
"""Interpolation -> half the width of its kernel, and the kernel."""


@lru_cache(maxsize=64)
def _weights(pixels: int, length: float, wanted: int, interpolation: str) -> csr_array:
    """Weights ``(wanted, pixels)`` of the pixels of a line in each pixel that it is scaled to.

    Parameters
    ----------
    length
        Of the line, in pixels, from its beginning.
    """
    from scipy.sparse import csr_array

    half, kernel = KERNELS[interpolation]
    step = length / wanted
    spread = max(step, 1.0)
    centre = (np.arange(wanted) + 0.5) * step
    first = np.maximum((centre - half * spread + 0.5).astype(int), 0)
    last = np.minimum((centre + half * spread + 0.5).astype(int), pixels)
    pixel = first[:, None] + np.arange((last - first).max())
    within = pixel < last[:, None]
    share = np.where(within, kernel((pixel - centre[:, None] + 0.5) * (1 / spread)), 0)
    share /= np.cumsum(share, axis=1)[:, -1:]  # summed one by one, as Pillow does
    whole = np.trunc(share * (1 << BITS) + np.copysign(0.5, share)).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(last - first)])
    return csr_array((whole[within], pixel[within], starts), shape=(wanted, pixels))


def _shrunk(image: NDArray[np.uint8], weights: csr_array) -> NDArray[np.uint8]:
    """Scale the lines of an image ``(lines, pixels)``; gives ``(pixels wanted, lines)``."""
    import cv2

    sums = weights @ cv2.transpose(image).astype(np.int32)
    sums += 1 << (BITS - 1)
    sums >>= BITS
    return np.asarray(cv2.add(sums, np.zeros(4), dtype=cv2.CV_8U), dtype=np.uint8)  # clips, too
