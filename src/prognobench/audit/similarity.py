"""Whether two images are one picture that was saved, scaled, cropped or turned round twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HASH_DISTANCE = 10
"""Bits of 64 in which the perceptual hashes of two images may differ to be compared further."""

LEAST_CORRELATION = 0.93
"""Of the thumbnails of two images that are compared further."""

LEAST_DETAIL = 0.76
"""Correlation of the details of two images, one laid over the other, from which on they are one
picture.

The three numbers come from the 408 images of the public covid-chestxray collection, looked at pair
by pair. Its 14 pairs of copies have hash distances up to 4, correlations from 0.97 and details
from 0.80. The most alike of different patients have 6, 0.94 and 0.61, of one patient on different
days 6, 0.94 and 0.80, and no pair more than one of these. Copies made by compression, scaling,
noise, other contrast, two degrees of rotation or writing on the image are found in nine of ten
cases or more, also if inverted or mirrored beside; equalised ones in eight of ten. Of copies
cropped at random, all are found that lost 2 % of height and width, three of four that lost 5 %,
four of ten that lost 8 %, few that lost more. Of copies turned by right angles and compressed, 98
of 100 are found or more, of those within a frame of a tenth to 40 % of height and width 97 or more,
of 60 % 91 or more.
"""

OUTLINE = 6
"""Frequencies of an outline along each side: of 402 real images, 0.25 % of pairs are left by the
bound of 6, 0.08 % by that of 8, 3 % by that of 4."""

IMAGE_SIZE = 128
"""Pixels along an edge at which details are compared."""

COARSE = 64
"""Pixels along an edge at which one image is laid over the other: a quarter of the time."""

DETAIL = 3.0
"""Standard deviation, in pixels at ``IMAGE_SIZE``, of the blur whose removal leaves details."""


@dataclass(frozen=True)
class Alteration:
    """What a second image of a picture may be of the first, beside slightly changed.

    Attributes
    ----------
    of
        Alters grey images ``(images, height, width)``.
    mutual
        Whether one look at a pair is enough: the first is the same of the second, or what it is
        of the second is another alteration.
    """

    name: str
    of: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
    mutual: bool = True


def _crop(images: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Cut off a share of each edge, and scale what is left to the size that the image had."""
    import cv2

    height, width = images.shape[1:]
    top, left = round(share * height), round(share * width)
    inner = images[:, top : height - top, left : width - left]
    scaled = [cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC) for image in inner]
    return np.array(scaled, dtype=np.uint8).reshape(images.shape)


def _turn(images: NDArray[np.uint8], quarters: int, *, mirrored: bool) -> NDArray[np.uint8]:
    turned = np.rot90(images, quarters, axes=(1, 2))
    return np.ascontiguousarray(turned[:, :, ::-1] if mirrored else turned)


ALTERATIONS = (
    Alteration("similar", lambda images: images),
    Alteration("inverted", lambda images: 255 - images),
    Alteration("mirrored", partial(_turn, quarters=0, mirrored=True)),
    Alteration("inverted and mirrored", lambda images: 255 - images[:, :, ::-1]),
    # Two images of a picture are turned by 90 degrees whichever of them is the upright one.
    *(
        Alteration(f"{before}turned by {degrees} degrees", partial(_turn, quarters=n, mirrored=m))
        for before, m in (("", False), ("mirrored and ", True))
        for n, degrees in ((1, 90), (2, 180), (3, 90))
    ),
    Alteration("cropped", partial(_crop, share=1 / 32), mutual=False),
    Alteration("cropped", partial(_crop, share=2 / 32), mutual=False),
)

FRAMED = "framed"
"""What an image is of another if one has a frame, broader than a cropped one's edges, around it."""

LONGEST_NAME = max(len(name) for name in (FRAMED, *(each.name for each in ALTERATIONS)))


def hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return perceptual hashes ``(images, 64)`` of thumbnails ``(images, 32, 32)``.

    As ``imagehash.phash`` gives them: the signs of the 64 lowest frequencies of the cosine
    transform around their median.
    """
    from scipy.fft import dct

    transform = dct(np.eye(thumbnails.shape[1]), axis=0)[:8]
    found = np.empty((len(thumbnails), 64), dtype=bool)
    for start in range(0, len(thumbnails), 256):
        block = thumbnails[start : start + 256].astype(np.float64)
        low = (transform @ block @ transform.T).reshape(len(block), 64)
        found[start : start + 256] = low > np.median(low, axis=1, keepdims=True)
    return found


def hash_codes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the hashes of thumbnails as one number each; they differ in the bits that differ."""
    codes: NDArray[np.uint64] = np.packbits(hashes(thumbnails), axis=1).view(np.uint64).ravel()
    return codes


def outlines(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a vector of each thumbnail ``(images, 36)``; the product of two bounds a correlation.

    It holds the lowest frequencies of the standardised thumbnail and, in the place of its mean,
    the length of what they leave out. By the inequality of Cauchy and Schwarz, the correlation of
    two thumbnails is the product of their outlines or less.
    """
    from scipy.fft import dct

    transform = dct(np.eye(thumbnails.shape[1], dtype=np.float32), axis=0, norm="ortho")
    transform = transform[:OUTLINE]
    found = np.empty((len(thumbnails), OUTLINE**2), dtype=np.float32)
    for start in range(0, len(thumbnails), 256):
        block = _standardised(thumbnails[start : start + 256]).reshape(-1, *thumbnails.shape[1:])
        low = (transform @ block @ transform.T).reshape(len(block), -1)
        low[:, 0] = np.sqrt(np.maximum(1 - (low[:, 1:] ** 2).sum(axis=1), 0))
        found[start : start + 256] = low
    return found


def correlations(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the correlation of each thumbnail ``(images, 32, 32)`` with its counterpart."""
    products: NDArray[np.float32] = _standardised(one) * _standardised(other)
    return np.asarray(products.sum(axis=1))


def _standardised(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return flat


def agreement(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return how well the details of two grey images agree once one is laid over the other.

    The affine map between them comes from the enhanced correlation coefficient (Evangelidis and
    Psarakis, 2008); -1 if none can be found.
    """
    import cv2

    a, b = _scaled(one, IMAGE_SIZE), _scaled(other, IMAGE_SIZE)
    warp = np.eye(2, 3, dtype=np.float32)
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-4)
    try:
        _, found = cv2.findTransformECC(
            _scaled(one, COARSE), _scaled(other, COARSE), warp, cv2.MOTION_AFFINE, stop
        )
    except cv2.error:
        return -1.0
    warp = np.asarray(found, dtype=np.float32)
    warp[:, 2] *= IMAGE_SIZE / COARSE
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    covered = cv2.warpAffine(np.ones_like(b), warp, (IMAGE_SIZE, IMAGE_SIZE), flags=flags) > 0.99
    edge = int(2 * DETAIL)
    covered[:edge] = covered[-edge:] = covered[:, :edge] = covered[:, -edge:] = False
    if covered.mean() < 0.5:
        return -1.0
    laid = cv2.warpAffine(b, warp, (IMAGE_SIZE, IMAGE_SIZE), flags=flags)
    x, y = (image - cv2.GaussianBlur(image, (0, 0), DETAIL) for image in (a, laid))
    return _correlation(x[covered], y[covered])


def _scaled(image: NDArray[np.uint8], image_size: int) -> NDArray[np.float32]:
    import cv2

    scaled = cv2.resize(image, (image_size, image_size), interpolation=cv2.INTER_AREA)
    return np.asarray(scaled, dtype=np.float32)


def _correlation(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / max(1e-6, float(np.sqrt((x @ x) * (y @ y)))))
