"""Many choices over many datasets: mean ranks, and which differences they can carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.scoring import CHANCE
from prognobench.errors import MissingExtraError
from prognobench.metrics.metric import find_metric

if TYPE_CHECKING:
    import pandas as pd

FEWEST_DATASETS, FEWEST_CHOICES = 5, 3
"""Below these a rank test says nothing worth reading; paired differences are shown instead."""

Posthoc = Literal["nemenyi", "conover"]


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of choices over datasets.

    Attributes
    ----------
    scores
        One row per dataset, one column per choice: mean over folds. Complete rows only.
    mean_rank
        Of each choice, 1 is best, best first.
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
    counts = (columns[:, :, None] > columns[:, None, :]).sum(axis=0)
    wins = _square(counts, mean_rank.index)
    if not _testable(scores):
        few = f"{len(scores)} datasets and {scores.shape[1]} choices: a rank test needs at least "
        few += f"{FEWEST_DATASETS} and {FEWEST_CHOICES}; see the paired differences instead"
        return Ranks(scores, mean_rank, float("nan"), None, wins, few)
    from scipy.stats import friedmanchisquare

    p = float(friedmanchisquare(*columns.T).pvalue)
    try:
        return Ranks(scores, mean_rank, p, _pairwise(values, posthoc), wins, posthoc=posthoc)
    except MissingExtraError as error:
        return Ranks(scores, mean_rank, p, None, wins, str(error))


def score_matrix(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return datasets by choices without gaps: as large a part as allows a test, or the largest.

    Whole training parts count where there are any; else the mean over k, so that a dataset is
    one row: several k of the same patients are no independent datasets.
    """
    name = find_metric(metric).name
    real = ~cells["model"].isin([ORACLE, CHANCE]) & ~cells["baseline"] & cells["mean"].notna()
    own = cells[real & (cells["metric"] == name)]
    own = own[own["k"] == 0] if (own["k"] == 0).any() else own
    choices = own["model"].map(str) + ", " + own["strategy"].map(str)
    rows = [own[name] for name in ("dataset", "cv")]
    matrix = own["mean"].groupby([*rows, choices.rename("choice")]).mean().unstack("choice")
    parts = []
    while len(matrix):
        parts.append(matrix.dropna(axis=1))
        matrix = matrix.drop(matrix.notna().sum(axis=1).idxmin())
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
