"""Any table with a folder of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from prognobench.datasets.readers.assembly import COLUMNS, assemble
from prognobench.datasets.readers.covariates import as_names, covariate
from prognobench.datasets.readers.dates import positions
from prognobench.datasets.readers.image_folder import ImageFolder
from prognobench.datasets.readers.rules import (
    Excluded,
    Exclusions,
    OnConflict,
    OnMissing,
    OnUnknownLabel,
    Rules,
    Selection,
    collecting,
)
from prognobench.datasets.readers.spreadsheet import Names, Sheet, read_sheet
from prognobench.datasets.readers.values import NAMELESS, Label, labels_and_classes
from prognobench.errors import DataError
from prognobench.records import UNKNOWN_CENTRE, Cohort
from prognobench.registry import DATASETS

if TYPE_CHECKING:
    import pandas as pd

PATIENT_NAMES = ("patient_id", "patient", "subject_id", "subject", "participant_id", "pid")
"""Names of the column of patients, if none is given. Without those that may count rows or images
(``id``, ``case``): they would tear patients with several images apart.
"""

IMAGE_NAMES = (
    *("image", "image_file", "filename", "file", "image_path", "path", "file_path"),
    *("image_name", "image_id", "dicom", "img"),
)


@DATASETS.register("table")
def table(
    *,
    table: Path,
    images: Path,
    label: str,
    positive: Label | None = None,
    classes: tuple[Label, ...] | None = None,
    patient: str | None = None,
    image: str | None = None,
    centre: str | None = None,
    order: str | None = None,
    covariates: tuple[str, ...] = (),
    codes: tuple[str, ...] = (),
    missing: tuple[Label, ...] | None = None,
    keep: tuple[str, ...] = (),
    header_row: Annotated[int, Ge(1)] = 1,
    sheet: str = "",
    select: Selection = "all",
    on_missing: OnMissing = "error",
    on_unknown_label: OnUnknownLabel = "error",
    on_conflict: OnConflict = "error",
    exclude: Excluded = (),
    distinct_spellings: bool = False,
) -> Cohort:
    """Any CSV, TSV, Excel or Parquet table with a folder of images.

    Parameters
    ----------
    table, images
        The table, one row per image or per patient, and the folder that holds the images.
    label, positive, classes
        Column of the outcome; its positive value; all its values that count. Without
        ``positive``, the classes are ``classes`` in their order, or the values found.
    patient, image
        Columns of patient and image; guessed from their names if not given. An image is a path
        below ``images``, a file's name anywhere below it, such a name without its extension, or
        a folder that stands for all images in it.
    centre, order
        Columns of centre and of the position in time (numbers or dates of one form).
    covariates
        Columns that metadata baselines may read.
    codes
        Those of the covariates that are names even where they look like numbers (ICD codes).
    missing
        What stands in covariates where nothing is known, beside blanks: ``[-999]``. Without it,
        numbers that seem to mean that are an error; ``[]`` says that none does.
    keep
        Columns to carry along, a split column for ``cv=holdout`` for instance.
    header_row
        Row of the table with the columns' names, from 1.
    sheet
        Name of a workbook's sheet; the first if there is none.
    select
        ``all`` images of a patient, or the ``first`` or ``last`` by ``order``. Where severe
        patients have more or later images, ``first`` keeps that from telling the outcome.
    on_missing, on_unknown_label, on_conflict, exclude
        What leaves the cohort instead of being an error; see :class:`.rules.Rules`.
    distinct_spellings
        Patients and centres whose names differ only in case, spaces, dashes, underscores, dots or
        leading zeros are different ones, instead of an error.

    Raises
    ------
    DataError
        With all faults of table and files at once.
    """
    source = read_sheet(Path(table).expanduser(), header_row, sheet)
    faults: list[str] = []
    with collecting(faults):
        folder = ImageFolder(images, "dataset.images", thorough=on_missing == "drop")
    columns = {"patient": patient or PATIENT_NAMES, "image": image or IMAGE_NAMES, "label": label}
    optional = {"centre": centre, "order": order}
    columns |= {name: column for name, column in optional.items() if column}
    rows, carried = _select_columns(source, columns, (*covariates, *keep), faults)
    faults += _carried_faults(carried.columns.drop("where"), label)
    notes = [*source.notes, *_read_covariates(carried, covariates, codes, missing, faults)]
    place = f"{source.path}, column"
    found: tuple[str, ...] = ()
    with collecting(faults):
        rows["label"], found = labels_and_classes(
            rows["label"], f"{place} {label!r}", positive, classes
        )
    with collecting(faults):
        rows["order"] = positions(rows["order"], f"{place} {order!r}") if order else float("nan")
    faults += _rounded_faults(rows)
    if faults:
        raise DataError(faults)
    rows["patient_id"] = _blank_nameless(patient_ids(rows["patient_id"]))
    if not centre:
        rows["centre"] = UNKNOWN_CENTRE
    rows["centre"] = _blank_nameless(rows["centre"]).replace("", UNKNOWN_CENTRE)
    for name in (*covariates, *keep):
        rows[name] = carried[name]
    return assemble(
        rows,
        folder,
        found,
        Rules(select, on_missing, on_unknown_label, on_conflict, exclude, distinct_spellings),
        Exclusions(),
        name=source.path.with_suffix("").stem if source.path.suffix == ".gz" else source.path.stem,
        tables=source.path.parent,
        covariates=covariates,
        notes=notes,
    )


def _select_columns(
    sheet: Sheet, columns: Mapping[str, Names], carried: Sequence[str], faults: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The columns of the settings and those carried along; raises all faults up to here."""
    lacking: list[str] = []
    with collecting(lacking):
        rows = sheet.select(columns, settings=True).rename(columns={"patient": "patient_id"})
    with collecting(lacking):
        others = sheet.select({name: name for name in carried})
    if lacking:
        raise DataError(dict.fromkeys([*faults, *lacking]))
    return rows, others


