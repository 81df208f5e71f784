"""The ways to split patients into training, validation and test parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Len, Lt

from prognobench.errors import DataError
from prognobench.folds.patients import Patients, some
from prognobench.folds.tables import PARTS, import_folds
from prognobench.records import Cohort, Fold
from prognobench.registry import CVS, near
from prognobench.seeds import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

Share = Annotated[float, Gt(0), Lt(1)]


@CVS.register("k_fold")
def k_fold(
    cohort: Cohort,
    seed: int,
    *,
    folds: Annotated[int, Ge(3)] = 5,
    repeats: Annotated[int, Ge(1)] = 1,
) -> list[Fold]:
    """Cross-validation: one part tests, the next validates, the others train.

    Parts are stratified by class and grouped by patient: their class counts differ by at most one
    patient. In each repeat every patient is tested once and validates once.

    Parameters
    ----------
    folds
        Five give train, validation and test parts as 3/1/1.
    repeats
        How often to split the patients anew.

    Raises
    ------
    DataError
        If a class has fewer patients than there are folds.
    """
    patients = Patients.of(cohort)
    _enough(cohort, patients, folds, f"cv.folds={folds} needs at least as many; lower it")
    made = []
    for repeat in range(repeats):
        random = generator(seed, "folds", "k_fold", folds, repeat)
        parts = patients.deal(patients.everyone, [1 / folds] * folds, random)
        for fold in range(folds):
            test, validation, *train = (parts[(fold + step) % folds] for step in range(folds))
            made.append(
                patients.fold(np.concatenate(train), validation, test, fold=fold, repeat=repeat)
            )
    return made


@CVS.register("leave_one_centre_out")
def leave_one_centre_out(
    cohort: Cohort,
    seed: int,
    *,
    validation: Share = 0.2,
    min_per_class: Annotated[int, Ge(1)] = 2,
    small_centres: Literal["refuse", "train"] = "refuse",
) -> list[Fold]:
    """Each centre in turn tests what was trained at the others; centres in alphabetical order.

    Parameters
    ----------
    validation
        Share of the other centres' patients that validates, stratified by class.
    min_per_class
        So many patients of each class a centre must have to be a test part.
    small_centres
        What to do with centres that have fewer: ``refuse`` them, or only ``train`` on them.

    Raises
    ------
    DataError
        If there is one centre only, patients without a centre or in several, or too few patients
        of a class at a centre.
    """
    patients = Patients.of(cohort)
    centre, names = _centres(cohort, patients)
    members = [np.flatnonzero(centre == number) for number in range(len(names))]
    tested = [m for m in members if patients.counts(m).min() >= min_per_class]
    small = [
        f"{name} ({patients.describe(m)})"
        for name, m in zip(names, members, strict=True)
        if patients.counts(m).min() < min_per_class
    ]
    if small and (small_centres == "refuse" or not tested):
        raise DataError(
            f"{cohort.name}: {len(small)} of {len(names)} centres have fewer than "
            f"cv.min_per_class={min_per_class} patients of a class: {'; '.join(small)}; "
            "cv.small_centres=train only trains on such centres"
        )
    made = []
    for fold, testing in enumerate(tested):
        random = generator(seed, "folds", "leave_one_centre_out", names[centre[testing[0]]])
        rest = np.setdiff1d(patients.everyone, testing)
        train, validating = patients.deal(rest, [1 - validation, validation], random)
        made.append(patients.fold(train, validating, testing, fold=fold))
    return made


def _centres(cohort: Cohort, patients: Patients) -> tuple[NDArray[np.intp], list[str]]:
    """Centre of each patient, as an index into the sorted names."""
    import pandas as pd

    column = cohort.table["centre"].astype(str)
    of_row, names = pd.factorize(column, sort=True)
    centre = np.zeros(len(patients.ids), dtype=np.intp)
    centre[patients.of_row] = of_row
    faults = []
    if strays := len(np.unique(patients.of_row[of_row != centre[patients.of_row]])):
        faults.append(
            f"{cohort.name}: patients with films of several centres: {strays}; no centre can be "
            "left out cleanly unless each patient has one"
        )
    if blank := len(np.unique(patients.of_row[column == ""])):
        faults.append(
            f"{cohort.name}: patients without a centre: {blank}; fill in the centre column"
        )
    if len(names) < 2:
        faults.append(
            f"{cohort.name}: all films come from one centre ({names[0] or 'not named'}), none can "
            "be left out; name the centre column of the table (dataset.centre), or use cv=five_fold"
        )
    if faults:
        raise DataError(faults)
    return centre, list(names)


@CVS.register("holdout")
def holdout(
    cohort: Cohort,
    seed: int,
    *,
    validation: Share = 0.2,
    test: Share = 0.2,
    column: str = "",
    repeats: Annotated[int, Ge(1)] = 1,
) -> list[Fold]:
    """One split into three parts, at random or as a column of the table says.

    Parameters
    ----------
    validation, test
        Shares of the patients, stratified by class; the rest trains.
    column
        Column whose values are ``train``, ``validation`` and ``test``. Where it names no
        validation part, the share ``validation`` of the training patients becomes one.
    repeats
        How often to split anew what the column does not fix.

    Raises
    ------
    DataError
        If the shares leave nothing to train on, or the column is not there, has other values, or
        puts a patient into two parts.
    """
    patients = Patients.of(cohort)
    if column:
        return [_split_by(cohort, patients, column, validation, seed)]
    if validation + test >= 1:
        raise DataError(
            f"cv.validation={validation} and cv.test={test} leave nothing to train on; "
            "their sum must be below 1"
        )
    _enough(cohort, patients, 3, "three parts need one each")
    made = []
    for repeat in range(repeats):
        random = generator(seed, "folds", "holdout", repeat)
        shares = [1 - validation - test, validation, test]
        made.append(patients.fold(*patients.deal(patients.everyone, shares, random), repeat=repeat))
    return made


def _split_by(
    cohort: Cohort, patients: Patients, column: str, validation: float, seed: int
) -> Fold:
    """The fold that a column of the table describes."""
    table = cohort.table
    if column not in table:
        raise DataError(
            f"{cohort.name}: cv.column={column!r} is no column of the table; "
            f"it has {', '.join(map(str, table.columns))}"
        )
    values = table[column].astype(str).str.strip().str.lower()
    part = values.map(PARTS)
    if part.isna().any():
        strange = values[part.isna()].value_counts()
        raise DataError(
            f"{cohort.name}: column {column!r} has values that name no part: "
            f"{', '.join(f'{value!r} ({count} images)' for value, count in strange.items())}; "
            f"allowed are {', '.join(PARTS)}"
        )
    members = {
        name: patients.members(np.flatnonzero((part == name).to_numpy()))
        for name in ("train", "validation", "test")
    }
    train, validating = members["train"], members["validation"]
    if not len(validating):
        random = generator(seed, "folds", "holdout", column)
        train, validating = patients.deal(train, [1 - validation, validation], random)
    return patients.fold(train, validating, members["test"])


@CVS.register("external")
def external(
    cohort: Cohort,
    seed: int,
    *,
    test: Annotated[tuple[str, ...], Len(1)],
    validation: Share = 0.2,
) -> list[Fold]:
    """Train on some sources of a union of cohorts, test on others, no retraining on them.

    Parameters
    ----------
    test
        Names of the sources that test; all others train and validate.
    validation
        Share of their patients that validates, stratified by class.

    Raises
    ------
    DataError
        If a source is unknown, none is left to train on, or a patient stands in both.
    """
    known = sorted(cohort.sources)
    # A part of a union with several folders has a source "part/folder" for each.
    asked = {name: [s for s in known if s.split("/")[0] == name or s == name] for name in test}
    if unknown := [name for name, sources in asked.items() if not sources]:
        raise DataError(
            f"{cohort.name}: cv.test names no source {', '.join(map(repr, unknown))}"
            f"{near(unknown[0], known)}; the cohort's are {', '.join(known)}"
        )
    tested_sources = {source for sources in asked.values() for source in sources}
    if tested_sources == set(known):
        raise DataError(
            f"{cohort.name}: cv.test={list(test)} leaves no source to train on; "
            "choose dataset=union with the cohorts to train on and to test on"
        )
    patients = Patients.of(cohort)
    tested = cohort.table["source"].isin(tested_sources).to_numpy()
    testing = patients.members(np.flatnonzero(tested))
    rest = patients.members(np.flatnonzero(~tested))
    if len(shared := np.intersect1d(testing, rest)):
        raise DataError(
            f"{cohort.name}: patients in a test source and in a training source: {len(shared)} "
            f"({some(patients.ids[shared])}); leave them out of one"
        )
    random = generator(seed, "folds", "external", *sorted(test))
    train, validating = patients.deal(rest, [1 - validation, validation], random)
    return [patients.fold(train, validating, testing)]


@CVS.register("imported")
def imported(cohort: Cohort, seed: int, *, path: Path) -> list[Fold]:
    """Folds from a CSV file, such as a study's official ones.

    Parameters
    ----------
    path
        Columns ``patient_id`` and ``part`` (train, validation, test), and where there are several
        splits ``repeat``, ``fold``, ``draw``; as ``prognobench`` stores them with a run.

    Raises
    ------
    DataError
        With all faults of the file.
    """
    return import_folds(path, cohort)


def _enough(cohort: Cohort, patients: Patients, needed: int, why: str) -> None:
    """Refuse classes with fewer patients than parts."""
    counts = patients.counts(patients.everyone)
    faults = [
        f"{cohort.name}: only {count} patients have the outcome {name!r}, but {why}"
        for name, count in zip(cohort.classes, counts, strict=True)
        if count < needed
    ]
    if faults:
        raise DataError(faults)
