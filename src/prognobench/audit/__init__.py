"""The data desk: what is wrong with a cohort and its folds, found before it flatters a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.audit.counts import by_centre, by_part, left_out
from prognobench.audit.duplicates import repeated
from prognobench.audit.films import Films, Progress, look
from prognobench.audit.leaks import repeats, shared_patients, shared_pictures
from prognobench.audit.metadata import film_metadata, metadata_baseline
from prognobench.errors import DataError
from prognobench.imaging.cache import pixel_cache
from prognobench.imaging.content import content_digests
from prognobench.records import Checks, Cohort, Files, Fold

if TYPE_CHECKING:
    import pandas as pd

SIDE = 224
"""Of the squares in which films are looked at."""


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes
    ----------
    tables
        Title -> table: patients and films by centre and by part of each fold, what was left out,
        faulty films, groups of films that show the same picture, what metadata alone tell.
    leaks
        One sentence for each way in which a test part is known from a training part.
    duplicates
        One sentence for each kind of repeated film.
    notes
        What a reader of the results should know.
    """

    cohort: str
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    leaks: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def refusals(self, checks: Checks) -> list[str]:
        """Return why a run must not start, in sentences; nothing where the config allows it."""
        refused = [] if checks.allow_leaks else list(self.leaks)
        return refused + ([] if checks.allow_duplicates else list(self.duplicates))

    def sections(self) -> list[tuple[str, pd.DataFrame]]:
        """The tables that have rows, with their titles."""
        return [(title, table) for title, table in self.tables.items() if len(table)]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values; blank cells are null."""
        return {
            "cohort": self.cohort,
            "leaks": list(self.leaks),
            "duplicates": list(self.duplicates),
            "notes": list(self.notes),
            "tables": {
                title: table.astype(object).where(table.notna(), None).to_dict("records")
                for title, table in self.tables.items()
            },
        }


def audit(
    cohort: Cohort,
    folds: Sequence[Fold] = (),
    *,
    folder: Path | None = None,
    thorough: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Look for leaks, faulty and repeated films, and shortcuts.

    Parameters
    ----------
    folder
        The cache folder. Without it the table and the folds alone are read; with it, the content
        of the files is compared.
    thorough
        Also decode all films, look at them, compare them as pictures, and try to predict the
        outcome from metadata alone. Films are decoded as squares of ``SIDE`` pixels whatever model
        will see them, so that what is found does not depend on it. Needs ``folder``.
    seed
        Of that prediction's folds.

    Raises
    ------
    DataError
        If files are missing; those that are broken are part of what is found.
    """
    digests = None if folder is None else content_digests(cohort, folder)
    films: Films | None = None
    broken: tuple[str, ...] = ()
    if thorough and folder is not None:
        films, broken = _seen(cohort, folder, progress)
    same = _same_pictures(cohort, digests, films)
    tables = {
        "patients and films": by_centre(cohort),
        "patients by part": by_part(cohort, folds),
        "left out": left_out(cohort),
        "faulty films": _faulty(cohort, films, broken),
        "same picture": _shown(cohort, same),
    }
    if thorough:
        tables["metadata-only baseline"] = metadata_baseline(cohort, film_metadata(cohort), seed)
    return Audit(
        cohort.name,
        tables,
        leaks=(*shared_patients(cohort, folds), *shared_pictures(cohort, same, folds)),
        duplicates=tuple(repeats(cohort, same)),
        notes=tuple(_notes(cohort, tables)),
    )


def _seen(
    cohort: Cohort, folder: Path, progress: Progress | None
) -> tuple[Films | None, tuple[str, ...]]:
    """The films as they were looked at, or what kept them from being decoded."""
    try:
        pixels = pixel_cache(cohort, SIDE, "bicubic", folder, progress=progress)
    except DataError as error:
        return None, error.faults
    return look(pixels.array, progress), ()


def _same_pictures(
    cohort: Cohort, digests: Sequence[str] | None, films: Films | None
) -> pd.DataFrame:
    """The rows of the cohort's table whose picture comes several times: ``group``, ``match``."""
    files = [name for name, source in cohort.sources.items() if isinstance(source, Files)]
    group, copied = repeated(digests, films, cohort.table["source"].isin(files).to_numpy())
    match = np.where(copied, "same file", "similar")
    match[group == np.arange(len(cohort))] = ""
    table = cohort.table.assign(group=group, match=match)
    return table[group >= 0].sort_values("group", kind="stable")


def _shown(cohort: Cohort, same: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "group": pd.factorize(same["group"])[0] + 1,
            "match": same["match"].to_numpy(),
            **{name: same[name].to_numpy() for name in ("patient_id", "image", "source")},
            "outcome": [cohort.classes[label] for label in same["label"]],
        }
    )


def _faulty(cohort: Cohort, films: Films | None, broken: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    images = cohort.table["image"].to_numpy(dtype=object)
    faults = np.empty(0, dtype="U1") if films is None else films.faults
    rows = np.flatnonzero(faults != "")
    return pd.DataFrame(
        {"film": [*broken, *images[rows]], "fault": ["broken"] * len(broken) + list(faults[rows])}
    )


def _notes(cohort: Cohort, tables: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    if cohort.synthetic:
        yield f"{cohort.name}: synthetic films, no clinical data"
    faults = tables["faulty films"]["fault"]
    if broken := int((faults == "broken").sum()):
        yield (
            f"{cohort.name}: {broken} of {len(cohort)} films are broken, so that none were looked "
            "at; replace them, or leave them out with dataset.exclude"
        )
    elif len(faults):
        yield f"{cohort.name}: {len(faults)} of {len(cohort)} films are blank or badly exposed"
    baseline = tables.get("metadata-only baseline")
    if baseline is None or not len(baseline):
        return
    together = baseline.iloc[-1]
    yield (
        f"{cohort.name}: metadata-only baseline, to be beaten by any model: "
        f"MCC {together['mcc']:.2f}, PR-AUC {together['pr_auc']:.2f} "
        f"(chance {together['chance_pr_auc']:.2f})"
    )
    if telling := baseline["metadata"][baseline["follows"]].tolist():
        yield f"{cohort.name}: the outcome follows {', '.join(telling)}: a model may learn that"
