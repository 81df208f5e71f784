"""A decoded image becomes the square of pixels that every model starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.records import ImageOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLACK = 10
"""Grey values up to this one count as black at the borders: compression leaves noise there."""

FILTERS = {
    "nearest": "NEAREST",
    "bilinear": "BILINEAR",
    "bicubic": "BICUBIC",
    "area": "BOX",
    "lanczos": "LANCZOS",
}
"""Interpolation -> Pillow's filter; all but the nearest average when an image shrinks."""


def to_square(
    image: NDArray[np.uint8], side: int, interpolation: str, options: ImageOptions
) -> NDArray[np.uint8]:
    """Crop, stretch, equalise and scale an image, in this order, as the options say.

    Parameters
    ----------
    image
        uint8 ``(height, width)`` or ``(height, width, 3)``.
    side
        Of the square, in pixels.
    interpolation
        One of ``FILTERS``.

    Returns
    -------
    uint8 ``(side, side, channels)``.
    """
    if options.crop_borders:
        image = crop_borders(image)
    if options.minmax:
        image = minmax(image)
    if options.equalise:
        image = equalise(image)
    square = _fitted(image, side, interpolation, options.fit)
    return square.reshape(side, side, options.channels)


def crop_borders(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut off the rows and columns at the edges that are black from end to end."""
    bright = (image if image.ndim == 2 else image.max(axis=2)) > BLACK
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    if not len(rows):
        return image
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def minmax(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Map the darkest value to 0 and the brightest to 255; an image of one value stays."""
    low, high = int(image.min()), int(image.max())
    if high == low or (low, high) == (0, 255):
        return image
    values = (np.arange(256) - low) * (255 / (high - low))
    table = np.rint(values.clip(0, 255)).astype(np.uint8)
    stretched: NDArray[np.uint8] = table[image]
    return stretched


def equalise(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Equalise the histogram; of a colour image, that of its luminance."""
    import cv2

    if image.ndim == 2:
        return np.asarray(cv2.equalizeHist(image), dtype=np.uint8)
    parts = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    parts[:, :, 0] = cv2.equalizeHist(parts[:, :, 0])
    return np.asarray(cv2.cvtColor(parts, cv2.COLOR_YCrCb2RGB), dtype=np.uint8)


def _fitted(image: NDArray[np.uint8], side: int, interpolation: str, fit: str) -> NDArray[np.uint8]:
    from PIL import Image

    film: Any = Image.fromarray(np.ascontiguousarray(image))
    resample = Image.Resampling[FILTERS[interpolation]]
    height, width = image.shape[:2]
    if fit == "pad":
        longest = max(height, width)
        shape = (max(1, round(side * width / longest)), max(1, round(side * height / longest)))
        square = Image.new(film.mode, (side, side))
        corner = ((side - shape[0]) // 2, (side - shape[1]) // 2)
        square.paste(film.resize(shape, resample), corner)
        return np.asarray(square)
    box = (0.0, 0.0, float(width), float(height))
    if fit == "crop":
        left, top = max(0, width - height) / 2, max(0, height - width) / 2
        box = (left, top, width - left, height - top)
    return np.asarray(film.resize((side, side), resample, box=box))
