"""Leaks: patients or pictures in several parts of a fold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from prognobench.errors import listed
from prognobench.records import PARTS

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from prognobench.records import Cohort, Fold

SHOWN = 5
"""Number of examples in a sentence."""


def find_shared_patients(cohort: Cohort, folds: Iterable[Fold]) -> Iterator[str]:
    """Yield a sentence for each fold with patients in several parts of it."""
    patient, ids = cohort.patients
    for fold in folds:
        members = [np.unique(patient[getattr(fold, part)]) for part in PARTS]
        times = np.bincount(np.concatenate(members), minlength=len(ids))
        if len(shared := np.flatnonzero(times > 1)):
            yield (
                f"{cohort.name}, fold {fold.name}: patients in several parts: "
                f"{len(shared)} ({listed(ids[shared], SHOWN)}); give each patient one part"
            )


def find_shared_pictures(
    cohort: Cohort, same: pd.DataFrame, folds: Sequence[Fold]
) -> Iterator[str]:
    """Yield a sentence if pictures are filed under several patients of different parts.

    Parameters
    ----------
    same
        Images whose picture comes several times: the rows of the cohort's table, with ``group``.
    """
    parts = np.zeros((len(folds), len(cohort)), dtype=np.int8)
    for row, fold in zip(parts, folds, strict=True):
        for number, part in enumerate(PARTS, start=1):
            row[getattr(fold, part)] = number
    split = [
        images
        for _, images in same.groupby("group")
        if images["patient_id"].nunique() > 1 and _apart(parts[:, images.index])
    ]
    if split:
        named = listed(map(_named, split), SHOWN, between="; ")
        yield (
            f"{cohort.name}: pictures filed under patients of different parts of a fold: "
            f"{len(split)} ({named}); give such patients one id, or leave images out with "
            "dataset.exclude"
        )


def drop_leaks(
    cohort: Cohort, same: pd.DataFrame, folds: Iterable[Fold]
) -> tuple[list[Fold], list[dict[str, object]]]:
    """Leave patients who share a picture or an id with a later part out of the earlier one.

    The test part keeps everyone. Validation loses patients of the test part, training those of
    either.

    Parameters
    ----------
    same
        As :func:`find_shared_pictures` takes them.

    Returns
    -------
    The folds, and for each that lost patients its name and how many ``train`` and ``validation``
    lost.
    """
    patient, ids = cohort.table["patient_id"].factorize()
    group = same["group"].factorize()[0]
    shown = patient[same.index.to_numpy()]  # the patient of each image whose picture repeats
    kept: list[Fold] = []
    left_out: list[dict[str, object]] = []
    for fold in folds:
        known = np.zeros(len(ids), dtype=bool)
        known[patient[fold.test]] = True
        parts: dict[str, NDArray[np.intp]] = {}
        lost: dict[str, int] = {}
        for part in ("validation", "train"):
            rows = getattr(fold, part)
            repeated = np.bincount(group, weights=known[shown]) > 0  # groups a later part shows
            linked = known.copy()
            linked[shown[repeated[group]]] = True
            out = linked[patient[rows]]
            parts[part] = rows[~out]
            lost[part] = len(np.unique(patient[rows[out]]))
            known[patient[parts[part]]] = True
        kept.append(replace(fold, train=parts["train"], validation=parts["validation"]))
        if any(lost.values()):
            left_out.append({"fold": fold.name, **lost})
    return kept, left_out


def describe_copies(cohort: Cohort, same: pd.DataFrame) -> Iterator[str]:
    """Yield a sentence for each kind of picture that occurs several times, in whatever parts."""
    groups = same.groupby("group")
    patients, outcomes, sources = (groups[n].nunique() for n in ("patient_id", "label", "source"))
    found = (
        ((patients == 1).sum(), "that come several times for one patient"),
        ((patients > 1).sum(), "filed under several patients"),
        ((outcomes > 1).sum(), "filed under different outcomes"),
        ((sources > 1).sum(), "in several sources"),
    )
    yield from (f"{cohort.name}: pictures {what}: {count}" for count, what in found if count)


def _apart(parts: NDArray[np.int8]) -> bool:
    """Whether in any fold (a row) the images (columns) that are used are in several parts."""
    lowest = np.where(parts > 0, parts, len(PARTS) + 1).min(axis=1)
    return bool((parts.max(axis=1) > lowest).any())


def _named(images: pd.DataFrame) -> str:
    """Say where images are without naming patients: sentences about leaks are stored and shown."""
    if "where" in images and (images["where"] != "").all():
        places = images["where"].tolist()
    else:
        places = [f"image {row + 1} of the cohort" for row in images.index]
    shown = " = ".join(places[:SHOWN])
    return shown if len(places) <= SHOWN else f"{shown} = ..."
