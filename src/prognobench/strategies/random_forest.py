"""Random forests on frozen features."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from annotated_types import MinLen

from prognobench.records import Estimator
from prognobench.registry import STRATEGIES
from prognobench.strategies.factories import ClassWeight, weight
from prognobench.strategies.settings import Positive


def _forest(trees: int, leaf: int, class_weight: ClassWeight, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(
        n_estimators=trees,
        min_samples_leaf=leaf,
        class_weight=weight(class_weight),
        random_state=seed % 2**32,
    )


@STRATEGIES.register("random_forest")
def random_forest(
    *,
    trees: Positive = 300,
    leaves: Annotated[tuple[Positive, ...], MinLen(1)] = (1, 3, 10),
    class_weight: ClassWeight = "balanced",
    layer: str = "",
) -> Estimator:
    """Random forest on frozen features; the size of its leaves is chosen on validation."""
    candidates = {f"leaf={n}": partial(_forest, trees, n, class_weight) for n in leaves}
    return Estimator("features", candidates, layer)
