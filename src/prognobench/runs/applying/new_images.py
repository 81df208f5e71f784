"""Images that a model has never seen, and what is known about them, as a cohort."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from prognobench.datasets.readers.covariates import as_names, covariate
from prognobench.datasets.readers.image_folder import (
    IMAGE_SUFFIXES,
    ImageFolder,
    is_called_image,
    is_dicom_index,
)
from prognobench.datasets.readers.spreadsheet import Sheet, read_sheet
from prognobench.errors import DataError, listed
from prognobench.frozen.estimators import Column
from prognobench.records import Cohort, Files

if TYPE_CHECKING:
    import pandas as pd

IMAGE_COLUMNS = ("image", "ImageFile", "filename", "file", "path")
PATIENT_COLUMNS = ("patient_id", "patientid", "patient")


def new_cohort(
    images: Path,
    folder: Path | None,
    classes: tuple[str, ...],
    columns: Sequence[Column] = (),
) -> Cohort:
    """Return new images as a cohort whose outcomes are unknown (its labels mean nothing).

    Parameters
    ----------
    images
        An image, a folder of images, or a table.
    folder
        What the table's image names are relative to; its own folder, if not given.
    columns
        The covariates that are read, which must be columns of the table.

    Raises
    ------
    DataError
        With every image that is missing or cannot be read, and every covariate that is not as
        the models know it.
    """
    import pandas as pd

    names = tuple(dict.fromkeys(name for name, _ in columns))
    if not images.exists():
        raise DataError(f"no image, folder or table {images}")
    if images.is_file() and is_dicom_index(images):
        raise DataError(f"{images} is an index of DICOM files; give the folder that it lies in")
    is_image = is_called_image(images)
    if names and (images.is_dir() or is_image):
        raise DataError(
            f"the models read {', '.join(names)} beside the image: give a table with the columns "
            f"{', '.join(('image', *names))}"
        )
    faults: list[str] = []
    notes: list[str] = []
    if images.is_dir():
        root, wanted = images, _images_below(images)
    elif is_image:
        root, wanted = (
            images.parent,
            pd.DataFrame({"patient_id": [_without_suffix(images.name)], "image": images.name}),
        )
    else:
        root, wanted = folder or images.parent, _listed_in(read_sheet(images), names)
        faults += _make_covariates(wanted, columns, notes)
    within = ImageFolder(root, "images")
    files: list[Sequence[str]] = []
    for name in wanted["image"]:
        found = within.find(name)
        faults += filter(None, [found.problem, found.refused])
        files.append(found.images)
    if faults or not any(files):
        raise DataError(faults or f"{images} holds no images")
    wanted["image"] = files
    table = wanted.explode("image", ignore_index=True).dropna(subset="image")
    table["source"], table["label"], table["centre"], table["order"] = "new", 0, "", np.nan
    return Cohort("new", table, classes, {"new": Files(root)}, names, notes=tuple(notes))


def _images_below(folder: Path) -> pd.DataFrame:
    """Every image of a folder, each of a patient of its name, or of its path if names repeat."""
    import pandas as pd

    images = pd.Series(ImageFolder(folder, "images").images(""), dtype=object)
    paths = images.map(_without_suffix)
    names = paths.map(posixpath.basename)
    patients = names.where(~names.duplicated(keep=False), paths)
    return pd.DataFrame({"patient_id": patients, "image": images})


def _without_suffix(file: str) -> str:
    """Return a file's name without an image suffix; the last number of a UID is not a suffix."""
    path = PurePosixPath(file)
    return str(path.with_suffix("")) if path.suffix.lower() in IMAGE_SUFFIXES else file


def _listed_in(sheet: Sheet, covariates: Sequence[str]) -> pd.DataFrame:
    """Return ``patient_id``, ``image`` and the covariates as text."""
    columns: dict[str, str | tuple[str, ...]] = {name: name for name in covariates}
    columns["image"] = IMAGE_COLUMNS
    known = {column.casefold() for column in sheet.frame.columns}
    if known & set(PATIENT_COLUMNS):
        columns["patient_id"] = PATIENT_COLUMNS
    rows = sheet.select(columns)
    return rows if "patient_id" in rows else rows.assign(patient_id=rows["image"])


def _make_covariates(
    rows: pd.DataFrame, columns: Sequence[Column], notes: list[str]
) -> Iterator[str]:
    """Turn text into numbers and categories, in place; yield a fault for each that cannot be."""
    for name in dict.fromkeys(name for name, _ in columns):
        cells, categories = rows[name], [c for known, c in columns if known == name]
        if categories == [None]:
            try:
                numbers = covariate(cells, rows["where"], notes)
            except DataError as error:
                yield from error.faults
                continue
            if numbers.dtype == float:
                rows[name] = numbers
            else:
                yield f"covariate {name} is a number for the models; found {_some(cells)}"
            continue
        rows[name] = as_names(cells)
        unknown = rows[name][~rows[name].isin([*categories, ""])]
        if len(unknown):
            yield (
                f"covariate {name}: the models know {', '.join(map(str, categories))}; found "
                f"{_some(unknown)}; write these as the models know them, or leave them blank"
            )


def _some(cells: pd.Series[str]) -> str:
    return listed([repr(cell) for cell in dict.fromkeys(cells)], 5)
