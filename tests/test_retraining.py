"""Tests over folds and seeds, over data sets, and the best of many, against other programs."""

from __future__ import annotations

import baycomp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM

from prognobench.analysis.evaluation import Measure
from prognobench.analysis.statistics.paired_tests import corrected_t
from prognobench.analysis.statistics.pooling import (
    combine_all,
    combine_any,
    merge_blocks,
    pool_blocks,
)
from prognobench.analysis.statistics.resampling import Panel, Repetition
from prognobench.analysis.statistics.retraining import (
    average_trainings,
    compare_retrained,
    weigh_retrained,
)
from prognobench.analysis.summaries.selection import estimate_optimism
from prognobench.metrics.metric import find_metric

MCC = find_metric("mcc")

# ------------------------------------------------------------------ folds and seeds


def test_splits_of_their_own_are_repetitions():
    differences = np.random.default_rng(0).normal(0.1, 1, 25)
    units = np.indices((5, 5)).reshape(2, -1).T
    assert compare_retrained(differences, units, 0.25) == corrected_t(differences, 0.25)


def test_trainings_of_one_split_are_the_mixed_model_of_statsmodels():
    rng = np.random.default_rng(1)
    units = np.repeat(np.arange(8), 6)
    differences = 0.4 + rng.normal(0, 1, 8)[units] + rng.normal(0, 0.5, 48)
    mixed = MixedLM(differences, np.ones(48), groups=units).fit(reml=True)
    found = compare_retrained(differences, units, 0.0)
    assert found.value == pytest.approx(mixed.params[0])
    reach = stats.t.ppf(0.975, 7) * mixed.bse[0]
    assert found.high - found.value == pytest.approx(reach, rel=1e-4)


def test_more_trainings_of_one_split_are_no_more_folds():
    differences = np.random.default_rng(2).normal(0.1, 1, 5)
    units = np.tile(np.arange(5), 10)
    again = compare_retrained(np.tile(differences, 10), units, 0.25)
    assert again.p == pytest.approx(corrected_t(differences, 0.25).p)


@given(st.permutations(range(10)))
def test_the_order_of_trainings_does_not_matter(order):
    differences = np.random.default_rng(3).normal(0.3, 1, 10)
    units = np.stack([np.arange(10) // 5, np.arange(10) % 5], axis=1)
    expected = compare_retrained(differences, units, 0.25)
    found = compare_retrained(differences[order], units[order], 0.25)
    assert (found.value, found.p) == pytest.approx((expected.value, expected.p))


def test_blank_trainings_are_left_out():
    units = np.array([0, 0, 1, 1, 2, 2])
    means = average_trainings(np.array([1.0, np.nan, 2.0, 4.0, np.nan, np.nan]), units)
    assert means.tolist() == [1.0, 3.0]


def test_beliefs_agree_with_baycomp():
    rng = np.random.default_rng(4)
    first, second = rng.normal(0.62, 0.1, 25), rng.normal(0.6, 0.1, 25)
    units = np.indices((5, 5)).reshape(2, -1).T
    found = weigh_retrained(first - second, units, 0.25, 0.01)
    # 25 values of 5 runs are five folds, so baycomp takes the share 1/4 too.
    first_better, equal, second_better = baycomp.two_on_single(first, second, rope=0.01, runs=5)
    assert (found.first, found.equal, found.second) == pytest.approx(
        (first_better, equal, second_better), abs=1e-9
    )


# ------------------------------------------------------------------ data sets


def test_pooled_difference_is_the_t_test_over_data_sets():
    values = np.random.default_rng(5).normal(0.1, 0.3, 7)
    found = pool_blocks(values)
    expected = stats.ttest_1samp(values, 0)
    ends = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert found.blocks == 7


def test_two_groups_of_blocks_are_compared_with_students_t():
    values = np.random.default_rng(6).normal(0.1, 0.3, 8)
    group = np.arange(8) % 3 == 0
    found = pool_blocks(values, group)
    expected = stats.ttest_ind(values[group], values[~group])
    ends = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))


@given(st.floats(-1, 1), st.floats(0.1, 10))
def test_pooled_difference_moves_and_scales_with_the_data(shift, scale):
    values = np.random.default_rng(7).normal(0.1, 0.3, 6)
    one, other = pool_blocks(values), pool_blocks(scale * (values + shift))
    assert other.value == pytest.approx(scale * (one.value + shift), abs=1e-6)
    assert other.high - other.low == pytest.approx(scale * (one.high - one.low))
    assert pool_blocks(values, margin=0.2).value == pytest.approx(one.value + 0.2)


def test_tasks_on_the_same_patients_are_one_block():
    assert merge_blocks([0.1, 0.3, 0.5], ["a", "b", "a"]).tolist() == [0.3, 0.3]
    # Counting one data set twice changes nothing.
    once = pool_blocks(merge_blocks([0.1, 0.3, 0.2], "abc"))
    assert pool_blocks(merge_blocks([0.1, 0.1, 0.3, 0.2], "aabc")) == once


def test_one_block_says_nothing_about_others():
    found = pool_blocks(np.array([0.4]))
    assert found.value == pytest.approx(0.4)
    assert np.isnan([found.low, found.high, found.p]).all()


def test_statements_that_all_or_any_hold():
    assert combine_all([0.01, 0.2]) == 0.2
    assert combine_any([0.01, 0.2]) == 0.02
    assert combine_any([0.9, 0.9, np.nan]) == 1.0
    assert np.isnan(combine_any([]))


# ------------------------------------------------------------------ the best of many


def statistic(labels, risks):
    units = np.arange(len(labels))
    both = np.stack([1 - risks, risks], axis=1)
    one = Repetition(units, np.zeros(len(labels), int), labels, both, {})
    return Panel(units, labels, (one,)).statistic([Measure.of(MCC)])


def test_one_choice_is_not_over_estimated():
    labels = np.arange(60) % 3 // 2
    found = estimate_optimism([statistic(labels, np.where(labels, 0.7, 0.2))], MCC, labels)
    assert (found.best, found.value, found.optimism) == (0, 1.0, 0.0)


def test_the_best_of_guesses_is_over_estimated_by_about_what_it_scores():
    rng = np.random.default_rng(8)
    optimism, values = [], []
    for _ in range(30):
        labels = np.arange(100) % 5 // 4
        guesses = [statistic(labels, rng.random(100)) for _ in range(12)]
        found = estimate_optimism(guesses, MCC, labels, resamples=200)
        optimism.append(found.optimism)
        values.append(found.value)
    # A guess has MCC 0 on new patients, so all of the best one's score is optimism.
    assert np.mean(values) > 0.1
    assert np.mean(optimism) == pytest.approx(np.mean(values), rel=0.25)


def test_a_choice_that_is_far_better_is_not_over_estimated():
    labels = np.arange(120) % 3 // 2
    rng = np.random.default_rng(9)
    guesses = [statistic(labels, rng.random(120)) for _ in range(5)]
    clear = statistic(labels, np.where(rng.random(120) < 0.95, labels, 1 - labels) * 0.8)
    found = estimate_optimism([*guesses, clear], MCC, labels)
    assert found.best == 5
    assert found.optimism < 0.02
