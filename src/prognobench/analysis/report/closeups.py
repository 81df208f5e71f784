"""The best choices that are looked at closely, with their predictions; figures stand elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.catalogue import CHOICES
from prognobench.analysis.evaluation import Cells, Measure, make_cells
from prognobench.analysis.predictions import Predictions, load_predictions
from prognobench.analysis.report.drawing import BASELINE, CHOICE, REFERENCE
from prognobench.analysis.report.figures import Figure, report_command
from prognobench.analysis.scores import CHANCE, Scored
from prognobench.analysis.statistics.curves import Curve
from prognobench.analysis.statistics.panels import merge_panels
from prognobench.analysis.statistics.resampling import Panel, make_panel
from prognobench.analysis.summaries.aggregate import (
    Context,
    best_baseline,
    describe_context,
    iter_contexts,
    sort_best_first,
)
from prognobench.analysis.summaries.score_tables import reference_label
from prognobench.analysis.summaries.selection import find_runs_of
from prognobench.analysis.tables import make_slug
from prognobench.metrics.metric import Metric, find_metric

if TYPE_CHECKING:
    import pandas as pd

MOST_CONTEXTS, MOST_SERIES = 6, 4


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
