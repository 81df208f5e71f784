"""The figures of a close-up: curves, calibration, decisions, intervals and subgroups."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from prognobench.analysis.evaluation import Measure
from prognobench.analysis.report.closeups import Closeup
from prognobench.analysis.report.drawing import (
    CHOICE,
    REFERENCE,
    confusion,
    curves,
    forest,
    reliability,
    unit_square,
)
from prognobench.analysis.report.figures import Figure
from prognobench.analysis.report.groups import RESAMPLES, Groups
from prognobench.analysis.statistics.curves import (
    THRESHOLDS,
    Curve,
    calibration_curve,
    net_benefit_curve,
    precision_recall_curve,
    roc_curve,
    treat_all,
)
from prognobench.analysis.statistics.resampling import (
    Intervals,
    Panel,
    Resampling,
    Statistic,
    bootstrap,
    within,
)
from prognobench.analysis.thresholds import HALF, VALIDATION

if TYPE_CHECKING:
    from numpy.typing import NDArray


def draw_closeup(closeup: Closeup, groups: Groups) -> Iterator[Figure]:
    """Yield all figures of one context; ``groups`` is of :func:`.find_groups`."""
    if closeup.is_binary:
        yield roc(closeup)
        yield precision_recall(closeup)
        yield calibration(closeup)
        yield decision_curve(closeup)
    yield confusion_matrix(closeup)
    yield intervals(closeup)
    yield from by_subgroup(closeup, groups)


def roc(closeup: Closeup) -> Figure:
    """ROC curves, pooled out-of-fold."""
    chance: Curve = {"x": [0.0, 1.0], "y": [0.0, 1.0]}
    return closeup.figure(
        "roc",
        "ROC",
        f"ROC curves of the best choice of each strategy, pooled out-of-fold, the best with its "
        f"95 % band over patients; {closeup.best}: area {closeup.score_best('roc_auc'):.3f}. "
        "Chance is the diagonal.",
        closeup.draw_curves(roc_curve, {"chance": chance}),
        unit_square("1 - specificity", "sensitivity"),
    )


def precision_recall(closeup: Closeup) -> Figure:
    """Precision-recall curves, pooled out-of-fold, with the prevalence as chance."""
    prevalence = closeup.prevalence
    chance: Curve = {"x": [0.0, 1.0], "y": [prevalence] * 2}
    return closeup.figure(
        "pr",
        "Precision and recall",
        f"Precision-recall curves, pooled out-of-fold, the best with its 95 % band over patients; "
        f"{closeup.best}: average precision {closeup.score_best('average_precision'):.3f}. "
        f"Chance is the prevalence, {prevalence:.3f}.",
        closeup.draw_curves(precision_recall_curve, {f"chance ({prevalence:.2f})": chance}),
        unit_square("recall", "precision"),
    )


def calibration(closeup: Closeup) -> Figure:
    """Observed rate against forecast in bins of equally many patients."""
    slope = closeup.score_best("calibration_slope")
    return closeup.figure(
        "calibration",
        "Calibration",
        f"Observed rate of {closeup.positive} against forecast in bins of equally many patients, "
        f"with 95 % Wilson intervals; {closeup.best}: slope {slope:.2f} (1 is ideal).",
        closeup.draw_curves(calibration_curve),
        reliability,
    )


def decision_curve(closeup: Closeup) -> Figure:
    """Net benefit over thresholds, beside treating everybody and nobody."""
    benefit = treat_all(closeup.prevalence)
    shown = benefit > -0.05
    references: dict[str, Curve] = {
        "treat all": {"x": THRESHOLDS[shown], "y": benefit[shown]},
        "treat none": {"x": THRESHOLDS, "y": np.zeros(len(THRESHOLDS))},
    }
    return closeup.figure(
        "decision",
        "Net benefit",
        f"Decision curves: net benefit per patient against the threshold probability of "
        f"{closeup.positive}, with treating all and none; the best with its 95 % band.",
        closeup.draw_curves(net_benefit_curve, references),
        curves("threshold probability", "net benefit"),
    )


def confusion_matrix(closeup: Closeup) -> Figure:
    """Decisions of the best choice at the threshold chosen on validation."""
    import pandas as pd

    best, classes = closeup.best, closeup.predictions.classes
    panel = closeup.panels[best]
    rule = VALIDATION if closeup.is_binary else HALF
    counts = np.zeros((len(classes), len(classes)))
    for at in panel.repetitions:  # several repetitions decide on each patient: a mean
        np.add.at(counts, (at.labels, at.decisions(rule)), 1 / len(panel.repetitions))
    tested = round(float(counts.sum()))
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = [
        (classes[i], classes[j], counts[i, j], counts[i, j] / totals[i, 0])
        for i in range(len(classes))
        for j in range(len(classes))
    ]
    right = float(np.trace(counts))
    mean = f", mean of {len(panel.repetitions)} repetitions" if len(panel.repetitions) > 1 else ""
    how = "the threshold chosen on validation" if closeup.is_binary else "the most probable class"
    return closeup.figure(
        "confusion",
        f"Decisions of {best}",
        f"Confusion matrix of {best} at {how}: {right:.0f} of {tested} patients are classified "
        f"correctly{mean}.",
        pd.DataFrame(rows, columns=["label", "decision", "n", "share"]),
        confusion,
        size=(3.4, 3.0),
    )


def _resample(
    closeup: Closeup, panel: Panel, inside: NDArray[np.float64] | None = None
) -> Intervals:
    """Return the context's metric with its interval, of all patients or of those inside."""
    statistic: Statistic = panel.statistic([Measure.of(closeup.metric)])
    return bootstrap(
        statistic if inside is None else within(statistic, inside),
        panel.strata,
        Resampling(resamples=RESAMPLES),
        axes=("report", len(panel.strata)),
    )


