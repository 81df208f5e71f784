"""Many cells scored at once: the metrics of their test parts, at thresholds from validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from prognobench.analysis.decisions import (
    HALF,
    NO_THRESHOLD,
    VALIDATION,
    Chooser,
    Scaling,
    parse_threshold,
    rescale,
)
from prognobench.analysis.predictions import Level, Predictions, Spans, Units
from prognobench.metrics.metric import Metric, all_metrics
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
    cutoffs
        Rule -> threshold per cell, NaN where validation gave none.
    """

    test: Units
    cutoffs: Mapping[str, NDArray[np.float64]]

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
    """Calibrate the scores of every cell, and choose its thresholds, on its validation part.

    Parameters
    ----------
    rules
        As :func:`.decisions.parse_threshold` takes them; more than two classes have ``0.5`` alone.
    """
    validation, test = predictions.units[level, "validation"], predictions.units[level, "test"]
    cells = range(len(predictions.cells))
    if scaling != "none":
        pairs = [_rescale(scaling, validation, test, cell) for cell in cells]
        validation = replace(validation, scores=np.concatenate([pair[0] for pair in pairs]))
        test = replace(test, scores=np.concatenate([pair[1] for pair in pairs]))
    binary = len(predictions.classes) == 2
    chosen = [parse_threshold(rule) for rule in rules if binary or rule == HALF]
    cutoffs = {name: _per_cell(validation, choose) for name, choose in chosen}
    return Cells(test, cutoffs)


def _rescale(
    scaling: Scaling, validation: Units, test: Units, cell: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    fitted_on = validation.labels[validation.of(cell)], validation.scores[validation.of(cell)]
    targets = fitted_on[1], test.scores[test.of(cell)]
    first, second = (rescale(scaling, *fitted_on, scores) for scores in targets)
    return first, second


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
            sample = Sample(labels, scores, decide(scores, at), weights, at)
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
