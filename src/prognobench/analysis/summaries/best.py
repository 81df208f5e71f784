"""The best choice of a context beside each other choice and each baseline, all trained again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.catalogue import CHOICES
from prognobench.analysis.scores import Scored
from prognobench.analysis.statistics.marks import average_draws, find_advantage, pick_scores
from prognobench.analysis.statistics.paired_tests import corrected_t
from prognobench.analysis.summaries.aggregate import (
    Context,
    describe_context,
    iter_main_contexts,
)
from prognobench.analysis.summaries.score_tables import reference_label
from prognobench.analysis.tables import BELOW, Entry, Row, Table, make_difference, make_number
from prognobench.metrics.metric import Metric

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("label", "value", "low", "high", "p", "p_corrected", "p_baseline", "below", "baseline")
"""The columns of :func:`compare_with_best`."""


def compare_with_best(context: Context, scored: Scored, metric: Metric) -> pd.DataFrame:
    """Return the paired difference of each other choice and each baseline to the best.

    Returns
    -------
    pandas.DataFrame
        :data:`COLUMNS`, the nearest to the best first, baselines last; empty where the best has
        nothing beside it. ``p`` is of the single comparison, ``p_corrected`` is corrected for the
        number of choices as in :mod:`.marks`; ``p_baseline`` and ``below`` are of the advantage
        over the baselines.
    """
    import pandas as pd

    _, own, references = context
    own = own[own["mean"].notna()]
    best = own[own["mark"] == "best"]
    beside = references[references["baseline"] & references["mean"].notna()]
    beside = beside.drop_duplicates("strategy")
    if best.empty or len(own) + len(beside) < 2:
        return pd.DataFrame(columns=list(COLUMNS))
    winner = tuple(best.iloc[0][name] for name in CHOICES)
    folds, share = average_draws(pick_scores(scored.scores, pd.concat([own, beside])))
    off = folds.apply(metric.distance)
    choices = list(own[list(CHOICES)].itertuples(index=False, name=None))
    rows = []
    for row in pd.concat([own, beside]).to_dict("records"):
        name = tuple(row[each] for each in CHOICES)
        if name == winner:
            continue
        test = corrected_t((folds[name] - folds[winner]).to_numpy(float), share)
        label, corrected = ", ".join(map(str, name)), row["p_best"]
        if row["baseline"]:
            p, _ = find_advantage(off[choices].to_numpy(), off[[name]].to_numpy(), share)
            label, corrected = reference_label(row["strategy"]), p[choices.index(winner)]
        ends = (label, test.value, test.low, test.high, test.p, corrected)
        rows.append((*ends, row["p_baseline"], row["below"], row["baseline"]))
    table = pd.DataFrame(rows, columns=list(COLUMNS)).dropna(subset="value")
    order = np.lexsort((np.abs(table["value"]), table["baseline"].astype(bool)))
    return table.iloc[order]


def compare_each(
    cells: pd.DataFrame, scored: Scored, metric: Metric
) -> Iterator[tuple[Context, pd.DataFrame]]:
    """Yield :func:`compare_with_best` of each main context whose best has something beside it."""
    for context in iter_main_contexts(cells[cells["metric"] == metric.name]):
        compared = compare_with_best(context, scored, metric)
        if len(compared):
            yield context, compared


def best_table(context: Context, compared: pd.DataFrame, metric: Metric) -> Table:
    """Return :func:`compare_with_best` as a table to read."""
    named, own, _ = context
    best = own[own["mark"] == "best"].iloc[0]
    winner = ", ".join(str(best[name]) for name in CHOICES)

    def line(row: Mapping[Any, Any]) -> Row:
        below = "" if row["baseline"] or not row["below"] else BELOW
        return (str(row["label"]),), (
            make_difference(float(row["value"]), float(row["low"]), float(row["high"])),
            make_number(row["p_corrected"], "{:.3f}".format),
            make_number(row["p_baseline"], "{:.3f}".format),
            Entry(below),
        )

    lines = [line(row) for row in compared.to_dict("records")]
    columns = ("trained again [95 %]", "p", "p against the baselines", BELOW)
    return Table(
        f"{metric.title} minus that of the best, {winner} · {describe_context(named)}",
        ("choice",),
        columns,
        tuple(lines),
        references=int(compared["baseline"].astype(bool).sum()),
        notes=(
            "the test for choices that are trained again, over the folds of all seeds; p-values "
            "are corrected for the number of choices (Holm; against baselines, what the choice "
            "over-estimates is subtracted), intervals are not",
            f"{BELOW}: not shown to be better than every baseline, which sees no image",
        ),
    )
