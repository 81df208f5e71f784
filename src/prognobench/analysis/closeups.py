"""The choices that are looked at closely: the best of each strategy, with their predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.aggregate import CHOICES, newest
from prognobench.analysis.drawing import NO_IMAGE
from prognobench.analysis.evaluation import Cells, make_cells
from prognobench.analysis.figures import CONTEXT, by_report, contexts, describe, slug
from prognobench.analysis.intervals import Panel, make_panel
from prognobench.analysis.plots import Figure
from prognobench.analysis.predictions import Predictions, load_predictions
from prognobench.analysis.scored import Scored
from prognobench.metrics.metric import Metric

if TYPE_CHECKING:
    import pandas as pd

MOST_CONTEXTS = 6
MOST_SERIES = 4


@dataclass(frozen=True)
class Chosen:
    """The choices of one context that are drawn, best first, and their predictions."""

    named: dict[str, Any]
    series: tuple[str, ...]
    rows: tuple[int, ...]
    predictions: Predictions
    cells: Cells
    scored: Scored
    metric: Metric
    synthetic: bool

    @cached_property
    def panels(self) -> dict[str, Panel]:
        return {
            name: make_panel(self.predictions, self.cells, row)
            for name, row in zip(self.series, self.rows, strict=True)
        }

    @property
    def binary(self) -> bool:
        return len(self.predictions.classes) == 2

    @property
    def positive(self) -> str:
        return self.predictions.classes[-1]

    def figure(self, kind: str, title: str, alt: str, data: Any, draw: Any, **more: Any) -> Figure:
        """Make a figure of this context."""
        return Figure(
            slug(kind, *self.named.values()),
            f"{title}, {describe(self.named)}",
            alt,
            data,
            by_report(self.metric),
            draw,
            synthetic=self.synthetic,
            **more,
        )


def choose(cells: pd.DataFrame, scored: Scored, metric: Metric) -> list[Chosen]:
    """Pick the best choice of each of the best strategies, in the largest contexts."""
    found = list(contexts(cells[(cells["metric"] == metric.name) & cells["mean"].notna()]))
    found.sort(key=lambda context: (context[0]["k"] > 0, -len(context[1])))
    runs = newest(scored.runs)
    wanted: list[tuple[dict[str, Any], list[str], list[int], bool]] = []
    for named, own, references in found[:MOST_CONTEXTS]:
        ranked = own.iloc[np.argsort(metric.distance(own["mean"].to_numpy(float)), kind="stable")]
        picked = ranked.drop_duplicates("strategy").head(MOST_SERIES)
        blind = references[references["baseline"] & (references["strategy"] == "metadata")].head(1)
        series, rows = [], []
        for _, cell in [*picked.iterrows(), *blind.iterrows()]:
            same = (runs[[*CONTEXT, *CHOICES]] == cell[[*CONTEXT, *CHOICES]]).all(axis=1)
            done = runs.index[same & (runs["done"] > 0)]
            if len(done):
                blind_name = f"{cell['strategy']} {NO_IMAGE}"
                named_choice = ", ".join(str(cell[name]) for name in CHOICES)
                series.append(blind_name if cell["baseline"] else named_choice)
                rows.append(int(done[0]))
        if rows:
            wanted.append((named, series, rows, bool(own["synthetic"].any())))
    return list(_load(wanted, scored, metric))


def _load(
    wanted: Sequence[tuple[dict[str, Any], list[str], list[int], bool]],
    scored: Scored,
    metric: Metric,
) -> Iterator[Chosen]:
    rows = sorted({row for _, _, own, _ in wanted for row in own})
    for predictions in load_predictions(scored.runs.loc[rows], scored.folders):
        cells = make_cells(predictions, "patient", scored.scaling)
        here = set(predictions.cells["run"])
        for named, series, own, synthetic in wanted:
            if here.issuperset(own):
                yield Chosen(
                    named, tuple(series), tuple(own), predictions, cells, scored, metric, synthetic
                )
