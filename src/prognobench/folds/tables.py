"""Folds as a table of patients, so that official folds can be used and one's own published."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prognobench.datasets.readers.spreadsheet import read_sheet
from prognobench.errors import DataError, listed
from prognobench.folds.patients import Patients
from prognobench.records import PARTS, Cohort, Fold

if TYPE_CHECKING:
    import pandas as pd

PART_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""What a table may call a part -> the part that it means."""

LARGEST = 999_999
"""The largest number of a repeat, fold or draw; more would be a column of something else."""

COLUMNS = ("repeat", "fold", "draw", "part", "patient_id")
NEEDED = ("part", "patient_id")


def export_folds(folds: Iterable[Fold], cohort: Cohort) -> pd.DataFrame:
    """Return folds as a table: columns repeat, fold, draw (blank if none), part, patient_id."""
    import pandas as pd

    of_row, ids = cohort.patients
    axes, parts, members = [], [], []
    for fold in folds:
        for part in PARTS:
            found = np.unique(of_row[getattr(fold, part)])
            draw = -1 if fold.draw is None else fold.draw
            axes.append(np.tile([fold.repeat, fold.fold, draw], (len(found), 1)))
            parts.append(np.repeat(np.array([part], dtype=object), len(found)))
            members.append(ids[found])
    repeat, number, draws = np.concatenate(axes).T
    return pd.DataFrame(
        {
            "repeat": repeat,
            "fold": number,
            "draw": pd.arrays.IntegerArray(draws, draws < 0),
            "part": np.concatenate(parts),
            "patient_id": np.concatenate(members),
        }
    )


def import_folds(path: Path, cohort: Cohort) -> list[Fold]:
    """Read folds from a table of any kind that :func:`.read_sheet` reads.

    ``repeat`` and ``fold`` are 0 and ``draw`` is none where the column is not there; patients that
    stand in no part of a fold are not used in it.

    Raises
    ------
    DataError
        With every fault: a missing file or column, unknown patients or parts, patients in two
        parts, a fold without training or test part.
    """
    table = _read_columns(path)
    patients = Patients.of(cohort)
    number = {patient: index for index, patient in enumerate(patients.ids)}
    index = table["patient_id"].map(number)
    # What the store wrote may carry the apostrophe that keeps spreadsheets from computing.
    index = index.fillna(table["patient_id"].str.removeprefix("'").map(number))
    part = table["part"].str.lower().map(PART_NAMES)
    axes, faults = _read_axes(path, table)
    for name in NEEDED:
        if len(blank := table["where"][table[name] == ""]):
            faults.append(f"folds: no {name} in {listed(blank, 5)}; fill it in, or delete the rows")
    if len(unknown := table["patient_id"][index.isna() & (table["patient_id"] != "")]):
        faults.append(
            f"folds: {path} has {unknown.nunique()} patients that {cohort.name} has not "
            f"({listed(sorted(set(unknown)), 5)}; the first in line {unknown.index[0]}); ids must "
            "be written as in the cohort's table"
        )
    if len(strange := table["part"][part.isna() & (table["part"] != "")]):
        faults.append(
            f"folds: {path} has parts called {listed(sorted(set(strange)), 5)} (the first in line "
            f"{strange.index[0]}); allowed are {', '.join(PART_NAMES)}"
        )
    if faults:
        raise DataError(faults)
    keys = axes.assign(part=part, index=index.astype(int)).drop_duplicates()
    folds = []
    for _, rows in keys.groupby(["repeat", "fold", "draw"]):
        repeat, fold, draw = (int(rows[name].iloc[0]) for name in ("repeat", "fold", "draw"))
        train, validation, test = (
            rows["index"][rows["part"] == name].to_numpy(dtype=np.intp) for name in PARTS
        )
        folds.append(
            patients.fold(
                *(train, validation, test),
                repeat=repeat,
                fold=fold,
                draw=None if draw < 0 else draw,
            )
        )
    return folds


def _read_columns(path: Path) -> pd.DataFrame:
    """Read the columns of a table of folds as text; the index numbers the lines."""
    try:
        sheet = read_sheet(path)
    except DataError as error:
        raise DataError(f"folds: {fault}" for fault in error.faults) from error
    wanted = [name for name in COLUMNS if name in NEEDED or sheet.has(name)]
    try:
        return sheet.select(dict(zip(wanted, wanted, strict=True)))
    except DataError as error:
        raise DataError(f"folds: {fault}" for fault in error.faults) from error


def _read_axes(path: Path, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The columns repeat, fold and draw as numbers (no draw: -1), and what is wrong with them."""
    import pandas as pd

    axes, faults = {}, []
    for name, default in (("repeat", 0), ("fold", 0), ("draw", -1)):
        text = table[name] if name in table else pd.Series("", index=table.index)
        numbers = pd.to_numeric(text.where(text != "", str(default)), errors="coerce")
        bad = ~numbers.between(default, LARGEST) | (numbers % 1 != 0)
        if bad.any():
            faults.append(
                f"folds: {path}, line {text.index[bad][0]}: {name} is {text[bad].iloc[0]!r}, "
                f"which must be a whole number from 0 to {LARGEST:,} ({int(bad.sum())} such lines)"
            )
        axes[name] = numbers.where(~bad, default).astype(int)
    return pd.DataFrame(axes), faults
