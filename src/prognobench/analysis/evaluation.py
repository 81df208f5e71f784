"""Many cells scored at once: the metrics of their test parts, at thresholds from validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from prognobench.analysis.predictions import Level, Predictions, Spans, Units
from prognobench.analysis.thresholds import (
    HALF,
    NO_THRESHOLD,
    VALIDATION,
    Chooser,
    Scaling,
    mcc_threshold,
    parse_threshold,
    rescale,
)
from prognobench.metrics.metric import Metric, all_metrics
from prognobench.metrics.probability import shift_log_odds
from prognobench.metrics.sample import Sample, decide

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 300_000
"""Units that are scored in one pass: few enough to fit into memory, and to stay in its caches."""


@dataclass(frozen=True)
class Measure:
    """A metric, with the rule for the threshold where it needs one."""

    metric: Metric
    rule: str

    @classmethod
    def of(cls, metric: Metric, rule: str = HALF) -> Measure:
        """Return the measure of a metric, with the rule only where decisions depend on one."""
        return cls(metric, NO_THRESHOLD if metric.needs == "scores" else rule)


@dataclass(frozen=True)
class Cells:
    """Test units of many cells, with the thresholds that their validation parts gave.

    Attributes
    ----------
    test
        With risks: what class weights did to the probabilities is undone.
    cutoffs
        Rule -> threshold of the risk per cell, NaN where validation gave none.
    decided
        ``(units,)``: the class decided for, where that is not the most probable of several.
    """

    test: Units
    cutoffs: Mapping[str, NDArray[np.float64]]
    decided: NDArray[np.intp] | None = None

    @property
    def classes(self) -> int:
        return int(self.test.scores.shape[1])

    def cutoff(self, rule: str) -> NDArray[np.float64]:
        """``(units,)``: the threshold of each unit."""
        per_cell = self.cutoffs.get(rule)
        if per_cell is None:
            return np.full(len(self.test.labels), 0.5)
        return np.asarray(per_cell[self.test.cell])

    @cached_property
    def measures(self) -> list[Measure]:
        """Every metric, once if it needs no threshold, else with every rule."""
        known = all_metrics()
        free = [Measure(metric, NO_THRESHOLD) for metric in known if metric.needs == "scores"]
        return free + [
            Measure(metric, rule)
            for rule in self.cutoffs
            for metric in known
            if metric.needs == "decisions"
        ]


def make_cells(
    predictions: Predictions,
    level: Level,
    scaling: Scaling = "none",
    rules: Sequence[str] = (HALF, VALIDATION),
) -> Cells:
    """Undo class weights, calibrate the scores of every cell, and choose its thresholds.

    Calibration and thresholds are fitted on the cell's validation part. The rules ``0.5`` and
    ``validation`` decide as the stored probabilities do: their cutoffs are shifted with the scores.
    Other numbers are thresholds of the risk itself.

    Parameters
    ----------
    rules
        As :func:`.thresholds.parse_threshold` takes them; more than two classes have ``0.5`` alone.
    """
    stored, asked = predictions.units[level, "validation"], predictions.units[level, "test"]
    shifts, binary = predictions.shifts, len(predictions.classes) == 2
    validation, test = (_undo_weights(units, shifts) for units in (stored, asked))
    half = np.repeat([[0.5, 0.5]], len(shifts), axis=0)
    half = shift_log_odds(half, shifts) if binary else half
    if scaling != "none":
        cells = range(len(shifts))
        scaled = [_rescale(scaling, validation, test, half, cell) for cell in cells]
        first, second, third = (np.concatenate(column) for column in zip(*scaled, strict=True))
        validation, test = replace(validation, scores=first), replace(test, scores=second)
        # A temperature keeps decisions, and its cutoff moves with the scores.
        half = third if scaling == "temperature" else np.full_like(half, 0.5)
    chosen = [parse_threshold(rule) for rule in rules if binary or rule == HALF]
    cutoffs: dict[str, NDArray[np.float64]] = {}
    for name, choose in chosen:
        if binary and name == HALF:
            cutoffs[name] = half[:, 1]
        elif name == VALIDATION and scaling == "none":
            best = _per_cell(stored, mcc_threshold)
            cutoffs[name] = shift_log_odds(np.stack([1 - best, best], axis=-1), shifts)[:, 1]
        else:
            cutoffs[name] = _per_cell(validation, choose)
    keeps = not binary and shifts.any() and scaling != "platt"
    return Cells(test, cutoffs, decide(asked.scores, 0.5) if keeps else None)


def _undo_weights(units: Units, shifts: NDArray[np.float64]) -> Units:
    if not shifts.any():
        return units
    return replace(units, scores=shift_log_odds(units.scores, shifts[units.cell]))


def _rescale(
    scaling: Scaling, validation: Units, test: Units, half: NDArray[np.float64], cell: int
) -> tuple[NDArray[np.float64], ...]:
    fitted_on = validation.labels[validation.of(cell)], validation.scores[validation.of(cell)]
    targets = [fitted_on[1], test.scores[test.of(cell)]]
    targets += [half[cell : cell + 1]] if test.scores.shape[1] == 2 else []
    scaled = [rescale(scaling, *fitted_on, scores) for scores in targets]
    return tuple(scaled if len(scaled) == 3 else [*scaled, half[cell : cell + 1]])


def _per_cell(units: Units, choose: Chooser) -> NDArray[np.float64]:
    cells = range(len(units.offsets) - 1)
    return np.array([choose(units.labels[at], units.scores[at, 1]) for at in map(units.of, cells)])


def evaluate(
    cells: Cells,
    spans: Spans,
    measures: Sequence[Measure],
    inside: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score spans of cells.

    Parameters
    ----------
    inside
        ``(units,)``: which test units count (a subgroup).

    Returns
    -------
    values, counts
        ``(spans, measures)``, NaN where undefined; ``(spans, classes)``, units of each class.
    """
    start, stop = cells.test.offsets[spans.first], cells.test.offsets[spans.last]
    values = np.full((len(spans), len(measures)), np.nan)
    counts = np.zeros((len(spans), cells.classes))
    rules = {measure.rule: cells.cutoff(measure.rule) for measure in measures}
    # A metric is called once for many spans, as rows of one array. Spans of similar length share an
    # array, and the shorter ones are padded with units of weight 0, which no metric sees.
    for chunk in _chunks(stop - start):
        index, weights = _pad(start[chunk], stop[chunk])
        if inside is not None:
            weights = weights * inside[index]
        labels, scores = cells.test.labels[index], cells.test.scores[index]
        for rule, cutoff in rules.items():
            at = cutoff[index]
            decided = decide(scores, at) if cells.decided is None else cells.decided[index]
            sample = Sample(labels, scores, decided, weights, at)
            # Validation gave no threshold to some unit that counts: the span has no value.
            known = ~np.isnan(np.where(weights > 0, at, 0.0)).any(axis=1)
            counts[chunk] = sample.class_weights
            for column, measure in enumerate(measures):
                if measure.rule == rule:
                    values[chunk, column] = np.where(known, measure.metric(sample), np.nan)
    return values, counts


def _chunks(lengths: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Indices of spans, shortest first, cut where a padded array would exceed :data:`CHUNK`."""
    order = np.argsort(lengths, kind="stable")
    chunks, first = [], 0
    while first < len(order):
        last = first + 1
        while last < len(order) and (last + 1 - first) * lengths[order[last]] <= CHUNK:
            last += 1
        chunks.append(order[first:last])
        first = last
    return chunks


def _pad(
    start: NDArray[np.intp], stop: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Indices of units ``(spans, longest)``, and weights: 1, or 0 beyond a span's end."""
    steps = np.arange(max(1, int((stop - start).max())))
    real = steps < (stop - start)[:, None]
    return np.where(real, start[:, None] + steps, 0), real.astype(np.float64)
