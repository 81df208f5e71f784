"""Metrics of decisions: they depend on a threshold and read the confusion matrix only.

Each takes a :class:`~prognobench.metrics.sample.Sample` and returns one value per row of its batch,
``(batch,)``. Unless the registration says otherwise, values lie in [0, 1] and 1 is best.
"""

from __future__ import annotations

import numpy as np

from prognobench.metrics.metric import metric
from prognobench.metrics.sample import Floats, Sample


def _one_against_rest(sample: Sample, c: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Return true positives, false positives, false negatives, true negatives of class ``c``.

    ``(batch,)`` each, in units of the sample's weights.
    """
    table = sample.confusion
    tp = table[:, c, c]
    fp = table[:, :, c].sum(axis=-1) - tp
    fn = table[:, c, :].sum(axis=-1) - tp
    return tp, fp, fn, table.sum(axis=(1, 2)) - tp - fp - fn


@metric("mcc", "MCC", needs="decisions", bounds=(-1.0, 1.0), chance=lambda shares: 0.0)
def mcc(sample: Sample) -> Floats:
    """Matthews correlation coefficient (Matthews 1975); Gorodkin's form (2004) for more classes.

    Decisions that are all the same give 0, the limit of the coefficient and scikit-learn's value;
    labels that are all the same leave it undefined.
    """
    table = sample.confusion
    total = table.sum(axis=(1, 2))
    truth, decided = table.sum(axis=2), table.sum(axis=1)
    # Correlation of the one-hot labels with the one-hot decisions; all three times total ** 2.
    covariance = np.trace(table, axis1=1, axis2=2) * total - (truth * decided).sum(axis=-1)
    spread_decided = total**2 - (decided**2).sum(axis=-1)
    spread_truth = total**2 - (truth**2).sum(axis=-1)
    value = covariance / np.sqrt(spread_decided * spread_truth)
    return np.where((spread_decided == 0) & (spread_truth > 0), 0.0, value)


def _sensitivity(sample: Sample, c: int) -> Floats:
    tp, _, fn, _ = _one_against_rest(sample, c)
    return tp / (tp + fn)


@metric(
    "balanced_accuracy",
    "balanced accuracy",
    needs="decisions",
    chance=lambda shares: 1 / len(shares),
)
def balanced_accuracy(sample: Sample) -> Floats:
    """Mean sensitivity over all classes (Brodersen et al. 2010)."""
    return np.asarray(np.mean([_sensitivity(sample, c) for c in range(sample.classes)], axis=0))


@metric("accuracy", "accuracy", needs="decisions", chance=lambda shares: float(shares.max()))
def accuracy(sample: Sample) -> Floats:
    """Share of right decisions; its chance level always decides for the largest class."""
    return np.asarray(np.trace(sample.confusion, axis1=1, axis2=2) / sample.total)


@metric("f1", "F1", needs="decisions")
def f1(sample: Sample) -> Floats:
    """Harmonic mean of sensitivity and positive predictive value. Multi-class: macro."""

    def f1_of_class(c: int) -> Floats:
        tp, fp, fn, _ = _one_against_rest(sample, c)
        return 2 * tp / (2 * tp + fp + fn)

    return sample.average(f1_of_class)


@metric("sensitivity", "sensitivity", needs="decisions")
def sensitivity(sample: Sample) -> Floats:
    """Share of positives that are found (recall). Multi-class: macro."""
    return sample.average(lambda c: _sensitivity(sample, c))


@metric("specificity", "specificity", needs="decisions")
def specificity(sample: Sample) -> Floats:
    """Share of negatives that are recognised. Multi-class: macro, one vs rest."""

    def specificity_of_class(c: int) -> Floats:
        _, fp, _, tn = _one_against_rest(sample, c)
        return tn / (tn + fp)

    return sample.average(specificity_of_class)


@metric("ppv", "PPV", needs="decisions", undefined="no unit is predicted positive")
def ppv(sample: Sample) -> Floats:
    """Positive predictive value (precision). Multi-class: macro."""

    def ppv_of_class(c: int) -> Floats:
        tp, fp, _, _ = _one_against_rest(sample, c)
        return tp / (tp + fp)

    return sample.average(ppv_of_class)


@metric("npv", "NPV", needs="decisions", undefined="no unit is predicted negative")
def npv(sample: Sample) -> Floats:
    """Negative predictive value. Multi-class: macro, one vs rest."""

    def npv_of_class(c: int) -> Floats:
        _, _, fn, tn = _one_against_rest(sample, c)
        return tn / (tn + fn)

    return sample.average(npv_of_class)


@metric(
    "net_benefit",
    "net benefit",
    needs="decisions",
    of_risk=True,
    bounds=(-np.inf, 1.0),
    undefined="defined for two classes and a threshold below 1",
)
def net_benefit(sample: Sample) -> Floats:
    """True positives minus false positives times the threshold's odds, per unit (Vickers 2006).

    The threshold of the decisions is also the exchange rate: at 0.2, four false alarms cost as
    much as one patient found is worth. Binary tasks only. At most the prevalence, not bounded
    below.
    """
    if sample.classes != 2:
        return np.full(len(sample.total), np.nan)
    inside = (sample.cutoff > 0) & (sample.cutoff < 1)
    odds = np.where(inside, sample.cutoff / (1 - sample.cutoff), np.nan)
    worth = np.where(sample.labels == 1, 1.0, -odds)
    return sample.mean(np.asarray(sample.decisions * worth))
