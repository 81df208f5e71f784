"""Images whose picture comes several times in a cohort."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from prognobench.audit.frames import LEAST_FRAME, cut_out
from prognobench.audit.similarity import (
    ALTERATIONS,
    FRAMED,
    HASH_DISTANCE,
    LEAST_CORRELATION,
    LEAST_DETAIL,
    LONGEST_NAME,
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


Form = Callable[[int, "NDArray[np.uint8]"], "NDArray[np.uint8]"]
"""Brings one grey image, of this row, into the form in which it is compared."""


class View(NamedTuple):
    """Images in the form in which they are compared: as they are, altered, without a frame.

    Attributes
    ----------
    rows
        Of the cohort's table.
    thumbnails, outlines, codes
        In this form.
    """

    rows: NDArray[np.intp]
    thumbnails: NDArray[np.uint8]
    outlines: NDArray[np.float32]
    codes: NDArray[np.uint64]
    form: Form


def first_of_content(digests: Sequence[str]) -> NDArray[np.intp]:
    """Return for each image the first one with the same digest."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(digest, row) for row, digest in enumerate(digests)], np.intp)


def find_similar_pairs(
    images: Thumbnails, compared: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.str_]]:
    """Return pairs of rows ``(pairs, 2)`` that show the same picture, and what one is of the other.

    For each of the ways in which one may have been altered, every pair is compared by its
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
    pairs, names = [np.empty((0, 2), dtype=np.intp)], [np.empty(0, dtype=f"U{LONGEST_NAME}")]
    with ThreadPoolExecutor() as threads:
        for name, one, other, mutual in _looks(images, compared):
            candidates = _candidates(one, other, mutual)
            detail = list(threads.map(partial(_detail, images.pixels, one, other), candidates))
            found = candidates[np.array(detail, dtype=float) >= LEAST_DETAIL]
            pairs.append(np.sort(found, axis=1))
            names.append(np.full(len(found), name))
    together = np.concatenate(pairs)
    unique, first = np.unique(together, axis=0, return_index=True)
    named = np.concatenate(names)[first]
    one, other = (images.filled[rows] for rows in unique.T)
    framed = (np.abs(one - other) >= LEAST_FRAME).any(axis=1)
    named[framed & (named == ALTERATIONS[0].name)] = FRAMED
    return unique, named


def _looks(
    images: Thumbnails, compared: NDArray[np.intp]
) -> Iterator[tuple[str, View, View, bool]]:
    """Yield what is compared with what: the name, two views, and whether each pair is seen once.

    Pictures are compared without their frames. An image whose narrow edges are no frame may be the
    one that had them cut off with its frame, or whose frame is hidden by noise.
    """

    def cut(row: int, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return cut_out(image, images.boxes[row])

    def cut_frame(row: int, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return cut(row, image) if images.framed[row] else image

    framed = images.framed[compared]
    inner = images.pictures[compared]
    thumbnails = np.where(framed[:, None, None], inner, images.thumbnails[compared])
    plain = _view(compared, thumbnails, cut_frame)
    for each in ALTERATIONS:
        yield each.name, plain, _altered(plain, each), each.mutual
    of_framed = _view(compared[framed], inner[framed], cut)
    yield FRAMED, _view(compared, inner, cut), of_framed, False
    whole = _view(compared, images.thumbnails[compared], lambda _, image: image)
    yield FRAMED, whole, of_framed, False


def _view(rows: NDArray[np.intp], thumbnails: NDArray[np.uint8], form: Form) -> View:
    return View(rows, thumbnails, outlines(thumbnails), hash_codes(thumbnails), form)


def _altered(plain: View, alteration: Alteration) -> View:
    def form(row: int, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        altered: NDArray[np.uint8] = alteration.of(plain.form(row, image)[None])[0]
        return altered

    return _view(plain.rows, alteration.of(plain.thumbnails), form)


def _candidates(one: View, other: View, mutual: bool) -> NDArray[np.intp]:
    """Pairs of rows ``(pairs, 2)`` of two views whose thumbnails are much alike.

    Parameters
    ----------
    mutual
        Both views have the same rows, and each pair is looked at once.
    """
    found = [np.empty((0, 2), dtype=np.intp)]
    for start in range(0, len(one.rows), TILE[0]):
        first = start if mutual else 0
        near = _near(one.outlines[start : start + TILE[0]], other.outlines[first:])
        near += np.array((start, first))
        left, right = near.T
        wanted = left < right if mutual else one.rows[left] != other.rows[right]
        wanted &= np.bitwise_count(one.codes[left] ^ other.codes[right]) <= HASH_DISTANCE
        found.append(_alike(one, other, near[wanted]))
    left, right = np.concatenate(found).T
    return np.stack([one.rows[left], other.rows[right]], axis=1)


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


def _alike(one: View, other: View, pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Those pairs whose thumbnails are alike; of each first image, with the ones most like it."""
    step = 16_384
    blocks = [pairs[start : start + step].T for start in range(0, len(pairs), step)]
    found = [correlations(one.thumbnails[a], other.thumbnails[b]) for a, b in blocks]
    alike = np.concatenate([np.empty(0, np.float32), *found])
    order = np.lexsort((-alike, pairs[:, 0]))
    order = order[alike[order] >= LEAST_CORRELATION]
    kept = pairs[order]
    _, starts, counts = np.unique(kept[:, 0], return_index=True, return_counts=True)
    return kept[np.arange(len(kept)) - np.repeat(starts, counts) < LINKS]


def _detail(pixels: NDArray[np.uint8], one: View, other: View, pair: NDArray[np.intp]) -> float:
    row, another = (int(row) for row in pair)
    return agreement(one.form(row, grey(pixels[row])), other.form(another, grey(pixels[another])))
