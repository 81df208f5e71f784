"""Collections of The Cancer Imaging Archive: the chest X-rays of patients with an outcome."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prognobench.datasets.readers.assembly import assemble
from prognobench.datasets.readers.covariates import covariate
from prognobench.datasets.readers.image_folder import ImageFolder, existing_folder
from prognobench.datasets.readers.rules import Exclusions, Rules, name_lost_image
from prognobench.datasets.readers.spreadsheet import read_sheet
from prognobench.datasets.readers.tcia.dicom_header import (
    not_a_radiograph,
    not_frontal,
    read_header,
)
from prognobench.datasets.readers.tcia.series import Series, dicom_files, find_below, list_series
from prognobench.datasets.readers.values import translate
from prognobench.errors import DataError
from prognobench.imaging.verify import find_fault
from prognobench.records import UNKNOWN_CENTRE

if TYPE_CHECKING:
    import pandas as pd

    from prognobench.records import Cohort


Image = tuple[str, str, float, str]
"""Key of the patient, path of the file, day, view."""


@dataclass(frozen=True)
class Collection:
    """A collection of chest X-rays with a table of outcomes, one row per patient.

    Attributes
    ----------
    name
        Of the collection, and of its folder.
    table, but_not
        Pattern of the table's file name, and what it must not have in it.
    header_row
        Row of the table with the names of its columns.
    patient
        The table's column of patients.
    unwanted
        Why a series is to be left out that would otherwise be taken, or nothing.
    """

    name: str
    table: str
    patient: str
    but_not: str = "/"
    header_row: int = 1
    unwanted: Callable[[Series], str] = lambda series: ""

    def read(
        self,
        root: Path,
        name: str,
        outcome: tuple[str, Mapping[str, str]],
        rules: Rules,
        covariates: tuple[str, ...],
    ) -> Cohort:
        """Return the cohort of an outcome: its column, and what its words mean (the positive last).

        Raises
        ------
        DataError
            If folder, table or words are not as described: what was expected and what was found.
        """
        root = existing_folder(root, "dataset.root")
        tables = find_below(root, self.table, "the clinical table", self.but_not)
        column, words = outcome
        sheet = read_sheet(tables[0], self.header_row)
        outcomes = sheet.select(
            {"patient_id": self.patient, "label": column, **{name: name for name in covariates}}
        )
        outcomes["label"] = translate(outcomes["label"], f"{sheet.path}, column {column!r}", words)
        notes: list[str] = []
        for each in covariates:
            outcomes[each] = covariate(outcomes[each], outcomes["where"], notes)
        exclusions = Exclusions()
        images = _chest_images(
            root, list_series(root, self.name), outcomes, rules, exclusions, unwanted=self.unwanted
        )
        return assemble(
            images,
            ImageFolder(root),
            tuple(dict.fromkeys(words.values())),
            rules,
            exclusions,
            name=name,
            tables=sheet.path.parent,
            covariates=covariates,
            notes=notes,
        )


def _chest_images(
    root: Path,
    series: Iterable[Series],
    outcomes: pd.DataFrame,
    rules: Rules,
    exclusions: Exclusions,
    *,
    unwanted: Callable[[Series], str],
) -> pd.DataFrame:
    """Return the frontal chest X-rays of the patients with an outcome, one a row.

    Where only the first or last image is wanted, the files of
    other days are not opened.

    Parameters
    ----------
    outcomes
        ``patient_id``, ``label`` and whatever else shall stand in every image's row.
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
    known, images = set(outcomes["key"]), []
    for key, group in by_key.items():
        if key in known:
            images += _patient_images(root, group, rules, exclusions, unwanted)
        else:
            exclusions.add(f"patient {group[0].patient}", "has no row in the table")
    taken = pd.DataFrame(images, columns=["key", "image", "order", "view"])
    for row in outcomes[~outcomes["key"].isin(taken["key"])].itertuples():
        exclusions.add(f"patient {row.patient_id}", f"has no frontal chest X-ray ({row.where})")
    return taken.merge(outcomes, on="key").drop(columns="key").assign(centre=UNKNOWN_CENTRE)


def _key(patient: str) -> str:
    """What table and folders have in common of a patient's name: what follows the last hyphen,
    without the leading zeros that a spreadsheet may have lost.
    """
    return patient.rpartition("-")[2].lstrip("0")


def _patient_images(
    root: Path,
    group: list[Series],
    rules: Rules,
    exclusions: Exclusions,
    unwanted: Callable[[Series], str],
) -> list[Image]:
    """The images of one patient's series, of the wanted days."""
    by_day: dict[float, list[Series]] = defaultdict(list)
    for one in group:
        reason = not_a_radiograph(one.modality) or not_frontal(one.series) or unwanted(one)
        if reason:
            exclusions.add(one.folder, reason)
        else:
            by_day[math.inf if math.isnan(one.day) else one.day].append(one)
    images: list[Image] = []
    select_one = rules.select != "all"
    # From the wanted end of time on; series without a date come last in either direction.
    forward = -1 if rules.select == "last" else 1
    for day in sorted(by_day, key=lambda day: (day == math.inf, forward * day)):
        enough = select_one and bool(images)  # not within a day: only headers know the time
        for one in by_day[day]:
            if enough:
                exclusions.add(one.folder, f"not of the day of the patient's {rules.select} image")
                continue
            first = select_one and not images
            lost = f"; {name_lost_image(rules.select)}" if first else ""
            images += _frontal_images(root, one, rules, exclusions, lost)
    return images


def _frontal_images(
    root: Path, series: Series, rules: Rules, exclusions: Exclusions, lost: str
) -> Iterator[Image]:
    """The frontal images of a series; broken ones too where they are to be reported as errors.

    ``lost`` is added to the reason for which a broken one is left out.
    """
    key = _key(series.patient)
    files = dicom_files(root / series.folder)
    broken = {series.folder: "holds no DICOM file"} if not files else {}
    for path in files:
        name = path.relative_to(root).as_posix()
        if fault := find_fault(path):
            broken[name] = fault
            continue
        header = read_header(path)
        if header.fault:
            exclusions.add(name, header.fault)
        else:
            yield key, name, header.day, header.view
    for name, fault in broken.items():
        if rules.on_missing == "drop":
            exclusions.add(name, f"{fault}{lost}")
        else:
            yield key, name, series.day, ""
