"""Gradient boosting on frozen features."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from annotated_types import Ge, MinLen

from prognobench.records import Estimator
from prognobench.registry import STRATEGIES
from prognobench.strategies.factories import ClassWeight, weight
from prognobench.strategies.settings import Positive, Rate


def _boosting(lr: float, trees: int, leaves: int, class_weight: ClassWeight, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        learning_rate=lr,
        max_iter=trees,
        max_leaf_nodes=leaves,
        class_weight=weight(class_weight),
        early_stopping=False,
        random_state=seed % 2**32,
    )


@STRATEGIES.register("gradient_boosting")
def gradient_boosting(
    *,
    learning_rates: Annotated[tuple[Rate, ...], MinLen(1)] = (0.03, 0.1),
    trees: Positive = 100,
    leaves: Annotated[int, Ge(2)] = 8,
    class_weight: ClassWeight = "balanced",
    layer: str = "",
) -> Estimator:
    """Boosted trees on histograms of frozen features, the rate chosen on validation."""
    candidates = {
        f"lr={lr:g}": partial(_boosting, lr, trees, leaves, class_weight) for lr in learning_rates
    }
    return Estimator("features", candidates, layer)
