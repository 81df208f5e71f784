"""Cost and score of every choice, and the choices that no other beats in both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prognobench.analysis.catalogue import CHOICES, CONTEXT
from prognobench.analysis.scores import Scored, read_scores
from prognobench.analysis.shown import show_runs
from prognobench.analysis.summaries.aggregate import (
    Selection,
    aggregate,
    describe_context,
    iter_main_contexts,
)
from prognobench.analysis.summaries.score_tables import (
    note_strategies,
    reference_kinds,
    reference_label,
)
from prognobench.analysis.tables import (
    SYNTHETIC,
    Entry,
    Made,
    Row,
    Table,
    make_number,
    write_tables,
)
from prognobench.metrics.metric import Metric, find_metric

if TYPE_CHECKING:
    import pandas as pd


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "parameters_trainable": ("trainable", lambda value: f"{value:,.0f}"),
    "trainable_share": ("of all", lambda value: f"{100 * value:.3g} %"),
    "seconds_train": ("training (s)", _short),
    "seconds_embedding_shared": ("embedding (s)", _short),
    "seconds_inference": ("inference (s)", _short),
    "peak_memory_bytes": ("memory (MB)", lambda value: f"{value / 1e6:,.0f}"),
    "storage_bytes": ("stored (MB)", lambda value: _short(value / 1e6)),
}
"""Column of ``runs.csv`` -> heading, and how a value is written."""


def mean_costs(scored: Scored) -> pd.DataFrame:
    """Return the mean cost of every model and strategy in every context."""
    runs = scored.runs.assign(
        trainable_share=scored.runs["parameters_trainable"] / scored.runs["parameters_total"]
    )
    return runs.groupby([*CONTEXT, *CHOICES])[list(COSTS)].mean().reset_index()


def lay_out(
    cells: pd.DataFrame, scored: Scored, metrics: Sequence[str] = ("mcc", "average_precision")
) -> Iterator[Table]:
    """Yield score against cost, one table per context.

    Parameters
    ----------
    cells
        Of :func:`.aggregate`, with these metrics.
    """
    found = [find_metric(name) for name in metrics]
    spent = mean_costs(scored)
    for named, own, references in iter_main_contexts(cells):
        wide = own.pivot_table(index=list(CHOICES), columns="metric", values="mean")
        if wide.empty or found[0].name not in wide:
            continue
        context = spent[(spent[list(CONTEXT)] == list(named.values())).all(axis=1)]
        table = wide.reset_index().merge(context, how="left")
        front = pareto(
            table["parameters_trainable"].to_numpy(float),
            table[found[0].name].to_numpy(float),
            found[0],
        )
        rows = []
        for line, on_front in zip(table.to_dict("records"), front, strict=True):
            mark = "best" if on_front else ""
            scores = [make_number(line.get(m.name), "{:.3f}".format, mark) for m in found]
            amounts = [make_number(line[name], write) for name, (_, write) in COSTS.items()]
            names = tuple(str(line[name]) for name in CHOICES)
            rows.append((names, (*scores, *amounts)))
        below = list(_references(references, found))
        yield Table(
            f"cost · {describe_context(named)}"
            + (f" · {SYNTHETIC}" if own["synthetic"].any() else ""),
            CHOICES,
            (*(m.title for m in found), *(title for title, _ in COSTS.values())),
            (*rows, *below),
            len(below),
            notes=(
                f"bold: no choice has both a better {found[0].title} and fewer trainable "
                "parameters (Pareto front)",
                "trainable parameters, training and inference are means over folds; embedding "
                "happens once for all folds and strategies of a frozen backbone (near 0 where a "
                "run found its features stored); stored: the adapted part in single precision",
                *note_strategies(scored.runs, own),
            ),
        )


def _references(references: pd.DataFrame, metrics: Sequence[Metric]) -> Iterator[Row]:
    """Scores of ceiling, baselines and chance, without costs, since they do not compete."""
    wide = references.pivot_table(index="strategy", columns="metric", values="mean")
    for kind in reference_kinds(references):
        if kind in wide.index:
            scores = [make_number(wide.loc[kind].get(m.name), "{:.3f}".format) for m in metrics]
            yield (reference_label(kind), ""), (*scores, *[Entry("")] * len(COSTS))


def make_costs(
    results: Path,
    metrics: Sequence[str] = ("mcc", "average_precision"),
    where: Mapping[str, Sequence[str]] | None = None,
    formats: Sequence[str] = ("csv", "md"),
    everything: bool = False,
) -> Made:
    """Make tables of score against cost, and write them to ``results/tables/efficiency.*``."""
    scored = show_runs(read_scores(results), where, everything)
    cells = aggregate(scored, Selection(metrics))
    tables = list(lay_out(cells, scored, metrics))
    long = cells.merge(mean_costs(scored), how="left")
    return write_tables(results / "tables" / "efficiency", long, tables, formats)


def pareto(cost: np.ndarray, score: np.ndarray, metric: Metric) -> np.ndarray:
    """Return which points no other point beats in both cost and score; NaN is on no front."""
    # Every point against every other: [i, j] says what point j is to point i.
    distance = metric.distance(score)
    no_worse = (cost[None] <= cost[:, None]) & (distance[None] <= distance[:, None])
    better = (cost[None] < cost[:, None]) | (distance[None] < distance[:, None])
    return np.asarray(~(no_worse & better).any(axis=1) & ~np.isnan(cost + score))
