"""Series of DICOM files as the downloader of The Cancer Imaging Archive lays them out.

``manifest-*/<collection>/<patient>/<date-NA-study>/<series>/*.dcm``, with a ``metadata.csv`` that
lists the series beside the collection's folder.
"""

from __future__ import annotations

import math
import posixpath
from dataclasses import dataclass
from pathlib import Path

from prognobench.datasets.readers.dates import days_since_1970
from prognobench.datasets.readers.spreadsheet import read_sheet
from prognobench.datasets.readers.tcia.dicom_header import Header, read_header
from prognobench.errors import DataError, MissingExtraError, listed

DATES = ("%m-%d-%Y", "%Y-%m-%d", "%m/%d/%Y", "%Y%m%d")
"""As the archive writes dates, and as programs rewrite them."""


@dataclass(frozen=True)
class Series:
    """One folder of DICOM files; ``day`` counts from 1970, NaN if unknown."""

    patient: str
    folder: str
    modality: str
    study: str
    series: str
    day: float


def find_below(root: Path, pattern: str, what: str, but_not: str = "/") -> list[Path]:
    """Return what is called so in the root or, if nothing is, one or two levels below it.

    Parameters
    ----------
    what
        What is looked for, for messages.
    but_not
        Leave out names with this in them.

    Raises
    ------
    DataError
        Saying what was expected and what the root holds.
    """
    for level in range(3):
        found = [path for path in root.glob("*/" * level + pattern) if but_not not in path.name]
        if found:
            return sorted(found)
    inside = ", ".join(sorted(path.name for path in root.iterdir())[:10]) or "nothing"
    raise DataError(f"dataset.root={root}: expected {what} ({pattern}) in it, found {inside}")


def list_series(root: Path, collection: str) -> list[Series]:
    """Return all series, from ``metadata.csv`` if there is one, else from one header a series."""
    homes = find_below(root, collection, "the folder of the collection, with a folder per patient")
    found = []
    for home in homes:  # large collections are often downloaded in several parts
        table = home.parent / "metadata.csv"
        if table.is_file():
            below = home.parent.relative_to(root).as_posix()
            found += _from_metadata(table, below, collection)
        else:
            found += _from_tree(root, home)
    if not found:
        raise DataError(f"{homes[0]}: expected <patient>/<study>/<series>/*.dcm, found no series")
    return found


def _from_metadata(table: Path, below: str, collection: str) -> list[Series]:
    sheet = read_sheet(table)
    columns = {
        **{"patient": "Subject ID", "folder": "File Location", "modality": "Modality"},
        **{"study": "Study Description", "series": "Series Description", "date": "Study Date"},
        "collection": "Collection",
    }
    rows = sheet.select(columns)
    found = []
    strange: list[str] = []
    for row in rows[rows["collection"] == collection].to_dict("records"):
        folder = posixpath.normpath(f"{below}/{row['folder']}".replace("\\", "/"))
        if folder.startswith(("../", "/")):
            raise DataError(f"{row['where']}: {row['folder']!r} lies outside of {below}")
        day = _day(row["date"])
        if row["date"] and math.isnan(day):
            strange.append(f"{row['where']}: Study Date {row['date']!r}")
        described = (row["modality"], row["study"], row["series"])
        found.append(Series(row["patient"], folder, *described, day))
    if strange:
        raise DataError(
            f"{listed(strange, 3)}: expected a date as month-day-year, 01-31-2020, by which a "
            "patient's images are ordered; write the dates so, or leave the cells blank"
        )
    return found


def _day(date: str) -> float:
    days = (days_since_1970(date, form) for form in DATES)
    return next((day for day in days if not math.isnan(day)), math.nan)


def _from_tree(root: Path, home: Path) -> list[Series]:
    found = []
    for folder in sorted(home.glob("*/*/*/")):
        files = dicom_files(folder)
        if not files:
            continue
        try:
            header = read_header(files[0])
        except MissingExtraError:
            raise
        except Exception:  # an unreadable file is reported when its image is wanted
            header = Header("CR", "", "", "", "", False, math.nan)
        found.append(
            Series(
                folder.relative_to(home).parts[0],
                folder.relative_to(root).as_posix(),
                header.modality,
                header.study,
                header.series,
                header.day,
            )
        )
    return found


def dicom_files(folder: Path) -> list[Path]:
    files = folder.glob("[!.]*")
    return sorted(path for path in files if path.suffix.lower() == ".dcm")
