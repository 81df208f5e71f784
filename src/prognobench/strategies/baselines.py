"""Baselines that look at no image."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from annotated_types import MinLen

from prognobench.records import Estimator
from prognobench.registry import STRATEGIES
from prognobench.strategies import factories
from prognobench.strategies.settings import PositiveNumber


def _prior(seed: int) -> Any:
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior")


@STRATEGIES.register("prior")
def prior() -> Estimator:
    """Predict the class frequencies of the training part for everybody."""
    return Estimator("none", {"prior": _prior})


@STRATEGIES.register("metadata")
def metadata(
    *,
    strengths: Annotated[tuple[PositiveNumber, ...], MinLen(1)] = (1e-2, 1e-1, 1.0, 10.0),
    class_weight: factories.ClassWeight = "balanced",
) -> Estimator:
    """Logistic regression on the cohort's covariates alone: what an image has to beat.

    Unknown values are filled with the training part's median, and marked.
    """
    candidates = {
        f"C={c:g}": partial(factories.covariate_logistic, c, class_weight) for c in strengths
    }
    return Estimator("covariates", candidates)
