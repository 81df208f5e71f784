"""COVID-19-AR (TCIA, doi 10.7937/tcia.2020.py71-5978)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prognobench.datasets.readers.rules import Excluded, OnConflict, OnMissing, Rules, Selection
from prognobench.datasets.readers.tcia.collection import Collection
from prognobench.datasets.readers.tcia.series import Series
from prognobench.registry import DATASETS

if TYPE_CHECKING:
    from prognobench.records import Cohort

NO, YES = ("n", "no", "0", "false"), ("y", "yes", "1", "true")
TASKS = {
    "icu": ("ICU Admit", {**dict.fromkeys(NO, "no icu"), **dict.fromkeys(YES, "icu")}),
    "mortality": ("MORTALITY", {**dict.fromkeys(NO, "alive"), **dict.fromkeys(YES, "dead")}),
}


def _no_chest_study(series: Series) -> str:
    named = not series.study or series.study.upper().startswith("XR CHEST")
    return "" if named else f"study {series.study!r} does not begin with XR CHEST"


COLLECTION = Collection(
    "COVID-19-AR",
    table="COVID_19_AR_ClinicalCorrelates*.xlsx",
    header_row=2,
    patient="PATIENT_ID",
    unwanted=_no_chest_study,
)


@DATASETS.register("covid_19_ar")
def covid_19_ar(
    *,
    root: Path,
    task: Literal["icu", "mortality"],
    select: Selection = "first",
    covariates: tuple[str, ...] = ("AGE", "SEX"),
    on_missing: OnMissing = "error",
    on_conflict: OnConflict = "error",
    exclude: Excluded = (),
) -> Cohort:
    """COVID-19-AR: chest radiographs of 105 patients, with CT studies among them.

    Taken are the CR and DX series of studies whose description begins with "XR CHEST", frontal
    by their header; studies are dated by theirs. A blank outcome leaves the patient out.

    Parameters
    ----------
    root
        The folder that holds the downloader's ``manifest-*`` folder and, beside it or in it,
        ``COVID_19_AR_ClinicalCorrelates_July202020.xlsx``.
    task
        ``icu`` (ICU Admit) or ``mortality``; the table writes them as 0/1 or Y/N.
    select
        The ``first`` image of each patient; severe patients have more and later ones.
    covariates
        Columns of the table for metadata baselines.
    on_missing, on_conflict, exclude
        See :class:`.rules.Rules`.

    Raises
    ------
    DataError
        If folder, table or words are not as described: what was expected and what was found.
    """
    rules = Rules(select, on_missing, "drop", on_conflict, exclude)
    return COLLECTION.read(root, f"car_{task}", TASKS[task], rules, covariates)
