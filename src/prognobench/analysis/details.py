"""Figures that need the predictions themselves: curves, calibration, decisions, subgroups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.closeups import Chosen
from prognobench.analysis.drawing import confusion, curves, forest, reliability, unit_square
from prognobench.analysis.evaluation import HALF, NO_THRESHOLD, VALIDATION, Measure
from prognobench.analysis.intervals import (
    Panel,
    Resampling,
    bootstrap,
    draw_weights,
    interval_ends,
    within,
)
from prognobench.analysis.plots import Figure
from prognobench.analysis.stats import wilson
from prognobench.analysis.subgroups import groupable, subgroups
from prognobench.errors import StoreError
from prognobench.metrics.metric import Metric, find_metric
from prognobench.metrics.sample import Floats, Ranking, Sample

if TYPE_CHECKING:
    import pandas as pd

CURVE_RESAMPLES, RESAMPLES = 200, 1000

GRID = np.linspace(0, 1, 101)
THRESHOLDS = np.linspace(0.01, 0.6, 60)
BINS = 8

SUBGROUPS = ("sex", "age", "centre", "view")
"""Columns of a cohort that are looked at, where it has them."""


def detail_figures(chosen: Chosen) -> Iterator[Figure]:
    """All figures of one context."""
    if chosen.binary:
        yield roc(chosen)
        yield precision_recall(chosen)
        yield calibration(chosen)
        yield decision_curve(chosen)
    yield confusion_matrix(chosen)
    yield intervals(chosen)
    yield from by_subgroup(chosen)


# ------------------------------------------------------------------ curves


def _bands(panel: Panel, line: Callable[[Ranking], Floats]) -> dict[str, Floats]:
    """A curve with its band, by bootstrap over patients of the first repetition."""
    first = panel.repetitions[0]
    weights = np.concatenate(
        [
            np.ones((1, len(panel.strata))),
            draw_weights(panel.strata, CURVE_RESAMPLES, ("curves", len(panel.strata))),
        ]
    )
    sample = Sample.of(first.labels, first.scores, weights=weights[:, first.patient])
    drawn = line(sample.ranking(1))
    low, high = interval_ends(drawn[0], drawn[1:])
    return {"y": drawn[0], "low": low, "high": high}


def _roc(ranking: Ranking) -> Floats:
    tp = ranking.tp / ranking.total_positives[:, None]
    fp = ranking.fp / ranking.total_negatives[:, None]
    zero = np.zeros(1)
    rows = zip(tp, fp, strict=True)
    return np.array([np.interp(GRID, np.append(zero, x), np.append(zero, y)) for y, x in rows])


def _precision_recall(ranking: Ranking) -> Floats:
    recall = ranking.tp / ranking.total_positives[:, None]
    with np.errstate(invalid="ignore"):
        precision = ranking.tp / (ranking.tp + ranking.fp)
    reached = np.array([np.searchsorted(row, GRID - 1e-12) for row in recall])
    reached = np.minimum(np.maximum(reached, 0), recall.shape[1] - 1)
    return np.take_along_axis(precision, reached, axis=1)


def _frame(series: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    parts = [pd.DataFrame(values).assign(series=name) for name, values in series.items()]
    return pd.concat(parts, ignore_index=True)[["series", "x", "y", "low", "high"]]


def roc(chosen: Chosen) -> Figure:
    """ROC curves, pooled out-of-fold."""
    lines = {name: {"x": GRID, **_bands(p, _roc)} for name, p in chosen.panels.items()}
    chance = {"x": [0.0, 1.0], "y": [0.0, 1.0], "low": np.nan, "high": np.nan}
    best = chosen.series[0]
    area = _value(chosen.panels[best], "roc_auc")
    return chosen.figure(
        "roc",
        "ROC",
        f"ROC curves of the best choice of each strategy, pooled out-of-fold, the best with its "
        f"95 % band over patients; {best}: area {area:.3f}. Chance is the diagonal.",
        _frame({**lines, "chance": chance}),
        unit_square("1 - specificity", "sensitivity"),
    )


def precision_recall(chosen: Chosen) -> Figure:
    """Precision-recall curves, pooled out-of-fold, with the prevalence as chance."""
    lines = {name: {"x": GRID, **_bands(p, _precision_recall)} for name, p in chosen.panels.items()}
    best = chosen.series[0]
    prevalence = float((chosen.panels[best].strata == 1).mean())
    chance = {"x": [0.0, 1.0], "y": [prevalence] * 2, "low": np.nan, "high": np.nan}
    area = _value(chosen.panels[best], "average_precision")
    return chosen.figure(
        "pr",
        "Precision and recall",
        f"Precision-recall curves, pooled out-of-fold, the best with its 95 % band over patients; "
        f"{best}: "
        f"average precision {area:.3f}. Chance is the prevalence, {prevalence:.3f}.",
        _frame({**lines, f"chance ({prevalence:.2f})": chance}),
        unit_square("recall", "precision"),
    )


def _value(panel: Panel, name: str) -> float:
    statistic = panel.statistic([Measure(find_metric(name), NO_THRESHOLD)])
    return float(statistic(np.ones((1, len(panel.strata))))[0, 0])


# ------------------------------------------------------------------ calibration and decisions


def calibration(chosen: Chosen) -> Figure:
    """Observed rate against forecast in bins of equally many patients."""
    import pandas as pd

    rows = []
    for name, panel in chosen.panels.items():
        first = panel.repetitions[0]
        order = np.argsort(first.scores[:, 1], kind="stable")
        for part in np.array_split(order, min(BINS, max(1, len(order) // 10))):
            events, n = int((first.labels[part] == 1).sum()), len(part)
            low, high = wilson(events, n)
            forecast = float(first.scores[part, 1].mean())
            rows.append((name, forecast, events / n, float(low), float(high), n))
    best = chosen.series[0]
    slope = _value(chosen.panels[best], "calibration_slope")
    return chosen.figure(
        "calibration",
        "Calibration",
        f"Observed rate of {chosen.positive} against forecast in bins of equally many patients, "
        f"with 95 % Wilson intervals; {best}: slope {slope:.2f} (1 is right).",
        pd.DataFrame(rows, columns=["series", "x", "y", "low", "high", "n"]),
        reliability,
    )


def decision_curve(chosen: Chosen) -> Figure:
    """Net benefit over thresholds, beside treating everybody and nobody (Vickers 2006)."""
    lines = {}
    for name, panel in chosen.panels.items():
        first = panel.repetitions[0]
        positive = (first.labels == 1)[:, None]
        decided = first.scores[:, 1][:, None] >= THRESHOLDS
        worth = decided * np.where(positive, 1.0, -THRESHOLDS / (1 - THRESHOLDS))
        axes = ("curves", len(panel.strata))
        weights = draw_weights(panel.strata, CURVE_RESAMPLES, axes)[:, first.patient]
        drawn = weights @ worth / weights.sum(axis=1, keepdims=True)
        mean = worth.mean(axis=0)
        low, high = interval_ends(mean, drawn)
        lines[name] = {"x": THRESHOLDS, "y": mean, "low": low, "high": high}
    prevalence = float((chosen.panels[chosen.series[0]].strata == 1).mean())
    everybody = prevalence - (1 - prevalence) * THRESHOLDS / (1 - THRESHOLDS)
    shown = everybody > -0.05
    blank = {"low": np.nan, "high": np.nan}
    references = {
        "treat all": {"x": THRESHOLDS[shown], "y": everybody[shown], **blank},
        "treat none": {"x": THRESHOLDS, "y": np.zeros(len(THRESHOLDS)), **blank},
    }
    return chosen.figure(
        "decision",
        "Net benefit",
        f"Decision curves: net benefit per patient against the threshold probability of "
        f"{chosen.positive}, with treating all and none; the best with its 95 % band.",
        _frame({**lines, **references}),
        curves("threshold probability", "net benefit"),
    )


def confusion_matrix(chosen: Chosen) -> Figure:
    """What the best choice decides, at the threshold chosen on validation."""
    import pandas as pd

    best, classes = chosen.series[0], chosen.predictions.classes
    first = chosen.panels[best].repetitions[0]
    rule = VALIDATION if chosen.binary else HALF
    decided = first.decisions(rule)
    counts = np.zeros((len(classes), len(classes)))
    np.add.at(counts, (first.labels, decided), 1)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = [
        (classes[i], classes[j], counts[i, j], counts[i, j] / totals[i, 0])
        for i in range(len(classes))
        for j in range(len(classes))
    ]
    right = int(np.trace(counts))
    how = "the threshold chosen on validation" if chosen.binary else "the most probable class"
    return chosen.figure(
        "confusion",
        f"Decisions of {best}",
        f"Confusion matrix of {best} at {how}: {right} of {len(decided)} patients right.",
        pd.DataFrame(rows, columns=["label", "decision", "n", "share"]),
        confusion,
        size=(3.4, 3.0),
    )


# ------------------------------------------------------------------ intervals


def _measure(metric: Metric, rule: str = HALF) -> Measure:
    return Measure(metric, NO_THRESHOLD if metric.needs == "scores" else rule)


def intervals(chosen: Chosen) -> Figure:
    """The chosen metric with intervals over patients."""
    import pandas as pd

    metric = chosen.metric
    rows = []
    for name, panel in chosen.panels.items():
        found = bootstrap(
            panel.statistic([_measure(metric)]),
            panel.strata,
            Resampling(resamples=RESAMPLES),
            axes=("report", len(panel.strata)),
        )
        rows.append((name, found.value[0], found.low[0], found.high[0]))
    text = "; ".join(f"{name} {v:.2f} ({a:.2f} to {b:.2f})" for name, v, a, b in rows)
    return chosen.figure(
        f"interval-{metric.name}",
        f"{metric.title} with intervals",
        f"{metric.title}, pooled out-of-fold, with 95 % bootstrap intervals over patients: {text}.",
        pd.DataFrame(rows, columns=["label", "value", "low", "high"]),
        forest(metric.title),
        size=(4.4, 1.0 + 0.26 * len(rows)),
    )


def by_subgroup(chosen: Chosen) -> Iterator[Figure]:
    """The best choice in groups of patients, with intervals and counts."""
    import pandas as pd

    metric = chosen.metric
    best, row = chosen.series[0], chosen.rows[0]
    panel, runs = chosen.panels[best], chosen.scored.runs.loc[list(chosen.rows)]
    try:
        columns = chosen.scored.folders[row].cohort()
    except StoreError:
        return
    by: dict[str, tuple[float, ...]] = {name: () for name in groupable(columns, SUBGROUPS)}
    masks = subgroups(chosen.predictions, runs, chosen.scored.folders, "patient", by)
    test = chosen.cells.test
    own = chosen.predictions.cells["run"].to_numpy()[test.cell] == row
    statistic = panel.statistic([_measure(metric)])
    rows = []
    for name, mask in masks.items():
        inside = np.isin(panel.patients, test.ids[mask & own]).astype(np.float64)
        found = bootstrap(
            within(statistic, inside),
            panel.strata,
            Resampling(resamples=RESAMPLES),
            axes=("report", len(panel.strata)),
        )
        value, low, high = found.value[0], found.low[0], found.high[0]
        n, positives = int(inside.sum()), int(inside[panel.strata == 1].sum())
        count = f"{n}, {positives} {chosen.positive}" if chosen.binary else f"{n}"
        rows.append((f"{name} ({count})", value, low, high, n, positives))
    if rows:
        yield chosen.figure(
            f"subgroups-{metric.name}",
            f"{metric.title} of {best} in subgroups",
            f"{metric.title} of {best} in subgroups of patients with 95 % bootstrap intervals; "
            "counts in brackets.",
            pd.DataFrame(rows, columns=["label", "value", "low", "high", "n", "positives"]),
            forest(metric.title),
            size=(4.8, 0.9 + 0.24 * len(rows)),
        )
