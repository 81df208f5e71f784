"""Many choices over many datasets: mean ranks, and which of them differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from prognobench.analysis.scores import read_scores
from prognobench.analysis.shown import show_runs
from prognobench.analysis.statistics.paired_tests import CONFIDENCE
from prognobench.analysis.summaries.aggregate import Selection, aggregate, is_reference
from prognobench.analysis.tables import Entry, Made, Table, write_tables
from prognobench.errors import ConfigError, MissingExtraError
from prognobench.metrics.metric import find_metric

if TYPE_CHECKING:
    import pandas as pd

FEWEST_DATASETS, FEWEST_CHOICES = 5, 3
"""Below these a rank test has almost no power; paired differences are shown instead."""

MOST_PAIRS, MOST_CHOICES = 6, 8
"""Pairs that a note lists, and choices that the table of wins shows."""

Posthoc = Literal["nemenyi", "conover"]


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of choices over datasets.

    Attributes
    ----------
    scores
        One row per dataset, one column per choice: mean over folds. Complete rows only.
    mean_rank
        Of each choice, best first; 1 is best.
    p
        Friedman's test (1937) that all choices are equal.
    pairwise
        P-values of all pairs, by the post-hoc test.
    wins
        ``wins.loc[a, b]``: on how many datasets ``a`` is better than ``b``.
    untested
        Why pairs are not tested, or empty.
    posthoc
        The test of pairs.
    """

    scores: pd.DataFrame
    mean_rank: pd.Series[float]
    p: float
    pairwise: pd.DataFrame | None
    wins: pd.DataFrame
    untested: str = ""
    posthoc: Posthoc = "nemenyi"


def rank(cells: pd.DataFrame, metric: str, posthoc: Posthoc = "nemenyi") -> Ranks | None:
    """Rank models and strategies over datasets.

    Parameters
    ----------
    cells
        Of :func:`.aggregate`; see :func:`score_matrix` for what is a row.

    Returns
    -------
    Ranks or None
        ``None`` where no two choices share a dataset.

    """
    scores = score_matrix(cells, metric)
    if scores.shape[1] < 2 or not len(scores):
        return None
    distance = find_metric(metric).distance(scores.to_numpy())
    frame = scores.copy()
    frame[:] = distance
    mean_rank = frame.rank(axis=1).mean().sort_values(kind="stable")
    scores = scores[mean_rank.index]
    values = -frame[mean_rank.index]
    columns = values.to_numpy()
    # [dataset, first, second]: on each dataset every choice against every other.
    counts = (columns[:, :, None] > columns[:, None, :]).sum(axis=0)
    wins = _square(counts, mean_rank.index)
    if not _testable(scores):
        few = f"{len(scores)} datasets and {scores.shape[1]} choices: a rank test needs at least "
        few += f"{FEWEST_DATASETS} and {FEWEST_CHOICES}. Read the paired differences instead"
        return Ranks(scores, mean_rank, float("nan"), None, wins, few)
    from scipy.stats import friedmanchisquare

    p = float(friedmanchisquare(*columns.T).pvalue)
    try:
        return Ranks(scores, mean_rank, p, _pairwise(values, posthoc), wins, posthoc=posthoc)
    except MissingExtraError as error:
        return Ranks(scores, mean_rank, p, None, wins, str(error))


def score_matrix(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return datasets by choices without gaps: the largest part that allows a test, or any.

    Whole training parts count where there are any, else the mean over k: a dataset is one row,
    since several k of the same patients are not independent.
    """
    name = find_metric(metric).name
    real = ~is_reference(cells) & cells["mean"].notna()
    own = cells[real & (cells["metric"] == name)]
    own = own[own["k"] == 0] if (own["k"] == 0).any() else own
    choices = own["model"].map(str) + ", " + own["strategy"].map(str)
    rows = [own[name] for name in ("dataset", "cv")]
    matrix = own["mean"].groupby([*rows, choices.rename("choice")]).mean().unstack("choice")
    # Without some datasets more choices have no gap. The one goes first whose absence completes
    # most choices, of equals the emptiest; each step is a candidate.
    parts = []
    while len(matrix):
        parts.append(matrix.dropna(axis=1))
        filled = matrix.notna().sum(axis=1)
        complete = [matrix.drop(row).notna().all().sum() for row in matrix.index]
        matrix = matrix.drop(max(zip(complete, -filled, matrix.index, strict=True))[2])
    return max(parts, key=lambda part: (_testable(part), part.size), default=matrix)


def _testable(scores: pd.DataFrame) -> bool:
    return len(scores) >= FEWEST_DATASETS and scores.shape[1] >= FEWEST_CHOICES


def _pairwise(values: pd.DataFrame, posthoc: Posthoc) -> pd.DataFrame:
    try:
        import scikit_posthocs
    except ImportError as error:
        raise MissingExtraError("stats", "the rank test") from error
    tests = {
        "nemenyi": scikit_posthocs.posthoc_nemenyi_friedman,
        "conover": scikit_posthocs.posthoc_conover_friedman,
    }
    return _square(np.asarray(tests[posthoc](values.to_numpy())), values.columns)


def _square(values: np.ndarray, names: pd.Index[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(values, index=names, columns=names)


# ------------------------------------------------------------------ tables


def make_ranks(
    results: Path,
    metric: str = "mcc",
    where: Mapping[str, Sequence[str]] | None = None,
    *,
    posthoc: Posthoc = "nemenyi",
    formats: Sequence[str] = ("csv", "md"),
    everything: bool = False,
) -> Made:
    """Make the table of mean ranks over datasets, and write it to ``results/tables/ranks_*``.

    The CSV has the p-values of all pairs, where there are datasets enough for a test.

    Raises
    ------
    ConfigError
        If no two choices share a dataset.
    """
    scored = show_runs(read_scores(results), where, everything)
    cells = aggregate(scored, Selection((metric,)))
    ranks = rank(cells, metric, posthoc)
    if ranks is None:
        raise ConfigError(f"nothing to rank in {results}: no two choices were run on one dataset")
    long = ranks.mean_rank.rename("mean_rank").to_frame()
    long = long.join(ranks.wins.add_prefix("wins_over:"))
    if ranks.pairwise is not None:
        long = long.join(ranks.pairwise.add_prefix("p:"))
    tables = (rank_table(ranks), wins_table(ranks))
    stem = results / "tables" / f"ranks_{find_metric(metric).name}"
    return write_tables(stem, long.reset_index(), tables, formats)


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
        tested.append(_list_pairs(ranks))
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
    notes = (f"the {len(names)} choices of best mean rank, of {len(ranks.wins)}",) if left else ()
    title = f"won / tied / lost over {total} datasets, row against column"
    return Table(title, ("choice",), tuple(names), tuple(rows), notes=notes)


def _list_pairs(ranks: Ranks) -> str:
    """Return which pairs differ, best first; of many only their number."""
    assert ranks.pairwise is not None
    p = ranks.pairwise.to_numpy()
    pairs = [(i, j) for i, j in combinations(range(len(p)), 2) if p[i, j] < 1 - CONFIDENCE]
    test = {"nemenyi": "Nemenyi", "conover": "Conover"}[ranks.posthoc]
    text = f"{test}: {len(pairs)} of {len(p) * (len(p) - 1) // 2} pairs differ at 5 %"
    names = ranks.pairwise.index
    listed = (f"{names[i]} over {names[j]} (p = {p[i, j]:.3g})" for i, j in pairs)
    return text + (f": {'; '.join(listed)}" if 0 < len(pairs) <= MOST_PAIRS else "")
