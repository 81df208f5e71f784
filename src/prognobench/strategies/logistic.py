"""Logistic regression on frozen features."""

from __future__ import annotations

from typing import Annotated

from annotated_types import MinLen

from prognobench.records import Probe
from prognobench.registry import STRATEGIES
from prognobench.strategies.settings import PositiveNumber


@STRATEGIES.register("logistic")
def logistic(
    *,
    strengths: Annotated[tuple[PositiveNumber, ...], MinLen(1)] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10),
    layers: tuple[str, ...] = (),
    standardise: bool = True,
) -> Probe:
    """Logistic regression on frozen features, solved exactly; validation chooses the penalty.

    Classes are weighted as the loss says.

    Parameters
    ----------
    strengths
        Inverse L2 penalties C to choose from, as scikit-learn counts them.
    layers
        Features of the backbone to choose from; empty for the pooled one.
    standardise
        By the training part's means and deviations.
    """
    return Probe(layers=layers, standardise=standardise, strengths=strengths)
