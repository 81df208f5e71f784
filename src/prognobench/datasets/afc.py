"""AIforCOVID (Soda et al., Medical Image Analysis 74, 2021): six hospitals, three releases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prognobench.datasets.readers.assembly import assemble
from prognobench.datasets.readers.covariates import covariate
from prognobench.datasets.readers.image_folder import ImageFolder, existing_folder
from prognobench.datasets.readers.rules import (
    Excluded,
    Exclusions,
    OnConflict,
    OnMissing,
    Rules,
    collecting,
)
from prognobench.datasets.readers.spreadsheet import read_sheet
from prognobench.datasets.readers.values import translate
from prognobench.errors import DataError
from prognobench.records import UNKNOWN_CENTRE
from prognobench.registry import DATASETS

if TYPE_CHECKING:
    import pandas as pd

    from prognobench.records import Cohort

EDITIONS: tuple[dict[str, str], ...] = (
    {
        "AIforCOVID.xlsx": "imgs",
        "AIforCOVID_r2.xlsx": "imgs_r2",
        "AIforCOVID_r3.xlsx": "imgs_r3",
    },
    {"trainClinData.xls": "", "TrainSet/trainClinData.xls": ""},
)
"""Table of each release -> folder of its images. The second edition is a hackathon's, a part of the
first; its images are found by their names.
"""

UNUSABLE = (
    *("P_3_391", "P_3_377", "P_3_20", "P_3_108", "P_1_16"),
    *("P_3_341", "P_3_411", "P_3_208", "P_1_47", "P_1_118"),
)
"""Images that the authors of the study leave out."""

TASKS = {
    "severity": ("Prognosis", {"mild": "mild", "severe": "severe"}),
    "mortality": (
        "Death",
        {
            **dict.fromkeys(("alive", "no", "n", "0", "false"), "alive"),
            **dict.fromkeys(("dead", "death", "yes", "y", "1", "true"), "dead"),
        },
    ),
}


@DATASETS.register("aiforcovid")
def aiforcovid(
    *,
    root: Path,
    task: Literal["severity", "mortality"],
    unusable: tuple[str, ...] = UNUSABLE,
    covariates: tuple[str, ...] = ("Age", "Sex"),
    on_missing: OnMissing = "error",
    on_conflict: OnConflict = "error",
    exclude: Excluded = (),
) -> Cohort:
    """AIforCOVID: one image per patient, taken at admission, of hospitals A to F.

    All releases that lie in the folder are read, or else the hackathon edition; a patient stands
    in one of them. The encoding of ``Death`` was not seen: words other than alive/dead, yes/no, 0/1
    are an error that names them. A blank outcome leaves the patient out.

    Parameters
    ----------
    root
        The folder with ``AIforCOVID.xlsx``, ``AIforCOVID_r2.xlsx``, ``AIforCOVID_r3.xlsx`` and
        ``imgs``, ``imgs_r2``, ``imgs_r3``; or with ``trainClinData.xls`` and ``TrainSet``.
    task
        ``severity`` (Prognosis: MILD, SEVERE) or ``mortality`` (Death).
    unusable
        Patients whose images the authors of the study leave out.
    covariates
        Columns of the tables for metadata baselines.
    on_missing, on_conflict, exclude
        See :class:`.rules.Rules`.

    Raises
    ------
    DataError
        If folder, tables or words are not as described: what was expected and what was found.
    """
    root = existing_folder(root, "dataset.root")
    column, words = TASKS[task]
    import pandas as pd

    parts: list[pd.DataFrame] = []
    faults: list[str] = []
    for table, images in _releases(root):
        with collecting(faults):
            parts.append(_release(table, images, column, words, covariates))
    if faults:
        raise DataError(faults)
    rows = pd.concat(parts, ignore_index=True)
    notes: list[str] = []
    for name in covariates:
        rows[name] = covariate(rows[name], rows["where"], notes)
    exclusions = Exclusions()
    left_out = rows["patient_id"].isin(unusable)
    exclusions.add_rows(rows[left_out], "unusable, as the authors of the study found")
    return assemble(
        rows[~left_out],
        ImageFolder(root),
        tuple(dict.fromkeys(words.values())),
        Rules("all", on_missing, "drop", on_conflict, exclude),
        exclusions,
        name=f"afc_{task}",
        tables=root,
        covariates=covariates,
        notes=notes,
    )


def _releases(root: Path) -> list[tuple[Path, str]]:
    for edition in EDITIONS:
        found = [(root / table, images) for table, images in edition.items()]
        if there := [(table, images) for table, images in found if table.is_file()]:
            return there
    names = " or ".join(name for edition in EDITIONS for name in edition)
    inside = ", ".join(sorted(path.name for path in root.iterdir())[:10]) or "nothing"
    raise DataError(f"dataset.root={root}: expected a table {names}, found {inside}")


def _release(
    table: Path, images: str, column: str, words: dict[str, str], covariates: tuple[str, ...]
) -> pd.DataFrame:
    sheet = read_sheet(table)
    rows = sheet.select(
        {
            **{"image": "ImageFile", "centre": "Hospital", "label": column},
            **{name: name for name in covariates},
        }
    )
    rows["label"] = translate(rows["label"], f"{table}, column {column!r}", words)
    rows["centre"] = rows["centre"].str.upper().replace("", UNKNOWN_CENTRE)
    rows["patient_id"] = rows["image"].str.replace(r"\.\w+$", "", regex=True)
    if images and (table.parent / images).is_dir():
        rows["image"] = f"{images}/" + rows["image"]
    rows["order"] = float("nan")
    return rows
