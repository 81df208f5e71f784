"""The ways to split patients into training, validation and test parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from annotated_types import Ge, Gt, Len, Lt

from prognobench.errors import DataError, listed
from prognobench.folds.patients import Patients
from prognobench.folds.tables import PART_NAMES, import_folds
from prognobench.records import PARTS, Cohort, Fold
from prognobench.registry import CVS, near
from prognobench.seeds import generator

if TYPE_CHECKING:
    import pandas as pd

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
    _require_patients(cohort, patients, folds, f"cv.folds={folds} needs one in each; lower it")
    splits = []
    for repeat in range(repeats):
        random = generator(seed, "folds", "k_fold", folds, repeat)
        parts = patients.deal(patients.everyone, [1 / folds] * folds, random)
        for fold in range(folds):
            test, validation, *train = (parts[(fold + step) % folds] for step in range(folds))
            splits.append(
                patients.fold(np.concatenate(train), validation, test, fold=fold, repeat=repeat)
            )
    return splits


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
        return _split_by_column(cohort, column, validation, seed, repeats)
    if validation + test >= 1:
        raise DataError(
            f"cv.validation={validation} and cv.test={test} leave nothing to train on; "
            "their sum must be below 1"
        )
    _require_patients(cohort, patients, 3, "three parts need one each")
    splits = []
    for repeat in range(repeats):
        random = generator(seed, "folds", "holdout", repeat)
        shares = [1 - validation - test, validation, test]
        splits.append(
            patients.fold(*patients.deal(patients.everyone, shares, random), repeat=repeat)
        )
    return splits


def _split_by_column(
    cohort: Cohort, column: str, validation: float, seed: int, repeats: int
) -> list[Fold]:
    """The folds that a column of the table describes; only a validation part can be dealt anew."""
    patients = Patients.of(cohort)
    part = _read_part_column(cohort, column)
    members = [patients.members(np.flatnonzero((part == name).to_numpy())) for name in PARTS]
    times = np.bincount(np.concatenate(members), minlength=len(patients.ids))
    if len(several := np.flatnonzero(times > 1)):
        raise DataError(
            f"{cohort.name}: column {column!r} puts patients into several parts: {len(several)} "
            f"({listed(patients.ids[several], 5)}); give all rows of a patient one part"
        )
    train, validating, test = members
    if len(validating):
        if repeats > 1:
            raise DataError(
                f"{cohort.name}: cv.repeats={repeats} has nothing to split anew, because column "
                f"{column!r} also names the validation part"
            )
        return [patients.fold(train, validating, test)]
    splits = []
    for repeat in range(repeats):
        random = generator(seed, "folds", "holdout", column, *([repeat] if repeat else []))
        training, validating = patients.deal(train, [1 - validation, validation], random)
        splits.append(patients.fold(training, validating, test, repeat=repeat))
    return splits


def _read_part_column(cohort: Cohort, column: str) -> pd.Series[str]:
    """The part that each row of the cohort's table names."""
    table = cohort.table
    if column not in table:
        raise DataError(
            f"{cohort.name}: cv.column={column!r} is not a column of the table; "
            f"it has {', '.join(map(str, table.columns))} (dataset=table keeps other columns with "
            f"dataset.keep=[{column}])"
        )
    values = table[column].astype(str).str.strip().str.lower()
    part = values.map(PART_NAMES)
    if part.isna().any():
        strange = values[part.isna()]
        first = f", the first in {table['where'][strange.index[0]]}" if "where" in table else ""
        counts = strange.value_counts().items()
        raise DataError(
            f"{cohort.name}: column {column!r} has values that name no part: "
            f"{', '.join(f'{value!r} ({count} images)' for value, count in counts)}{first}; "
            f"allowed are {', '.join(PART_NAMES)}"
        )
    return part


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
        If a source is unknown, none is left to train on, or a patient is in both.
    """
    known = sorted(cohort.sources)
    # A part of a union with several folders has a source "part/folder" for each.
    asked = {name: [s for s in known if s.split("/")[0] == name or s == name] for name in test}
    if unknown := [name for name, sources in asked.items() if not sources]:
        raise DataError(
            f"{cohort.name}: cv.test names no source {', '.join(map(repr, unknown))}"
            f"{near(unknown[0], known)} (the cohort's are: {', '.join(known)})"
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
            f"({listed(patients.ids[shared], 5)}); leave them out of one"
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


def _require_patients(cohort: Cohort, patients: Patients, needed: int, why: str) -> None:
    """Refuse classes with fewer patients than parts: a part without a class has no scores."""
    counts = patients.counts(patients.everyone)
    faults = [
        f"{cohort.name}: only {count} patients have the outcome {name!r}, but {why}"
        for name, count in zip(cohort.classes, counts, strict=True)
        if count < needed
    ]
    if faults:
        raise DataError(faults)
