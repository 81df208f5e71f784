"""Support vector machines on frozen features."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from annotated_types import MinLen

from prognobench.records import Estimator
from prognobench.registry import STRATEGIES
from prognobench.strategies.factories import ClassWeight, scaled, weight
from prognobench.strategies.settings import PositiveNumber


def _svm(strength: float, kernel: str, class_weight: ClassWeight, seed: int) -> Any:
    from sklearn.svm import SVC

    from prognobench.strategies.layers.estimators import Decisions

    return scaled(Decisions(SVC(C=strength, kernel=kernel, class_weight=weight(class_weight))))


@STRATEGIES.register("svm")
def svm(
    *,
    strengths: Annotated[tuple[PositiveNumber, ...], MinLen(1)] = (1e-2, 1e-1, 1.0, 10.0),
    kernel: Literal["rbf", "linear"] = "rbf",
    class_weight: ClassWeight = "balanced",
    layer: str = "",
) -> Estimator:
    """Support vector machine on frozen features, its C chosen on validation.

    Scores are the logistic function of the margin: in the machine's order, but not calibrated.
    """
    candidates = {f"C={c:g}": partial(_svm, c, kernel, class_weight) for c in strengths}
    return Estimator("features", candidates, layer)
