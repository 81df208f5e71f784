"""What a metric reads: labels, probabilities, decisions, and weights, which can mean resamples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """One class against the rest, highest score first; tied scores share one operating point.

    Attributes
    ----------
    positives
        Weight of each unit if it is positive, else 0.
    tp, fp
        Weight of positives and negatives at or above the unit's score.
    tp_above, fp_above
        The same strictly above it.
    """

    positives: Floats
    tp: Floats
    fp: Floats
    tp_above: Floats
    fp_above: Floats

    @property
    def total_positives(self) -> Floats:
        total: Floats = self.positives.sum(axis=-1)
        return total

    @property
    def total_negatives(self) -> Floats:
        total: Floats = self.fp[:, -1]
        return total


@dataclass(frozen=True)
class Sample:
    """A batch of samples, each of ``n`` units (patients or images).

    Every array has a leading batch axis, which may be 1 where all samples share it: a bootstrap
    is one set of labels and scores under many rows of weights, many folds are many rows of
    everything, padded with weight 0.

    Attributes
    ----------
    labels
        ``(batch, n)``, index of the class.
    scores
        ``(batch, n, classes)``, probabilities.
    decisions
        ``(batch, n)``, index of the class decided for.
    weights
        ``(batch, n)``, how often each unit counts.
    cutoff
        ``(batch, n)``, the threshold behind each decision of a binary task: folds that are pooled
        have their own.
    """

    labels: NDArray[np.intp]
    scores: Floats
    decisions: NDArray[np.intp]
    weights: Floats
    cutoff: Floats

    @classmethod
    def of(
        cls,
        labels: ArrayLike,
        scores: ArrayLike,
        decisions: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        cutoff: float = 0.5,
    ) -> Sample:
        """Return a sample of one set of units.

        Parameters
        ----------
        labels
            ``(n,)``.
        scores
            ``(n,)``, the positive class's probability, or ``(n, classes)``.
        decisions
            ``(n,)``; by default the class whose score reaches ``cutoff``, or the most probable
            of more than two.
        weights
            ``(n,)`` or ``(batch, n)``; by default 1.
        """
        truth = np.atleast_1d(np.asarray(labels, dtype=np.intp))
        probabilities = np.asarray(scores, dtype=np.float64)
        if probabilities.ndim == 1:
            probabilities = np.stack([1 - probabilities, probabilities], axis=-1)
        if decisions is None:
            decisions = decide(probabilities, np.float64(cutoff))
        counts = np.ones(len(truth)) if weights is None else np.asarray(weights, dtype=np.float64)
        return cls(
            truth[None],
            probabilities[None],
            np.asarray(decisions, dtype=np.intp)[None],
            np.atleast_2d(counts),
            np.full((1, len(truth)), cutoff),
        )

    @property
    def classes(self) -> int:
        return int(self.scores.shape[-1])

    @cached_property
    def class_weights(self) -> Floats:
        """Weight of each class, ``(batch, classes)``."""
        return self.sums(self.labels[..., None] == np.arange(self.classes))

    @cached_property
    def total(self) -> Floats:
        total: Floats = self.weights.sum(axis=-1)
        return total

    @cached_property
    def complete(self) -> NDArray[np.bool_]:
        """Whether every class occurs, ``(batch,)``."""
        return np.asarray((self.class_weights > 0).all(axis=-1))

    @cached_property
    def confusion(self) -> Floats:
        """Confusion matrices ``(batch, classes, classes)``: label, decision."""
        k = self.classes
        # Each pair of label and decision as one number, so that a weighted count gives the table.
        codes = (self.labels * k + self.decisions)[..., None]
        return self.sums(codes == np.arange(k * k)).reshape(-1, k, k)

    def mean(self, values: Floats) -> Floats:
        """Return the weighted mean ``(batch,)`` of ``(batch, n)`` values."""
        average: Floats = self.sums(values[..., None])[:, 0] / self.total
        return average

    def sums(self, values: NDArray[Any]) -> Floats:
        """Return weighted sums ``(batch, k)`` of ``(batch, n, k)`` values."""
        if len(values) == 1:  # a bootstrap: one matrix product serves all its resamples
            shared: Floats = self.weights @ values[0].astype(np.float64)
            return shared
        weights = np.broadcast_to(self.weights, values.shape[:2])
        return np.asarray(np.einsum("bn,bnk->bk", weights, values))

    def average(self, one_against_rest: Callable[[int], Floats]) -> Floats:
        """Return the positive class's value, or the mean over classes of more than two (macro)."""
        if self.classes == 2:
            return one_against_rest(1)
        return np.asarray(np.mean([one_against_rest(c) for c in range(self.classes)], axis=0))

    def ranking(self, c: int) -> Ranking:
        """Return the units ordered by the score of class ``c``; computed once per class."""
        cache: dict[int, Ranking] = self.__dict__.setdefault("_rankings", {})
        if c not in cache:
            cache[c] = _rank(self.scores[..., c], self.labels == c, self.weights)
        return cache[c]


def decide(scores: Floats, cutoff: Any) -> NDArray[np.intp]:
    """Return the class decided for: binary, 1 where its score reaches the cutoff; else the largest.

    Parameters
    ----------
    scores
        ``(..., classes)``.
    cutoff
        Broadcast against ``scores[..., 1]``; not used with more than two classes.
    """
    if scores.shape[-1] == 2:
        return np.asarray(scores[..., 1] >= cutoff, dtype=np.intp)
    return np.asarray(scores.argmax(axis=-1))


def _rank(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Ranking:
    """Order units by score and count positives and negatives at and above each.

    Where all samples share scores, they are sorted once and only the weights differ.
    """
    order = np.argsort(-scores, axis=-1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=-1)
    rows = max(scores.shape[0], weights.shape[0])
    w = _take(weights, order)
    y = np.take_along_axis(np.broadcast_to(positive, scores.shape), order, axis=-1)
    positives = np.broadcast_to(w * y, (rows, scores.shape[1]))
    negatives = np.broadcast_to(w * ~y, positives.shape)
    n = scores.shape[1]
    # A run of tied scores is one operating point: each member counts to the end of its run, and
    # "above" ends where the run starts.
    starts = np.ones_like(ordered, dtype=bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = np.roll(starts, -1, axis=-1)
    ends[:, -1] = True
    here = np.arange(n)
    first = np.maximum.accumulate(np.where(starts, here, 0), axis=-1)
    last = np.minimum.accumulate(np.where(ends, here, n - 1)[:, ::-1], axis=-1)[:, ::-1]
    tp, fp = (_from_zero(np.cumsum(part, axis=-1)) for part in (positives, negatives))
    if starts.all():  # no ties: every run has one member
        return Ranking(positives, tp[:, 1:], fp[:, 1:], tp[:, :-1], fp[:, :-1])
    return Ranking(
        positives, _take(tp, last + 1), _take(fp, last + 1), _take(tp, first), _take(fp, first)
    )


def _from_zero(sums: Floats) -> Floats:
    """Put a 0 before cumulative sums, so that index i is the sum of the first i."""
    return np.concatenate([np.zeros((len(sums), 1)), sums], axis=-1)


def _take(values: Floats, order: NDArray[np.intp]) -> Floats:
    """Return ``take_along_axis`` on the last axis; either side may have one row for all."""
    if order.shape[0] == 1:
        return np.asarray(np.take(values, order[0], axis=-1))
    return np.take_along_axis(np.broadcast_to(values, (len(order), values.shape[1])), order, -1)
