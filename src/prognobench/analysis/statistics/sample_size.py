"""What a number of patients can show: Riley's minimum, and the smallest detectable difference."""

from __future__ import annotations

import math

from prognobench.analysis.statistics.paired_tests import CONFIDENCE

SHRINKAGE = 0.9
"""Coefficients that are over-fitted by 10 % at most."""

OPTIMISM = 0.05
"""Largest difference of apparent and adjusted R squared (Nagelkerke)."""

MARGIN = 0.05
"""Largest error of the overall risk, and mean absolute error of an individual's risk."""

EXPLAINED = 0.15
"""Share of the largest R squared (Cox-Snell) that is anticipated where nothing is known."""

NORMAL_QUANTILE = 1.96

POWER = 0.8


def list_criteria(
    prevalence: float, predictors: int, explained: float = EXPLAINED
) -> dict[str, int]:
    """Return Riley's criteria for the development of a regression of a binary outcome.

    They are those of regression; models with more flexibility need more patients.

    Parameters
    ----------
    prevalence
        Share of patients with the outcome, between 0 and 1.
    predictors
        Candidate parameters of the regression.
    explained
        Anticipated share of the largest Cox-Snell R squared.

    Returns
    -------
    Name -> patients needed for a precise ``overall`` risk, a small error of ``individual`` risks,
    little over-fitting (``shrinkage``), and a small ``optimism`` of R squared.

    References
    ----------
    R. Riley et al.: Minimum sample size for developing a multivariable prediction model: part II.
    Statistics in Medicine 38, 2019.
    R. Riley et al.: Calculating the sample size required for developing a clinical prediction
    model. BMJ 368, 2020, m441.
    """
    entropy = prevalence * math.log(prevalence) + (1 - prevalence) * math.log(1 - prevalence)
    largest = 1 - math.exp(2 * entropy)
    squared = explained * largest
    kept = squared / (squared + OPTIMISM * largest)
    individual = (
        -0.508 + 0.259 * math.log(prevalence) + 0.504 * math.log(predictors) - math.log(MARGIN)
    ) / 0.544
    sizes = {
        "overall": (NORMAL_QUANTILE / MARGIN) ** 2 * prevalence * (1 - prevalence),
        "individual": math.exp(individual),
        "shrinkage": predictors / ((SHRINKAGE - 1) * math.log(1 - squared / SHRINKAGE)),
        "optimism": predictors / ((kept - 1) * math.log(1 - squared / kept)),
    }
    return {name: math.ceil(size) for name, size in sizes.items()}


def count_patients_needed(prevalence: float, predictors: int) -> int:
    """Return Riley's minimum sample size: the largest of :func:`list_criteria`."""
    return max(list_criteria(prevalence, predictors).values())


def find_detectable_difference(
    error: float, units: int, power: float = POWER, confidence: float = CONFIDENCE
) -> float:
    """Return the true difference that the test of :mod:`.retraining` finds with some power.

    Parameters
    ----------
    error
        Standard error of the mean difference, as the test corrects it.
    units
        Folds of all splits that the test averages over; NaN is returned for fewer than two.
    """
    from scipy.special import nctdtrinc, stdtrit

    if units < 2 or not error >= 0:
        return float("nan")
    critical = float(stdtrit(units - 1, (1 + confidence) / 2))
    # The statistic is non-central t: below the critical value in 1 - power of all studies.
    return error * float(nctdtrinc(units - 1, 1 - power, critical))
