"""Which figures results give, and the data of each: from scores alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.aggregate import CHOICES, by_fold
from prognobench.analysis.drawing import forest, heat_map, points_over_k, rank_diagram, trade_off
from prognobench.analysis.plots import Figure
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.ranks import Ranks
from prognobench.analysis.scored import Scored
from prognobench.analysis.scoring import CHANCE
from prognobench.analysis.stats import corrected_t
from prognobench.metrics.metric import Metric

if TYPE_CHECKING:
    import pandas as pd

CONTEXT = ("dataset", "regime", "k", "cv")

MOST_SERIES = 6
"""Lines that a reader can still tell apart."""

MOST_ROWS = 15


def contexts(cells: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """Yield each dataset under each regime, k and cv: its names, competitors and references."""
    for names, group in cells.groupby(list(CONTEXT), sort=True):
        reference = group["model"].isin([ORACLE, CHANCE]) | group["baseline"]
        if not reference.all():
            yield dict(zip(CONTEXT, names, strict=True)), group[~reference], group[reference]


def whole(
    cells: pd.DataFrame,
) -> Iterator[tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]:
    """Yield the contexts of whole training parts, or all where there are no such."""
    full = cells[cells["k"] == 0]
    yield from contexts(full if len(full) else cells)


def slug(*parts: Any) -> str:
    """A name that is safe as a file's name and in an address."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(str(part) for part in parts)).strip("-")


def describe(named: dict[str, Any]) -> str:
    """A context in words: dataset, regime, k, cv."""
    k = f" k={named['k']}" if named["k"] else ""
    return f"{named['dataset']} · {named['regime']}{k} · {named['cv']}"


def command(rows: str, columns: str, named: dict[str, Any], metric: Metric) -> str:
    """The command line that makes a table's numbers again."""
    choice = f"--metric {metric.name} --dataset {named['dataset']}"
    return f"prognobench table --rows {rows} --columns {columns} {choice}"


def by_report(metric: Metric) -> str:
    """The command line that writes a figure and its data to files."""
    return f"prognobench report --metric {metric.name} --figures"


# ------------------------------------------------------------------ model by strategy


def heat_maps(cells: pd.DataFrame, metric: Metric) -> Iterator[Figure]:
    """Model by strategy, one figure per dataset."""
    import pandas as pd

    for named, own, _ in whole(cells[cells["metric"] == metric.name]):
        models, strategies = own["model"].nunique(), own["strategy"].nunique()
        if models * strategies < 2:
            continue
        reasons = own["reason"].where(own["reason"].str.startswith("n/a"), "").str[:3]
        texts = own["mean"].map("{:.2f}".format).where(own["mean"].notna(), reasons)
        data = pd.DataFrame(
            {
                "row": own["model"].to_numpy(),
                "column": own["strategy"].to_numpy(),
                "value": own["mean"].to_numpy(float),
                "text": texts.to_numpy(),
            }
        )
        best = own.loc[own["mark"] == "best", list(CHOICES)].agg(", ".join, axis=1)
        yield Figure(
            slug("heat", metric.name, *named.values()),
            f"{metric.title}, {describe(named)}",
            f"Heat map of mean {metric.title} over folds, {models} models by {strategies} "
            f"strategies. Best: {', '.join(best)}.",
            data,
            command("model", "strategy", named, metric),
            heat_map,
            size=(1.6 + 0.52 * strategies, 1.1 + 0.26 * models),
            synthetic=bool(own["synthetic"].any()),
        )


# ------------------------------------------------------------------ few-shot


def few_shot(cells: pd.DataFrame, metric: Metric) -> Iterator[Figure]:
    """Score over k, one figure per dataset; the best choices at the largest k."""
    import pandas as pd

    own = cells[(cells["metric"] == metric.name) & (cells["k"] > 0) & cells["mean"].notna()]
    for (dataset, regime, cv), group in own.groupby(["dataset", "regime", "cv"], sort=True):
        if group["k"].nunique() < 2:
            continue
        named = {"dataset": dataset, "regime": regime, "k": 0, "cv": cv}
        reference = group["model"].isin([ORACLE, CHANCE]) | group["baseline"]
        real = group[~reference]
        last = real[real["k"] == real["k"].max()]
        ranked = last.iloc[np.argsort(metric.distance(last["mean"].to_numpy(float)))]
        chosen = ranked[list(CHOICES)].head(MOST_SERIES).agg(", ".join, axis=1).tolist()
        labels = group[list(CHOICES)].agg(", ".join, axis=1)
        labels = labels.replace(
            {f"{ORACLE}, {ORACLE}": "ceiling (true risk)", f"{CHANCE}, {CHANCE}": "chance"}
        )
        wanted = [*chosen, "ceiling (true risk)", "chance"]
        data = pd.DataFrame(
            {
                "series": labels.to_numpy(),
                "x": group["k"].to_numpy(),
                "y": group["mean"].to_numpy(float),
                "low": (group["mean"] - group["sd"]).to_numpy(float),
                "high": (group["mean"] + group["sd"]).to_numpy(float),
            }
        )
        data = data[data["series"].isin(wanted)]
        order = data["series"].map(wanted.index)
        data = data.assign(order=order).sort_values(["order", "x"]).drop(columns="order")
        yield Figure(
            slug("few-shot", metric.name, dataset, cv),
            f"{metric.title} over k, {dataset} · {cv}",
            f"{metric.title} against patients per class in training; best at the largest k: "
            f"{chosen[0]}. The band is one standard deviation over folds and draws.",
            data,
            command("model,strategy", "k", named, metric),
            points_over_k(metric.title),
            synthetic=bool(group["synthetic"].any()),
        )


