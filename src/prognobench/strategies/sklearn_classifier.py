"""Any of a list of scikit-learn's classifiers, by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from prognobench.errors import ConfigError
from prognobench.records import Estimator
from prognobench.registry import STRATEGIES, near
from prognobench.strategies.factories import scaled

Classifier = Literal[
    "AdaBoostClassifier",
    "BernoulliNB",
    "DecisionTreeClassifier",
    "ExtraTreesClassifier",
    "GaussianNB",
    "GaussianProcessClassifier",
    "KNeighborsClassifier",
    "LinearDiscriminantAnalysis",
    "LinearSVC",
    "LogisticRegression",
    "MLPClassifier",
    "QuadraticDiscriminantAnalysis",
    "RandomForestClassifier",
    "RidgeClassifier",
    "SGDClassifier",
    "SVC",
]
Value = bool | int | float | str | None

HOMES: Mapping[str, str] = {
    "AdaBoostClassifier": "ensemble",
    "BernoulliNB": "naive_bayes",
    "DecisionTreeClassifier": "tree",
    "ExtraTreesClassifier": "ensemble",
    "GaussianNB": "naive_bayes",
    "GaussianProcessClassifier": "gaussian_process",
    "KNeighborsClassifier": "neighbors",
    "LinearDiscriminantAnalysis": "discriminant_analysis",
    "LinearSVC": "svm",
    "LogisticRegression": "linear_model",
    "MLPClassifier": "neural_network",
    "QuadraticDiscriminantAnalysis": "discriminant_analysis",
    "RandomForestClassifier": "ensemble",
    "RidgeClassifier": "linear_model",
    "SGDClassifier": "linear_model",
    "SVC": "svm",
}


def _make(classifier: str, parameters: Mapping[str, Value], standardise: bool, seed: int) -> Any:
    from prognobench.strategies.layers.estimators import Decisions

    kind = getattr(importlib.import_module(f"sklearn.{HOMES[classifier]}"), classifier)
    made = kind(**parameters)
    if "random_state" in made.get_params():
        made.set_params(random_state=seed % 2**32)
    has_scores = hasattr(made, "predict_proba")
    return scaled(made if has_scores else Decisions(made), standardise)


@STRATEGIES.register("sklearn")
def sklearn(
    *,
    classifier: Classifier,
    parameters: Mapping[str, Value] | None = None,
    standardise: bool = True,
    layer: str = "",
) -> Estimator:
    """Fit a classifier of scikit-learn on frozen features.

    One without probabilities is scored by the logistic function (softmax) of its decisions.

    Parameters
    ----------
    parameters
        Of the classifier, as scikit-learn names them; the random state is the run's.

    Raises
    ------
    ConfigError
        If the classifier has no such parameter.
    """
    kind = getattr(importlib.import_module(f"sklearn.{HOMES[classifier]}"), classifier)
    known, chosen = kind().get_params(), dict(parameters or {})
    faults = [
        f"strategy.parameters: {classifier} has no {name!r}{near(name, known)}"
        for name in chosen
        if name not in known
    ]
    if faults:
        raise ConfigError(faults)
    make = partial(_make, classifier, chosen, standardise)
    return Estimator("features", {classifier: make}, layer)
