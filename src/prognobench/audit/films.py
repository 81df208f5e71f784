"""Each film looked at once: a thumbnail of it, and whether there is anything to see."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Progress = Callable[[str, int, int], None]

THUMBNAIL = 32
"""Side of a thumbnail; that of the perceptual hash."""

LEAST_CONTRAST = 5.0
"""Standard deviation of a thumbnail's grey values below which a film shows nothing; the flattest
real films have 12."""

LEAST_STRUCTURE = 0.4
"""Share of a film's standard deviation that must be left in its thumbnail. Noise is averaged away;
real films keep 0.87 and more."""

MOST_WHITE, MOST_BLACK = 0.3, 0.6
"""Shares of pixels at the end of the range above which a film is over- or underexposed; real films
have at most 0.21 and 0.39."""

BLOCK = 256


@dataclass(frozen=True)
class Films:
    """What was seen.

    Attributes
    ----------
    pixels
        What was looked at.
    thumbnails
        uint8 ``(images, 32, 32)``, by Lanczos as perceptual hashes want it.
    faults
        Of each image: ``constant``, ``blank``, ``overexposed``, ``underexposed``, or nothing.
    """

    pixels: NDArray[np.uint8]
    thumbnails: NDArray[np.uint8]
    faults: NDArray[np.str_]

    @property
    def visible(self) -> NDArray[np.bool_]:
        """Which images show anything."""
        return ~np.isin(self.faults, ("constant", "blank"))


def look(pixels: NDArray[np.uint8], progress: Progress | None = None) -> Films:
    """Look at every film, in blocks, so that memory does not grow with the cohort.

    Parameters
    ----------
    pixels
        uint8 ``(images, side, side, channels)``, memory-mapped or not.
    """
    thumbnails = np.empty((len(pixels), THUMBNAIL, THUMBNAIL), dtype=np.uint8)
    faults = np.full(len(pixels), "", dtype="U12")
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(pixels), BLOCK):
            block = slice(start, min(start + BLOCK, len(pixels)))
            images = grey(pixels[block])
            thumbnails[block] = list(threads.map(_thumbnail, images))
            faults[block] = _faults(images, thumbnails[block])
            if progress:
                progress("looking at films", block.stop, len(pixels))
    return Films(pixels, thumbnails, faults)


def grey(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Take the last axis, the channels, off one or several images."""
    images = np.asarray(images)
    if images.shape[-1] == 1:
        return images[..., 0]
    mean: NDArray[np.uint8] = np.rint(images.mean(axis=-1)).astype(np.uint8)
    return mean


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    film = Image.fromarray(image)
    return np.asarray(film.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS))


def _faults(images: NDArray[np.uint8], thumbnails: NDArray[np.uint8]) -> NDArray[np.str_]:
    flat = images.reshape(len(images), -1)
    contrast = thumbnails.reshape(len(images), -1).std(axis=1)
    least = np.maximum(LEAST_CONTRAST, LEAST_STRUCTURE * np.array([_deviation(i) for i in images]))
    found = (
        (flat.min(axis=1) == flat.max(axis=1), "constant"),
        (contrast < least, "blank"),
        ((flat >= 254).mean(axis=1) > MOST_WHITE, "overexposed"),
        ((flat <= 1).mean(axis=1) > MOST_BLACK, "underexposed"),
    )
    conditions, names = zip(*found, strict=True)
    return np.select(conditions, names, default="")


def _deviation(image: NDArray[np.uint8]) -> float:
    import cv2

    return float(cv2.meanStdDev(image)[1].item())  # many times quicker than NumPy's
