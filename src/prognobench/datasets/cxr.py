"""The public ieee8023 covid-chestxray-dataset (Cohen et al., arXiv 2006.11988)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prognobench.datasets.readers.assembly import assemble
from prognobench.datasets.readers.covariates import covariate
from prognobench.datasets.readers.dates import positions
from prognobench.datasets.readers.image_folder import ImageFolder, existing_folder
from prognobench.datasets.readers.rules import Excluded, Exclusions, OnMissing, Rules, Selection
from prognobench.datasets.readers.spreadsheet import read_sheet
from prognobench.records import UNKNOWN_CENTRE
from prognobench.registry import DATASETS

if TYPE_CHECKING:
    import pandas as pd

    from prognobench.records import Cohort

FRONTAL = ("PA", "AP", "AP Supine", "")
"""Views that are taken. X-rays with an outcome but no view were looked at: all are frontal."""


@dataclass(frozen=True)
class Task:
    """The columns of an outcome, and which images show it.

    Attributes
    ----------
    column, negative, positive
        Its column and the two values that count.
    words
        What the classes are called.
    present
        The column that says that it had come true when the image was taken.
    """

    column: str
    negative: str
    positive: str
    words: tuple[str, str]
    present: str | None = None


TASKS = {
    "mortality": Task("survival", "Y", "N", ("alive", "dead")),
    "icu": Task("went_icu", "N", "Y", ("no icu", "icu"), "in_icu"),
    "intubation": Task("intubated", "N", "Y", ("not intubated", "intubated"), "intubation_present"),
}


SAME_PATIENT = {"178": "97", "196": "192"}
"""Patient number -> another number with the same images."""


@DATASETS.register("covid_chestxray")
def covid_chestxray(
    *,
    root: Path,
    task: Literal["mortality", "icu", "intubation"],
    select: Selection = "first",
    before_outcome: bool = True,
    on_missing: OnMissing = "drop",
    exclude: Excluded = (),
) -> Cohort:
    """The ieee8023 covid-chestxray-dataset: frontal images with a known outcome.

    Taken are X-rays whose view is PA, AP, AP Supine or not given and whose outcome is Y or N; all
    other rows (CT, laterals, blank outcomes and words such as "Would have been stated") are left
    out with their reason. As it is received, ``metadata.csv`` names many files that are not
    there, so missing files are left out by default. Cases that were entered twice under two
    patient numbers (285 is 339, 287 is 340) are recognised by their common files and count once;
    178 is 97 and 196 is 192, whose images come from two collections.
    In this file no patient has contradicting outcomes; if a later one does, it is an error.

    Parameters
    ----------
    root
        The folder with ``metadata.csv`` and ``images/``.
    task
        ``mortality`` (survival is N), ``icu`` (went_icu) or ``intubation`` (intubated), at any
        time of the illness.
    select
        The ``first`` image of each patient by day (``offset``); later and more images tell of a
        longer course. ``all`` takes every image.
    before_outcome
        Leave out images taken when the outcome had come true already (``in_icu`` or
        ``intubation_present`` is Y): the tube is visible on them.
    on_missing, exclude
        See :class:`.rules.Rules`.

    Raises
    ------
    DataError
        If folder, table or columns are not as described.
    """
    root = existing_folder(root, "dataset.root")
    sheet = read_sheet(root / "metadata.csv")
    outcome = TASKS[task]
    columns = {
        **{"patient_id": "patientid", "image": "filename", "centre": "location"},
        **{"order": "offset", "label": outcome.column, "age": "age", "sex": "sex"},
        **{"view": "view", "modality": "modality"},
        **({"present": outcome.present} if outcome.present else {}),
    }
    rows = sheet.select(columns)
    rows["centre"] = rows["centre"].replace("", UNKNOWN_CENTRE)
    rows["order"] = positions(rows["order"], f"{sheet.path}, column 'offset'")
    notes: list[str] = []
    rows["age"] = covariate(rows["age"], rows["where"], notes)
    words = {outcome.negative: outcome.words[0], outcome.positive: outcome.words[1]}
    rows["label"] = rows["label"].replace(words)
    exclusions = Exclusions()
    rows["patient_id"] = rows["patient_id"].replace(SAME_PATIENT)
    rows = _drop_rows(rows, outcome, exclusions, before_outcome)
    return assemble(
        rows.drop(columns=["modality", "present"], errors="ignore"),
        ImageFolder(root / "images", thorough=on_missing == "drop"),
        outcome.words,
        Rules(select, on_missing, "drop", exclude=exclude),
        exclusions,
        name=f"cxr_{task}",
        tables=root,
        notes=notes,
        covariates=("age", "sex"),
    )


def _drop_rows(
    rows: pd.DataFrame, outcome: Task, exclusions: Exclusions, before_outcome: bool
) -> pd.DataFrame:
    """Leave out images that are not frontal, repeat another one, or show the outcome."""
    rules = [
        (rows["modality"] != "X-ray", "not an X-ray"),
        (~rows["view"].isin(FRONTAL), "not a frontal view"),
        (rows["image"].duplicated(), "the same image is listed in an earlier row"),
    ]
    if before_outcome and outcome.present:
        seen = rows["present"] == "Y"
        rules.append((seen, f"taken when the outcome had come true ({outcome.present} is Y)"))
    left = rows
    for rule, reason in rules:
        unwanted = rule.loc[left.index]
        exclusions.add_rows(left[unwanted], reason)
        left = left[~unwanted]
    return left
