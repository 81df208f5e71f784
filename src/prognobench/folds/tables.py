"""Folds as a table of patients, so that official folds can be used and one's own published."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prognobench.errors import DataError
from prognobench.folds.patients import Patients, some
from prognobench.records import Cohort, Fold

if TYPE_CHECKING:
    import pandas as pd

PARTS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""What a table may call a part, and which it means."""

LARGEST = 999_999
"""Number of a repeat, fold or draw."""

COLUMNS = ("repeat", "fold", "draw", "part", "patient_id")


def export_folds(folds: Iterable[Fold], cohort: Cohort) -> pd.DataFrame:
    """Return folds as a table: columns repeat, fold, draw (blank if none), part, patient_id."""
    import pandas as pd

    patients = cohort.table["patient_id"].to_numpy()
    pieces = []
    for fold in folds:
        for part in ("train", "validation", "test"):
            members = np.unique(patients[getattr(fold, part)].astype(object))
            pieces.append(
                pd.DataFrame(
                    {
                        "repeat": fold.repeat,
                        "fold": fold.fold,
                        "draw": pd.array([fold.draw] * len(members), dtype="Int64"),
                        "part": part,
                        "patient_id": members,
                    }
                )
            )
    return pd.concat(pieces, ignore_index=True)


def import_folds(path: Path, cohort: Cohort) -> list[Fold]:
    """Read folds from a CSV file.

    ``repeat`` and ``fold`` are 0 and ``draw`` is none where the column is not there; patients that
    stand in no part of a fold are not used in it.

    Raises
    ------
    DataError
        With every fault: a missing file or column, unknown patients or parts, patients in two
        parts, a fold without training or test part.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"folds: {path} cannot be read: {error}") from error
    if missing := [name for name in ("part", "patient_id") if name not in table]:
        raise DataError(
            f"folds: {path} has no column {' and no column '.join(missing)}; "
            f"it has {', '.join(table.columns)}"
        )
    patients = Patients.of(cohort)
    number = {patient: index for index, patient in enumerate(patients.ids)}
    index = table["patient_id"].map(number)
    # What the store wrote may carry the apostrophe that keeps spreadsheets from computing.
    index = index.fillna(table["patient_id"].str.removeprefix("'").map(number))
    part = table["part"].str.strip().str.lower().map(PARTS)
    axes, faults = _axes(path, table)
    if unknown := sorted(set(table["patient_id"][index.isna()])):
        faults.append(
            f"folds: {path} has {len(unknown)} patients that {cohort.name} has not "
            f"({some(unknown)}); ids must be written as in the cohort's table"
        )
    if strange := sorted(set(table["part"][part.isna()])):
        faults.append(
            f"folds: {path} has parts called {some(strange)}; allowed are {', '.join(PARTS)}"
        )
    if not len(table):
        faults.append(f"folds: {path} has no row below its column names")
    if faults:
        raise DataError(faults)
    keys = axes.assign(part=part, index=index.astype(int)).drop_duplicates()
    made = []
    for _, rows in keys.groupby(["repeat", "fold", "draw"]):
        repeat, fold, draw = (int(rows[name].iloc[0]) for name in ("repeat", "fold", "draw"))
        train, validation, test = (
            rows["index"][rows["part"] == name].to_numpy(dtype=np.intp)
            for name in ("train", "validation", "test")
        )
        made.append(
            patients.fold(
                *(train, validation, test),
                repeat=repeat,
                fold=fold,
                draw=None if draw < 0 else draw,
            )
        )
    return made


def _axes(path: Path, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The columns repeat, fold and draw as numbers (no draw: -1), and what is wrong with them."""
    import pandas as pd

    axes, faults = {}, []
    for name, default in (("repeat", 0), ("fold", 0), ("draw", -1)):
        text = table[name].str.strip() if name in table else pd.Series("", index=table.index)
        numbers = pd.to_numeric(text.where(text != "", str(default)), errors="coerce")
        bad = ~numbers.between(default, LARGEST) | (numbers % 1 != 0)
        if bad.any():
            line = int(np.flatnonzero(bad)[0]) + 2
            faults.append(
                f"folds: {path}, line {line}: {name} is {text[bad].iloc[0]!r}, which is no whole "
                f"number from 0 to {LARGEST:,} ({int(bad.sum())} such lines)"
            )
        axes[name] = numbers.where(~bad, default).astype(int)
    return pd.DataFrame(axes), faults
