"""Metrics of probabilities as such, and the shift of log odds that undoes class weights.

Each takes a :class:`~prognobench.metrics.sample.Sample` and returns one value per row of its batch,
``(batch,)``. The registration says the range and which value is best.
"""

from __future__ import annotations

import numpy as np

from prognobench.metrics.metric import metric
from prognobench.metrics.sample import Floats, Sample

BINS = 10
"""Bins of equal width for calibration error and the Brier score's decomposition."""

EPSILON = np.finfo(np.float64).eps
"""Smallest probability whose logarithm is taken, as in scikit-learn's ``log_loss``."""

LOGIT_CLIP = 1e-7
"""A probability in single precision cannot say how far beyond this it lies."""

NEWTON_STEPS = 30
"""Enough for the fits that exist; the others diverge and are reported as NaN."""


@metric(
    "brier",
    "Brier score",
    needs="scores",
    of_risk=True,
    bounds=(0.0, 2.0),
    best=0.0,
    chance=lambda shares: float(
        shares[0] * shares[1] if len(shares) == 2 else 1 - (shares**2).sum()
    ),
)
def brier(sample: Sample) -> Floats:
    """Mean squared distance of probability and outcome (Brier 1950); 0 is best.

    Two classes: of the positive class's probability, 0 to 1. More: summed over classes, 0 to 2.
    """
    if sample.classes == 2:
        return sample.mean((sample.scores[..., 1] - (sample.labels == 1)) ** 2)
    truth = sample.labels[..., None] == np.arange(sample.classes)
    return sample.mean(((sample.scores - truth) ** 2).sum(axis=-1))


def _bins(sample: Sample) -> tuple[Floats, Floats, Floats]:
    """Return share of weight, mean forecast and event rate per bin, ``(batch, bins)`` each.

    Two classes: forecast and event are the positive class; more: the most probable class, and
    whether it was right.
    """
    if sample.classes == 2:
        forecast, event = sample.scores[..., 1], sample.labels == 1
    else:
        forecast = sample.scores.max(axis=-1)
        event = sample.scores.argmax(axis=-1) == sample.labels
    # A forecast of exactly 1 belongs to the last bin.
    number = np.minimum((forecast * BINS).astype(np.intp), BINS - 1)
    inside = number[..., None] == np.arange(BINS)
    shares = sample.sums(inside) / sample.total[:, None]
    # An empty bin has no mean and no rate; its share of 0 takes it out of every sum.
    filled = np.where(shares > 0, shares, 1.0) * sample.total[:, None]
    means = sample.sums(inside * forecast[..., None]) / filled
    rates = sample.sums(inside * event[..., None]) / filled
    return shares, means, rates


@metric("ece", "ECE", needs="scores", best=0.0, of_risk=True)
def ece(sample: Sample) -> Floats:
    """Expected calibration error: mean distance of forecast and event rate over ten equal bins.

    From Naeini et al. (2015). Two classes: of the positive class. More: of the most probable class
    (Guo et al. 2017).
    """
    shares, means, rates = _bins(sample)
    return np.asarray((shares * np.abs(means - rates)).sum(axis=-1))


def _reliability(sample: Sample) -> Floats:
    shares, means, rates = _bins(sample)
    return np.asarray((shares * (means - rates) ** 2).sum(axis=-1))


def _uncertainty(sample: Sample) -> Floats:
    rate = sample.class_weights[:, 1] / sample.total
    return np.asarray(rate * (1 - rate))


def _binary_only(sample: Sample, values: Floats) -> Floats:
    return values if sample.classes == 2 else np.full(len(sample.total), np.nan)


@metric(
    "brier_reliability",
    "Brier reliability",
    needs="scores",
    of_risk=True,
    best=0.0,
    undefined="defined for two classes",
)
def brier_reliability(sample: Sample) -> Floats:
    """Part of the Brier score that recalibration would remove (Murphy 1973), over ten bins."""
    return _binary_only(sample, _reliability(sample))


@metric(
    "brier_resolution",
    "Brier resolution",
    needs="scores",
    of_risk=True,
    bounds=(-1.0, 0.25),
    best=0.25,
    undefined="defined for two classes",
)
def brier_resolution(sample: Sample) -> Floats:
    """Part of the uncertainty that the forecasts explain.

    Generalised as by Stephenson et al. (2008) with what varies inside the bins, so that exactly
    Brier score = reliability - resolution + uncertainty.
    """
    return _binary_only(sample, _reliability(sample) + _uncertainty(sample) - brier(sample))


@metric(
    "brier_uncertainty",
    "Brier uncertainty",
    needs="scores",
    of_risk=True,
    bounds=(0.0, 0.25),
    best=0.0,
    undefined="defined for two classes",
)
def brier_uncertainty(sample: Sample) -> Floats:
    """Variance of the outcome: the Brier score of always forecasting the prevalence."""
    return _binary_only(sample, _uncertainty(sample))


def _entropy(shares: Floats) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log(present)).sum())


