"""How much the best of many choices is over-estimated, because it was selected on these folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from prognobench.analysis.statistics.resampling import Statistic, draw_weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prognobench.metrics.metric import Metric
    from prognobench.seeds import Axis

RESAMPLES = 500


@dataclass(frozen=True)
class Selected:
    """The best of several choices.

    Attributes
    ----------
    best
        Its place among the choices.
    value
        Its score, as it is.
    optimism
        By how much ``value`` is better than the score to expect of the best on new patients;
        never negative.
    """

    best: int
    value: float
    optimism: float


def estimate_optimism(
    choices: Sequence[Statistic],
    metric: Metric,
    strata: NDArray[np.intp],
    *,
    resamples: int = RESAMPLES,
    axes: Sequence[Axis] = (),
) -> Selected:
    """Correct the best of many by bootstrap (BBC-CV: Tsamardinos, Greasidou & Borboudakis 2018).

    In each resample of patients the best choice is selected on those drawn, and scored on those
    left out. Nothing is trained again. In simulations with 12 choices this came nearer to the
    truth than the correction of Tibshirani & Tibshirani (2009) and than selection on all other
    folds (``scripts/simulate-tests``).

    Parameters
    ----------
    choices
        For each choice, its score (one column) under weights of patients.
    strata
        ``(patients,)``, the class of each, in the order of the weights.
    axes
        Of the random numbers.

    References
    ----------
    I. Tsamardinos, E. Greasidou, G. Borboudakis: Bootstrapping the out-of-sample predictions for
    efficient and accurate cross-validation. Machine Learning 107, 2018.
    """
    drawn = draw_weights(strata, resamples, ("selection", *axes), stratified=False)
    everybody = np.ones((1, len(strata)))
    value, inside, outside = (
        np.stack([choice(weights)[:, 0] for choice in choices])
        for weights in (everybody, drawn, (drawn == 0).astype(np.float64))
    )
    as_it_is = metric.distance(value[:, 0])
    best = int(np.nanargmin(as_it_is))
    if len(choices) == 1:
        return Selected(0, float(value[0, 0]), 0.0)
    distance = np.where(np.isnan(inside), np.inf, metric.distance(inside))
    selected = distance.argmin(axis=0)
    honest = metric.distance(outside[selected, np.arange(resamples)])
    optimism = float(np.nanmean(honest)) - float(as_it_is[best])
    return Selected(best, float(value[best, 0]), max(0.0, optimism))
