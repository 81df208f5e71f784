"""Classifiers on frozen features, and the baselines that look at no image."""

from __future__ import annotations

import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest

from prognobench.cli.compose import compose
from prognobench.cli.config_files import options
from prognobench.errors import ConfigError
from prognobench.records import Component, Estimator, Probe
from prognobench.registry import STRATEGIES
from prognobench.strategies.classifiers import SKLEARN_MODULES

COVARIATES = 3


@cache
def choices() -> dict[str, Component]:
    configs = compose([f"strategy={','.join(options('strategy'))}"], multirun=True)
    found = {c.strategy.name: c.strategy for c in configs}
    # Fewer trees, which show the same.
    found["random_forest"].settings["trees"] = 20
    found["gradient_boosting"].settings["trees"] = 20
    return {n: c for n, c in found.items() if STRATEGIES[c.builder].produces == "Estimator"}


def rows(size: int = 60, classes: int = 2, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Features of which the first tells the class, and the class."""
    random = np.random.default_rng(0)
    y = np.arange(size) % classes
    X = random.normal(size=(size, width))
    X[:, 0] += 4 * y
    X[:, -1] += 4 * y
    return X, y


def fit(estimator: Estimator, candidate: str, X: np.ndarray, y: np.ndarray) -> Any:
    classifier = estimator.candidates[candidate](2**60 + 1)
    extra = {"covariates": COVARIATES} if estimator.inputs == "both" else {}
    return classifier.fit(X, y, **extra)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", list(choices()))
def test_every_candidate_gives_probabilities(name: str, classes: int) -> None:
    choice = choices()[name]
    estimator: Estimator = STRATEGIES[choice.builder](**choice.settings)
    assert len(estimator.candidates) >= 1
    X, y = rows(classes=classes)
    for candidate in (min(estimator.candidates), max(estimator.candidates)):
        pickled = pickle.loads(pickle.dumps(estimator.candidates[candidate]))  # noqa: S301
        assert type(pickled(1)) is type(estimator.candidates[candidate](1))
        fitted = fit(estimator, candidate, X, y)
        scores = fitted.predict_proba(X)
        assert scores.shape == (len(X), classes)
        assert np.isfinite(scores).all()
        np.testing.assert_allclose(scores.sum(1), 1)
        again = fit(estimator, candidate, X, y).predict_proba(X)
        np.testing.assert_array_equal(again, scores)
        if estimator.inputs != "none" and classes == 2:
            assert (scores.argmax(1) == y).mean() > 0.85


@pytest.mark.parametrize("name", list(choices()))
def test_four_images_are_enough(name: str) -> None:
    choice = choices()[name]
    estimator: Estimator = STRATEGIES[choice.builder](**choice.settings)
    X, y = rows(4)
    for candidate in estimator.candidates:
        assert np.isfinite(fit(estimator, candidate, X, y).predict_proba(X)).all()


def test_unknown_covariates_are_filled() -> None:
    X, y = rows()
    X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    X[:, 1] = np.nan
    for name in ("metadata", "covariates_image"):
        estimator: Estimator = STRATEGIES[name]()
        if estimator.inputs == "both":
            X[:, :-COVARIATES] = np.nan_to_num(X[:, :-COVARIATES])
        fitted = fit(estimator, next(iter(estimator.candidates)), X, y)
        assert np.isfinite(fitted.predict_proba(X)).all()


def test_prior_is_the_class_frequency() -> None:
    estimator: Estimator = STRATEGIES["prior"]()
    y = np.array([0, 0, 0, 1])
    fitted = fit(estimator, "prior", np.zeros((4, 1)), y)
    np.testing.assert_allclose(fitted.predict_proba(np.zeros((2, 1))), [[0.75, 0.25]] * 2)


def test_simple_shot_is_the_nearest_centre_of_normalised_features() -> None:
    X, y = rows(classes=3)
    estimator: Estimator = STRATEGIES["nearest_centroid"](sharpness=3.0)
    fitted = fit(estimator, "centres", X, y)
    Z = X - X.mean(0)
    Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    centres = np.stack([Z[y == label].mean(0) for label in range(3)])
    distances = np.linalg.norm(Z[:, None] - centres, axis=-1)
    np.testing.assert_array_equal(fitted.predict(X), distances.argmin(1))
    ratio = np.exp(-3 * (distances[:, 0] ** 2 - distances[:, 1] ** 2))
    scores = fitted.predict_proba(X)
    np.testing.assert_allclose(scores[:, 0] / scores[:, 1], ratio)


def test_ridge_scores_are_the_linear_fit() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    X, y = rows()
    estimator: Estimator = STRATEGIES["ridge"](penalties=(50.0,), class_weight="none")
    scores = fit(estimator, "alpha=50", X, y).predict_proba(X)[:, 1]
    Z = StandardScaler().fit_transform(X)
    expected = Ridge(alpha=50).fit(Z, y).predict(Z)
    inside = (expected > 0.01) & (expected < 0.99)
    assert inside.sum() > 20
    np.testing.assert_allclose(scores[inside], expected[inside], atol=1e-6)


def test_svm_scores_keep_the_machines_order_and_decision() -> None:
    X, y = rows()
    estimator: Estimator = STRATEGIES["svm"](strengths=(0.1,), kernel="linear")
    fitted = fit(estimator, "C=0.1", X, y)
    decisions = fitted[-1].fitted_.decision_function(fitted[:-1].transform(X))
    scores = fitted.predict_proba(X)[:, 1]
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(decisions))
    np.testing.assert_array_equal(scores > 0.5, decisions > 0)


def test_fusion_with_all_weight_on_the_image_is_the_image_alone() -> None:
    X, y = rows()
    fusion: Estimator = STRATEGIES["covariates_image"](shares=(0.0, 1.0), strengths=(0.1,))
    settings = {"C": 0.1, "class_weight": "balanced"}
    image: Estimator = STRATEGIES["sklearn"](classifier="LogisticRegression", parameters=settings)
    features = X[:, :-COVARIATES]
    alone = fit(image, "LogisticRegression", features, y).predict_proba(features)
    fused = fit(fusion, "image=1, C=0.1", X, y).predict_proba(X)
    np.testing.assert_allclose(fused, alone, rtol=1e-3)
    other: Estimator = STRATEGIES["metadata"](strengths=(1.0,))
    covariates = X[:, -COVARIATES:]
    without = fit(fusion, "image=0, C=0.1", X, y).predict_proba(X)
    expected = fit(other, "C=1", covariates, y).predict_proba(covariates)
    np.testing.assert_allclose(without, expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_listed_classifier_can_be_named() -> None:
    names = f"strategy.classifier={','.join(SKLEARN_MODULES)}"
    X, y = rows(60, width=4)
    for config in compose(["strategy=sklearn", names], multirun=True):
        estimator: Estimator = STRATEGIES["sklearn"](**config.strategy.settings)
        (candidate,) = estimator.candidates
        scores = fit(estimator, candidate, X, y).predict_proba(X)
        assert (scores.argmax(1) == y).mean() > 0.85


def test_other_classifiers_and_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.classifier"):
        compose(["strategy=sklearn", "strategy.classifier=os.system"])
    with pytest.raises(ConfigError, match="Did you mean 'n_neighbors'"):
        STRATEGIES["sklearn"](classifier="KNeighborsClassifier", parameters={"n_neighbor": 3})
    estimator: Estimator = STRATEGIES["sklearn"](
        classifier="KNeighborsClassifier", parameters={"n_neighbors": 3}
    )
    (make,) = estimator.candidates.values()
    assert make(0)[-1].n_neighbors == 3


def test_the_linear_probe_is_the_studys_grid() -> None:
    (config,) = compose(["strategy=linear_probe"])
    probe: Probe = STRATEGIES["linear_probe"](**config.strategy.settings)
    assert probe.layers == ("last1", "last4", "last1+avg", "last4+avg")
    assert probe.learning_rates == (1e-2, 1e-3, 1e-4)
    with pytest.raises(ConfigError, match="learning_rates"):
        compose(["strategy=linear_probe", "strategy.learning_rates=[0]"])


def test_logistic_regression_is_a_probe_with_a_path_of_penalties() -> None:
    (config,) = compose(["strategy=logistic", "strategy.strengths=[0.1,1]"])
    probe: Probe = STRATEGIES["logistic"](**config.strategy.settings)
    assert probe.strengths == (0.1, 1.0)
    assert probe.standardise
    with pytest.raises(ConfigError, match="strengths"):
        compose(["strategy=logistic", "strategy.strengths=[]"])
