"""Tables that are not scores by names: cost against score, mean ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prognobench.analysis.aggregate import CHOICES, Selection, aggregate
from prognobench.analysis.figures import CONTEXT, describe, pareto, whole
from prognobench.analysis.ranks import Posthoc, Ranks, rank
from prognobench.analysis.render import Entry, Table, number_entry
from prognobench.analysis.scored import Scored, read_scores
from prognobench.analysis.stats import CONFIDENCE
from prognobench.analysis.tables import (
    SYNTHETIC,
    Made,
    reference_kinds,
    reference_label,
    write_tables,
)
from prognobench.errors import ConfigError
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


MOST_PAIRS, MOST_CHOICES = 6, 8


def costs(scored: Scored) -> pd.DataFrame:
    """Return the mean cost of every model and strategy in every context."""
    runs = scored.runs.assign(
        trainable_share=scored.runs["parameters_trainable"] / scored.runs["parameters_total"]
    )
    return runs.groupby([*CONTEXT, *CHOICES])[list(COSTS)].mean().reset_index()


def efficiency(
    cells: pd.DataFrame, scored: Scored, metrics: Sequence[str] = ("mcc", "average_precision")
) -> Iterator[Table]:
    """Yield score against cost, one table per context.

    Parameters
    ----------
    cells
        Of :func:`prognobench.analysis.aggregate.aggregate`, with these metrics.
    """
    found = [find_metric(name) for name in metrics]
    spent = costs(scored)
    for named, own, references in whole(cells):
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
            scores = [number_entry(line.get(m.name), "{:.3f}".format, mark) for m in found]
            amounts = [number_entry(line[name], write) for name, (_, write) in COSTS.items()]
            names = tuple(str(line[name]) for name in CHOICES)
            rows.append((names, (*scores, *amounts)))
        below = list(_references(references, found))
        yield Table(
            f"cost · {describe(named)}" + (f" · {SYNTHETIC}" if own["synthetic"].any() else ""),
            CHOICES,
            (*(m.title for m in found), *(title for title, _ in COSTS.values())),
            (*rows, *below),
            len(below),
            notes=(
                f"bold: on the Pareto front of {found[0].title} and trainable parameters",
                "trainable parameters, training and inference are means of a fold; embedding is "
                "done once for all folds and strategies of a frozen backbone (near 0 where it had "
                "been done before); stored: the adapted part in single precision",
            ),
        )


def _references(
    references: pd.DataFrame, metrics: Sequence[Metric]
) -> Iterator[tuple[tuple[str, ...], tuple[Entry, ...]]]:
    """Scores of ceiling, baselines and chance, which have no cost to compare."""
    wide = references.pivot_table(index="strategy", columns="metric", values="mean")
    for kind in reference_kinds(references):
        if kind in wide.index:
            scores = [number_entry(wide.loc[kind].get(m.name), "{:.3f}".format) for m in metrics]
            yield (reference_label(kind), ""), (*scores, *[Entry("")] * len(COSTS))


def make_efficiency(
    results: Path,
    metrics: Sequence[str] = ("mcc", "average_precision"),
    where: Mapping[str, Sequence[str]] | None = None,
    formats: Sequence[str] = ("csv", "md"),
) -> Made:
    """Make tables of score against cost, and write them to ``results/tables/efficiency.*``."""
    scored = read_scores(results)
    cells = aggregate(scored, Selection(metrics, where=where or {}))
    tables = tuple(efficiency(cells, scored, metrics))
    long = cells.merge(costs(scored), how="left")
    return Made(
        tables, tuple(write_tables(results / "tables" / "efficiency", long, tables, formats))
    )


def make_ranks(
    results: Path,
    metric: str = "mcc",
    where: Mapping[str, Sequence[str]] | None = None,
    posthoc: Posthoc = "nemenyi",
    formats: Sequence[str] = ("csv", "md"),
) -> Made:
    """Make the table of mean ranks over datasets, and write it to ``results/tables/ranks_*``.

    The CSV has the p-values of all pairs, where there are datasets enough for a test.

    Raises
    ------
    ConfigError
        If no two choices share a dataset.
    """
    cells = aggregate(read_scores(results), Selection((metric,), where=where or {}))
    ranks = rank(cells, metric, posthoc)
    if ranks is None:
        raise ConfigError(f"nothing to rank in {results}: no two choices share a dataset")
    long = ranks.mean_rank.rename("mean_rank").to_frame()
    long = long.join(ranks.wins.add_prefix("wins_over:"))
    if ranks.pairwise is not None:
        long = long.join(ranks.pairwise.add_prefix("p:"))
    tables = (rank_table(ranks), wins_table(ranks))
    stem = results / "tables" / f"ranks_{find_metric(metric).name}"
    return Made(tables, tuple(write_tables(stem, long.reset_index(), tables, formats)))


def rank_table(ranks: Ranks) -> Table:
    """Return mean ranks with wins, ties and losses against all others."""
    wins = ranks.wins.to_numpy()
    total = len(ranks.scores) * (len(wins) - 1)
    rows = []
    for number, (name, mean) in enumerate(ranks.mean_rank.items()):
        won, lost = int(wins[number].sum()), int(wins[:, number].sum())
        record = f"{won} / {total - won - lost} / {lost}"
        rows.append(((str(name),), (Entry(f"{mean:.2f}", value=mean), Entry(record))))
    tested = [] if np.isnan(ranks.p) else [f"Friedman p = {ranks.p:.3g}"]
    tested += [ranks.untested] if ranks.untested else []
    if ranks.pairwise is not None:
        tested.append(_significant(ranks))
    return Table(
        f"mean rank over {len(ranks.scores)} datasets",
        ("choice",),
        ("mean rank", "won / tied / lost"),
        tuple(rows),
        notes=tuple(tested),
    )


def wins_table(ranks: Ranks) -> Table:
    """Return how often each choice wins, ties and loses against each other, best first."""
    names = list(ranks.wins.index[:MOST_CHOICES])
    wins, total = ranks.wins.loc[names, names].to_numpy(), len(ranks.scores)
    rows = []
    for i, name in enumerate(names):
        counts = [
            (wins[i, j], total - wins[i, j] - wins[j, i], wins[j, i]) for j in range(len(names))
        ]
        entries = [
            Entry("" if i == j else f"{won} / {tied} / {lost}", value=float(won))
            for j, (won, tied, lost) in enumerate(counts)
        ]
        rows.append(((name,), tuple(entries)))
    left = len(ranks.wins) - len(names)
    notes = (f"the {len(names)} of best mean rank",) if left else ()
    title = f"won / tied / lost over {total} datasets, row against column"
    return Table(title, ("choice",), tuple(names), tuple(rows), notes=notes)


def _significant(ranks: Ranks) -> str:
    """Which pairs differ, best first; of many only their number."""
    assert ranks.pairwise is not None
    p = ranks.pairwise.to_numpy()
    pairs = [(i, j) for i, j in combinations(range(len(p)), 2) if p[i, j] < 1 - CONFIDENCE]
    test = {"nemenyi": "Nemenyi", "conover": "Conover"}[ranks.posthoc]
    said = f"{test}: {len(pairs)} of {len(p) * (len(p) - 1) // 2} pairs differ at 5 %"
    names = ranks.pairwise.index
    listed = (f"{names[i]} over {names[j]} (p = {p[i, j]:.3g})" for i, j in pairs)
    return said + (f": {'; '.join(listed)}" if 0 < len(pairs) <= MOST_PAIRS else "")
