"""COVID-19-NY-SBU (TCIA, doi 10.7937/TCIA.BBAG-2923)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prognobench.datasets.readers.rules import Excluded, OnConflict, OnMissing, Rules, Selection
from prognobench.datasets.readers.tcia.collection import Collection
from prognobench.datasets.readers.tcia.series import Series
from prognobench.registry import DATASETS

if TYPE_CHECKING:
    from prognobench.records import Cohort

TASKS = {
    "mortality": ("last.status", {"discharged": "alive", "deceased": "dead"}),
    "icu": (
        "is_icu",
        {**dict.fromkeys(("false", "0"), "no icu"), **dict.fromkeys(("true", "1"), "icu")},
    ),
}


def _enhanced(series: Series) -> str:
    if "enhanc" in series.series.lower():
        return f"an enhanced copy of an image ({series.series})"
    return ""


COLLECTION = Collection(
    "COVID-19-NY-SBU",
    table="deidentified_overlap_tcia*.csv",
    but_not="template",  # the table's description lies beside it
    patient="to_patient_id",
    unwanted=_enhanced,
)


@DATASETS.register("covid_19_ny_sbu")
def covid_19_ny_sbu(
    *,
    root: Path,
    task: Literal["mortality", "icu"],
    select: Selection = "first",
    covariates: tuple[str, ...] = ("age.splits", "gender_concept_name"),
    on_missing: OnMissing = "error",
    on_conflict: OnConflict = "error",
    exclude: Excluded = (),
) -> Cohort:
    """COVID-19-NY-SBU: 1,384 patients of one hospital, 1,365 with a chest X-ray.

    Taken are frontal chest CR and DX series; CT, MR, laterals and the "enhanced" copies of images
    (which are named so, or refer to their original) are left out. Series come from the
    downloader's ``metadata.csv`` if it is there; only the files of the day that is wanted are
    opened.

    Parameters
    ----------
    root
        The folder that holds the downloader's ``manifest-*`` folders and, beside them or in one,
        the table ``deidentified_overlap_tcia*.csv``.
    task
        ``mortality`` (last.status is deceased) or ``icu`` (is_icu is True).
    select
        The ``first`` image of each patient. Severe patients have 37 images on average against 3, so
        that more or later images tell the outcome.
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
    return COLLECTION.read(root, f"ny_{task}", TASKS[task], rules, covariates)
