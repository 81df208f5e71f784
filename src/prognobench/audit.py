"""The data desk: what is wrong with a cohort or its folds, before any model flatters it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prognobench.records import Checks, Cohort, Fold


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes
    ----------
    leaks
        Sentences on patients that stand in two parts of a fold.
    notes
        What a reader of the results should know.
    """

    leaks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def refusals(self, checks: Checks) -> list[str]:
        """Return why a run must not start."""
        return [] if checks.allow_leaks else list(self.leaks)


def audit(cohort: Cohort, folds: Sequence[Fold] | None = None) -> Audit:
    """Look for leaks in a cohort and its folds."""
    patients = cohort.table["patient_id"].to_numpy(dtype=object)
    leaks = []
    for fold in folds or ():
        parts = [set(patients[rows]) for rows in (fold.train, fold.validation, fold.test)]
        if shared := (parts[0] & parts[1]) | (parts[0] & parts[2]) | (parts[1] & parts[2]):
            leaks.append(f"{cohort.name}: {len(shared)} patients in two parts of fold {fold.name}")
    notes = []
    if cohort.synthetic:
        notes.append("synthetic films, no clinical data")
    return Audit(tuple(leaks), tuple(notes))
