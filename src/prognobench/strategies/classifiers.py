"""Classical classifiers of scikit-learn on frozen features.

Each builder returns an Estimator: labels and functions from a seed to an unfitted classifier, of
which validation chooses one. The functions are partials of the functions here, since a partial can
be pickled and sent to another process.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, MinLen

from prognobench.errors import ConfigError
from prognobench.records import Estimator
from prognobench.registry import STRATEGIES, near
from prognobench.strategies.settings import ClassWeight, Positive, PositiveNumber, Rate

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


def class_weight_of(choice: ClassWeight) -> str | None:
    """Return scikit-learn's argument for a choice of class weights."""
    return None if choice == "none" else choice


def undoing(
    choice: ClassWeight, weighted: Literal["exact", "inexact"]
) -> Literal["none", "exact", "inexact"]:
    """Return how the probabilities of an estimator with this choice can be undone."""
    return "none" if choice == "none" else weighted


def random_state(seed: int) -> int:
    """Return the part of a seed that fits the 32 bits of scikit-learn's random states."""
    return seed % 2**32


def standardised(classifier: Any, standardise: bool = True) -> Pipeline:
    """Put a classifier behind standardisation, by the training part's mean and deviation."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = [StandardScaler()] if standardise else []
    return make_pipeline(*steps, classifier)


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
    """Vote of the nearest training images on frozen features; validation chooses their number.

    A weighted vote on cosine distances is the protocol of Wu et al. (2018) and DINO.

    Parameters
    ----------
    weights
        ``distance`` weights a neighbour by the inverse of its distance.
    """
    candidates = {f"k={k}": partial(_knn, k, metric, weights) for k in neighbours}
    return Estimator("features", candidates, layer)


def _simple_shot(sharpness: float, centre: bool, seed: int) -> Any:
    from prognobench.strategies.layers.estimators import SimpleShot

    return SimpleShot(sharpness=sharpness, centre=centre)


@STRATEGIES.register("nearest_centroid")
def nearest_centroid(
    *, sharpness: PositiveNumber = 10.0, centre: bool = True, layer: str = ""
) -> Estimator:
    """Nearest class centre of centred, normalised features: SimpleShot (Wang et al. 2019).

    Parameters
    ----------
    sharpness
        Factor of the softmax that turns distances into scores. With two classes it changes no
        order of the scores.
    centre
        Subtract the training part's mean before normalising.
    """
    return Estimator("features", {"centres": partial(_simple_shot, sharpness, centre)}, layer)


def _svm(strength: float, kernel: str, class_weight: ClassWeight, seed: int) -> Any:
    from sklearn.svm import SVC

    from prognobench.strategies.layers.estimators import Decisions

    machine = SVC(C=strength, kernel=kernel, class_weight=class_weight_of(class_weight))
    return standardised(Decisions(machine))


@STRATEGIES.register("svm")
def svm(
    *,
    strengths: Annotated[tuple[PositiveNumber, ...], MinLen(1)] = (1e-2, 1e-1, 1.0, 10.0),
    kernel: Literal["rbf", "linear"] = "rbf",
    class_weight: ClassWeight = "balanced",
    layer: str = "",
) -> Estimator:
    """Support vector machine on frozen features (Cortes and Vapnik 1995); validation chooses C.

    Scores are the logistic function of the margin: in the machine's order, but not calibrated.
    """
    candidates = {f"C={c:g}": partial(_svm, c, kernel, class_weight) for c in strengths}
    return Estimator("features", candidates, layer, undoing(class_weight, "inexact"))


def _ridge(alpha: float, class_weight: ClassWeight, seed: int) -> Any:
    from prognobench.strategies.layers.estimators import LinearProbability

    return standardised(LinearProbability(alpha, class_weight_of(class_weight)))


@STRATEGIES.register("ridge")
def ridge(
    *,
    penalties: Annotated[tuple[PositiveNumber, ...], MinLen(1)] = (1.0, 10.0, 100.0, 1e3, 1e4),
    class_weight: ClassWeight = "balanced",
    layer: str = "",
) -> Estimator:
    """Least squares on the classes with an L2 penalty (frozen features); validation chooses it."""
    candidates = {f"alpha={a:g}": partial(_ridge, a, class_weight) for a in penalties}
    return Estimator("features", candidates, layer, undoing(class_weight, "inexact"))


def _forest(trees: int, leaf: int, class_weight: ClassWeight, seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(
        n_estimators=trees,
        min_samples_leaf=leaf,
        class_weight=class_weight_of(class_weight),
        random_state=random_state(seed),
    )


@STRATEGIES.register("random_forest")
def random_forest(
    *,
    trees: Positive = 300,
    leaves: Annotated[tuple[Positive, ...], MinLen(1)] = (1, 3, 10),
    class_weight: ClassWeight = "balanced",
    layer: str = "",
) -> Estimator:
    """Random forest on frozen features (Breiman 2001); validation chooses the size of its leaves.

    Parameters
    ----------
    leaves
        Smallest numbers of images in a leaf to choose from.
    """
    candidates = {f"leaf={n}": partial(_forest, trees, n, class_weight) for n in leaves}
    # Weights are undone in each leaf; the mean over trees has no single shift.
    return Estimator("features", candidates, layer, undoing(class_weight, "inexact"))


def _boosting(lr: float, trees: int, leaves: int, class_weight: ClassWeight, seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        learning_rate=lr,
        max_iter=trees,
        max_leaf_nodes=leaves,
        class_weight=class_weight_of(class_weight),
        # Its own early stopping would split the training part by images, not by patients.
        early_stopping=False,
        random_state=random_state(seed),
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
    """Boosted trees on histograms of frozen features (Ke et al. 2017); validation chooses the rate.

    Parameters
    ----------
    leaves
        Most leaves of a tree.
    """
    candidates = {
        f"lr={lr:g}": partial(_boosting, lr, trees, leaves, class_weight) for lr in learning_rates
    }
    return Estimator("features", candidates, layer, undoing(class_weight, "exact"))


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
"""What ``strategy=sklearn`` accepts; a name in a config must not import anything else."""

Value = bool | int | float | str | None

SKLEARN_MODULES: Mapping[str, str] = {
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
"""Classifier -> the module of scikit-learn that holds it."""


def _import_classifier(name: str) -> Any:
    return getattr(importlib.import_module(f"sklearn.{SKLEARN_MODULES[name]}"), name)


def _sklearn(classifier: str, parameters: Mapping[str, Value], standardise: bool, seed: int) -> Any:
    from prognobench.strategies.layers.estimators import Decisions

    unfitted = _import_classifier(classifier)(**parameters)
    if "random_state" in unfitted.get_params():
        unfitted.set_params(random_state=random_state(seed))
    has_probabilities = hasattr(unfitted, "predict_proba")
    return standardised(unfitted if has_probabilities else Decisions(unfitted), standardise)


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
    known = _import_classifier(classifier)().get_params()
    chosen = dict(parameters or {})
    faults = [
        f"strategy.parameters: {classifier} has no {name!r}{near(name, known)}"
        for name in chosen
        if name not in known
    ]
    if faults:
        raise ConfigError(faults)
    make = partial(_sklearn, classifier, chosen, standardise)
    exact = classifier == "LogisticRegression" and chosen.get("class_weight") == "balanced"
    weighted: Literal["exact", "inexact"] = "exact" if exact else "inexact"
    weights = undoing("balanced" if chosen.get("class_weight") else "none", weighted)
    return Estimator("features", {classifier: make}, layer, weights)
