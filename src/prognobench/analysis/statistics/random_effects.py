"""Scores of several centres pooled with random effects, and what to expect of another centre."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prognobench.analysis.statistics.paired_tests import CONFIDENCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 1e6
"""Times the spread of the values: no variance between centres is larger."""


@dataclass(frozen=True)
class Summary:
    """A pooled score.

    Attributes
    ----------
    low, high
        Interval of the mean over centres (Hartung-Knapp).
    predicted_low, predicted_high
        Prediction interval: where the score of another centre of this kind is expected.
    tau
        Standard deviation between centres.
    heterogeneity
        I squared: the share of the variance that is between centres (Higgins 2002).
    """

    mean: float
    low: float
    high: float
    predicted_low: float
    predicted_high: float
    tau: float
    heterogeneity: float


def pool_centres(values: NDArray[np.float64], errors: NDArray[np.float64]) -> Summary | None:
    """Pool values with random effects; ``None`` for fewer than three.

    The variance between centres is Paule and Mandel's (1982), the interval of the mean that of
    Hartung and Knapp (2001) with k - 1 degrees of freedom, the prediction interval that of Higgins,
    Thompson and Spiegelhalter (2009) with k - 2.

    Parameters
    ----------
    values, errors
        ``(centres,)``: scores and their standard errors, which must be above 0.
    """
    from scipy.stats import t

    count = len(values)
    if count < 3:
        return None
    variance = find_variance(values, errors)
    weights = 1 / (errors**2 + variance)
    mean = float((weights * values).sum() / weights.sum())
    scale = float((weights * (values - mean) ** 2).sum() / (count - 1))
    error = float(np.sqrt(scale / weights.sum()))
    tail = (1 + CONFIDENCE) / 2
    reach = t.ppf(tail, count - 1) * error
    far = t.ppf(tail, count - 2) * np.sqrt(variance + error**2)
    fixed = 1 / errors**2
    q = float((fixed * (values - (fixed * values).sum() / fixed.sum()) ** 2).sum())
    share = max(0.0, 1 - (count - 1) / q) if q > 0 else 0.0
    return Summary(
        mean=mean,
        low=float(mean - reach),
        high=float(mean + reach),
        predicted_low=float(mean - far),
        predicted_high=float(mean + far),
        tau=float(np.sqrt(variance)),
        heterogeneity=share,
    )


def find_variance(values: NDArray[np.float64], errors: NDArray[np.float64]) -> float:
    """Return the variance at which Q equals its degrees of freedom (Paule and Mandel 1982)."""
    from scipy.optimize import brentq

    def excess(variance: float) -> float:
        weights = 1 / (errors**2 + variance)
        mean = (weights * values).sum() / weights.sum()
        return float((weights * (values - mean) ** 2).sum() - (len(values) - 1))

    if excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, LARGEST * float(np.var(values)), xtol=1e-14))
