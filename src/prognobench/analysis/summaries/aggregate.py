"""Scores of folds become one number per combination of names, with its spread and its mark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.catalogue import CONTEXT
from prognobench.analysis.evaluation import Measure
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.scores import CHANCE, Scored
from prognobench.analysis.shown import show_runs
from prognobench.analysis.statistics.marks import DIMENSIONS, mark_choices
from prognobench.analysis.thresholds import HALF, NO_THRESHOLD
from prognobench.errors import ConfigError
from prognobench.metrics.metric import Metric, find_metric

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *DIMENSIONS,
    *("synthetic", "baseline", "mean", "sd", "folds", "expected", "mark", "below"),
    *("p_best", "p_baseline", "choices", "optimism", "reason", "prevalence", "keys"),
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

    @property
    def rules(self) -> dict[str, str]:
        """Name of each metric -> its threshold rule."""
        return {metric.name: Measure.of(metric, self.threshold).rule for metric in self.found()}

    def explain_missing(self, scores: pd.DataFrame) -> str:
        """Return which threshold has no scores, and how to add them; empty if all are there."""
        known = set(scores["threshold"].unique())
        missing = set(self.rules.values()) - known - {HALF, NO_THRESHOLD}
        if not missing:
            return ""
        return (
            f"no scores at threshold {missing.pop()!r} (known: "
            f"{', '.join(sorted(known - {NO_THRESHOLD}))}). Add others with 'prognobench score "
            "--threshold' or '--sensitivity'"
        )


def aggregate(scored: Scored, selection: Selection = Selection()) -> pd.DataFrame:
    """Return one row per combination of :data:`DIMENSIONS` with mean and spread over its folds.

    :func:`.marks.mark_choices` says what the marks mean. ``expected`` counts the folds of the runs,
    ``folds`` those in the mean. Combinations without a score have a ``reason``. ``optimism`` is
    blank: :func:`.selection.add_optimism` fills it.

    Raises
    ------
    ConfigError
        For an unknown metric, dimension, or value of a dimension.
    """
    import pandas as pd

    metrics = selection.found()
    scored = show_runs(scored, selection.where)
    runs = scored.runs
    scores = _pick(scored.scores, runs, selection)
    done = _summary(scores)
    kinds = pd.DataFrame(
        {
            "metric": list(selection.rules),
            "threshold": list(selection.rules.values()),
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
    mark_choices(table, scores, {metric.name: metric for metric in metrics})
    table["optimism"] = np.nan
    return table[list(COLUMNS)].sort_values(list(DIMENSIONS), kind="stable", ignore_index=True)


def _pick(scores: pd.DataFrame, runs: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    """The folds' scores that were asked for, of these runs and of chance on their patients."""
    import pandas as pd

    rules = selection.rules
    if missing := selection.explain_missing(scores):
        raise ConfigError(missing)
    wanted = scores["metric"].map(rules) == scores["threshold"]
    scores = scores[wanted & (scores["level"] == selection.level) & scores["fold"].notna()]
    scores = scores[scores["subgroup"] == ""]
    of_runs = scores.merge(runs[["dataset", "model", "strategy", "key", "baseline"]])
    # The key of a chance row is the digest of the folds whose patients it forecasts.
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
    reasons = np.where(runs["done"] < runs["cells"], "not finished", "")
    failed = runs["failed"].map(str) + " failed: " + runs["failure"]
    reasons = np.where(runs["failure"] != "", failed, reasons)
    reasons = np.where(runs["not_applicable"] != "", "n/a: " + runs["not_applicable"], reasons)
    return reasons


# ------------------------------------------------------------------ contexts

Context = tuple[dict[str, Any], "pd.DataFrame", "pd.DataFrame"]
"""Names of a context, the rows that compete in it, and its references."""


def is_reference(cells: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows do not compete: ceiling, baselines and chance."""
    return cells["model"].isin([ORACLE, CHANCE]) | cells["baseline"]


def iter_contexts(cells: pd.DataFrame) -> Iterator[Context]:
    """Yield each dataset under each regime, k and cv, where anything competes."""
    for names, group in cells.groupby(list(CONTEXT), sort=True):
        reference = is_reference(group)
        if not reference.all():
            yield dict(zip(CONTEXT, names, strict=True)), group[~reference], group[reference]


def iter_main_contexts(cells: pd.DataFrame) -> Iterator[Context]:
    """Yield the contexts of whole training parts, or all contexts if there are none."""
    full = cells[cells["k"] == 0]
    yield from iter_contexts(full if len(full) else cells)


def describe_context(named: Mapping[str, Any]) -> str:
    """Return a context in words: dataset, regime, k, cv."""
    k = f" k={named['k']}" if named["k"] else ""
    return f"{named['dataset']} · {named['regime']}{k} · {named['cv']}"


def sort_best_first(cells: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Return rows of one metric, best mean first."""
    distance = metric.distance(cells["mean"].to_numpy(float))
    return cells.iloc[np.argsort(distance, kind="stable")]


def best_baseline(references: pd.DataFrame, metric: Metric) -> pd.Series[Any] | None:
    """Return the baseline of best mean among the references of a context, if there is any."""
    known = references[references["baseline"] & references["mean"].notna()]
    return sort_best_first(known, metric).iloc[0] if len(known) else None
