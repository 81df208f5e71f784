"""Scores of folds become one number per combination of names, with its spread and its mark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.catalogue import CHOICES, CONTEXT
from prognobench.analysis.evaluation import Measure
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.scores import CHANCE, Scored
from prognobench.analysis.shown import show_runs
from prognobench.analysis.statistics.paired_tests import CONFIDENCE, corrected_p, holm
from prognobench.analysis.thresholds import HALF, NO_THRESHOLD
from prognobench.errors import ConfigError
from prognobench.metrics.metric import Metric, find_metric

if TYPE_CHECKING:
    import pandas as pd

DIMENSIONS = ("dataset", "model", "strategy", "regime", "k", "cv", "metric", "threshold", "level")
"""What rows and columns of a table can be; seeds, repetitions, draws and folds are averaged."""

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

    @property
    def rules(self) -> dict[str, str]:
        """Name of each metric -> its threshold rule."""
        return {metric.name: Measure.of(metric, self.threshold).rule for metric in self.found()}


def aggregate(scored: Scored, selection: Selection = Selection()) -> pd.DataFrame:
    """Return one row per combination of :data:`DIMENSIONS` with mean and spread over its folds.

    ``mark`` is ``best``, or ``tie`` where the difference to the best could be chance: the test of
    :mod:`.retraining` over the shared folds of all seeds, 5 %, Holm over what competes. ``below``
    says that a baseline, which sees no image, is at least as good. ``expected`` counts the folds
    of the runs, ``folds`` those in the mean. Combinations without a score have a ``reason``.

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
    _mark(table, scores, {metric.name: metric for metric in metrics})
    return table[list(COLUMNS)].sort_values(list(DIMENSIONS), kind="stable", ignore_index=True)


def _pick(scores: pd.DataFrame, runs: pd.DataFrame, selection: Selection) -> pd.DataFrame:
    """The folds' scores that were asked for, of these runs and of chance on their patients."""
    import pandas as pd

    known, rules = set(scores["threshold"].unique()), selection.rules
    if missing := set(rules.values()) - known - {HALF, NO_THRESHOLD}:
        raise ConfigError(
            f"no scores at threshold {missing.pop()!r} (known: "
            f"{', '.join(sorted(known - {NO_THRESHOLD}))}). Add others with 'prognobench score "
            "--threshold' or '--sensitivity'"
        )
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


def _mark(table: pd.DataFrame, scores: pd.DataFrame, metrics: Mapping[str, Metric]) -> None:
    """Add ``mark`` (the best of what competes, and what could be as good) and ``below``."""
    # Within a group everything competes: it shares all names but those of the choice. Groups are
    # worked on as rows of whole arrays, since a large sweep has thousands of them.
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
        below[rows] = distance[rows] >= to_beat.min(initial=np.inf)  # without a baseline: none is
        folds, share = average_draws(scores.iloc[scores_of[names]])
        others = folds[[choices[row] for row in rows]].to_numpy()
        p = corrected_p(folds[[choices[best]]].to_numpy() - others, share)
        p[rows == best] = np.nan  # is compared with the others, not with itself
        marks[rows] = np.where(holm(p) >= 1 - CONFIDENCE, "tie", "")
        marks[best] = "best"
    table["mark"], table["below"] = marks, below


FOLD = ("folds", "repeat", "fold")
"""What names a fold. Its draws and trainings share the test patients: they are averaged."""


def average_draws(scores: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Return the scores with a column per choice and a row per fold; and :func:`share_tested`."""
    table = scores.groupby([*FOLD, *CHOICES])["value"].mean().unstack(list(CHOICES))
    return table, share_tested(scores)


def share_tested(scores: pd.DataFrame) -> float:
    """Test patients per other patient of a fold, for the tests of :mod:`.retraining`.

    The others are all that may be learnt from: a validation part chooses epochs and thresholds,
    and few-shot draws are taken from them. Two random splits test the share ``test / all`` of the
    patients in common, and that is the correlation which the test corrects for.
    """
    runs = scores.groupby(["model", "strategy", "key", "repeat", "draw"], dropna=False)
    others = runs["n"].transform("sum") - scores["n"]
    # With a single test part, others are known from training alone.
    return float((scores["n"] / np.fmax(others, scores["train_patients"])).mean())


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
