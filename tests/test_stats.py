"""Tests and intervals against published values, other implementations and simulation."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.datasets import make_moons
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from prognobench.analysis.evaluation import Measure
from prognobench.analysis.statistics.paired_tests import (
    bayesian_t,
    corrected_p,
    corrected_t,
    delong,
    holm,
    mcnemar,
    wilson,
)
from prognobench.analysis.statistics.resampling import (
    Panel,
    Repetition,
    Resampling,
    bootstrap,
    draw_weights,
    quantiles,
)
from prognobench.metrics.metric import find_metric


def panel(labels, scores, patient=None):
    """One repetition of one fold."""
    patient = np.arange(len(labels)) if patient is None else patient
    _, first = np.unique(patient, return_index=True)
    both = np.stack([1 - scores, scores], axis=1)
    one = Repetition(patient, np.zeros(len(labels), int), labels, both, {})
    return Panel(np.unique(patient), labels[first], (one,))


def measures(*names):
    return [Measure(find_metric(name), "0.5") for name in names]


# ------------------------------------------------------------------ tests


def test_corrected_t_at_0_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.1, 1, 12), rng.normal(0, 1, 12)
    found = corrected_t(first - second, 0.0)
    expected = stats.ttest_rel(first, second)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_corrected_t_of_a_worked_example():
    # Five folds of 3/1/1 parts: variance times 1/5 + 1/3, four degrees of freedom.
    differences = np.array([0.05, 0.02, 0.04, -0.01, 0.03])
    t = differences.mean() / np.sqrt(differences.var(ddof=1) * (1 / 5 + 1 / 3))
    assert corrected_t(differences, 1 / 3).p == pytest.approx(2 * stats.t.sf(t, 4))
    assert corrected_t(differences, 1 / 3).p > stats.ttest_1samp(differences, 0).pvalue


def test_corrected_t_of_scikit_learns_worked_example():
    # "Statistical comparison of models using grid search": RBF against linear kernel on noisy
    # moons, ten times ten folds; corrected t 0.750, p 0.227 (one-sided), uncorrected t 2.611.
    x, y = make_moons(noise=0.352, random_state=1, n_samples=100)
    cv = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    areas = [
        cross_val_score(SVC(kernel=kernel, random_state=0), x, y, cv=cv, scoring="roc_auc")
        for kernel in ("rbf", "linear")
    ]
    difference = areas[0] - areas[1]
    assert corrected_t(difference, 10 / 90).p / 2 == pytest.approx(0.227, abs=5e-4)
    assert corrected_t(difference, 0.0).effect * 10 == pytest.approx(2.611, abs=5e-4)


def test_corrected_t_leaves_blank_folds_out_and_needs_two():
    assert corrected_t(np.array([0.1, np.nan, 0.3]), 0.3).value == pytest.approx(0.2)
    assert np.isnan(corrected_t(np.array([0.1, np.nan]), 0.3).p)
    assert corrected_t(np.zeros(4), 0.3).p == 1.0
    assert corrected_t(np.ones(4), 0.3).p == 0.0


def test_mcnemar_agrees_with_statsmodels():
    rng = np.random.default_rng(1)
    first, second = rng.random(200) < 0.8, rng.random(200) < 0.7
    table = [[(f == first) & (s == second) for s in (1, 0)] for f in (1, 0)]
    counts = [[int(cell.sum()) for cell in row] for row in table]
    expected = reference_mcnemar(counts, exact=True)
    found = mcnemar(first, second)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.low < found.value < found.high


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_agrees_with_scipy(counts):
    low, high = wilson(*counts)
    ends = stats.binomtest(*counts).proportion_ci(0.95, "wilson")
    assert (low, high) == pytest.approx(ends, abs=1e-14)


def test_quantiles_agree_with_numpy_whatever_is_undefined():
    rng = np.random.default_rng(0)
    for rows, lost in itertools.product((1, 2, 7, 200), (0.0, 0.2, 0.9)):
        drawn = rng.normal(size=(rows, 30)).round(1)
        drawn[rng.random(drawn.shape) < lost] = np.nan
        drawn[:, 0] = np.nan
        shares = np.sort(rng.random((2, 30)), axis=0)
        shares[:, 1] = 0, 1
        ends = quantiles(drawn, shares)
        for column in range(30):
            known = drawn[:, column][~np.isnan(drawn[:, column])]
            wanted = np.quantile(known, shares[:, column]) if len(known) else (np.nan, np.nan)
            assert np.array_equal((ends[0][column], ends[1][column]), wanted, equal_nan=True)


def test_newcombes_interval_of_his_example():
    # Newcombe 1998, method 10, cells 36, 12, 2, 0: 0.2 (0.0569 to 0.3404).
    right = np.repeat([[1, 1], [1, 0], [0, 1]], [36, 12, 2], axis=0).astype(bool)
    found = mcnemar(right[:, 0], right[:, 1])
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=2e-4)


def test_delong_by_its_definition():
    # The structural components, pair by pair, as DeLong et al. (1988) write them.
    rng = np.random.default_rng(2)
    labels = (rng.random(60) < 0.4).astype(int)
    scores = [(labels + rng.normal(0, 1.2, 60)).round(1) for _ in range(2)]
    placed, against, areas = [], [], []
    for s in scores:
        x, y = s[labels == 1], s[labels == 0]
        kernel = (x[:, None] > y) + 0.5 * (x[:, None] == y)
        areas.append(kernel.mean())
        placed.append(kernel.mean(axis=1))
        against.append(kernel.mean(axis=0))
    covariance = np.cov(placed) / len(placed[0]) + np.cov(against) / len(against[0])
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    found = delong(labels, *scores)
    assert found.value == pytest.approx(areas[0] - areas[1])
    assert found.effect == pytest.approx((areas[0] - areas[1]) / np.sqrt(variance))
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.effect)))


# Turck et al. 2010 (Intensive Care Med 36:107), the data of the pROC paper (Robin et al. 2011):
# WFNS grade and S100B in 0.01 ug/l of each patient with poor and with good outcome.
POOR = """
3:13 2:10 4:16 5:12 5:44 5:71 5:49 2:7 5:33 2:9 1:7 2:41 5:35 4:48 4:96 2:25 5:86 5:52 5:207 2:7
5:77 2:30 5:3 2:9 4:23 5:70 4:27 4:71 1:8 4:26 4:13 2:10 2:11 5:22 5:56 2:14 2:58 5:32 5:82 5:74
5:44"""
GOOD = """
1:13 1:14 1:10 1:4 5:47 1:18 2:10 2:10 1:4 2:8 2:4 1:9 1:11 1:7 2:17 1:7 2:11 1:13 1:19 3:5 4:16
1:14 4:34 1:9 5:50 5:46 1:16 1:7 2:43 4:45 1:11 1:8 2:9 2:8 1:6 2:13 1:10 2:14 2:15 1:6 1:5 1:9
1:4 2:9 1:8 2:16 1:9 1:8 3:33 2:11 4:28 2:7 1:10 4:32 1:7 1:5 5:24 4:38 2:10 2:15 1:8 1:14 1:10
3:7 1:4 2:19 2:15 4:47 4:17 1:15 1:50 1:48"""


def test_delong_of_a_published_example():
    parts = [[pair.split(":") for pair in text.split()] for text in (POOR, GOOD)]
    wfns, s100b = np.array([*parts[0], *parts[1]], dtype=float).T
    labels = np.repeat([1, 0], [41, 72])
    found = delong(labels, wfns, s100b)
    # pROC's roc.test: areas 0.8236789 and 0.7313686, Z = 2.208984, p = 0.02717578.
    assert found.value == pytest.approx(0.8236789 - 0.7313686, abs=1e-7)
    assert found.effect == pytest.approx(2.208984, abs=1e-6)
    assert found.p == pytest.approx(0.02717578, abs=1e-8)
    assert (found.low, found.high) == pytest.approx((0.0104, 0.1742), abs=5e-5)


def test_delong_of_one_class_is_blank():
    assert np.isnan(delong(np.ones(5, int), np.arange(5.0), np.arange(5.0)).p)


def test_holm_agrees_with_statsmodels_and_keeps_blanks():
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.5])
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert np.isnan(holm([0.01, np.nan])[1])
    assert holm([0.01, np.nan])[0] == pytest.approx(0.01)


def test_holm_of_a_published_example():
    # Demsar 2006, section 3.2.2: 0.016 and 0.019 stay below 0.05, 0.607 does not.
    corrected = holm([0.016, 0.019, 0.607])
    assert (corrected < 0.05).tolist() == [True, True, False]
    assert corrected == pytest.approx([0.048, 0.048, 0.607])


def test_bayesian_t_agrees_with_baycomp():
    baycomp = importlib.import_module("baycomp")
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.5, 0.05, 10), rng.normal(0.53, 0.05, 10)
    expected = baycomp.CorrelatedTTest(first, second, rope=0.01).probs()
    # baycomp takes 1 / (folds - 1) for the test part's share.
    found = bayesian_t(second - first, 1 / 9, 0.01)
    assert (found.first, found.equal, found.second) == pytest.approx(tuple(expected))


def test_false_positives_of_the_corrected_and_uncorrected_test():
    """Two equal learners (Gaussian class means) in repeated holdout: 5 % nominal."""
    rng = np.random.default_rng(4)
    trials, folds, n, features = 400, 10, 100, 3
    corrected, naive = [], []
    for _ in range(trials):
        y = rng.integers(0, 2, n)
        x = rng.normal(size=(n, 2 * features)) + 0.5 * y[:, None]
        differences = []
        for _ in range(folds):
            order = rng.permutation(n)
            train, test = order[20:], order[:20]
            right = []
            for part in (slice(0, features), slice(features, None)):
                means = [x[train][y[train] == c, part].mean(axis=0) for c in (0, 1)]
                axis = means[1] - means[0]
                decided = (x[test, part] - (means[0] + means[1]) / 2) @ axis > 0
                right.append((decided == y[test]).mean())
            differences.append(right[0] - right[1])
        columns = np.array(differences)[:, None]
        corrected.append(corrected_p(columns, 20 / 80)[0])
        naive.append(corrected_p(columns, 0.0)[0])
    assert np.mean(np.array(corrected) < 0.05) < 0.08
    assert np.mean(np.array(naive) < 0.05) > 0.15


# ------------------------------------------------------------------ bootstrap


def test_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(5)
    labels = np.repeat([0, 1], [60, 40])
    scores = np.clip(0.3 + 0.2 * labels + rng.normal(0, 0.2, 100), 0.01, 0.99)
    found = bootstrap(
        panel(labels, scores).statistic(measures("brier")),
        labels,
        Resampling(resamples=4000, stratified=False),
    )
    loss = (scores - labels) ** 2
    expected = stats.bootstrap((loss,), np.mean, n_resamples=4000, method="percentile", rng=0)
    interval = expected.confidence_interval
    assert found.value[0] == pytest.approx(loss.mean())
    assert (found.low[0], found.high[0]) == pytest.approx((interval.low, interval.high), abs=0.003)


def test_bca_agrees_with_scipy():
    rng = np.random.default_rng(6)
    labels = np.tile([0, 1], 25)
    scores = np.clip(rng.beta(1, 6, 50), 0.001, 0.999)
    statistic = panel(labels, scores).statistic(measures("log_loss"))
    found = bootstrap(statistic, labels, Resampling("bca", stratified=False, resamples=6000))
    loss = -np.log(np.where(labels == 1, scores, 1 - scores))
    expected = stats.bootstrap((loss,), np.mean, n_resamples=6000, method="BCa", rng=0)
    interval = expected.confidence_interval
    assert (found.low[0], found.high[0]) == pytest.approx((interval.low, interval.high), rel=0.04)


def test_resamples_are_the_same_for_every_run_and_keep_each_class():
    strata = np.repeat([0, 1], [30, 7])
    one, other = (draw_weights(strata, 50, ("cohort", 1), stratified=True) for _ in range(2))
    assert (one == other).all()
    assert (one[:, strata == 1].sum(axis=1) == 7).all()
    assert (one != draw_weights(strata, 50, ("cohort", 2), stratified=True)).any()


def test_images_of_a_patient_stay_together():
    patient = np.repeat(np.arange(20), 5)
    labels = np.repeat(np.arange(20) % 2, 5)
    scores = np.repeat(np.random.default_rng(0).random(20), 5)
    by_patient = panel(labels[::5], scores[::5])
    by_image = panel(labels, scores, patient)
    one, other = (
        bootstrap(each.statistic(measures("roc_auc")), each.strata, Resampling(resamples=300))
        for each in (by_patient, by_image)
    )
    assert (one.low[0], one.high[0]) == pytest.approx((other.low[0], other.high[0]))


@pytest.mark.parametrize("images", [1, 3])
def test_intervals_cover_what_they_say(images):
    """95 % intervals of ROC-AUC, of patients with one or several correlated images each."""
    rng = np.random.default_rng(7 + images)
    trials, n = 300, 120
    truth = stats.norm.cdf(1 / np.sqrt(2 * 1.5))
    hits = 0
    for trial in range(trials):
        labels = np.repeat(np.tile([0, 1], n // 2), images)
        patient = np.repeat(np.arange(n), images)
        seen = labels + rng.normal(size=n)[patient] + np.sqrt(0.5) * rng.normal(size=n * images)
        each = panel(labels, 1 / (1 + np.exp(-seen)), patient)
        found = bootstrap(
            each.statistic(measures("roc_auc")), each.strata, Resampling(resamples=300, seed=trial)
        )
        hits += found.low[0] <= truth <= found.high[0]
    assert 0.92 <= hits / trials <= 0.975


def test_a_measure_that_resamples_lose_says_how_often():
    labels = np.array([0] * 20 + [1] * 5)
    scores = np.full(25, 0.1)
    scores[-1] = 0.9
    statistic = panel(labels, scores).statistic(measures("ppv"))
    found = bootstrap(statistic, labels, Resampling(resamples=500))
    assert 0.2 < found.undefined[0] < 0.5
