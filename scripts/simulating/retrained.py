"""Many small cohorts at once: made features, stratified folds, logistic regressions retrained."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from prognobench.metrics.metric import find_metric
from prognobench.metrics.sample import Sample, decide

Floats = NDArray[np.float64]

FOLDS = 5
PARTS = (3, 1)
"""Parts of five for training and for testing; the fifth would choose an epoch, and is unused."""

TEST_SHARE = 1 / (FOLDS - 1)
"""Test patients per other patient: the validation part belongs to what a strategy learns from."""

RIDGE = 1.0
"""Penalty of the logistic regression, as scikit-learn's C=1."""


def make_labels(rng: np.random.Generator, cohorts: int, n: int, events: int) -> NDArray[np.intp]:
    """``(cohorts, n)``, each with the same number of events."""
    labels = np.zeros((cohorts, n), dtype=np.intp)
    labels[:, :events] = 1
    return rng.permuted(labels, axis=1)


def make_features(
    rng: np.random.Generator, labels: NDArray[np.intp], features: int, separation: Floats | float
) -> Floats:
    """``(..., n, features)``: normal, the classes ``separation`` standard deviations apart.

    The shift is shared equally by all features. ``separation`` is broadcast against the cohorts.
    """
    shift = np.asarray(separation)[..., None, None] / np.sqrt(features)
    return rng.normal(size=(*labels.shape, features)) + labels[..., None] * shift


def draw_folds(rng: np.random.Generator, labels: NDArray[np.intp]) -> NDArray[np.intp]:
    """``(cohorts, n)``: the fold that tests each patient, stratified by label, at random."""
    # Random order within a class, then dealt round; the second class goes on where the first ends.
    order = np.argsort(labels + rng.random(labels.shape), axis=-1)
    dealt = np.broadcast_to(np.arange(labels.shape[-1]) % FOLDS, labels.shape)
    folds = np.empty_like(labels)
    np.put_along_axis(folds, order, dealt, -1)
    return folds


def training_masks(folds: NDArray[np.intp]) -> NDArray[np.bool_]:
    """``(cohorts, folds, n)``: three of the four parts that a fold does not test."""
    later = (folds[:, None, :] - np.arange(FOLDS)[:, None]) % FOLDS
    return (later >= 1) & (later <= PARTS[0])


def test_masks(folds: NDArray[np.intp]) -> NDArray[np.bool_]:
    return np.asarray(folds[:, None, :] == np.arange(FOLDS)[:, None])


def fit(features: Floats, labels: NDArray[np.intp], weights: Floats, steps: int = 7) -> Floats:
    """Class-weighted ridge logistic regressions by Newton's method.

    Parameters
    ----------
    features
        ``(..., n, features)``.
    weights
        ``(..., n)``, 0 where a patient is not trained on.

    Returns
    -------
    ndarray
        ``(..., features + 1)``, the intercept last.
    """
    x = np.concatenate([features, np.ones((*features.shape[:-1], 1))], axis=-1)
    y = np.broadcast_to(labels, weights.shape)
    total, events = weights.sum(-1, keepdims=True), (weights * y).sum(-1, keepdims=True)
    share = np.where(y == 1, events, total - events)
    w = weights * total / (2 * np.maximum(share, 1e-9))
    penalty = np.full(x.shape[-1], RIDGE)
    penalty[-1] = 1e-6
    theta = np.zeros((*weights.shape[:-1], x.shape[-1]))
    for _ in range(steps):
        risk = 1 / (1 + np.exp(-np.clip((x @ theta[..., None])[..., 0], -30, 30)))
        gradient = ((w * (risk - y))[..., None, :] @ x)[..., 0, :] + penalty * theta
        curved = np.swapaxes(x * (w * risk * (1 - risk))[..., None], -1, -2) @ x
        curved += np.diag(penalty)
        theta = theta - np.linalg.solve(curved, gradient[..., None])[..., 0]
    return theta


