"""Making folds: a way to split, then a regime; and the check that no patient leaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import numpy as np

from prognobench.errors import DataError, listed
from prognobench.folds.patients import Patients
from prognobench.folds.regimes import TooFewPatientsError
from prognobench.records import PARTS, Cohort, Component, Fold
from prognobench.registry import CVS, REGIMES


def make_folds(
    cohort: Cohort,
    cv: Component,
    regime: Component,
    seed: int,
    clean: Callable[[Sequence[Fold]], Sequence[Fold]] | None = None,
) -> tuple[Fold, ...]:
    """Split a cohort.

    Parameters
    ----------
    cv
        How patients are split.
    regime
        How much of each training part is used.
    seed
        Of splits and draws.
    clean
        Takes patients out of the parts of whole folds, before the regime draws from them.

    Raises
    ------
    DataError
        With every fold's faults, if the cohort cannot be split so; of folds with too few
        patients the smallest one's, which says what all of them allow.
    """
    whole = CVS[cv.builder](cohort, seed, **cv.settings)
    if clean is not None:
        whole = clean(whole)
    check_folds(cohort, whole)
    folds: list[Fold] = []
    faults: list[str] = []
    smallest: TooFewPatientsError | None = None
    for fold in whole:
        try:
            folds += REGIMES[regime.builder](cohort, fold, seed, **regime.settings)
        except TooFewPatientsError as error:
            smallest = error if smallest is None else min(smallest, error, key=lambda e: e.most)
        except DataError as error:
            faults += error.faults
    # One sentence, not one a fold: the smallest fold limits all of them.
    if smallest is not None:
        faults += smallest.faults
    if faults:
        raise DataError(faults)
    if list(map(id, folds)) != list(map(id, whole)):  # the regime made others
        check_folds(cohort, folds)
    return tuple(folds)


def check_folds(cohort: Cohort, folds: Sequence[Fold]) -> None:
    """Make sure that no patient is in two parts and that every fold can train and test.

    Raises
    ------
    DataError
        With every fault of every fold.
    """
    patients = Patients.of(cohort)
    faults = [
        f"{cohort.name}: fold {fold.name}: {fault}"
        for fold in folds
        for fault in _find_faults(patients, fold)
    ]
    times = Counter(fold.name for fold in folds)
    if repeated := [name for name in times if times[name] > 1]:
        faults.append(
            f"{cohort.name}: several folds are called {listed(repeated)}; folds that have draws "
            "already (cv=imported) go with regime=full"
        )
    if faults:
        raise DataError(faults)


def _find_faults(patients: Patients, fold: Fold) -> Iterable[str]:
    parts = {name: patients.members(getattr(fold, name)) for name in PARTS}
    times = np.bincount(np.concatenate([*parts.values()]), minlength=1)
    for one, other in combinations(PARTS, 2) if times.max() > 1 else ():
        if len(shared := np.intersect1d(parts[one], parts[other])):
            yield (
                f"patients in the {one} and in the {other} part: {len(shared)} "
                f"({listed(patients.ids[shared], 5)}); give each patient one part"
            )
    if not len(parts["test"]):
        yield "the test part is empty; there must be patients to test on"
    if patients.counts(parts["train"]).min() == 0:
        yield (
            f"the training part has {patients.describe(parts['train'])} patients; "
            "there must be some of every class"
        )
