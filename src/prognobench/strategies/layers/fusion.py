"""Two classifiers on two parts of the columns."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone

Rows = NDArray[np.float64]


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
        tiny = np.finfo(float).tiny
        logs = self.share * np.log(image + tiny) + (1 - self.share) * np.log(other + tiny)
        scores: Rows = np.exp(logs - logs.max(1, keepdims=True))
        normalised: Rows = scores / scores.sum(1, keepdims=True)
        return normalised

    def predict(self, X: Rows) -> NDArray[np.int64]:
        predicted: NDArray[np.int64] = self.classes_[self.predict_proba(X).argmax(1)]
        return predicted
