"""Linear heads on the features of a frozen backbone."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, MinLen

from prognobench.records import Probe
from prognobench.registry import STRATEGIES
from prognobench.strategies.settings import Count, Fraction, PositiveNumber, Rate


@STRATEGIES.register("linear_probe")
def linear_probe(
    *,
    layers: tuple[str, ...] = ("last1", "last4", "last1+avg", "last4+avg"),
    learning_rates: Annotated[tuple[Rate, ...], MinLen(1)] = (1e-2, 1e-3, 1e-4),
    weight_decays: Annotated[tuple[Annotated[float, Ge(0)], ...], MinLen(1)] = (0.0,),
    standardise: bool = False,
    dropout: Fraction = 0.0,
    views: Count = 0,
) -> Probe:
    """Train linear heads on the frozen backbone's features; validation chooses the best.

    The grid of layers and learning rates is that of DINOv2's linear evaluation (Oquab et al. 2023).
    All heads train in one pass.

    Parameters
    ----------
    layers
        Feature layers of the backbone to choose from; those that it lacks are left out.
    learning_rates, weight_decays
        To choose from: there is one head per layer, rate and decay.
    standardise
        By the training part's means and deviations.
    dropout
        On the features.
    views
        Augmented views of each training image, beside the plain one.
    """
    return Probe(
        layers=layers,
        learning_rates=learning_rates,
        weight_decays=weight_decays,
        standardise=standardise,
        dropout=dropout,
        views=views,
    )


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
        Inverse L2 penalties C to choose from, as in scikit-learn.
    layers
        Feature layers of the backbone to choose from; empty for the pooled feature.
    standardise
        By the training part's means and deviations.
    """
    return Probe(layers=layers, standardise=standardise, strengths=strengths)
