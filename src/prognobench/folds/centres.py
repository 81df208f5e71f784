"""Splits by centre: each in turn is new to the model that it tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt

from prognobench.errors import DataError, listed
from prognobench.folds.patients import Patients
from prognobench.records import UNKNOWN_CENTRE, Cohort, Fold
from prognobench.registry import CVS
from prognobench.seeds import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray


@CVS.register("leave_one_centre_out")
def leave_one_centre_out(
    cohort: Cohort,
    seed: int,
    *,
    validation: Annotated[float, Gt(0), Lt(1)] = 0.2,
    min_per_class: Annotated[int, Ge(1)] = 2,
    small_centres: Literal["refuse", "train"] = "refuse",
    unknown_centre: Literal["refuse", "train"] = "refuse",
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
    unknown_centre
        What to do with patients whose centre is not known: the same.

    Raises
    ------
    DataError
        If there is one centre only, patients without a centre or in several, or too few patients
        of a class at a centre.
    """
    patients = Patients.of(cohort)
    centre, names = _number_centres(cohort, patients, unknown_centre)
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
    splits = []
    for fold, testing in enumerate(tested):
        # By name, not by number: another centre in the cohort leaves this fold's split as it is.
        random = generator(seed, "folds", "leave_one_centre_out", names[centre[testing[0]]])
        rest = np.setdiff1d(patients.everyone, testing)
        train, validating = patients.deal(rest, [1 - validation, validation], random)
        splits.append(patients.fold(train, validating, testing, fold=fold))
    return splits


def _number_centres(
    cohort: Cohort, patients: Patients, unknown_centre: str
) -> tuple[NDArray[np.intp], list[str]]:
    """Centre of each patient, as an index into the sorted names; -1 where it is not known."""
    import pandas as pd

    column = cohort.table["centre"].astype(str)
    of_row, names = pd.factorize(column.where(~column.isin(("", UNKNOWN_CENTRE))), sort=True)
    centre = np.full(len(patients.ids), -1)
    centre[patients.of_row] = of_row  # of the last row of each patient; strays have other rows
    faults = []
    if len(strays := np.unique(patients.of_row[of_row != centre[patients.of_row]])):
        faults.append(
            f"{cohort.name}: patients with images of several centres: {len(strays)} "
            f"({listed(patients.ids[strays], 5)}); no centre can be left out cleanly unless each "
            "patient has one"
        )
    unknown = np.flatnonzero(centre < 0)
    if len(names) < 2:
        faults.append(
            f"{cohort.name}: all images come from one centre ({''.join(names) or 'not named'}), "
            "none can be left out; name the centre column of the table (dataset.centre), or use "
            "cv=five_fold"
        )
    elif len(unknown) and unknown_centre == "refuse":
        faults.append(
            f"{cohort.name}: patients without a known centre: {len(unknown)} "
            f"({listed(patients.ids[unknown], 5)}); fill in the centre, leave them out with "
            "dataset.exclude, or only train on them with cv.unknown_centre=train"
        )
    if faults:
        raise DataError(faults)
    return centre, [str(name) for name in names]
