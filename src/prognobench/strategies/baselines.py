"""What an image has to beat: no input at all, covariates alone, and covariates beside the image."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le, MinLen

from prognobench.records import Estimator
from prognobench.registry import STRATEGIES
from prognobench.strategies.classifiers import class_weight_of, random_state, standardised, undoing
from prognobench.strategies.settings import ClassWeight, PositiveNumber

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

Share = Annotated[float, Ge(0), Le(1)]


def _prior(seed: int) -> Any:
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior")


@STRATEGIES.register("prior")
def prior() -> Estimator:
    """Predict the class frequencies of the training part for everybody."""
    return Estimator("none", {"prior": _prior})


def _logistic(strength: float, class_weight: ClassWeight, seed: int) -> Pipeline:
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(
        C=strength,
        class_weight=class_weight_of(class_weight),
        max_iter=5000,
        random_state=random_state(seed),
    )
    return standardised(classifier)


def _covariate_logistic(strength: float, class_weight: ClassWeight, seed: int) -> Pipeline:
    """Logistic regression that fills gaps with medians, and adds a column that marks them."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    # A covariate that is unknown throughout a training part keeps its column, so that every fold
    # has the same columns.
    imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    return make_pipeline(imputer, _logistic(strength, class_weight, seed))


@STRATEGIES.register("metadata", joins_sweeps=True)
def metadata(
    *,
    strengths: Annotated[tuple[PositiveNumber, ...], MinLen(1)] = (1e-2, 1e-1, 1.0, 10.0),
    class_weight: ClassWeight = "balanced",
) -> Estimator:
    """Logistic regression on the cohort's covariates alone: what an image has to beat.

    Unknown values are filled with the training part's median, and marked.

    Parameters
    ----------
    strengths
        Inverse L2 penalties C to choose from.
    """
    candidates = {f"C={c:g}": partial(_covariate_logistic, c, class_weight) for c in strengths}
    return Estimator("covariates", candidates, weights=undoing(class_weight, "exact"))


def _fusion(share: float, strength: float, class_weight: ClassWeight, seed: int) -> Any:
    from prognobench.strategies.layers.estimators import LateFusion

    return LateFusion(
        _logistic(strength, class_weight, seed),
        _covariate_logistic(1.0, class_weight, seed),
        share,
    )


@STRATEGIES.register("covariates_image")
def covariates_image(
    *,
    shares: Annotated[tuple[Share, ...], MinLen(1)] = (0.25, 0.5, 0.75, 1.0),
    strengths: Annotated[tuple[PositiveNumber, ...], MinLen(1)] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    class_weight: ClassWeight = "balanced",
    layer: str = "",
) -> Estimator:
    """Average two logistic regressions, on frozen features and on covariates (late fusion).

    Each is fitted on the training part by itself. A fusion that was fitted on the image's scores
    of the same patients would trust them too much, because they are over-fitted there.

    Parameters
    ----------
    shares
        Weights of the image's log probabilities to choose from.
    strengths
        Inverse L2 penalties C of the image's regression to choose from.
    """
    candidates = {
        f"image={share:g}, C={c:g}": partial(_fusion, share, c, class_weight)
        for share in shares
        for c in strengths
    }
    # Both regressions are shifted alike, and so is a mean of their log probabilities.
    return Estimator("both", candidates, layer, undoing(class_weight, "exact"))