def forecast(features: Floats, theta: Floats) -> Floats:
    """``(..., n)``: risks."""
    return 1 / (1 + np.exp(-((features @ theta[..., :-1, None])[..., 0] + theta[..., -1:])))


def score(name: str, labels: NDArray[np.intp], risks: Floats, weights: Floats) -> Floats:
    """A metric of many samples: ``(..., n)`` each -> ``(...)``."""
    shape = weights.shape
    flat = [
        np.broadcast_to(each, shape).reshape(-1, shape[-1]) for each in (labels, risks, weights)
    ]
    both = np.stack([1 - flat[1], flat[1]], axis=-1)
    cutoff = np.full(flat[1].shape, 0.5)
    sample = Sample(flat[0], both, decide(both, cutoff), flat[2].astype(float), cutoff)
    return find_metric(name)(sample).reshape(shape[:-1])


def cross_validate(
    rng: np.random.Generator, features: Floats, labels: NDArray[np.intp]
) -> tuple[Floats, NDArray[np.intp], Floats]:
    """Risks out of fold of every feature set.

    Parameters
    ----------
    features
        ``(sets, cohorts, n, features)``.

    Returns
    -------
    risks, folds, theta
        ``(sets, cohorts, n)``, ``(cohorts, n)``, ``(sets, cohorts, folds, features + 1)``.
    """
    folds = draw_folds(rng, labels)
    train, tested = training_masks(folds), test_masks(folds)
    weights = np.broadcast_to(train.astype(float), (len(features), *train.shape))
    theta = fit(features[:, :, None], labels[:, None], weights)
    risks = (forecast(features[:, :, None], theta) * tested).sum(axis=-2)
    return risks, folds, theta


def true_rates(theta: Floats, separation: Floats | float, cutoffs: Floats) -> tuple[Floats, Floats]:
    """Sensitivity and 1 - specificity on new patients at cutoffs of the linear predictor.

    A linear score of normal features is normal within a class, so both are exact.
    """
    w, intercept = theta[..., :-1], theta[..., -1]
    spread = np.linalg.norm(w, axis=-1)
    shift = w.sum(axis=-1) * separation / np.sqrt(w.shape[-1])
    return (
        ndtr((intercept + shift - cutoffs) / spread),
        ndtr((intercept - cutoffs) / spread),
    )


def true_mcc(theta: Floats, separation: Floats | float, prevalence: float) -> Floats:
    """MCC at risk 0.5 on new patients."""
    sensitivity, alarms = true_rates(theta, separation, np.zeros(theta.shape[:-1]))
    tp, fp = prevalence * sensitivity, (1 - prevalence) * alarms
    fn, tn = prevalence - tp, 1 - prevalence - fp
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    # A model that decides for one class only has no skill.
    return np.where(product > 0, (tp * tn - fp * fn) / np.sqrt(np.maximum(product, 1e-300)), 0.0)


def true_average_precision(
    theta: Floats, separation: Floats | float, prevalence: float, steps: int = 400
) -> Floats:
    """Average precision on new patients, by the trapezoid rule over cutoffs."""
    spread = np.linalg.norm(theta[..., :-1], axis=-1)
    centre = theta[..., -1]
    reach = np.linspace(9, -6, steps)  # from far above both classes to far below
    cutoffs = centre[..., None] + spread[..., None] * reach
    rates = [true_rates(theta, separation, cutoffs[..., step]) for step in range(steps)]
    recall, alarms = (np.stack(each, axis=-1) for each in zip(*rates, strict=True))
    tp, fp = prevalence * recall, (1 - prevalence) * alarms
    precision = np.where(tp + fp > 0, tp / np.maximum(tp + fp, 1e-300), 1.0)
    return np.asarray(
        ((precision[..., 1:] + precision[..., :-1]) / 2 * np.diff(recall, axis=-1)).sum(axis=-1)
    )
