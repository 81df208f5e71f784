"""From settings and a seed to an unfitted scikit-learn classifier; all picklable as partials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

ClassWeight = Literal["balanced", "none"]


def weight(choice: ClassWeight) -> str | None:
    """Return scikit-learn's word for a choice of class weights."""
    return None if choice == "none" else choice


def scaled(classifier: Any, standardise: bool = True) -> Pipeline:
    """Put a classifier behind standardisation, by the training part's mean and deviation."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = [StandardScaler()] if standardise else []
    return make_pipeline(*steps, classifier)


def filled(classifier: Any) -> Pipeline:
    """Put a classifier behind imputation by medians, with a column for each that had gaps."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    return make_pipeline(imputer, classifier)


def logistic(strength: float, class_weight: ClassWeight, standardise: bool, seed: int) -> Pipeline:
    """Logistic regression with an L2 penalty of ``1 / strength``."""
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(
        C=strength, class_weight=weight(class_weight), max_iter=5000, random_state=seed % 2**32
    )
    return scaled(classifier, standardise)


def covariate_logistic(strength: float, class_weight: ClassWeight, seed: int) -> Pipeline:
    """Logistic regression on covariates, some of them unknown."""
    return filled(logistic(strength, class_weight, True, seed))
