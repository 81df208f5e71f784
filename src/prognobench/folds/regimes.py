"""How much of a fold's training part may be used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from prognobench.errors import DataError
from prognobench.folds.patients import Patients
from prognobench.records import Cohort, Fold
from prognobench.registry import REGIMES
from prognobench.seeds import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prognobench.folds.patients import Members

Validation = Literal["proportional", "none", "full"]


class TooFewPatientsError(DataError):
    """A fold's training part has fewer patients than a regime wants of it.

    Attributes
    ----------
    most
        What could be wanted of this fold.
    """

    def __init__(self, there: str, wanted: str, most: int) -> None:
        self.there, self.wanted, self.most = there, wanted, most
        super().__init__(f"{there} to train on, too few {wanted}; the most possible is {most}")

    def __reduce__(self) -> tuple[type[TooFewPatientsError], tuple[Any, ...]]:
        return type(self), (self.there, self.wanted, self.most)


@dataclass(frozen=True)
class Spread:
    """Training patients that are drawn evenly from groups.

    Attributes
    ----------
    group
        ``(patients,)``: the group of each, such as the centre.
    most
        Patients of each class and group.
    """

    group: NDArray[np.object_]
    most: int


@REGIMES.register("full")
def full(cohort: Cohort, fold: Fold, seed: int) -> list[Fold]:
    """All patients of the training part."""
    return [fold]


@REGIMES.register("few_shot")
def few_shot(
    cohort: Cohort,
    fold: Fold,
    seed: int,
    *,
    k: Annotated[int, Ge(1)],
    draws: Annotated[int, Ge(1)] = 10,
    validation: Validation = "proportional",
) -> list[Fold]:
    """``k`` patients per class from the training part, in several draws; the test part whole.

    Draws are nested: the patients of ``k=4`` include those of ``k=2``.

    Parameters
    ----------
    validation
        ``proportional`` shrinks each class of the validation part as much as in training, to one
        patient at least; ``none`` leaves the part out, as there is none in real few-shot use;
        ``full`` keeps it.

    Raises
    ------
    TooFewPatientsError
        If a class has fewer than ``k`` patients in the training part.
    """
    patients = Patients.of(cohort)
    members = patients.members(fold.train)
    counts = patients.counts(members)
    if counts.min() < k:
        there = f"{cohort.name}: fold {fold.name} has {patients.describe(members)} patients"
        raise TooFewPatientsError(there, f"of a class for regime.k={k}", counts.min())
    quota = np.full(len(counts), k)
    return _draws(patients, fold, seed, quota, draws=draws, validation=validation)


@REGIMES.register("few_shot_per_centre")
def few_shot_per_centre(
    cohort: Cohort,
    fold: Fold,
    seed: int,
    *,
    k: Annotated[int, Ge(1)],
    draws: Annotated[int, Ge(1)] = 10,
    validation: Validation = "proportional",
) -> list[Fold]:
    """``k`` patients per class from each centre of the training part, in several draws.

    Draws are nested, as those of ``few_shot``.

    Parameters
    ----------
    validation
        As in ``few_shot``.

    Raises
    ------
    TooFewPatientsError
        If a class has fewer than ``k`` patients in a centre of the training part.
    """
    patients = Patients.of(cohort)
    members = patients.members(fold.train)
    centre = np.empty(len(patients.ids), dtype=object)
    centre[patients.of_row] = cohort.table["centre"].to_numpy(dtype=object)
    for name in dict.fromkeys(sorted(map(str, centre[members]))):
        own = members[centre[members] == name]
        if (most := int(patients.counts(own).min())) < k:
            there = f"{cohort.name}: centre {name} of fold {fold.name} has {patients.describe(own)}"
            raise TooFewPatientsError(there, f"of a class for regime.k={k} in each centre", most)
    groups = len(set(centre[members]))
    quota = np.full(len(patients.classes), k * groups)
    spread = Spread(centre, k)
    return _draws(patients, fold, seed, quota, draws=draws, validation=validation, spread=spread)


@REGIMES.register("reduced")
def reduced(
    cohort: Cohort,
    fold: Fold,
    seed: int,
    *,
    patients: Annotated[int, Ge(2)],
    draws: Annotated[int, Ge(1)] = 1,
    validation: Validation = "proportional",
) -> list[Fold]:
    """A smaller training part with the same class shares; the test part whole.

    Draws are nested: the patients of a smaller number are among those of a larger one.

    Parameters
    ----------
    patients
        So many in total; each class keeps one at least.
    validation
        As in ``few_shot``.

    Raises
    ------
    TooFewPatientsError
        If the training part has fewer patients.
    """
    known = Patients.of(cohort)
    members = known.members(fold.train)
    if len(members) < patients:
        there = f"{cohort.name}: fold {fold.name} has {len(members)} patients"
        raise TooFewPatientsError(there, f"for regime.patients={patients}", len(members))
    quota = _stratified_quota(known.counts(members), patients)
    return _draws(known, fold, seed, quota, draws=draws, validation=validation)


def _stratified_quota(counts: NDArray[np.intp], total: int) -> NDArray[np.intp]:
    """How many patients of each class to keep; grows with ``total`` in every class.

    Each class is spread evenly over [0, 1], its first patient before all others; kept are the
    first ``total`` of all classes together. Rounding shares instead could take a patient from one
    class as ``total`` grows, and draws would no longer be nested.
    """
    label = np.repeat(np.arange(len(counts)), counts)
    rank = np.concatenate([np.arange(count) for count in counts])
    # The middle of each patient's share of its class: with 30 alive and 10 dead, one dead patient
    # comes for every three alive.
    place = np.where(rank == 0, -1.0, (rank + 0.5) / counts[label])
    kept = label[np.argsort(place, kind="stable")[:total]]
    return np.bincount(kept, minlength=len(counts))


def _draws(
    patients: Patients,
    fold: Fold,
    seed: int,
    quota: NDArray[np.intp],
    *,
    draws: int,
    validation: Validation,
    spread: Spread | None = None,
) -> list[Fold]:
    """Draw the quota of each class from the training part, and validation patients to match."""
    training, validating = patients.members(fold.train), patients.members(fold.validation)
    # Validation shrinks with training: ten labelled patients do not come with a hundred more.
    available = patients.counts(validating)
    share = quota / patients.counts(training)
    matching = {
        "none": np.zeros_like(available),
        "full": available,
        "proportional": np.minimum(np.maximum(np.rint(available * share), 1), available),
    }[validation].astype(np.intp)
    splits = []
    for draw in range(draws):
        # Without the quota among the axes, so that the draws of k=4 include those of k=2.
        axes = (seed, "folds", "draw", fold.repeat, fold.fold, draw)
        splits.append(
            patients.fold(
                _take_first(patients, training, quota, generator(*axes, "train"), spread),
                _take_first(patients, validating, matching, generator(*axes, "validation")),
                patients.members(fold.test),
                fold=fold.fold,
                repeat=fold.repeat,
                draw=draw,
            )
        )
    return splits


def _rank(groups: NDArray[np.object_]) -> NDArray[np.intp]:
    """How many of the same group come before each."""
    seen: dict[object, int] = {}
    ranks = np.zeros(len(groups), dtype=np.intp)
    for at, group in enumerate(groups):
        ranks[at] = seen.get(group, 0)
        seen[group] = ranks[at] + 1
    return ranks


def _take_first(
    patients: Patients,
    members: Members,
    quota: NDArray[np.intp],
    random: np.random.Generator,
    spread: Spread | None = None,
) -> Members:
    """The first patients of each class in a random order that does not depend on the quota.

    With ``spread`` the first of each class and group.
    """
    shuffled: Iterable[Members] = (
        random.permutation(members[patients.labels[members] == label])
        for label in range(len(quota))
    )
    if spread is not None:
        shuffled = (one[_rank(spread.group[one]) < spread.most] for one in shuffled)
    return np.concatenate([one[:count] for one, count in zip(shuffled, quota, strict=True)])
