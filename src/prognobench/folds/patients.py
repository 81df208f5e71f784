"""Patients as splits need them, and how they are dealt out to parts, stratified by outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prognobench.errors import DataError, listed
from prognobench.records import Cohort, Fold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Members = NDArray[np.intp]
    """Indices of patients."""


@dataclass(frozen=True)
class Patients:
    """The patients of a cohort, sorted by id, so that the table's row order changes nothing.

    Attributes
    ----------
    ids
        ``(patients,)``.
    labels, images
        Class and number of images of each patient.
    of_row
        Patient of each row of the cohort's table.
    """

    ids: NDArray[np.object_]
    labels: NDArray[np.intp]
    images: NDArray[np.intp]
    of_row: Members
    classes: tuple[str, ...]

    @classmethod
    def of(cls, cohort: Cohort) -> Patients:
        """Read them from a cohort.

        Raises
        ------
        DataError
            If patients have more than one label, or the cohort has one class only.
        """
        of_row, ids = cohort.patients
        row_labels = cohort.table["label"].to_numpy(dtype=np.intp)
        labels = np.zeros(len(ids), dtype=np.intp)
        labels[of_row] = row_labels  # of the last row of each patient, which all rows must equal
        contradicting = np.unique(of_row[row_labels != labels[of_row]])
        if len(contradicting):
            raise DataError(
                f"{cohort.name}: patients whose images have different outcomes: "
                f"{len(contradicting)} ({listed(ids[contradicting].tolist(), 5)}); "
                "an outcome belongs to a patient"
            )
        patients = cls(
            ids=ids,
            labels=labels,
            images=np.bincount(of_row, minlength=len(ids)),
            of_row=of_row,
            classes=cohort.classes,
        )
        counts = patients.counts(patients.everyone)
        if np.count_nonzero(counts) < 2:
            raise DataError(
                f"{cohort.name}: all patients have one outcome: "
                f"{patients.describe(patients.everyone)}; check the label column and its values"
            )
        return patients

    @property
    def everyone(self) -> Members:
        return np.arange(len(self.ids))

    def counts(self, members: Members) -> NDArray[np.intp]:
        """Patients of each class among these."""
        return np.bincount(self.labels[members], minlength=len(self.classes))

    def describe(self, members: Members) -> str:
        """Class counts in words: ``12 alive, 3 dead``."""
        named = zip(self.counts(members), self.classes, strict=True)
        return ", ".join(f"{count} {name}" for count, name in named)

    def members(self, rows: NDArray[np.intp]) -> Members:
        """The patients that these rows belong to."""
        return np.unique(self.of_row[rows])

    def rows(self, members: Members) -> NDArray[np.intp]:
        """All rows of these patients, in the table's order."""
        chosen = np.zeros(len(self.ids), dtype=bool)
        chosen[members] = True
        return np.flatnonzero(chosen[self.of_row])

    def fold(
        self,
        train: Members,
        validation: Members,
        test: Members,
        *,
        fold: int = 0,
        repeat: int = 0,
        draw: int | None = None,
    ) -> Fold:
        """The fold whose parts hold all images of these patients."""
        return Fold(
            self.rows(train),
            self.rows(validation),
            self.rows(test),
            fold=fold,
            repeat=repeat,
            draw=draw,
        )

    def deal(
        self, members: Members, shares: Sequence[float], random: np.random.Generator
    ) -> list[Members]:
        """Deal patients out to parts at random, stratified by class.

        Of each class a part gets its share of the patients, rounded down or up: with equal shares
        the class counts of two parts differ by at most one, and so do their sizes. Within that,
        parts get images in proportion to their patients as far as a greedy choice allows.

        Parameters
        ----------
        shares
            Of each part; they sum to one.
        """
        # Two steps for each class: how many patients each part gets, then who they are. The first
        # alone decides class counts, so the second may look at numbers of images.
        part = np.full(len(self.ids), -1)
        sizes = np.zeros(len(shares), dtype=np.intp)
        for label, count in enumerate(self.counts(members)):
            of_class = random.permutation(members[self.labels[members] == label])
            quota = _share_out(int(count), shares, sizes, random)
            sizes += quota  # so that the next class makes up for what rounding gave this one
            part[of_class] = _balance_images(self.images[of_class], quota, random)
        return [np.flatnonzero(part == number) for number in range(len(shares))]


def _share_out(
    count: int, shares: Sequence[float], sizes: NDArray[np.intp], random: np.random.Generator
) -> NDArray[np.intp]:
    """How many of a class's patients each part gets: its share, rounded down or up.

    Which parts are rounded up is chosen so that their sizes keep to their shares as well; but no
    part goes without a class that has enough patients for all.

    Parameters
    ----------
    sizes
        Patients that each part has already, of the classes before.
    """
    exact = count * np.asarray(shares)
    # A fifth of ten patients is two, whatever floating point makes of 10 * 0.2.
    quota: NDArray[np.intp] = np.floor(exact + 1e-9).astype(np.intp)
    # A test part without positives has no MCC: of a rare class each part gets one patient first,
    # and the largest part pays for it.
    if count >= len(quota):
        quota = np.maximum(quota, 1)
    while (left := count - int(quota.sum())) < 0:
        quota[quota.argmax()] -= 1
    # The patients left by rounding down go one each to the parts that are smallest for their share
    # over all classes: else the first parts would be rounded up in every class.
    lacking = (sizes.sum() + count) * np.asarray(shares) - (sizes + quota)
    lacking[exact - quota < 1e-9] = -np.inf  # has its whole share, is not rounded up
    # Ties are broken at random, and by a stable sort, so that one seed gives one split.
    shuffled = random.permutation(len(quota))
    quota[shuffled[np.argsort(-lacking[shuffled], kind="stable")][:left]] += 1
    return quota


def _balance_images(
    images: NDArray[np.intp], quota: NDArray[np.intp], random: np.random.Generator
) -> NDArray[np.intp]:
    """Part of each patient, such that parts get images in proportion to their quota.

    Patients come by falling number of images; each goes where most images are lacking per patient.
    Without this a part could get the few patients with forty images, and most of the images.
    """
    # Patients with many images first, while there is room to even them out; stable, so that equal
    # numbers keep their random order.
    order = np.argsort(-images, kind="stable")
    lacking = (images.mean() if len(images) else 0.0) * quota.astype(float)
    places = quota.tolist()
    tie_break = random.permutation(len(quota)).tolist()  # max takes the first of equals
    part = np.empty(len(images), dtype=np.intp)
    for patient, count in zip(order.tolist(), images[order].tolist(), strict=True):
        chosen = max(
            (number for number in tie_break if places[number]),
            key=lambda number: lacking[number] / places[number],
        )
        part[patient] = chosen
        places[chosen] -= 1
        lacking[chosen] -= count
    return part
