"""Curves of one choice, all folds pooled: ROC, precision-recall, calibration and net benefit.

A curve is the mean over repetitions (and seeds, and draws), each of which tests every patient once;
its band comes from a bootstrap over patients, who are drawn for all repetitions together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from prognobench.analysis.statistics.paired_tests import wilson
from prognobench.analysis.statistics.resampling import Panel, draw_weights, interval_ends
from prognobench.metrics.sample import Floats, Ranking, Sample

RESAMPLES = 200
"""Enough for a band that is drawn, not read off."""

GRID = np.linspace(0, 1, 101)
THRESHOLDS = np.linspace(0.01, 0.6, 60)

BINS, FEWEST_IN_BIN = 8, 10
"""Bins of a calibration curve, and patients in each; small cohorts get fewer bins."""

Curve = dict[str, Any]
"""Arrays ``x``, ``y``, ``low`` and ``high``."""


def roc_curve(panel: Panel) -> Curve:
    """Return sensitivity (y) over 1 - specificity (x)."""

    def line(ranking: Ranking) -> Floats:
        tp = ranking.tp / ranking.total_positives[:, None]
        fp = ranking.fp / ranking.total_negatives[:, None]
        zero = np.zeros(1)
        rows = zip(tp, fp, strict=True)
        return np.array([np.interp(GRID, np.append(zero, x), np.append(zero, y)) for y, x in rows])

    return _with_band(panel, line)


def precision_recall_curve(panel: Panel) -> Curve:
    """Return precision (y) over recall (x), as steps: the first threshold that reaches a recall."""

    def line(ranking: Ranking) -> Floats:
        recall = ranking.tp / ranking.total_positives[:, None]
        with np.errstate(invalid="ignore"):
            precision = ranking.tp / (ranking.tp + ranking.fp)
        # The small number lets a recall that equals a grid point but for rounding reach it.
        reached = np.array([np.searchsorted(row, GRID - 1e-12) for row in recall])
        reached = np.minimum(np.maximum(reached, 0), recall.shape[1] - 1)
        return np.take_along_axis(precision, reached, axis=1)

    return _with_band(panel, line)


def _with_band(panel: Panel, line: Callable[[Ranking], Floats]) -> Curve:
    # Row 0 has weight 1 for everybody: the curve itself is computed as one more resample.
    weights = np.concatenate([np.ones((1, len(panel.strata))), _draw(panel)])
    total = np.zeros((len(weights), len(GRID)))
    for at in panel.repetitions:
        sample = Sample.of(at.labels, at.scores, weights=weights[:, at.patient])
        total += line(sample.ranking(1))
    drawn = total / len(panel.repetitions)
    low, high = interval_ends(drawn[0], drawn[1:])
    return {"x": GRID, "y": drawn[0], "low": low, "high": high}


def _draw(panel: Panel) -> Floats:
    weights = draw_weights(panel.strata, RESAMPLES, ("curves", len(panel.strata)))
    positives = weights @ (panel.strata == 1)
    # A resample without one of the classes has no curve.
    return np.asarray(weights[(positives > 0) & (positives < len(panel.strata))])


def calibration_curve(panel: Panel) -> Curve:
    """Return the observed rate (y) over the mean forecast (x) in bins of equally many patients.

    ``low`` and ``high`` are Wilson's; ``n`` counts the patients of a bin. Several repetitions
    forecast each patient several times, and are no more patients: counts are their means.
    """
    times = len(panel.repetitions)
    scores = np.concatenate([at.scores[:, 1] for at in panel.repetitions])
    labels = np.concatenate([at.labels for at in panel.repetitions])
    order = np.argsort(scores, kind="stable")
    bins = np.array_split(order, min(BINS, max(1, len(order) // times // FEWEST_IN_BIN)))
    n = np.array([len(part) for part in bins]) / times
    events = np.array([(labels[part] == 1).sum() for part in bins]) / times
    low, high = wilson(events, n)
    forecast = np.array([scores[part].mean() for part in bins])
    return {"x": forecast, "y": events / n, "low": low, "high": high, "n": n}


def net_benefit_curve(panel: Panel) -> Curve:
    """Return the net benefit per patient (y) over the threshold probability (x; Vickers 2006)."""
    weights = _draw(panel)
    mean, drawn = np.zeros(len(THRESHOLDS)), np.zeros((len(weights), len(THRESHOLDS)))
    for at in panel.repetitions:
        positive = (at.labels == 1)[:, None]
        decided = at.scores[:, 1][:, None] >= THRESHOLDS
        # What each patient adds at each threshold; a resample is then one product of matrices.
        worth = decided * np.where(positive, 1.0, -THRESHOLDS / (1 - THRESHOLDS))
        own = weights[:, at.patient]
        drawn += own @ worth / own.sum(axis=1, keepdims=True) / len(panel.repetitions)
        mean += worth.mean(axis=0) / len(panel.repetitions)
    low, high = interval_ends(mean, drawn)
    return {"x": THRESHOLDS, "y": mean, "low": low, "high": high}


def treat_all(prevalence: float) -> Floats:
    """Return the net benefit of treating every patient, over :data:`THRESHOLDS`."""
    return np.asarray(prevalence - (1 - prevalence) * THRESHOLDS / (1 - THRESHOLDS))
