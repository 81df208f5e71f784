"""Every image looked at and compared with the others; remembered by content in the cache."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

import numpy as np

from prognobench.audit.copies import find_similar_pairs, first_of_content
from prognobench.audit.similarity import LONGEST_NAME
from prognobench.audit.thumbnails import make_thumbnails
from prognobench.errors import StoreError
from prognobench.files import write_bytes
from prognobench.imaging.cache import Recipe, pixel_digests, readable_pixels
from prognobench.records import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prognobench.records import Cohort

VERSION = 2
"""Part of the memory's name: to be raised whenever the same images would be seen otherwise."""


@dataclass(frozen=True)
class Inspection:
    """What looking at the images of a cohort found.

    Attributes
    ----------
    faults
        Of each image: ``broken``, ``constant``, ``blank``, ``overexposed``, ``underexposed``, or
        nothing.
    pairs, alterations
        Rows ``(pairs, 2)`` that show the same picture, the earlier first, and what one is of the
        other, as :func:`.find_similar_pairs` gives them.
    broken
        What is wrong with the images that cannot be decoded, by row.
    """

    faults: NDArray[np.str_]
    pairs: NDArray[np.intp]
    alterations: NDArray[np.str_]
    broken: Mapping[int, str] = field(default_factory=dict)


def inspect_images(
    cohort: Cohort,
    recipe: Recipe,
    folder: Path,
    compared: NDArray[np.bool_],
    progress: Progress | None = None,
) -> Inspection:
    """Look at every image, and compare those that show anything with each other.

    Images that cannot be decoded are left aside. What was seen is kept in the cache folder, under
    the content of the images, unless some were broken.

    Parameters
    ----------
    recipe
        How the images are decoded.
    compared
        Which images may be compared.
    """
    digests = pixel_digests(cohort, recipe, folder)
    key = hashlib.sha256("\n".join((str(VERSION), *digests)).encode() + compared.tobytes())
    memory = folder / "seen" / f"{key.hexdigest()[:32]}.npz"
    if known := _recall(memory):
        return known
    pixels, broken = readable_pixels(cohort, recipe, folder, progress)
    images = make_thumbnails(pixels.array, progress)
    images.faults[list(broken)] = "broken"
    pairs, alterations = find_similar_pairs(images, np.flatnonzero(compared & images.comparable))
    found = Inspection(images.faults, pairs, alterations)
    if not broken:
        _remember(memory, found)
    return replace(found, broken=broken)


def _recall(memory: Path) -> Inspection | None:
    try:
        with memory.open("rb") as file, np.load(file) as known:
            return Inspection(known["faults"], known["pairs"], known["alterations"])
    except (OSError, ValueError, KeyError, BadZipFile):  # none yet, or damaged
        return None


def _remember(memory: Path, found: Inspection) -> None:
    content = io.BytesIO()
    np.savez(content, faults=found.faults, pairs=found.pairs, alterations=found.alterations)
    with suppress(StoreError):  # a full disk costs the memory, not what was seen
        write_bytes(memory, content.getvalue())


def group_copies(
    digests: Sequence[str] | None, seen: Inspection | None, images: int
) -> tuple[NDArray[np.intp], NDArray[np.str_]]:
    """Find the images that show the same picture as another.

    Parameters
    ----------
    digests
        Of the content of the images, where known.
    seen
        What was seen on the images, where they were looked at.

    Returns
    -------
    Group of each image, the number of its first image, or -1 if its picture comes once; and what
    it is of another: ``same file``, an alteration, nothing for the first of a group.
    """
    rows = np.arange(images)
    first = rows if digests is None else first_of_content(digests)
    copied = first < rows
    pairs = [np.stack([first, rows], axis=1)[copied]]
    match = np.full(images, "", dtype=f"U{LONGEST_NAME}")
    if seen is not None:
        pairs.append(seen.pairs)
        match[seen.pairs] = seen.alterations[:, None]
        match[seen.pairs[::-1, 1]] = seen.alterations[::-1]  # of the earliest image it is like
    match[copied] = "same file"
    group = _groups(np.concatenate(pairs), images)
    match[group == rows] = ""
    return group, match


def _groups(pairs: NDArray[np.intp], images: int) -> NDArray[np.intp]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (images, images))
    _, component = connected_components(links, directed=False)
    _, first, which, counts = np.unique(
        component, return_index=True, return_inverse=True, return_counts=True
    )
    return np.where(counts > 1, first, -1)[which]
