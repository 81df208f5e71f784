"""Is one strategy better than another when both are trained again? A test over folds and seeds.

Tests that resample patients hold the trained models fixed, so they ignore what training on other
patients would change; with 100 patients they reject 10 to 17 % of true nulls at a nominal 5 %
(``scripts/simulate-tests``). Here a unit is a fold: both strategies are trained for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.statistics.paired_tests import (
    CONFIDENCE,
    Belief,
    Difference,
    bayesian_t,
    corrected_t,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prognobench.metrics.metric import Metric


def average_trainings(differences: NDArray[np.float64], units: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean difference of each unit; NaN is left out.

    Parameters
    ----------
    differences
        ``(trainings,)``, first minus second.
    units
        ``(trainings,)`` or ``(trainings, names)``: the split, repetition and fold of each.
    """
    known = ~np.isnan(differences)
    _, place = np.unique(units[known], axis=0, return_inverse=True)
    place = place.ravel()
    return np.bincount(place, differences[known]) / np.bincount(place)


def scale_share(share: float, metric: Metric, splits: int) -> float:
    """Return the share of test patients that a metric's test assumes.

    Patients that several splits test in common are not all that their scores share: the training
    parts overlap as well. Most metrics have noise of their own in each fold that makes up for it;
    ROC-AUC has less (:attr:`.Metric.overlap`). The folds of one split test no patient in common.
    """
    return share * (metric.overlap if splits > 1 else 1.0)


def compare_retrained(
    differences: NDArray[np.float64],
    units: NDArray[Any],
    test_share: float,
    confidence: float = CONFIDENCE,
) -> Difference:
    """Test two strategies over all seeds, repetitions and folds in one analysis.

    The model is mixed: ``difference = mean + unit + training``. A unit is one fold of one split.
    Trainings that share a unit share its patients, so they are averaged; where every unit has as
    many, that is the restricted-likelihood test of the mean. Any two units have the correlation
    ``test patients / patients``, which Nadeau & Bengio (2003) give for one split and Bouckaert &
    Frank (2004) carry over to repeated ones: patients that two splits test in common are that
    share. Under this model the t-distribution with ``units - 1`` degrees of freedom is exact.

    With one seed this is :func:`.paired_tests.corrected_t`. Simulated, it rejects 3 to 6 % of true
    nulls with five seeds and 2 to 4 % with one, whose folds test no patient in common.

    Parameters
    ----------
    differences
        ``(trainings,)``, first minus second; NaN is left out.
    units
        ``(trainings,)`` or ``(trainings, names)``: what names the split, repetition and fold.
    test_share
        Test patients per other patient of a fold: :func:`.share_tested`, by :func:`scale_share`.

    References
    ----------
    C. Nadeau, Y. Bengio: Inference for the generalization error. Machine Learning 52, 2003.
    R. Bouckaert, E. Frank: Evaluating the replicability of significance tests for comparing
    learning algorithms. PAKDD 2004.
    X. Bouthillier et al.: Accounting for variance in machine learning benchmarks. MLSys 2021.
    H. Schulz-Kümpel et al.: Constructing confidence intervals for the generalization error.
    arXiv 2409.18836, 2024 (recommends the corrected t for small samples).
    """
    return corrected_t(average_trainings(differences, units), test_share, confidence)


def weigh_retrained(
    differences: NDArray[np.float64], units: NDArray[Any], test_share: float, rope: float
) -> Belief:
    """Return the Bayesian form of :func:`compare_retrained` (Corani & Benavoli 2015), by baycomp.

    Differences are first minus second, of a score of which more is better.

    Its prior is flat, so its 95 % interval is the interval of :func:`compare_retrained`.

    Raises
    ------
    MissingExtraError
        Without baycomp.
    """
    return bayesian_t(-average_trainings(differences, units), test_share, rope)
