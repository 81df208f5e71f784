"""Scores of folds become one number per combination of names, with its spread and its rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.catalogue import NAMES
from prognobench.analysis.evaluation import HALF, NO_THRESHOLD
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.scored import Scored
from prognobench.analysis.scoring import CHANCE
from prognobench.analysis.stats import CONFIDENCE, corrected_p
from prognobench.errors import ConfigError
from prognobench.metrics.metric import Metric, find_metric
from prognobench.registry import near

if TYPE_CHECKING:
    import pandas as pd

DIMENSIONS = ("dataset", "model", "strategy", "regime", "k", "cv", "metric", "threshold", "level")
"""What rows and columns of a table can be; seeds, repetitions, draws and folds are averaged."""

CHOICES = ("model", "strategy")
"""The dimensions along which values compete: the best of them is marked."""

COLUMNS = (
    *DIMENSIONS,
    *("synthetic", "baseline", "mean", "sd", "folds", "expected", "mark", "below", "reason"),
    *("prevalence", "keys"),
)
"""The columns of ``tables/*.csv``."""


@dataclass(frozen=True)
class Selection:
    """Which scores a table is made of.

    Attributes
    ----------
    metrics
        Names or titles.
    threshold
        Rule for metrics that need one.
    where
        Dimension -> the values that are taken.
    """

    metrics: Sequence[str] = ("mcc", "average_precision")
    threshold: str = HALF
    level: str = "patient"
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def found(self) -> list[Metric]:
        return [find_metric(name) for name in self.metrics]


def aggregate(scored: Scored, selection: Selection = Selection()) -> pd.DataFrame:
    """Return one row per combination of :data:`DIMENSIONS` with mean and spread over its folds.

    ``mark`` is ``best``, or ``tie`` where the difference to the best could be chance (corrected
    t-test on shared folds, 5 %). ``below`` says that a baseline without images is at least as
    good. ``expected`` counts the folds that the runs consist of, ``folds``
    those that entered the mean. Combinations without a score have a ``reason``.

    Raises
    ------
    ConfigError
        For an unknown metric, dimension, or value of a dimension.
    """
    import pandas as pd

    metrics = selection.found()
    runs = newest(choose(scored.runs, selection.where))
    scores = _pick(scored.scores, runs, selection, metrics)
    done = _summary(scores)
    kinds = pd.DataFrame(
        {
            "metric": [metric.name for metric in metrics],
            "threshold": [_rule(metric, selection) for metric in metrics],
            "level": selection.level,
        }
    )
    table = _progress(runs).merge(kinds, how="cross").merge(done, how="outer", on=DIMENSIONS)
    chance = table["model"] == CHANCE
    table.loc[chance, "synthetic"] = False
    table["baseline"] = table["baseline"].fillna(False).astype(bool)
    table["expected"] = table["expected"].fillna(table["folds"]).fillna(0).astype(int)
    table["folds"] = table["folds"].fillna(0).astype(int)
    reason, unfinished = table["reason"].fillna(""), table["unfinished"].fillna("")
    table["reason"] = reason.where(reason != "", unfinished)
    _mark(table, scores, {metric.name: metric for metric in metrics})
    table = table[list(COLUMNS)].sort_values(list(DIMENSIONS), kind="stable", ignore_index=True)
    table.attrs.update(runs.attrs)
    return table


def choose(table: pd.DataFrame, where: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return the rows with the wanted values; references pass on their own name.

    Raises
    ------
    ConfigError
        For a column or value that does not occur.
    """
    faults = []
    for column, wanted in where.items():
        if column not in table:
            faults.append(
                f"nothing called {column!r} to choose by{near(column, [*map(str, table)])}"
            )
            continue
        texts = table[column].map(_plain)
        known = sorted(set(texts))
        faults += [
            f"no run with {column}={value}{near(value, known)} (there are: {', '.join(known)})"
            for value in map(str, wanted)
            if value not in known
        ]
        chosen = texts.isin([str(value) for value in wanted])
        table = table[chosen | (table["model"] == ORACLE) if column in CHOICES else chosen]
    if faults:
        raise ConfigError(faults)
    return table


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def newest(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the latest of runs that share all their names and differ in settings.

    ``attrs["superseded"]`` lists the keys that were left out.
    """
    names = [name for name in NAMES if name not in ("key", "synthetic")]
    ordered = runs.sort_values("finished", kind="stable", na_position="first")
    kept = ordered.drop_duplicates(names, keep="last").sort_index()
    kept.attrs["superseded"] = sorted(set(runs["key"]) - set(kept["key"]))
    return kept


def _rule(metric: Metric, selection: Selection) -> str:
    return NO_THRESHOLD if metric.needs == "scores" else selection.threshold


def _pick(
    scores: pd.DataFrame, runs: pd.DataFrame, selection: Selection, metrics: Sequence[Metric]
) -> pd.DataFrame:
    """The folds' scores that were asked for, of these runs and of chance on their patients."""
    import pandas as pd

    known = set(scores["threshold"].unique())
    rules = {metric.name: _rule(metric, selection) for metric in metrics}
    if missing := set(rules.values()) - known - {HALF, NO_THRESHOLD}:
        raise ConfigError(
            f"no scores at threshold {missing.pop()!r} (there are: "
            f"{', '.join(sorted(known - {NO_THRESHOLD}))}; 'prognobench score' makes others with "
            "--threshold and --sensitivity)"
        )
    wanted = scores["metric"].map(rules) == scores["threshold"]
    scores = scores[wanted & (scores["level"] == selection.level) & scores["fold"].notna()]
    scores = scores[scores["subgroup"] == ""]
    of_runs = scores.merge(runs[["dataset", "model", "strategy", "key", "baseline"]])
    sets = runs.assign(key=runs["folds"].str[:12])[["dataset", "key"]].drop_duplicates()
    of_chance = scores[scores["model"] == CHANCE].merge(sets)
    return pd.concat([of_runs, of_chance], ignore_index=True)


def _summary(scores: pd.DataFrame) -> pd.DataFrame:
    groups = scores.groupby(list(DIMENSIONS), dropna=False, sort=False)
    table = groups.agg(
        mean=("value", "mean"),
        sd=("value", "std"),
        folds=("value", "count"),
        prevalence=("prevalence", "mean"),
        reason=("reason", "max"),
    )
    return table.reset_index()


def _progress(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per combination of names: what was expected, and why there may be no score."""
    runs = runs.assign(unfinished=_unfinished(runs))
    names = [name for name in DIMENSIONS if name in runs]
    groups = runs.groupby(names, dropna=False, sort=False)
    return groups.agg(
        synthetic=("synthetic", "max"),
        baseline=("baseline", "max"),
        expected=("cells", "sum"),
        unfinished=("unfinished", "first"),
        keys=("key", " ".join),
    ).reset_index()


def _unfinished(runs: pd.DataFrame) -> Any:
    said = np.where(runs["done"] < runs["cells"], "not finished", "")
    failed = runs["failed"].map(str) + " failed: " + runs["failure"]
    said = np.where(runs["failure"] != "", failed, said)
    said = np.where(runs["not_applicable"] != "", "n/a: " + runs["not_applicable"], said)
    return said


def _mark(table: pd.DataFrame, scores: pd.DataFrame, metrics: Mapping[str, Metric]) -> None:
    """Add ``mark`` (the best of what competes, and what could be as good) and ``below``."""
    competing = [name for name in DIMENSIONS if name not in CHOICES]
    marks, below = np.full(len(table), "", dtype=object), np.zeros(len(table), dtype=bool)
    means, baseline = table["mean"].to_numpy(float), table["baseline"].to_numpy(bool)
    real = ~table["model"].isin([ORACLE, CHANCE]).to_numpy() & ~np.isnan(means)
    choices = list(zip(*(table[name] for name in CHOICES), strict=True))
    scores_of = scores.groupby(competing, sort=False).indices
    groups: dict[Any, Any] = table.groupby(competing, sort=False).indices
    for names, index in groups.items():
        rows = index[real[index] & ~baseline[index]]
        if not len(rows):
            continue
        distance = metrics[names[competing.index("metric")]].distance(means)
        best = rows[distance[rows].argmin()]
        to_beat = distance[index[real[index] & baseline[index]]]
        below[rows] = distance[rows] >= to_beat.min(initial=np.inf)
        folds, share = by_fold(scores.iloc[scores_of[names]])
        others = folds[[choices[row] for row in rows]].to_numpy()
        p = corrected_p(folds[[choices[best]]].to_numpy() - others, share)
        marks[rows] = np.where(p >= 1 - CONFIDENCE, "tie", "")
        marks[best] = "best"
    table["mark"], table["below"] = marks, below


FOLD = ("seed", "repeat", "fold")
"""What names a fold: its draws share the test patients, so they are averaged and count once."""


def by_fold(scores: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Return a column per model and strategy, a row per fold; and :func:`share_tested`."""
    table = scores.groupby([*FOLD, *CHOICES])["value"].mean().unstack(list(CHOICES))
    return table, share_tested(scores)


def share_tested(scores: pd.DataFrame) -> float:
    """Test patients per training patient, for the corrected t-test.

    A few-shot draw takes a handful of the patients it may train on. What the correction is for,
    the overlap of training parts, is at most that of the parts it draws from: all patients that
    other folds test.
    """
    trained_on = scores["train_patients"]
    if scores["draw"].notna().any():
        runs = scores.groupby(["model", "strategy", "key", "repeat", "draw"], dropna=False)
        others = runs["n"].transform("sum") - scores["n"]
        trained_on = trained_on.mask(scores["draw"].notna() & (others > trained_on), others)
    return float((scores["n"] / trained_on).mean())
