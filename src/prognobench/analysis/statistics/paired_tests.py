"""Tests of paired differences: pure functions on arrays, each with the source of its method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prognobench.errors import MissingExtraError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95

TINY = 1e-12
"""A spread below this is rounding error."""


@dataclass(frozen=True)
class Difference:
    """A difference with its interval and the probability of a larger one by chance.

    Attributes
    ----------
    effect
        The difference in units of its standard deviation, where the test has one.
    """

    value: float
    low: float
    high: float
    p: float
    effect: float = float("nan")


def corrected_t(
    differences: NDArray[np.float64], test_share: float, confidence: float = CONFIDENCE
) -> Difference:
    """Paired t-test over folds, corrected for overlapping training sets (Nadeau & Bengio 2003).

    Parameters
    ----------
    differences
        ``(folds,)``, of all folds of all repetitions (Bouckaert & Frank 2004).
    test_share
        Test patients per training patient: 1/3 where folds are 3/1/1 parts train, validation,
        test. At 0 it is the uncorrected test, whose false-positive rate is far above nominal.

    Returns
    -------
    Difference
        ``effect`` is mean over standard deviation (Cohen's d for paired values). NaN where there
        are fewer than two folds; no spread at all gives p = 0, or 1 where all are equal.
    """
    from scipy.special import stdtrit

    differences = differences[~np.isnan(differences)]
    mean, n = float(differences.mean()) if len(differences) else float("nan"), len(differences)
    if n < 2:
        return Difference(mean, float("nan"), float("nan"), float("nan"))
    deviation = float(differences.std(ddof=1))
    reach = stdtrit(n - 1, (1 + confidence) / 2) * corrected_error(differences, test_share)
    p = float(corrected_p(differences[:, None], test_share)[0])
    effect = mean / deviation if deviation > TINY else float("nan")
    return Difference(mean, mean - float(reach), mean + float(reach), p, effect)


def corrected_error(differences: NDArray[np.float64], test_share: float) -> float:
    """Standard error of the mean in :func:`corrected_t`; NaN is left out."""
    known = differences[~np.isnan(differences)]
    if len(known) < 2:
        return float("nan")
    return float(known.std(ddof=1) * np.sqrt(1 / len(known) + test_share))


def corrected_p(differences: NDArray[np.float64], test_share: float) -> NDArray[np.float64]:
    """P-values of :func:`corrected_t` for each column of ``(folds, columns)``; NaN is left out."""
    # Not scipy.stats: its import takes 0.6 s, longer than all other work on a table.
    from scipy.special import stdtr

    known = ~np.isnan(differences)
    n = known.sum(axis=0)
    filled = np.where(known, differences, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = filled.sum(axis=0) / n
        variance = (np.where(known, differences - mean, 0.0) ** 2).sum(axis=0) / (n - 1)
        error = np.sqrt(variance * (1 / n + test_share))
        p = 2 * stdtr(n - 1, -np.abs(mean) / error)
    certain = np.where(np.abs(mean) < TINY, 1.0, 0.0)
    return np.where(n < 2, np.nan, np.where(error < TINY, certain, p))


def wilson(
    events: ArrayLike, n: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Low and high ends of the score interval of a proportion (Wilson 1927); NaN without trials.

    Parameters
    ----------
    events, n
        Of one shape: how often it happened, of how many.
    """
    from statsmodels.stats.proportion import proportion_confint

    events, n = np.asarray(events, float), np.asarray(n, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = proportion_confint(events, n, 1 - confidence, method="wilson")
    return np.maximum(low, 0.0), np.minimum(high, 1.0)  # an end at 0 or 1 may miss it by rounding


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Difference:
    """Exact test whether two classifiers are right equally often (McNemar 1947).

    Parameters
    ----------
    first, second
        ``(patients,)``: whether each decided correctly, on the same patients.

    Returns
    -------
    Difference
        In accuracy, with Newcombe's (1998, method 10) interval; p from the binomial distribution
        of the patients on whom they differ.
    """
    from statsmodels.stats.contingency_tables import mcnemar as test

    a, b = int((first & ~second).sum()), int((~first & second).sum())
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    p = float(test([[both, a], [b, neither]], exact=True).pvalue)
    low, high = _newcombe(both, a, b, neither)
    return Difference((a - b) / len(first), low, high, p, a / b if b else float("inf"))


def _newcombe(both: int, a: int, b: int, neither: int) -> tuple[float, float]:
    n = both + a + b + neither
    low, high = wilson([both + a, both + b], [n, n])
    first, second = (both + a) / n, (both + b) / n
    product = (both + a) * (b + neither) * (both + b) * (a + neither)
    phi = (both * neither - a * b) / np.sqrt(product) if product else 0.0
    low1, high1 = first - low[0], high[0] - first
    low2, high2 = second - low[1], high[1] - second
    below = np.sqrt(low1**2 - 2 * phi * low1 * high2 + high2**2)
    above = np.sqrt(high1**2 - 2 * phi * high1 * low2 + low2**2)
    return float(first - second - below), float(first - second + above)


def delong(
    labels: NDArray[np.intp], first: NDArray[np.float64], second: NDArray[np.float64]
) -> Difference:
    """Difference of two correlated ROC-AUCs (DeLong, DeLong & Clarke-Pearson 1988).

    The covariance comes from midranks (Sun & Xu 2014).

    Parameters
    ----------
    labels
        ``(patients,)``, 0 or 1.
    first, second
        ``(patients,)``, scores of the positive class.

    Returns
    -------
    Difference
        NaN where a class is missing; ``effect`` is the difference over its standard error.
    """
    from scipy import stats

    # The area is the share of pairs (positive, negative) in the right order. A positive's rank
    # among all minus its rank among positives counts the negatives below it (ties as half), and
    # likewise for negatives. Means of these counts give the areas, their covariances the variance.

    positive = labels == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return Difference(*[float("nan")] * 4)
    areas, by_positive, by_negative = [], [], []
    for scores in (first, second):
        together = stats.rankdata(scores)
        within_positive = stats.rankdata(scores[positive])
        within_negative = stats.rankdata(scores[~positive])
        placed = (together[positive] - within_positive) / n
        areas.append(placed.mean())
        by_positive.append(placed)
        by_negative.append(1 - (together[~positive] - within_negative) / m)
    difference = float(areas[0] - areas[1])
    if m < 2 or n < 2:
        return Difference(difference, *[float("nan")] * 3)
    covariance = np.cov(by_positive) / m + np.cov(by_negative) / n
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = float(np.sqrt(max(variance, 0.0)))
    if error < TINY:
        return Difference(difference, difference, difference, float(abs(difference) < TINY))
    reach = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    p = float(2 * stats.norm.sf(abs(difference) / error))
    return Difference(difference, difference - reach, difference + reach, p, difference / error)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values corrected for their number by Holm's (1979) method; NaN stays NaN.

    Not by statsmodels, which the tests compare it with: its import takes 0.5 s, longer than all
    other work on a table, and every table with marks corrects p-values.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)  # NaN comes last
    left = np.maximum((~np.isnan(p)).sum() - np.arange(len(p)), 1)
    corrected = np.empty(len(p))
    corrected[order] = np.fmin(np.maximum.accumulate(p[order] * left), 1.0)
    return np.where(np.isnan(p), np.nan, corrected)


def combine_splits(p_values: ArrayLike) -> float:
    """Return one p-value of the same test on several splits: twice the median (Rüger 1978).

    It holds however the tests depend on each other.
    """
    p = np.asarray(p_values, dtype=float)
    p = p[~np.isnan(p)]
    if not len(p):
        return float("nan")
    return float(p[0]) if len(p) == 1 else min(1.0, 2 * float(np.median(p)))


@dataclass(frozen=True)
class Belief:
    """Probabilities that the first is better, that both are practically equal, or the second."""

    first: float
    equal: float
    second: float


def bayesian_t(differences: NDArray[np.float64], test_share: float, rope: float) -> Belief:
    """Correlated Bayesian t-test of one data set (Corani & Benavoli 2015), by baycomp.

    Parameters
    ----------
    differences
        ``(folds,)``, second minus first.
    test_share
        As in :func:`corrected_t`.
    rope
        Half-width of the region of practical equivalence.

    Raises
    ------
    MissingExtraError
        Without baycomp.
    """
    try:
        from baycomp.single import Posterior
    except ImportError as error:
        raise MissingExtraError("stats", "the Bayesian comparison") from error
    n = len(differences)
    mean, variance = float(differences.mean()), float(differences.var(ddof=1))
    posterior = Posterior(mean, variance * (1 / n + test_share), n - 1, rope=rope)
    return Belief(*(float(p) for p in posterior.probs()))