# ------------------------------------------------------------------ cost


def trade_offs(cells: pd.DataFrame, scored: Scored, metric: Metric) -> Iterator[Figure]:
    """Score against trainable parameters and against training time, the Pareto front marked."""
    costs = scored.runs.groupby([*CONTEXT, *CHOICES])[["parameters_trainable", "seconds_train"]]
    axes = {
        "parameters_trainable": "trainable parameters",
        "seconds_train": "training time per fold (s)",
    }
    table = cells[(cells["metric"] == metric.name) & cells["mean"].notna()]
    table = table.merge(costs.mean().reset_index(), how="left")
    for named, own, _ in whole(table):
        for column, title in axes.items():
            known = own[own[column] > 0]
            if len(known) < 3:
                continue
            data = known.rename(columns={column: "x", "mean": "y", "strategy": "series"})
            data = data.assign(label=data["model"] + ", " + data["series"])
            data["front"] = pareto(data["x"].to_numpy(float), data["y"].to_numpy(float), metric)
            front = ", ".join(data.loc[data["front"], "label"])
            yield Figure(
                slug("cost", column, metric.name, *named.values()),
                f"{metric.title} against {title}, {describe(named)}",
                f"Scatter of {metric.title} against {title} on a logarithmic axis. On the Pareto "
                f"front: {front}.",
                data[["series", "label", "x", "y", "front"]].sort_values(["series", "x"]),
                by_report(metric),
                trade_off(title, metric.title),
                synthetic=bool(own["synthetic"].any()),
            )


def pareto(cost: np.ndarray, score: np.ndarray, metric: Metric) -> np.ndarray:
    """Return which points no other point beats in both cost and score; NaN is on no front."""
    distance = metric.distance(score)
    no_worse = (cost[None] <= cost[:, None]) & (distance[None] <= distance[:, None])
    better = (cost[None] < cost[:, None]) | (distance[None] < distance[:, None])
    return np.asarray(~(no_worse & better).any(axis=1) & ~np.isnan(cost + score))


# ------------------------------------------------------------------ differences and ranks


def differences(cells: pd.DataFrame, scored: Scored, metric: Metric) -> Iterator[Figure]:
    """Paired differences to the best choice over folds, one figure per dataset."""
    import pandas as pd

    for named, own, _ in whole(cells[cells["metric"] == metric.name]):
        best = own[own["mark"] == "best"]
        if best.empty or len(own) < 2:
            continue
        rows = _fold_scores(scored, own)
        winner = tuple(best.iloc[0][name] for name in CHOICES)
        folds, share = by_fold(rows)
        names = [choice for choice in folds.columns if tuple(choice) != winner]
        tests = {
            ", ".join(choice): corrected_t((folds[choice] - folds[winner]).to_numpy(float), share)
            for choice in names
        }
        data = pd.DataFrame(
            [(name, test.value, test.low, test.high, test.p) for name, test in tests.items()],
            columns=["label", "value", "low", "high", "p"],
        ).dropna(subset="value")
        data = data.iloc[np.argsort(np.abs(data["value"]), kind="stable")].head(MOST_ROWS)
        if data.empty:
            continue
        yield Figure(
            slug("difference", metric.name, *named.values()),
            f"Difference to {', '.join(winner)} in {metric.title}, {describe(named)}",
            f"Mean paired difference in {metric.title} over folds with 95 % intervals (corrected "
            f"t-test), of the {len(data)} choices nearest to the best, {', '.join(winner)}.",
            data,
            by_report(metric),
            forest(f"difference in {metric.title}", 0.0),
            size=(4.4, 0.9 + 0.22 * len(data)),
            synthetic=bool(own["synthetic"].any()),
        )


def _fold_scores(scored: Scored, own: pd.DataFrame) -> pd.DataFrame:
    first = own.iloc[0]
    scores = scored.scores
    for name in ("metric", "threshold", "level", *CONTEXT):  # the rarest first
        scores = scores[scores[name] == first[name]]
    scores = scores[scores["fold"].notna() & (scores["subgroup"] == "")]
    keys = own[list(CHOICES)].assign(key=own["keys"].str.split()).explode("key")
    return scores.merge(keys)


def rank_figure(ranks: Ranks, metric: Metric, synthetic: bool) -> Iterator[Figure]:
    """The critical-difference diagram, where there are datasets enough."""
    if ranks.pairwise is None:
        return
    shown = list(ranks.mean_rank.index[:MOST_ROWS])
    data = ranks.pairwise.loc[shown, shown].add_prefix("p:")
    data.insert(0, "rank", ranks.mean_rank[shown])
    best = ", ".join(f"{name} {rank:.1f}" for name, rank in ranks.mean_rank.head(3).items())
    yield Figure(
        slug("ranks", metric.name),
        f"Mean rank in {metric.title} over {len(ranks.scores)} datasets",
        f"Critical-difference diagram, Friedman p = {ranks.p:.3g}. Best mean ranks: {best}. "
        "Choices under one bar do not differ significantly.",
        data.rename_axis("choice").reset_index(),
        by_report(metric),
        rank_diagram,
        size=(6.4, 1.2 + 0.18 * len(shown)),
        synthetic=synthetic,
    )
