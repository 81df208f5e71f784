"""Each image looked at once: a thumbnail of it, and whether there is anything to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prognobench.audit.frames import LEAST_FRAME, LEAST_PICTURE, find_picture, shares
from prognobench.records import Progress
from prognobench.workers import shared_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

THUMBNAIL = 32
"""Pixels along an edge of a thumbnail; the perceptual hash is defined on so many."""

LEAST_CONTRAST = 5.0
"""Standard deviation of a thumbnail's grey values below which an image shows nothing; the flattest
real images have 12."""

LEAST_STRUCTURE = 0.4
"""Share of an image's standard deviation that must be left in its thumbnail. Noise is averaged
away; real images keep 0.87 and more."""

MOST_WHITE, MOST_BLACK = 0.3, 0.6
"""Shares of pixels at the end of the range above which an image is over- or underexposed; real
images have at most 0.21 and 0.39."""

BLOCK = 128
"""So many images are looked at at once."""

PROCESSES_FROM = 16
"""So many blocks are worth the time that starting processes takes; fewer share this one."""


@dataclass(frozen=True)
class Thumbnails:
    """Images small enough to compare every pair, and their faults.

    Attributes
    ----------
    pixels
        The images at their full size.
    thumbnails
        uint8 ``(images, 32, 32)``, by Lanczos as perceptual hashes want it.
    pictures, boxes
        The same of what lies within each image's frame, and where that is, as
        :func:`.frames.find_picture` gives it.
    faults
        Of each image: ``constant``, ``blank``, ``overexposed``, ``underexposed``, or nothing;
        ``broken`` where whoever decoded them says so.
    """

    pixels: NDArray[np.uint8]
    thumbnails: NDArray[np.uint8]
    pictures: NDArray[np.uint8]
    boxes: NDArray[np.int16]
    faults: NDArray[np.str_]

    @property
    def comparable(self) -> NDArray[np.bool_]:
        """Which images show anything, and that large enough to be told from others."""
        visible = ~np.isin(self.faults, ("broken", "constant", "blank"))
        return np.asarray(visible & (self.filled >= LEAST_PICTURE).all(axis=1))

    @property
    def framed(self) -> NDArray[np.bool_]:
        """Which images have a frame that makes another picture of them."""
        return np.asarray((self.filled <= 1 - LEAST_FRAME).any(axis=1))

    @property
    def filled(self) -> NDArray[np.float64]:
        """Shares of width and height that pictures fill, ``(images, 2)``."""
        return shares(self.boxes, self.pixels.shape[1:3])


def make_thumbnails(pixels: NDArray[np.uint8], progress: Progress | None = None) -> Thumbnails:
    """Look at every image, in blocks, so that memory does not grow with the cohort.

    Parameters
    ----------
    pixels
        uint8 ``(images, size, size, channels)``, memory-mapped or not.
    """
    thumbnails = np.empty((len(pixels), THUMBNAIL, THUMBNAIL), dtype=np.uint8)
    pictures, boxes = np.empty_like(thumbnails), np.empty((len(pixels), 4), dtype=np.int16)
    faults = np.full(len(pixels), "", dtype="U12")
    blocks = [slice(at, min(at + BLOCK, len(pixels))) for at in range(0, len(pixels), BLOCK)]
    separate = len(blocks) >= PROCESSES_FROM
    # Processes are told where the pixels lie, not given them.
    found = shared_out(_look_at, [pixels[block] for block in blocks], separate=separate)
    for block, seen in zip(blocks, found, strict=True):
        thumbnails[block], pictures[block], boxes[block], faults[block] = seen
        if progress:
            progress("looking at images", block.stop, len(pixels))
    return Thumbnails(pixels, thumbnails, pictures, boxes, faults)


def _look_at(
    pixels: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int16], NDArray[np.str_]]:
    images = grey(pixels)
    whole = (0, 0, images.shape[2], images.shape[1])
    thumbnails = np.stack([_thumbnail(image, whole) for image in images])
    boxes = [find_picture(image) for image in images]
    pictures = thumbnails.copy()
    for at, box in enumerate(boxes):
        if box != whole:
            pictures[at] = _thumbnail(images[at], box)
    return thumbnails, pictures, np.array(boxes, np.int16), _faults(images, thumbnails)


def grey(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Take the last axis, the channels, off one or several images."""
    images = np.asarray(images)
    if images.shape[-1] == 1:
        return images[..., 0]
    mean: NDArray[np.uint8] = np.rint(images.mean(axis=-1)).astype(np.uint8)
    return mean


def _thumbnail(image: NDArray[np.uint8], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    from PIL import Image

    picture = Image.fromarray(image)
    return np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, box=box))


def _faults(images: NDArray[np.uint8], thumbnails: NDArray[np.uint8]) -> NDArray[np.str_]:
    shares = np.stack([_histogram(image) for image in images])
    values = np.arange(256)
    deviation = np.sqrt(np.maximum(shares @ values**2 - (shares @ values) ** 2, 0))
    contrast = thumbnails.reshape(len(images), -1).std(axis=1)
    found = (
        (shares.max(axis=1) == 1, "constant"),
        (contrast < np.maximum(LEAST_CONTRAST, LEAST_STRUCTURE * deviation), "blank"),
        (shares[:, 254:].sum(axis=1) > MOST_WHITE, "overexposed"),
        (shares[:, :2].sum(axis=1) > MOST_BLACK, "underexposed"),
    )
    conditions, names = zip(*found, strict=True)
    return np.select(conditions, names, default="")


def _histogram(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Share of the pixels that have each value."""
    import cv2

    counts = cv2.calcHist([image], [0], None, [256], [0, 256])  # many times quicker than NumPy's
    return counts.ravel().astype(np.float64) / image.size
