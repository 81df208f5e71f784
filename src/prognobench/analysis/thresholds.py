"""From probabilities to decisions: scaling and thresholds, fitted on validation alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from prognobench.errors import ConfigError
from prognobench.metrics.probability import LOGIT_CLIP, fit_logistic, logit

if TYPE_CHECKING:
    from numpy.typing import NDArray

Scaling = Literal["none", "temperature", "platt"]

NO_THRESHOLD, HALF, VALIDATION, SENSITIVITY = "none", "0.5", "validation", "sensitivity"
"""Threshold rules. In more than two classes, ``0.5`` means the most probable class."""

TEMPERATURES = (0.05, 20.0)
"""Bounds: scores that separate the validation classes perfectly would ask for temperature 0."""

TIED = 1e-12
"""Values of MCC that differ by no more are equal but for rounding."""


Chooser = Callable[["NDArray[np.intp]", "NDArray[np.float64]"], float]
"""Labels and scores of a validation part -> threshold."""


def parse_threshold(text: str) -> tuple[str, Chooser]:
    """Return a rule's name and how it chooses a threshold on validation.

    Parameters
    ----------
    text
        ``validation`` (largest MCC), ``sensitivity 0.9`` (reaches it), or a number in [0, 1].

    Raises
    ------
    ConfigError
        For anything else.
    """
    if text == VALIDATION:
        return text, mcc_threshold
    kind, _, number = text.rpartition(" ")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if kind not in ("", SENSITIVITY) or not 0 <= value <= 1:
        raise ConfigError(
            f"cannot read threshold {text!r}: use a number from 0 to 1, {VALIDATION!r}, or "
            f"'{SENSITIVITY} 0.9'"
        )
    if kind == SENSITIVITY:
        return (
            f"{SENSITIVITY} {value:g}",
            lambda labels, scores: sensitivity_threshold(labels, scores, value),
        )
    return f"{value:g}", lambda labels, scores: value


def mcc_threshold(labels: NDArray[np.intp], scores: NDArray[np.float64]) -> float:
    """Return the threshold of largest MCC, NaN where there is none.

    Parameters
    ----------
    labels
        ``(n,)``, 0 or 1.
    scores
        ``(n,)``, of class 1.

    Notes
    -----
    Thresholds lie midway between neighbouring scores. Of equally good ones the one nearest to 0.5
    is taken. Equal labels or equal scores give no threshold.
    """
    # From the highest score down, every threshold adds the next unit to the positives, so running
    # sums give the confusion matrix of each. Units of equal score are added together: only where
    # the score falls is there a place for a threshold.
    order = np.argsort(-scores, kind="stable")
    ordered, positive = scores[order], labels[order] == 1
    ends = np.flatnonzero(ordered[:-1] > ordered[1:])
    tp, fp = np.cumsum(positive)[ends], np.cumsum(~positive)[ends]
    p = int(positive.sum())
    n = len(positive) - p
    if not len(ends) or not p or not n:
        return float("nan")
    decided = tp + fp
    value = (tp * n - fp * p) / np.sqrt(decided * (p + n - decided) * float(p * n))
    middle = (ordered[ends] + ordered[ends + 1]) / 2
    best = middle[value > value.max() - TIED]
    return float(best[np.argmin(np.abs(best - 0.5))])


def sensitivity_threshold(
    labels: NDArray[np.intp], scores: NDArray[np.float64], wanted: float
) -> float:
    """Return the largest threshold that finds the wanted share of positives; NaN without any."""
    positives = np.sort(scores[labels == 1])[::-1]
    if not len(positives):
        return float("nan")
    # The small number keeps 0.9 of 10 from being rounded up to 10.
    needed = max(1, int(np.ceil(wanted * len(positives) - 1e-9)))
    return float(positives[needed - 1])


def rescale(
    method: Scaling,
    labels: NDArray[np.intp],
    validation: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return calibrated probabilities.

    Parameters
    ----------
    method
        ``temperature``: one divisor of the log probabilities (Guo 2017). ``platt``: slope and
        intercept of the log odds, towards smoothed targets (Platt 1999); each class against the
        rest, normalised, where there are more than two.
    labels, validation
        ``(v,)`` and ``(v, classes)``: what it is fitted on.
    scores
        ``(n, classes)``: what it is applied to.
    """
    from scipy.special import expit

    if method == "none" or not len(labels):
        return scores
    if method == "temperature":
        return _softmax(_log(scores) / _temperature(labels, validation))
    binary = scores.shape[1] == 2
    columns = []
    for c in [1] if binary else range(scores.shape[1]):
        p = int((labels == c).sum())
        target = np.where(labels == c, (p + 1) / (p + 2), 1 / (len(labels) - p + 2))
        x = logit(validation[None, :, c])
        a, b = fit_logistic(x, target[None], np.ones((1, len(labels))))
        if not np.isfinite(a + b).all():  # all scores are equal: fit the intercept alone
            a, b = fit_logistic(0 * x, target[None], np.ones((1, len(labels))), slope=0.0)
        columns.append(expit(a + b * logit(scores[:, c])))
    if binary:
        return np.stack([1 - columns[0], columns[0]], axis=-1)
    stacked = np.stack(columns, axis=-1)
    return np.asarray(stacked / stacked.sum(axis=-1, keepdims=True))


def _temperature(labels: NDArray[np.intp], validation: NDArray[np.float64]) -> float:
    from scipy.optimize import minimize_scalar

    log, rows = _log(validation), np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = _softmax(log / np.exp(log_temperature))[rows, labels]
        return float(-np.log(np.maximum(scaled, 1e-300)).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded")
    return float(np.exp(found.x))


def _log(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.log(np.clip(scores, LOGIT_CLIP, 1.0))


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
