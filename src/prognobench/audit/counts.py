"""Counts of patients and images: in a cohort, left out of it, and in each part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from prognobench.datasets.readers.rules import strip_row
from prognobench.errors import listed
from prognobench.records import PARTS

if TYPE_CHECKING:
    import pandas as pd

    from prognobench.records import Cohort, Fold


def count_by_centre(cohort: Cohort) -> pd.DataFrame:
    """Patients of each class, all patients and all images at each centre, and in total."""
    import pandas as pd

    table = cohort.table
    patients = table.drop_duplicates(["centre", "patient_id"])
    classes = {
        name: (patients["label"] == label).groupby(patients["centre"]).sum()
        for label, name in enumerate(cohort.classes)
    }
    counts = pd.DataFrame(
        {
            **classes,
            "patients": patients.groupby("centre").size(),
            "images": table["centre"].value_counts(),
        }
    ).sort_values("patients", ascending=False, kind="stable")
    labels = table.drop_duplicates("patient_id")["label"]
    of_class = [int((labels == label).sum()) for label in range(len(cohort.classes))]
    counts.loc["all centres"] = [*of_class, len(labels), len(table)]
    return counts.reset_index(names="centre")


def count_by_part(cohort: Cohort, folds: Sequence[Fold]) -> pd.DataFrame:
    """Patients of each class in each part, one row per fold."""
    import pandas as pd

    patient, label = cohort.patients[0], cohort.table["label"].to_numpy()
    rows = []
    for fold in folds:
        row: dict[str, object] = {"fold": fold.name}
        for part in PARTS:
            members = getattr(fold, part)
            _, first = np.unique(patient[members], return_index=True)
            counts = np.bincount(label[members][first], minlength=len(cohort.classes))
            row |= {f"{part} {name}": n for name, n in zip(cohort.classes, counts, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows)


def describe_folds(cohort: Cohort, folds: Sequence[Fold]) -> Iterator[str]:
    """Yield a sentence for each class that test parts lack, and for patients that no fold uses."""
    patient, label = cohort.patients[0], cohort.table["label"].to_numpy()
    lacking: dict[str, list[str]] = {}
    known = np.unique(label)
    for fold in folds:
        for missing in np.setdiff1d(known, label[fold.test]).tolist():
            lacking.setdefault(cohort.classes[missing], []).append(fold.name)
    for name, without in lacking.items():
        yield (
            f"{cohort.name}: no patient is {name!r} in the test part of {len(without)} of "
            f"{len(folds)} folds ({listed(without, 5)}); their metrics are blank where they need "
            "every class"
        )
    used = np.zeros(patient.max() + 1, dtype=bool)
    for fold in folds:
        for part in PARTS:
            used[patient[getattr(fold, part)]] = True
    if folds and not used.all():
        yield f"{cohort.name}: {(~used).sum()} of {len(used)} patients are in no part of a fold"


def count_exclusions(cohort: Cohort) -> pd.DataFrame:
    """Each reason for which images or patients were left out, and how often."""
    import pandas as pd

    if cohort.exclusions is None:
        return pd.DataFrame({"reason": [], "count": []})
    reasons = cohort.exclusions["reason"].map(strip_row)
    return reasons.value_counts().rename_axis("reason").reset_index()