def _carried_faults(carried: Iterable[str], label: str) -> list[str]:
    return [
        f"column {name!r} is the outcome itself; leave it out of dataset.covariates and keep"
        if name == label
        else f"column {name!r} has a name that cohorts use for themselves; rename it"
        for name in carried
        if name == label or name in (*COLUMNS, "where")
    ]


def _read_covariates(
    carried: pd.DataFrame,
    covariates: Sequence[str],
    codes: Sequence[str],
    missing: Sequence[Label] | None,
    faults: list[str],
) -> list[str]:
    """Turn covariates into numbers or names, in place; return how numbers were read."""
    notes: list[str] = []
    faults += [
        f"dataset.codes names column {name!r}, which is not in dataset.covariates; add it there"
        for name in codes
        if name not in covariates
    ]
    for name in covariates:
        with collecting(faults):
            cells = carried[name]
            if name in codes:
                carried[name] = as_names(cells)
            else:
                carried[name] = covariate(cells, carried["where"], notes, missing)
    return notes


def _rounded_faults(rows: pd.DataFrame) -> list[str]:
    """Refuse patient numbers that lost digits: two patients may have become one."""
    rounded = rows[_mark_rounded(rows["patient_id"])]
    if rounded.empty:
        return []
    first = rounded.iloc[0]
    return [
        f"{first['where']}: patient {first['patient_id']!r} is a number that a spreadsheet "
        f"rounded ({len(rounded)} rows); save the ids as text, from where they are whole"
    ]


def _mark_rounded(ids: pd.Series[str]) -> pd.Series[bool]:
    """Which numbers lost digits: those with an exponent, and long ones if all end in zeros.

    One long number may end in zeros by chance.
    """
    with_exponent = ids.str.fullmatch(r"\d([.,]\d+)?E\+\d+", case=False)
    long = ids.str.fullmatch(r"\d{16,}")
    cut = long & ids.str[15:].str.fullmatch("0+")  # spreadsheets keep 15 digits
    return with_exponent | (cut if cut.sum() > 1 and (cut == long).all() else False)


def _blank_nameless(cells: pd.Series[str]) -> pd.Series[str]:
    """Blank what people and programs write where nothing is known."""
    return cells.mask(cells.str.casefold().isin(NAMELESS), "")


def patient_ids(cells: pd.Series[str]) -> pd.Series[str]:
    """Take back the ``.0`` that a column of whole numbers got when a program read it as floats."""
    filled = cells[cells != ""]
    if len(filled) and filled.str.fullmatch(r"\d+\.0").all():
        return cells.str.removesuffix(".0")
    return cells
