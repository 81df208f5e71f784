"""Ridge regression on frozen features."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from annotated_types import MinLen

from prognobench.records import Estimator
from prognobench.registry import STRATEGIES
from prognobench.strategies.factories import ClassWeight, scaled, weight
from prognobench.strategies.settings import PositiveNumber


def _ridge(alpha: float, class_weight: ClassWeight, seed: int) -> Any:
    from prognobench.strategies.layers.estimators import LinearProbability

    return scaled(LinearProbability(alpha, weight(class_weight)))


@STRATEGIES.register("ridge")
def ridge(
    *,
    penalties: Annotated[tuple[PositiveNumber, ...], MinLen(1)] = (1.0, 10.0, 100.0, 1e3, 1e4),
    class_weight: ClassWeight = "balanced",
    layer: str = "",
) -> Estimator:
    """Least squares on the classes with an L2 penalty, chosen on validation (frozen features)."""
    candidates = {f"alpha={a:g}": partial(_ridge, a, class_weight) for a in penalties}
    return Estimator("features", candidates, layer)
