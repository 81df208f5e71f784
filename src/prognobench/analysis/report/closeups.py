"""The best choices looked at closely: curves, calibration, decisions, intervals and subgroups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.catalogue import CHOICES
from prognobench.analysis.evaluation import Cells, Measure, make_cells
from prognobench.analysis.predictions import Predictions, load_predictions
from prognobench.analysis.report.drawing import (
    BASELINE,
    CHOICE,
    REFERENCE,
    confusion,
    curves,
    forest,
    reliability,
    unit_square,
)
from prognobench.analysis.report.figures import Figure, report_command
from prognobench.analysis.scores import CHANCE, Scored
from prognobench.analysis.statistics.aggregate import (
    Context,
    best_baseline,
    describe_context,
    iter_contexts,
    sort_best_first,
)
from prognobench.analysis.statistics.curves import (
    THRESHOLDS,
    Curve,
    calibration_curve,
    net_benefit_curve,
    precision_recall_curve,
    roc_curve,
    treat_all,
)
from prognobench.analysis.statistics.panels import merge_panels
from prognobench.analysis.statistics.resampling import (
    Intervals,
    Panel,
    Resampling,
    Statistic,
    bootstrap,
    make_panel,
    within,
)
from prognobench.analysis.statistics.score_tables import reference_label
from prognobench.analysis.statistics.selection import find_runs_of
from prognobench.analysis.subgroups import find_subgroups, groupable_columns
from prognobench.analysis.tables import make_slug
from prognobench.analysis.thresholds import HALF, VALIDATION
from prognobench.errors import StoreError
from prognobench.metrics.metric import Metric, find_metric

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

MOST_CONTEXTS, MOST_SERIES = 6, 4

RESAMPLES = 1000

MOST_COLUMNS = 6
"""Columns of a cohort whose subgroups are drawn: its covariates come before what else it keeps."""


@dataclass(frozen=True)
class Series:
    """One choice that is drawn: its label, rows of the table of runs (its seeds), kind of line."""

    label: str
    rows: tuple[int, ...]
    kind: str = CHOICE


@dataclass(frozen=True)
class Closeup:
    """The choices of one context that are drawn, best first, and their predictions."""

    named: dict[str, Any]
    series: tuple[Series, ...]
    predictions: Predictions
    cells: Cells
    scored: Scored
    metric: Metric
    synthetic: bool
    lines: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def panels(self) -> dict[str, Panel]:
        return {
            one.label: merge_panels(
                [make_panel(self.predictions, self.cells, row) for row in one.rows]
            )
            for one in self.series
        }

    @property
    def best(self) -> str:
        return self.series[0].label

    @property
    def is_binary(self) -> bool:
        return len(self.predictions.classes) == 2

    @property
    def positive(self) -> str:
        return self.predictions.classes[-1]

    @property
    def prevalence(self) -> float:
        return float((self.panels[self.best].strata == 1).mean())

    def score_best(self, metric: str) -> float:
        """Return a score of the best choice, all folds pooled; of metrics without a threshold."""
        panel = self.panels[self.best]
        statistic = panel.statistic([Measure.of(find_metric(metric))])
        return float(statistic(np.ones((1, len(panel.strata))))[0, 0])

    def draw_curves(
        self, curve: Callable[[Panel], Curve], references: dict[str, Curve] | None = None
    ) -> pd.DataFrame:
        """Return the data of a curve for each series, and of the references below."""
        import pandas as pd

        lines = [(one.label, one.kind, curve(self.panels[one.label])) for one in self.series]
        blank = {"low": np.nan, "high": np.nan}
        lines += [(name, REFERENCE, line | blank) for name, line in (references or {}).items()]
        parts = [
            pd.DataFrame(line).assign(series=name, kind=kind)[["series", "kind", *line]]
            for name, kind, line in lines
        ]
        return pd.concat(parts, ignore_index=True)

    def figure(self, kind: str, title: str, alt: str, data: Any, draw: Any, **more: Any) -> Figure:
        """Make a figure of this context."""
        return Figure(
            make_slug(kind, *self.named.values()),
            f"{title}, {describe_context(self.named)}",
            alt,
            data,
            report_command(self.metric),
            draw,
            synthetic=self.synthetic,
            **more,
        )


def choose_closeups(
    cells: pd.DataFrame, scored: Scored, metric: Metric
) -> tuple[list[Closeup], list[str]]:
    """Pick the best choice of each of the best strategies, in the largest contexts.

    Also returns a sentence for each context without a close-up, which says why, and for each that
    leaves choices out.

    Parameters
    ----------
    cells
        Of :func:`.aggregate`, with this metric.
    """
    found = list(iter_contexts(cells[(cells["metric"] == metric.name) & cells["mean"].notna()]))
    found.sort(key=lambda context: (context[0]["k"] > 0, -len(context[1])))
    runs = scored.runs
    wanted: list[Wanted] = []
    for named, own, references in found[:MOST_CONTEXTS]:
        picked = sort_best_first(own, metric).drop_duplicates("strategy").head(MOST_SERIES)
        baseline = best_baseline(references, metric)
        chosen = [cell for _, cell in picked.iterrows()]
        chosen += [baseline] if baseline is not None else []
        series = tuple(_find_series(chosen, runs))
        if series:
            wanted.append((named, series, bool(own["synthetic"].any()), _list_lines(references)))
    closeups = list(_load(wanted, scored, metric))
    drawn = [describe_context(closeup.named) for closeup in closeups]
    missing = [
        f"no close-up of {context}: {_why_missing(number)}"
        for number, context in enumerate(describe_context(named) for named, _, _ in found)
        if context not in drawn
    ]
    return closeups, [*missing, *_count_undrawn(closeups, found)]


Wanted = tuple[dict[str, Any], tuple[Series, ...], bool, dict[str, float]]
"""Context, what is drawn, whether it is synthetic, and lines beside it."""


def _list_lines(references: pd.DataFrame) -> dict[str, float]:
    """Return chance and every baseline: what an interval is held against."""
    chosen = references["baseline"].astype(bool) | (references["strategy"] == CHANCE)
    own = references[chosen & references["mean"].notna()]
    pairs = zip(own["strategy"], own["mean"], strict=True)
    return {reference_label(str(name)): float(mean) for name, mean in pairs}


def _count_undrawn(closeups: Sequence[Closeup], found: Sequence[Context]) -> Iterator[str]:
    """Say how many choices a close-up leaves out, and what shows them."""
    choices = {describe_context(named): len(own) for named, own, _ in found}
    for closeup in closeups:
        context = describe_context(closeup.named)
        drawn = sum(one.kind == CHOICE for one in closeup.series)
        if left := choices[context] - drawn:
            yield (
                f"{context}: the close-up draws the best choice of each of the best strategies; "
                f"{left} of {choices[context]} choices are not drawn. 'prognobench table "
                "--intervals' has the scores of all"
            )


def _why_missing(number: int) -> str:
    """Return why the context of this place in the order has no close-up."""
    if number >= MOST_CONTEXTS:
        return (
            f"the page shows the {MOST_CONTEXTS} contexts with most choices; 'prognobench table "
            "--intervals' has the scores of all"
        )
    return "its choices were scored on different classes, so no curve can show them together"


def _find_series(chosen: Sequence[pd.Series[Any]], runs: pd.DataFrame) -> Iterator[Series]:
    """Yield each choice with its runs (one for each seed) that have a complete cell."""
    for cell in chosen:
        rows = tuple(find_runs_of(runs[runs["done"] > 0], cell))
        if rows and cell["baseline"]:
            yield Series(reference_label(cell["strategy"]), rows, BASELINE)
        elif rows:
            yield Series(", ".join(str(cell[name]) for name in CHOICES), rows)


def _load(
    wanted: Sequence[Wanted],
    scored: Scored,
    metric: Metric,
) -> Iterator[Closeup]:
    rows = sorted({row for _, series, *_ in wanted for one in series for row in one.rows})
    for predictions in load_predictions(scored.runs.loc[rows], scored.folders):
        cells = make_cells(predictions, "patient", scored.scaling)
        here = set(predictions.cells["run"])
        for named, series, synthetic, lines in wanted:
            if here.issuperset(row for one in series for row in one.rows):
                yield Closeup(named, series, predictions, cells, scored, metric, synthetic, lines)


# ------------------------------------------------------------------ figures


def draw_closeup(closeup: Closeup) -> Iterator[Figure]:
    """Yield all figures of one context."""
    if closeup.is_binary:
        yield roc(closeup)
        yield precision_recall(closeup)
        yield calibration(closeup)
        yield decision_curve(closeup)
    yield confusion_matrix(closeup)
    yield intervals(closeup)
    yield from by_subgroup(closeup)


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


def find_groups(closeup: Closeup) -> dict[str, NDArray[np.float64]]:
    """Return ``column=group`` -> which patients of the best choice belong to it, 1 or 0."""
    row, panel = closeup.series[0].rows[0], closeup.panels[closeup.best]
    folders = closeup.scored.folders
    try:
        columns = groupable_columns(folders[row].cohort())[:MOST_COLUMNS]
    except StoreError:
        return {}
    runs = closeup.scored.runs.loc[[row for one in closeup.series for row in one.rows]]
    masks = find_subgroups(
        closeup.predictions, runs, folders, "patient", {name: () for name in columns}
    )
    test = closeup.cells.test
    own = closeup.predictions.cells["run"].to_numpy()[test.cell] == row
    groups = {
        name: np.isin(panel.patients, test.ids[mask & own]).astype(np.float64)
        for name, mask in masks.items()
    }
    return {name: inside for name, inside in groups.items() if inside.any()}


def by_subgroup(closeup: Closeup) -> Iterator[Figure]:
    """The best choice in groups of patients, with intervals and counts."""
    import pandas as pd

    metric, best = closeup.metric, closeup.best
    panel, rows = closeup.panels[best], []
    for name, inside in find_groups(closeup).items():
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
