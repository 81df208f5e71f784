"""Linear probing."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, MinLen

from prognobench.records import Probe
from prognobench.registry import STRATEGIES
from prognobench.strategies.settings import Count, Fraction, Rate


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

    The grid of layers and learning rates is that of DINOv2's linear evaluation (Oquab et al. 2023),
    all heads trained in one pass.
    """
    return Probe(
        layers=layers,
        learning_rates=learning_rates,
        weight_decays=weight_decays,
        standardise=standardise,
        dropout=dropout,
        views=views,
    )
