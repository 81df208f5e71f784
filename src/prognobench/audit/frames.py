"""Frames around pictures: edges of one grey, which are taken off before pictures are compared.

Two pictures in like frames are alike in nothing but their frames; a picture and its framed copy are
one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

EVEN = 10.0
"""Standard deviation of a row or column of one grey: compression leaves noise, most at an edge."""

SPAN = 16.0
"""Grey values by which the rows of a frame differ at most."""

LEAST_FRAME = 0.03
"""Share of height or width by which a frame makes a picture another one."""

LEAST_PICTURE = 0.35
"""Share of height and of width that a picture fills at least to be compared with others: smaller
ones of different patients are alike."""

LAYERS = 6
"""So many frames within each other are taken off: a white one, what is blurred behind it, a black
one."""


def find_picture(image: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Return where the picture of a grey image lies: left, top, right, bottom, as Pillow's boxes.

    The whole image, where nothing would be left of it.
    """
    height, width = image.shape
    left, top, right, bottom = 0, 0, width, height
    for _ in range(LAYERS):
        picture = image[top:bottom, left:right]
        above, below = _count_even(picture), _count_even(picture[::-1])
        before, behind = _count_even(picture.T), _count_even(picture.T[::-1])
        if not any((above, below, before, behind)):
            break
        left, top, right, bottom = left + before, top + above, right - behind, bottom - below
        if left >= right or top >= bottom:
            return 0, 0, width, height
    return left, top, right, bottom


def _count_even(lines: NDArray[np.uint8]) -> int:
    """Count the first lines that are of one grey, and of that of the first of them."""
    if _spread(lines[0]) > EVEN:  # nearly all images, at once
        return 0
    means = lines.mean(axis=1, dtype=np.float32)
    deviations = lines.std(axis=1, dtype=np.float32)
    even = (deviations <= EVEN) & (np.abs(means - means[0]) <= SPAN)
    return int(even.argmin()) if not even.all() else len(lines)


def _spread(line: NDArray[np.uint8]) -> float:
    return float(line.std(dtype=np.float32))


def shares(boxes: NDArray[np.int16], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the shares of width and height that pictures fill, ``(images, 2)``."""
    filled: NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]) / np.array(shape[::-1])
    return filled


def cut_out(image: NDArray[np.uint8], box: NDArray[np.int16]) -> NDArray[np.uint8]:
    """Return a grey image's picture without its frame, in the size of the whole image."""
    import cv2

    left, top, right, bottom = (int(edge) for edge in box)
    if (left, top, right, bottom) == (0, 0, image.shape[1], image.shape[0]):
        return image
    picture = np.ascontiguousarray(image[top:bottom, left:right])
    scaled = cv2.resize(picture, image.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(scaled, dtype=np.uint8)