@metric(
    "log_loss",
    "log loss",
    needs="scores",
    of_risk=True,
    bounds=(0.0, np.inf),
    best=0.0,
    chance=_entropy,
)
def log_loss(sample: Sample) -> Floats:
    """Mean negative log probability of what happened, in nats; clipped as in scikit-learn."""
    rows = np.broadcast_to(sample.labels, sample.scores.shape[:2])[..., None]
    happened = np.take_along_axis(sample.scores, rows, axis=-1)[..., 0]
    return sample.mean(-np.log(np.clip(happened, EPSILON, 1 - EPSILON)))


def logit(probability: Floats) -> Floats:
    """Log odds, of probabilities kept off 0 and 1 by single precision."""
    p = np.clip(probability, LOGIT_CLIP, 1 - LOGIT_CLIP)
    odds: Floats = np.log(p / (1 - p))
    return odds


def shift_log_odds(probabilities: Floats, shift: Floats) -> Floats:
    """Subtract a shift from the log odds of each class.

    Parameters
    ----------
    probabilities
        ``(..., classes)``.
    shift
        Broadcast against them; where it is 0 for every class, they stay as they are.
    """
    # Multiplied, not added to logarithms, so that probabilities of 0 and 1 stay what they are.
    odds = probabilities * np.exp(-shift)
    shifted = odds / odds.sum(axis=-1, keepdims=True)
    unmoved = np.broadcast_to((shift == 0).all(axis=-1, keepdims=True), shifted.shape)
    return np.where(unmoved, probabilities, shifted)


def _design(sample: Sample, c: int) -> tuple[Floats, Floats]:
    return logit(sample.scores[..., c]), (sample.labels == c).astype(np.float64)


@metric(
    "calibration_slope",
    "calibration slope",
    needs="scores",
    of_risk=True,
    bounds=(-np.inf, np.inf),
    best=1.0,
    undefined="scores are all equal or separate the classes",
)
def calibration_slope(sample: Sample) -> Floats:
    """Slope of the outcome's log odds on the forecast's (Cox 1958); 1 is best.

    Below 1 forecasts are too extreme, which is what overfitting does.

    Multi-class: mean over classes, one vs rest.
    """
    return sample.average(lambda c: fit_logistic(*_design(sample, c), sample.weights)[1])


@metric(
    "calibration_intercept",
    "calibration intercept",
    needs="scores",
    of_risk=True,
    bounds=(-np.inf, np.inf),
    best=0.0,
    undefined="no finite shift of the log odds fits",
)
def calibration_intercept(sample: Sample) -> Floats:
    """Shift of the log odds at slope 1, "calibration in the large" (Cox 1958); 0 is best.

    Below 0 forecasts are too high.

    Multi-class: mean over classes, one vs rest.
    """
    return sample.average(lambda c: fit_logistic(*_design(sample, c), sample.weights, slope=1.0)[0])


def fit_logistic(
    x: Floats, y: Floats, weights: Floats, slope: float | None = None
) -> tuple[Floats, Floats]:
    """Fit ``y ~ expit(intercept + slope * x)`` by maximum likelihood, one fit per row.

    Parameters
    ----------
    x, y, weights
        ``(batch, n)``; the batch axis may be 1 where all rows share it.
    slope
        Hold it at this value instead.

    Returns
    -------
    intercept, slope
        ``(batch,)`` each; NaN where no finite fit exists.
    """
    rows = max(len(x), len(y), len(weights))
    a, b = np.zeros(rows), np.full(rows, 0.0 if slope is None else slope)
    ones = np.ones_like(x)
    features = [ones] if slope is not None else [ones, x]
    done = np.zeros(rows, dtype=bool)
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-np.clip(a[:, None] + b[:, None] * x, -500, 500)))
        residual, curvature = weights * (y - p), weights * p * (1 - p)
        gradient = [_dot(residual, f) for f in features]
        if slope is not None:
            step_a, step_b = gradient[0] / _dot(curvature, ones), np.zeros(rows)
        else:
            step_a, step_b = _solve(gradient, curvature, x)
        # A step of at most 5: a full Newton step overshoots where the likelihood is flat.
        limit = np.maximum(1.0, np.maximum(np.abs(step_a), np.abs(step_b)) / 5)
        a, b = a + step_a / limit, b + step_b / limit
        done = np.maximum(np.abs(step_a), np.abs(step_b)) < 1e-8
        if (done | ~np.isfinite(a + b)).all():
            break
    # Separated classes drive the slope to infinity, where the steps become small as well.
    found = done & (np.abs(b) < 1e3) & (np.abs(a) < 1e3)
    return np.where(found, a, np.nan), np.where(found, b, np.nan)


def _solve(gradient: list[Floats], curvature: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return the Newton step of intercept and slope: the inverse of a 2 x 2 Hessian, per row."""
    h00, h01, h11 = curvature.sum(axis=-1), _dot(curvature, x), _dot(curvature, x * x)
    determinant = h00 * h11 - h01**2
    # Equal scores leave the slope free: the determinant is then rounding error.
    determinant = np.where(determinant > 1e-12 * h00 * h11, determinant, np.nan)
    g0, g1 = gradient
    return (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant


def _dot(values: Floats, x: Floats) -> Floats:
    """Return the dot product of each row; one row of ``x`` may stand for all."""
    if x.shape[0] == 1:
        return np.asarray(values @ x[0])
    return np.asarray(np.einsum("bn,bn->b", values, np.broadcast_to(x, values.shape)))
