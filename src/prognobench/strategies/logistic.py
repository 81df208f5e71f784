"""Logistic regression on frozen features."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from annotated_types import MinLen

from prognobench.records import Estimator
from prognobench.registry import STRATEGIES
from prognobench.strategies import factories
from prognobench.strategies.settings import PositiveNumber


@STRATEGIES.register("logistic")
def logistic(
    *,
    strengths: Annotated[tuple[PositiveNumber, ...], MinLen(1)] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10),
    class_weight: factories.ClassWeight = "balanced",
    standardise: bool = True,
    tap: str = "",
) -> Estimator:
    """Logistic regression on frozen features, its penalty chosen on validation.

    Parameters
    ----------
    strengths
        Inverse penalties C to choose from.
    tap
        Which of the backbone's features; empty for the pooled one.
    """
    candidates = {
        f"C={c:g}": partial(factories.logistic, c, class_weight, standardise) for c in strengths
    }
    return Estimator("features", candidates, tap)
