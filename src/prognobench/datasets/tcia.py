"""Collections of The Cancer Imaging Archive, as its downloader lays them out.

``manifest-*/<collection>/<patient>/<date-NA-study>/<series>/*.dcm``, with a ``metadata.csv`` that
lists the series beside the collection's folder.
"""

from __future__ import annotations

import math
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prognobench.datasets.assembly import UNKNOWN_CENTRE, Exclusions, Rules
from prognobench.datasets.headers import (
    Header,
    days_since_1970,
    not_a_film,
    not_frontal,
    read_header,
)
from prognobench.datasets.soundness import unreadable
from prognobench.datasets.spreadsheet import Sheet, read_sheet
from prognobench.datasets.values import covariate, decoded
from prognobench.errors import DataError, MissingExtraError

if TYPE_CHECKING:
    import pandas as pd


Film = tuple[str, str, float, str]
"""Key of the patient, path of the file, day, view."""


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
    for row in rows[rows["collection"] == collection].to_dict("records"):
        folder = posixpath.normpath(f"{below}/{row['folder']}".replace("\\", "/"))
        if folder.startswith(("../", "/")):
            raise DataError(f"{row['where']}: {row['folder']!r} lies outside of {below}")
        day = days_since_1970(row["date"], "%m-%d-%Y")
        described = (row["modality"], row["study"], row["series"])
        found.append(Series(row["patient"], folder, *described, day))
    return found


def _from_tree(root: Path, home: Path) -> list[Series]:
    found = []
    for folder in sorted(home.glob("*/*/*/")):
        files = _files(folder)
        if not files:
            continue
        try:
            header = read_header(files[0])
        except MissingExtraError:
            raise
        except Exception:  # an unreadable file is reported when its film is wanted
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


def _files(folder: Path) -> list[Path]:
    files = folder.glob("[!.]*")
    return sorted(path for path in files if path.suffix.lower() == ".dcm")


def read_outcomes(
    sheet: Sheet, patient: str, outcome: str, words: Mapping[str, str], covariates: Sequence[str]
) -> pd.DataFrame:
    """Return ``patient_id``, ``label`` (a class or blank), ``where`` and the covariates."""
    columns = {"patient_id": patient, "label": outcome, **{name: name for name in covariates}}
    rows = sheet.select(columns)
    rows["label"] = decoded(rows["label"], f"{sheet.path}, column {outcome!r}", words)
    for name in covariates:
        rows[name] = covariate(rows[name])
    return rows


def chest_films(
    root: Path,
    series: Iterable[Series],
    outcomes: pd.DataFrame,
    rules: Rules,
    exclusions: Exclusions,
    *,
    unwanted: Callable[[Series], str] = lambda series: "",
) -> pd.DataFrame:
    """Return the frontal chest films of the patients with an outcome, one a row.

    Patients are matched by what follows the last hyphen of their names, leading zeros aside (a
    spreadsheet may have lost them). Where only the first or last film is wanted, the files of
    other days are not opened.

    Parameters
    ----------
    outcomes
        ``patient_id``, ``label`` and whatever else shall stand in every film's row.
    unwanted
        Why a series is to be left out that would otherwise be taken, or nothing.

    Raises
    ------
    DataError
        If no patient of the table has a folder.
    """
    import pandas as pd

    outcomes = outcomes.assign(key=outcomes["patient_id"].map(_key))
    by_key: dict[str, list[Series]] = defaultdict(list)
    for one in series:
        by_key[_key(one.patient)].append(one)
    if by_key.keys().isdisjoint(outcomes["key"]):
        raise DataError(
            f"no patient of the table has images: the table calls them "
            f"{', '.join(outcomes['patient_id'][:3])}, the folders "
            f"{', '.join(group[0].patient for group in list(by_key.values())[:3])}"
        )
    known, films = set(outcomes["key"]), []
    for key, group in by_key.items():
        if key in known:
            films += _patient_films(root, group, rules, exclusions, unwanted)
        else:
            exclusions.add(f"patient {group[0].patient}", "has no row in the table")
    taken = pd.DataFrame(films, columns=["key", "image", "order", "view"])
    for row in outcomes[~outcomes["key"].isin(taken["key"])].itertuples():
        exclusions.add(f"patient {row.patient_id}", f"has no frontal chest film ({row.where})")
    return taken.merge(outcomes, on="key").drop(columns="key").assign(centre=UNKNOWN_CENTRE)


def _key(patient: str) -> str:
    return patient.rpartition("-")[2].lstrip("0")


def _patient_films(
    root: Path,
    group: list[Series],
    rules: Rules,
    exclusions: Exclusions,
    unwanted: Callable[[Series], str],
) -> list[Film]:
    by_day: dict[float, list[Series]] = defaultdict(list)
    for one in group:
        reason = not_a_film(one.modality) or not_frontal(one.series) or unwanted(one)
        if reason:
            exclusions.add(one.folder, reason)
        else:
            by_day[one.day].append(one)
    films: list[Film] = []
    forward = -1 if rules.films == "last" else 1
    for day in sorted(by_day, key=lambda day: (math.isnan(day), forward * day)):
        enough = films and rules.films != "all"
        for one in by_day[day]:
            if enough:
                exclusions.add(one.folder, f"not of the day of the patient's {rules.films} film")
            else:
                films += _frontal_films(root, one, rules, exclusions)
    return films


def _frontal_films(
    root: Path, series: Series, rules: Rules, exclusions: Exclusions
) -> Iterator[Film]:
    """The frontal films of a series; broken ones too where they are to be reported as errors."""
    key = _key(series.patient)
    files = _files(root / series.folder)
    broken = {series.folder: "holds no DICOM file"} if not files else {}
    for path in files:
        name = path.relative_to(root).as_posix()
        if fault := unreadable(path):
            broken[name] = fault
            continue
        header = read_header(path)
        if header.fault:
            exclusions.add(name, header.fault)
        else:
            yield key, name, header.day, header.view
    for name, fault in broken.items():
        if rules.on_missing == "drop":
            exclusions.add(name, fault)
        else:
            yield key, name, series.day, ""
