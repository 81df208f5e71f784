"""Nearest neighbours on frozen features."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from prognobench.records import Estimator
from prognobench.registry import STRATEGIES
from prognobench.strategies.settings import Positive


def _knn(neighbours: int, metric: str, weights: str, seed: int) -> Any:
    from prognobench.strategies.layers.estimators import FewNeighbours

    return FewNeighbours(n_neighbors=neighbours, metric=metric, weights=weights)


@STRATEGIES.register("knn")
def knn(
    *,
    neighbours: Annotated[tuple[Positive, ...], MinLen(1)] = (1, 3, 5, 10, 20),
    metric: Literal["cosine", "euclidean"] = "cosine",
    weights: Literal["distance", "uniform"] = "distance",
    layer: str = "",
) -> Estimator:
    """Vote of the nearest training images on frozen features, their number chosen on validation."""
    candidates = {f"k={k}": partial(_knn, k, metric, weights) for k in neighbours}
    return Estimator("features", candidates, layer)
