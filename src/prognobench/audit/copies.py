"""Images whose picture comes several times in a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from prognobench.audit.similarity import (
    ALTERATIONS,
    HASH_DISTANCE,
    LEAST_CORRELATION,
    LEAST_DETAIL,
    Alteration,
    agreement,
    correlations,
    hash_codes,
    outlines,
)
from prognobench.audit.thumbnails import Thumbnails, grey

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE = (256, 2048)
"""So many images are compared with so many at once: few enough for the processor's cache."""

SLACK = 1e-4
"""Room for the rounding of bounds."""

LINKS = 16
"""So many of the images most like an image are compared with it in detail."""


Prints = tuple["NDArray[np.float32]", "NDArray[np.uint64]"]
"""Outlines and hashes of thumbnails."""


def first_of_content(digests: Sequence[str]) -> NDArray[np.intp]:
    """Return for each image the first one with the same digest."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(digest, row) for row, digest in enumerate(digests)], np.intp)


def find_similar_pairs(
    images: Thumbnails, compared: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.str_]]:
    """Return pairs of rows ``(pairs, 2)`` that show the same picture, and what one is of the other.

    For each of the ways in which the second may have been altered, every pair is compared by its
    perceptual hashes and thumbnails, and those alike in detail. What is cheapest comes first: a
    bound on how alike the thumbnails can be leaves few pairs for the rest.

    Parameters
    ----------
    compared
        Rows of the images that are compared with each other, ascending.

    Returns
    -------
    The pairs, earlier row first, and the name of the :class:`.similarity.Alteration` of each.
    """
    thumbnails = images.thumbnails[compared]
    prints = _prints(thumbnails)
    pairs, names = [np.empty((0, 2), dtype=np.intp)], [np.empty(0, dtype="U24")]
    with ThreadPoolExecutor() as threads:
        for alteration in ALTERATIONS:
            candidates = compared[_candidates(thumbnails, prints, alteration)]
            detail = list(threads.map(partial(_detail, images.pixels, alteration), candidates))
            found = candidates[np.array(detail, dtype=float) >= LEAST_DETAIL]
            pairs.append(np.sort(found, axis=1))
            names.append(np.full(len(found), alteration.name))
    together = np.concatenate(pairs)
    unique, first = np.unique(together, axis=0, return_index=True)
    return unique, np.concatenate(names)[first]


def _prints(thumbnails: NDArray[np.uint8]) -> Prints:
    return outlines(thumbnails), hash_codes(thumbnails)


def _candidates(
    thumbnails: NDArray[np.uint8], prints: Prints, alteration: Alteration
) -> NDArray[np.intp]:
    """Pairs of thumbnails ``(pairs, 2)`` whose second, altered, is much like the first."""
    altered = alteration.of(thumbnails)
    (rows, codes), (columns, altered_codes) = prints, _prints(altered)
    found = [np.empty((0, 2), dtype=np.intp)]
    for start in range(0, len(rows), TILE[0]):
        first = start if alteration.mutual else 0
        near = _near(rows[start : start + TILE[0]], columns[first:]) + np.array((start, first))
        one, other = near.T
        wanted = one < other if alteration.mutual else one != other
        wanted &= np.bitwise_count(codes[one] ^ altered_codes[other]) <= HASH_DISTANCE
        found.append(_alike(thumbnails, altered, near[wanted]))
    return np.concatenate(found)


def _near(rows: NDArray[np.float32], columns: NDArray[np.float32]) -> NDArray[np.intp]:
    """Pairs ``(row, column)`` of outlines whose thumbnails may be alike."""
    found = [np.empty((0, 2), dtype=np.intp)]
    bounds = np.empty(TILE, dtype=np.float32)
    for start in range(0, len(columns), TILE[1]):
        tile = columns[start : start + TILE[1]]
        part = bounds[: len(rows), : len(tile)]
        np.matmul(rows, tile.T, out=part)
        near = np.flatnonzero(part >= LEAST_CORRELATION - SLACK)  # quicker than in two dimensions
        found.append(np.stack(np.divmod(near, len(tile)), axis=1) + np.array((0, start)))
    return np.concatenate(found)


def _alike(
    thumbnails: NDArray[np.uint8], altered: NDArray[np.uint8], pairs: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Those pairs whose thumbnails are alike; of each first image, with the ones most like it."""
    step = 16_384
    blocks = [pairs[start : start + step].T for start in range(0, len(pairs), step)]
    found = [correlations(thumbnails[one], altered[other]) for one, other in blocks]
    alike = np.concatenate([np.empty(0, np.float32), *found])
    order = np.lexsort((-alike, pairs[:, 0]))
    order = order[alike[order] >= LEAST_CORRELATION]
    kept = pairs[order]
    _, starts, counts = np.unique(kept[:, 0], return_index=True, return_counts=True)
    return kept[np.arange(len(kept)) - np.repeat(starts, counts) < LINKS]


def _detail(
    pixels: NDArray[np.uint8], alteration: Alteration, pair: tuple[np.intp, np.intp]
) -> float:
    one, other = pair
    return agreement(grey(pixels[one]), alteration.of(grey(pixels[other])[None])[0])