def intervals(closeup: Closeup) -> Figure:
    """The context's metric with intervals over patients."""
    import pandas as pd

    metric = closeup.metric
    rows = []
    for name, panel in closeup.panels.items():
        found = _resample(closeup, panel)
        rows.append((name, found.value[0], found.low[0], found.high[0], CHOICE))
    text = "; ".join(f"{name} {v:.2f} ({a:.2f} to {b:.2f})" for name, v, a, b, _ in rows)
    lines = [(name, value, np.nan, np.nan, REFERENCE) for name, value in closeup.lines.items()]
    beside = "; ".join(f"{name} {value:.2f}" for name, value, *_ in lines)
    text += f". Lines, means over folds: {beside}" if lines else ""
    return closeup.figure(
        f"interval-{metric.name}",
        f"{metric.title} with intervals",
        f"{metric.title}, pooled out-of-fold, with 95 % bootstrap intervals over patients: {text}.",
        pd.DataFrame([*rows, *lines], columns=["label", "value", "low", "high", "kind"]),
        forest(metric.title),
        size=(4.4, 1.3 + 0.26 * len(rows)),
    )


def by_subgroup(closeup: Closeup, groups: Groups) -> Iterator[Figure]:
    """The best choice in groups of patients, with intervals and counts."""
    import pandas as pd

    metric, best = closeup.metric, closeup.best
    panel, rows = closeup.panels[best], []
    for name, inside in groups.items():
        found = _resample(closeup, panel, inside)
        n, positives = int(inside.sum()), int(inside[panel.strata == 1].sum())
        count = f"{n}, {positives} {closeup.positive}" if closeup.is_binary else f"{n}"
        ends = found.value[0], found.low[0], found.high[0]
        rows.append((f"{name} ({count})", *ends, n, positives))
    if rows:
        yield closeup.figure(
            f"subgroups-{metric.name}",
            f"{metric.title} of {best} in subgroups",
            f"{metric.title} of {best} in subgroups of patients with 95 % bootstrap intervals; "
            "counts in brackets.",
            pd.DataFrame(rows, columns=["label", "value", "low", "high", "n", "positives"]),
            forest(metric.title),
            size=(4.8, 0.9 + 0.24 * len(rows)),
        )
