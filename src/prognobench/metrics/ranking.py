"""Metrics of the order of scores: they need neither a threshold nor calibration.

Each takes a :class:`~prognobench.metrics.sample.Sample` and returns one value per row of its batch,
``(batch,)``. Unless the registration says otherwise, values lie in [0, 1] and 1 is best.
"""

from __future__ import annotations

import numpy as np

from prognobench.metrics.metric import metric
from prognobench.metrics.sample import Floats, Ranking, Sample


def _precision(tp: Floats, fp: Floats) -> Floats:
    return np.asarray(tp / (tp + fp))


def _average_precision(ranking: Ranking) -> Floats:
    # A unit of weight 0 at the head of the list has no precision and no part in the sum.
    parts = np.where(
        ranking.positives > 0, ranking.positives * _precision(ranking.tp, ranking.fp), 0.0
    )
    return np.asarray(parts.sum(axis=-1) / ranking.total_positives)


@metric(
    "average_precision",
    "PR-AUC",
    needs="scores",
    chance=lambda shares: float(shares[1] if len(shares) == 2 else shares.mean()),
)
def average_precision(sample: Sample) -> Floats:
    """PR-AUC as average precision: mean precision at the positives. Multi-class: macro.

    The step-wise sum of scikit-learn's ``average_precision_score``, not the trapezoid (Boyd et al.
    2013). Chance is the prevalence.
    """
    return sample.average(lambda c: _average_precision(sample.ranking(c)))


@metric("pr_auc_trapezoid", "PR-AUC (trapezoid)", needs="scores")
def pr_auc_trapezoid(sample: Sample) -> Floats:
    """Area under the precision-recall curve by the trapezoid rule.

    Optimistic, since between two points the true curve lies below the line (Davis and Goadrich
    2006).

    The curve starts at recall 0 and precision 1, as in scikit-learn.
    """

    def area(c: int) -> Floats:
        r = sample.ranking(c)
        above = np.where(r.tp_above + r.fp_above > 0, _precision(r.tp_above, r.fp_above), 1.0)
        height = (_precision(r.tp, r.fp) + above) / 2
        parts = np.where(r.positives > 0, r.positives * height, 0.0)
        return np.asarray(parts.sum(axis=-1) / r.total_positives)

    return sample.average(area)


@metric("pr_gain", "PR-AUC gain", needs="scores", bounds=(-1.0, 1.0), chance=lambda shares: 0.0)
def pr_gain(sample: Sample) -> Floats:
    """Average precision above prevalence, as a share of what is possible: (AP - p) / (1 - p)."""

    def gain(c: int) -> Floats:
        prevalence = sample.class_weights[:, c] / sample.total
        return np.asarray((_average_precision(sample.ranking(c)) - prevalence) / (1 - prevalence))

    return sample.average(gain)


# Simulated, two splits correlate by 0.25 (n = 100) and 0.24 (n = 300) where other metrics have 0.16
# to 0.21 (scripts/simulate-tests): that is Nadeau & Bengio's ratio of test to training patients.
@metric("roc_auc", "ROC-AUC", needs="scores", chance=lambda shares: 0.5, overlap=4 / 3)
def roc_auc(sample: Sample) -> Floats:
    """Probability that a positive outranks a negative, ties half. Multi-class: macro.

    Equal to the area under the ROC curve (Hanley and McNeil 1982).
    """

    def area(c: int) -> Floats:
        r = sample.ranking(c)
        # Negatives strictly below each positive, and half of those that tie with it.
        outranked = r.total_negatives[:, None] - (r.fp + r.fp_above) / 2
        pairs = r.total_positives * r.total_negatives
        return np.asarray((r.positives * outranked).sum(axis=-1) / pairs)

    return sample.average(area)
