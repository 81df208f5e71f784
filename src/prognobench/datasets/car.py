"""COVID-19-AR (TCIA, doi 10.7937/tcia.2020.py71-5978)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prognobench.datasets.assembly import Exclusions, Films, OnConflict, OnMissing, Rules, assemble
from prognobench.datasets.files import ImageFolder, existing_folder
from prognobench.datasets.spreadsheet import read_sheet
from prognobench.datasets.tcia import chest_films, find_below, list_series, read_outcomes
from prognobench.registry import DATASETS

if TYPE_CHECKING:
    from prognobench.datasets.tcia import Series
    from prognobench.records import Cohort

TASKS = {
    "icu": ("ICU Admit", ("no icu", "icu")),
    "mortality": ("MORTALITY", ("alive", "dead")),
}
NO, YES = ("n", "no", "0", "false"), ("y", "yes", "1", "true")


@DATASETS.register("covid_19_ar")
def covid_19_ar(
    *,
    root: Path,
    task: Literal["icu", "mortality"],
    films: Films = "first",
    covariates: tuple[str, ...] = ("AGE", "SEX"),
    on_missing: OnMissing = "error",
    on_conflict: OnConflict = "error",
    exclude: tuple[str | int, ...] = (),
) -> Cohort:
    """COVID-19-AR: chest radiographs of 105 patients, with CT studies among them.

    Films are the CR and DX series of studies whose description begins with "XR CHEST", frontal
    by their header; studies are dated by theirs. A blank outcome leaves the patient out.

    Parameters
    ----------
    root
        The folder that holds the downloader's ``manifest-*`` folder and, beside it or in it,
        ``COVID_19_AR_ClinicalCorrelates_July202020.xlsx``.
    task
        ``icu`` (ICU Admit) or ``mortality``; the table writes them as 0/1 or Y/N.
    films
        The ``first`` film of each patient; severe patients have more and later ones.
    covariates
        Columns of the table for metadata baselines.
    on_missing, on_conflict, exclude
        See :class:`.assembly.Rules`.

    Raises
    ------
    DataError
        If folder, table or words are not as described: what was expected and what was found.
    """
    root = existing_folder(root, "dataset.root")
    column, classes = TASKS[task]
    tables = find_below(root, "COVID_19_AR_ClinicalCorrelates*.xlsx", "the clinical table")
    sheet = read_sheet(tables[0], header_row=2)
    words = {**dict.fromkeys(NO, classes[0]), **dict.fromkeys(YES, classes[1])}
    outcomes = read_outcomes(sheet, "PATIENT_ID", column, words, covariates)
    exclusions = Exclusions()
    rules = Rules(films, on_missing, "drop", on_conflict, exclude)
    series = list_series(root, "COVID-19-AR")
    rows = chest_films(root, series, outcomes, rules, exclusions, unwanted=_no_chest_study)
    return assemble(
        rows,
        ImageFolder(root),
        classes,
        rules,
        exclusions,
        name=f"car_{task}",
        covariates=covariates,
    )


def _no_chest_study(series: Series) -> str:
    named = not series.study or series.study.upper().startswith("XR CHEST")
    return "" if named else f"study {series.study!r} does not begin with XR CHEST"
