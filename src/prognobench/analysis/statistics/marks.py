"""Which choice is best, which could be as good, and which is shown to be better than no image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.catalogue import CHOICES
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.scores import CHANCE
from prognobench.analysis.statistics.paired_tests import CONFIDENCE, corrected_p, holm
from prognobench.analysis.statistics.retraining import scale_share
from prognobench.metrics.metric import Metric, find_metric

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

DIMENSIONS = ("dataset", "model", "strategy", "regime", "k", "cv", "metric", "threshold", "level")
"""What rows and columns of a table can be; seeds, repetitions, draws and folds are averaged."""

COMPETING = tuple(name for name in DIMENSIONS if name not in CHOICES)
"""Rows that share these names compete: their models and strategies differ."""

LEVEL = 1 - CONFIDENCE

FOLD = ("folds", "repeat", "fold")
"""What names a fold. Its draws and trainings share the test patients: they are averaged."""


def mark_choices(table: pd.DataFrame, scores: pd.DataFrame, metrics: Mapping[str, Metric]) -> None:
    """Add ``mark``, ``below``, ``p_best``, ``p_baseline`` and ``choices`` to a table of means.

    Every p-value is of the test of :mod:`.retraining` over the shared folds of all seeds. ``mark``
    is ``best``, or ``tie`` where the difference to the best (``p_best``, corrected by Holm's method
    for the choices that compete) is not shown at 5 %; without two shared folds nothing is shown.
    ``below`` says that an advantage over the baselines, which see no image, is not shown
    (:func:`find_advantage`): each of them has to be beaten, so ``p_baseline`` is the largest of the
    p-values (Berger 1982).
    ``choices`` counts what competes, beside the best.

    Parameters
    ----------
    table
        One row per combination of :data:`DIMENSIONS`, with ``mean`` and ``baseline``.
    scores
        Of the folds.
    """
    import pandas as pd

    # Groups are worked on as rows of whole arrays, since a large sweep has thousands of them.
    size = len(table)
    marks, below = np.full(size, "", dtype=object), np.zeros(size, dtype=bool)
    p_best, p_baseline, choices = (np.full(size, np.nan) for _ in range(3))
    means, baseline = table["mean"].to_numpy(float), table["baseline"].to_numpy(bool)
    real = ~table["model"].isin([ORACLE, CHANCE]).to_numpy() & ~np.isnan(means)
    names = list(zip(*(table[name] for name in CHOICES), strict=True))
    scores_of = scores.groupby(list(COMPETING), sort=False).indices
    groups: dict[Any, Any] = table.groupby(list(COMPETING), sort=False).indices
    for group, index in groups.items():
        rows = index[real[index] & ~baseline[index]]
        if not len(rows):
            continue
        metric = metrics[group[COMPETING.index("metric")]]
        best = rows[metric.distance(means[rows]).argmin()]
        folds, share = average_draws(scores.iloc[scores_of[group]])
        # All at once: a call for each of a thousand choices takes longer than everything else.
        distances = metric.distance(folds.to_numpy(float))
        off = pd.DataFrame(distances, folds.index, folds.columns)
        own = off[[names[row] for row in rows]].to_numpy()
        p = corrected_p(own - off[[names[best]]].to_numpy(), share)
        p[rows == best] = np.nan  # is compared with the others, not with itself
        p_best[rows] = holm(p)
        marks[rows] = np.where(p_best[rows] < LEVEL, "", "tie")
        marks[best], choices[best] = "best", len(rows)
        to_beat = [names[row] for row in index[real[index] & baseline[index]]]
        if to_beat:
            advantage = [find_advantage(own, off[[one]].to_numpy(), share) for one in to_beat]
            p_baseline[rows] = np.max([p for p, _ in advantage], axis=0)
            below[rows] = ~np.all([is_shown for _, is_shown in advantage], axis=0)
    table["mark"], table["below"], table["choices"] = marks, below, choices
    table["p_best"], table["p_baseline"] = p_best, p_baseline


def find_advantage(
    own: NDArray[np.float64], reference: NDArray[np.float64], share: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Test whether choices are better than a reference when all are trained again.

    One of many choices looks better by luck. So what the choice among them over-estimates is taken
    off each advantage: the mean over folds of the best score in a fold minus that of the selected
    choice (Tibshirani & Tibshirani 2009). Simulated with 12 choices, the best or any other was
    falsely shown to be better in 1 to 2 % of cohorts; Holm's correction, which ignores how alike
    choices are, found a true advantage a quarter as often with one seed.

    Parameters
    ----------
    own, reference
        How far scores of folds are from the best value, ``(folds, choices)`` and ``(folds, 1)``.

    Returns
    -------
    p, is_shown
        ``(choices,)``: NaN with fewer than two shared folds; and whether each choice is shown to
        be better at 5 %.

    References
    ----------
    R. J. Tibshirani, R. Tibshirani: A bias correction for the minimum error rate in
    cross-validation. Annals of Applied Statistics 3, 2009.
    """
    gain = reference - own - _estimate_luck(own)
    p = corrected_p(gain, share)
    ahead = np.where(np.isnan(gain), 0.0, gain).sum(axis=0) > 0
    return p, (p < LEVEL) & ahead


def _estimate_luck(own: NDArray[np.float64]) -> float:
    known = ~np.isnan(own)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(known, own, 0.0).sum(axis=0) / known.sum(axis=0)
    selected = own[:, np.nanargmin(means)]
    least = np.where(known, own, np.inf).min(axis=1)
    return float(np.nanmean(selected - least))


def average_draws(scores: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Return the scores with a column per choice and a row per fold; and :func:`share_assumed`."""
    table = scores.groupby([*FOLD, *CHOICES])["value"].mean().unstack(list(CHOICES))
    return table, share_assumed(scores)


def share_assumed(scores: pd.DataFrame) -> float:
    """Return the share of test patients that the test of one metric's scores assumes."""
    splits = len(scores[["folds", "repeat"]].drop_duplicates())
    return scale_share(share_tested(scores), find_metric(scores["metric"].iloc[0]), splits)


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


def pick_scores(scores: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Return the folds' scores of some rows of :func:`.aggregate` that compete."""
    import pandas as pd

    first = own.iloc[0]
    # The metric first: it leaves the fewest rows to compare with the other names.
    for name in sorted(COMPETING, key=lambda name: name != "metric"):
        scores = scores[scores[name] == first[name]]
    scores = scores[scores["fold"].notna() & (scores["subgroup"] == "")]
    named = own[[*CHOICES, "keys"]]
    # Chance has no keys: it stands beside every run.
    keys = named.dropna().assign(key=lambda rows: rows["keys"].str.split()).explode("key")
    free = named.loc[named["keys"].isna(), list(CHOICES)]
    return pd.concat([scores.merge(keys.drop(columns="keys")), scores.merge(free)])
