"""A decoded image becomes the square of pixels that every model starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    image: NDArray[np.uint8], image_size: int, interpolation: str, options: ImageOptions
) -> NDArray[np.uint8]:
    """Crop, stretch, equalise and scale an image, in this order, as the options say.

    Parameters
    ----------
    image
        uint8 ``(height, width)`` or ``(height, width, 3)``.
    image_size
        Of the square, in pixels.
    interpolation
        One of ``FILTERS``.

    Returns
    -------
    uint8 ``(size, size, channels)``.
    """
    if options.crop_borders:
        image = crop_borders(image)
    if options.minmax:
        image = minmax(image)
    if options.equalise:
        image = equalise(image)
    square = _fit(image, image_size, interpolation, options.fit)
    return square.reshape(image_size, image_size, options.channels)


def crop_borders(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut off the rows and columns at the edges that are black from end to end."""
    bright = (image if image.ndim == 2 else image.max(axis=2)) > BLACK
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    if not len(rows):
        return image
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def minmax(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Map the darkest value to 0 and the brightest to 255; an image of one value stays."""
    import cv2

    low, high = int(image.min()), int(image.max())
    if high == low or (low, high) == (0, 255):
        return image
    values = (np.arange(256) - low) * (255 / (high - low))
    return np.asarray(cv2.LUT(image, np.rint(values.clip(0, 255)).astype(np.uint8)), np.uint8)


def equalise(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Equalise the histogram; of a colour image, that of its luminance."""
    import cv2

    if image.ndim == 2:
        return np.asarray(cv2.equalizeHist(image), dtype=np.uint8)
    parts = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    parts[:, :, 0] = cv2.equalizeHist(parts[:, :, 0])
    return np.asarray(cv2.cvtColor(parts, cv2.COLOR_YCrCb2RGB), dtype=np.uint8)


def _fit(
    image: NDArray[np.uint8], image_size: int, interpolation: str, fit: str
) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if fit == "stretch":
        return _scale(image, image_size, image_size, interpolation)
    if fit == "crop":
        shortest = min(height, width)
        top, left = (height - shortest) // 2, (width - shortest) // 2
        central = image[top : top + shortest, left : left + shortest]
        return _scale(central, image_size, image_size, interpolation)
    longest = max(height, width)
    # The shorter edge keeps a pixel, however narrow the image.
    height, width = (max(1, round(image_size * length / longest)) for length in (height, width))
    square = np.zeros((image_size, image_size, *image.shape[2:]), dtype=np.uint8)
    top, left = (image_size - height) // 2, (image_size - width) // 2
    square[top : top + height, left : left + width] = _scale(image, height, width, interpolation)
    return square


def _scale(
    image: NDArray[np.uint8], height: int, width: int, interpolation: str
) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    import cv2
    from PIL import Image

    # What of the (halved, padded) image the result shows: an odd edge ends within a pixel.
    box = [float(image.shape[1]), float(image.shape[0])]
    # Averaging 2 x 2 pixels is ten times quicker than a filter over many, and changes the result
    # by a fifth of a grey value.
    while interpolation != "nearest" and box[0] >= 2.5 * width and box[1] >= 2.5 * height:
        odd = (image.shape[0] % 2, image.shape[1] % 2)
        if any(odd):
            image = np.pad(image, [(0, odd[0]), (0, odd[1]), (0, 0)][: image.ndim], mode="edge")
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        box = [length / 2 for length in box]
    picture = Image.fromarray(np.ascontiguousarray(image))
    resample = Image.Resampling[FILTERS[interpolation]]
    return np.asarray(picture.resize((width, height), resample, box=(0.0, 0.0, box[0], box[1])))
