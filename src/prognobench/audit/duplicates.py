"""Films whose picture comes several times in a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from prognobench.audit.films import Films, grey
from prognobench.audit.pictures import (
    HASH_DISTANCE,
    LEAST_CORRELATION,
    LEAST_DETAIL,
    agreement,
    correlations,
    hashes,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE = (32, 4096)
LINKS = 16
"""So many of the films most like a film are compared with it in detail."""


def same_content(digests: Sequence[str]) -> NDArray[np.intp]:
    """Return for each image the first one with the same digest."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(digest, row) for row, digest in enumerate(digests)], np.intp)


def similar_pairs(films: Films, compared: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return pairs of rows ``(pairs, 2)`` that show the same picture, earlier one first.

    Every pair is compared by its perceptual hashes, those near each other by their thumbnails, and
    what is left in detail.

    Parameters
    ----------
    compared
        Rows of the films that are compared with each other, ascending.
    """
    codes = np.packbits(hashes(films.thumbnails[compared]), axis=1).view(np.uint64).ravel()
    candidates = [np.empty((0, 2), dtype=np.intp)]
    for start in range(0, len(codes), TILE[0]):
        columns = range(start, len(codes), TILE[1])
        near = np.concatenate([_near(codes, start, column) for column in columns])
        near = compared[near[near[:, 0] < near[:, 1]]]
        candidates.append(_alike(films.thumbnails, near))
    pairs = np.concatenate(candidates)
    with ThreadPoolExecutor() as threads:
        detail = list(threads.map(lambda pair: _detail(films.pixels, *pair), pairs))
    return pairs[np.array(detail, dtype=float) >= LEAST_DETAIL]


def _near(codes: NDArray[np.uint64], row: int, column: int) -> NDArray[np.intp]:
    """Pairs in one tile of the table of all pairs, small enough for the processor's cache."""
    rows, columns = codes[row : row + TILE[0]], codes[column : column + TILE[1]]
    distance = np.bitwise_count(rows[:, None] ^ columns[None, :])
    if distance.min() > HASH_DISTANCE:  # much quicker than looking for where
        return np.empty((0, 2), dtype=np.intp)
    near: NDArray[np.intp] = np.argwhere(distance <= HASH_DISTANCE) + np.array((row, column))
    return near


def _alike(thumbnails: NDArray[np.uint8], pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Those pairs whose thumbnails are alike; of each first film, with the ones most like it."""
    step = 16_384
    blocks = [pairs[start : start + step] for start in range(0, len(pairs), step)]
    found = [correlations(thumbnails[b[:, 0]], thumbnails[b[:, 1]]) for b in blocks]
    alike = np.concatenate([np.empty(0, np.float32), *found])
    order = np.lexsort((-alike, pairs[:, 0]))
    order = order[alike[order] >= LEAST_CORRELATION]
    kept = pairs[order]
    _, starts, counts = np.unique(kept[:, 0], return_index=True, return_counts=True)
    return kept[np.arange(len(kept)) - np.repeat(starts, counts) < LINKS]


def _detail(pixels: NDArray[np.uint8], one: int, other: int) -> float:
    return agreement(grey(pixels[one]), grey(pixels[other]))


def repeated(
    digests: Sequence[str] | None,
    films: Films | None,
    from_files: NDArray[np.bool_],
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Find the films that show the same picture as another.

    Parameters
    ----------
    digests
        Of the content of the images, where known.
    films
        The films as they were looked at, where they were.
    from_files
        Which images are files. Only those that show something are compared as pictures: what a
        generator draws is known from its recipe.

    Returns
    -------
    Group of each image, the number of its first image, or -1 if its picture comes once; and
    whether an earlier image has the same content.
    """
    rows = np.arange(len(from_files))
    first = rows if digests is None else same_content(digests)
    copied = first < rows
    pairs = [np.stack([first, rows], axis=1)[copied]]
    if films is not None:
        pairs.append(similar_pairs(films, rows[~copied & films.visible & from_files]))
    return _groups(np.concatenate(pairs), len(rows)), copied


def _groups(pairs: NDArray[np.intp], images: int) -> NDArray[np.intp]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (images, images))
    _, component = connected_components(links, directed=False)
    _, first, which, counts = np.unique(
        component, return_index=True, return_inverse=True, return_counts=True
    )
    return np.where(counts > 1, first, -1)[which]
