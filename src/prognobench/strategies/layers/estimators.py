"""Classifiers that scikit-learn lacks in this form, with its interface."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

Rows = NDArray[np.float64]


class Decisions(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Scores from a classifier's decision function, by the logistic function or softmax.

    The order of the scores and the decision at 0.5 are the classifier's own; the scores are no
    calibrated probabilities.
    """

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier

    def fit(self, X: Rows, y: NDArray[np.int64]) -> Self:
        self.fitted_ = clone(self.classifier).fit(X, y)
        self.classes_ = self.fitted_.classes_
        return self

    def predict_proba(self, X: Rows) -> Rows:
        decisions = self.fitted_.decision_function(X)
        if decisions.ndim == 1:
            positive: Rows = expit(decisions)
            return np.column_stack([1 - positive, positive])
        scores: Rows = softmax(decisions, axis=1)
        return scores

    def predict(self, X: Rows) -> NDArray[np.int64]:
        predicted: NDArray[np.int64] = self.classes_[self.predict_proba(X).argmax(1)]
        return predicted


class LinearProbability(Decisions):
    """Ridge regression on targets of -1 and 1, read as a probability and clipped to [0, 1]."""

    def __init__(self, alpha: float = 1.0, class_weight: str | None = None) -> None:
        super().__init__(RidgeClassifier(alpha=alpha, class_weight=class_weight))
        self.alpha = alpha
        self.class_weight = class_weight

    def predict_proba(self, X: Rows) -> Rows:
        decisions = np.asarray(self.fitted_.decision_function(X))
        if decisions.ndim == 1:
            decisions = np.column_stack([-decisions, decisions])
        # Above 0, so that the scores of several classes never sum to 0.
        scores: Rows = np.clip((1 + decisions) / 2, 1e-6, 1)
        normalised: Rows = scores / scores.sum(1, keepdims=True)
        return normalised


class FewNeighbours(KNeighborsClassifier):  # type: ignore[misc]
    """Nearest neighbours, as many as there are where the training part has fewer."""

    def fit(self, X: Rows, y: NDArray[np.int64]) -> Self:
        self.set_params(n_neighbors=min(self.get_params()["n_neighbors"], len(X)))
        super().fit(X, y)
        return self


class SimpleShot(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Nearest class centre of centred features of length one (Wang et al. 2019).

    Scores are the softmax of negative squared distances times ``sharpness``.
    """

    def __init__(self, sharpness: float = 10.0, centre: bool = True) -> None:
        self.sharpness = sharpness
        self.centre = centre

    def _normalise(self, X: Rows) -> Rows:
        centred = X - self.mean_
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        unit: Rows = centred / np.maximum(length, 1e-12)
        return unit

    def fit(self, X: Rows, y: NDArray[np.int64]) -> Self:
        X = np.asarray(X, dtype=np.float64)
        self.mean_ = X.mean(0) if self.centre else np.zeros(X.shape[1])
        self.classes_ = np.unique(y)
        rows = self._normalise(X)
        self.centres_ = np.stack([rows[y == label].mean(0) for label in self.classes_])
        return self

    def predict_proba(self, X: Rows) -> Rows:
        rows = self._normalise(np.asarray(X, dtype=np.float64))
        squared = ((rows[:, None] - self.centres_) ** 2).sum(-1)
        scores: Rows = softmax(-self.sharpness * squared, axis=1)
        return scores

    def predict(self, X: Rows) -> NDArray[np.int64]:
        predicted: NDArray[np.int64] = self.classes_[self.predict_proba(X).argmax(1)]
        return predicted


class LateFusion(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Weighted mean of the log probabilities of two classifiers, normalised.

    Parameters
    ----------
    first, second
        On the features, and on the covariates, which are the last columns.
    share
        Weight of the first; the second has the rest.
    """

    def __init__(self, first: Any, second: Any, share: float) -> None:
        self.first = first
        self.second = second
        self.share = share

    def fit(self, X: Rows, y: NDArray[np.int64], covariates: int) -> Self:
        self.split_ = X.shape[1] - covariates
        self.first_ = clone(self.first).fit(X[:, : self.split_], y)
        self.second_ = clone(self.second).fit(X[:, self.split_ :], y)
        self.classes_ = self.first_.classes_
        return self

    def predict_proba(self, X: Rows) -> Rows:
        image = self.first_.predict_proba(X[:, : self.split_])
        other = self.second_.predict_proba(X[:, self.split_ :])
        tiny = np.finfo(float).tiny  # keeps the logarithm of 0 finite
        logs = self.share * np.log(image + tiny) + (1 - self.share) * np.log(other + tiny)
        scores: Rows = np.exp(logs - logs.max(1, keepdims=True))
        normalised: Rows = scores / scores.sum(1, keepdims=True)
        return normalised

    def predict(self, X: Rows) -> NDArray[np.int64]:
        predicted: NDArray[np.int64] = self.classes_[self.predict_proba(X).argmax(1)]
        return predicted
