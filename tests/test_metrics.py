"""Every metric against scikit-learn, SciPy or a worked example, and what all of them promise."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from prognobench.errors import ConfigError
from prognobench.metrics.metric import all_metrics, find_metric
from prognobench.metrics.probability import fit_logistic, logit
from prognobench.metrics.sample import Sample

METRICS = all_metrics()


def binary(n=300, seed=0, decimals=2):
    """Labels and tied scores."""
    rng = np.random.default_rng(seed)
    p = rng.beta(1.2, 3, n).round(decimals)
    return (rng.random(n) < p).astype(int), p


def several(n=400, classes=4, seed=1):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.7), n)
    labels = (rng.random(n)[:, None] > p.cumsum(axis=1)[:, :-1]).sum(axis=1)
    return labels, p


def value(name, sample):
    (found,) = find_metric(name)(sample)
    return float(found)


BINARY_REFERENCES = {
    "mcc": lambda y, p, d: reference.matthews_corrcoef(y, d),
    "average_precision": lambda y, p, d: reference.average_precision_score(y, p),
    "roc_auc": lambda y, p, d: reference.roc_auc_score(y, p),
    "balanced_accuracy": lambda y, p, d: reference.balanced_accuracy_score(y, d),
    "accuracy": lambda y, p, d: reference.accuracy_score(y, d),
    "f1": lambda y, p, d: reference.f1_score(y, d),
    "sensitivity": lambda y, p, d: reference.recall_score(y, d),
    "specificity": lambda y, p, d: reference.recall_score(y, d, pos_label=0),
    "ppv": lambda y, p, d: reference.precision_score(y, d),
    "npv": lambda y, p, d: reference.precision_score(y, d, pos_label=0),
    "brier": lambda y, p, d: reference.brier_score_loss(y, p),
    "log_loss": lambda y, p, d: reference.log_loss(y, p),
}


@pytest.mark.parametrize("name", BINARY_REFERENCES)
@pytest.mark.parametrize("seed", range(3))
def test_binary_metrics_agree_with_scikit_learn(name, seed):
    y, p = binary(seed=seed)
    expected = BINARY_REFERENCES[name](y, p, p >= 0.5)
    assert value(name, Sample.of(y, p)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", BINARY_REFERENCES)
def test_weights_mean_repeated_units(name):
    y, p = binary()
    weights = np.random.default_rng(3).integers(0, 4, len(y))
    y_long, p_long = np.repeat(y, weights), np.repeat(p, weights)
    expected = BINARY_REFERENCES[name](y_long, p_long, p_long >= 0.5)
    assert value(name, Sample.of(y, p, weights=weights)) == pytest.approx(expected, abs=1e-12)


def test_multiclass_metrics_agree_with_scikit_learn():
    y, p = several()
    sample, d = Sample.of(y, p), p.argmax(axis=1)
    onehot = np.eye(p.shape[1])[y]
    expected = {
        "mcc": reference.matthews_corrcoef(y, d),
        "average_precision": reference.average_precision_score(onehot, p, average="macro"),
        "roc_auc": reference.roc_auc_score(y, p, multi_class="ovr", average="macro"),
        "balanced_accuracy": reference.balanced_accuracy_score(y, d),
        "f1": reference.f1_score(y, d, average="macro"),
        "sensitivity": reference.recall_score(y, d, average="macro"),
        "ppv": reference.precision_score(y, d, average="macro"),
        "log_loss": reference.log_loss(y, p),
        "brier": ((p - onehot) ** 2).sum(axis=1).mean(),
    }
    assert {name: value(name, sample) for name in expected} == pytest.approx(expected, abs=1e-12)


def test_trapezoid_agrees_with_scikit_learn_and_is_not_average_precision():
    y, p = binary()
    precision, recall, _ = reference.precision_recall_curve(y, p)
    sample = Sample.of(y, p)
    expected = reference.auc(recall, precision)
    assert value("pr_auc_trapezoid", sample) == pytest.approx(expected, abs=1e-12)
    assert abs(expected - value("average_precision", sample)) > 1e-4


def test_pr_gain_is_the_share_of_what_is_possible():
    y, p = binary()
    gained = (reference.average_precision_score(y, p) - y.mean()) / (1 - y.mean())
    assert value("pr_gain", Sample.of(y, p)) == pytest.approx(gained)


def test_brier_score_is_reliability_less_resolution_plus_uncertainty():
    y, p = binary(decimals=4)
    parts = [value(f"brier_{name}", Sample.of(y, p)) for name in ("reliability", "resolution")]
    uncertainty = value("brier_uncertainty", Sample.of(y, p))
    assert uncertainty == pytest.approx(y.mean() * (1 - y.mean()))
    assert parts[0] - parts[1] + uncertainty == pytest.approx(reference.brier_score_loss(y, p))


def test_resolution_of_forecasts_in_bins_is_murphys():
    # Two forecasts, 0.25 (4 of 20 happen) and 0.75 (12 of 20): Murphy's terms by hand.
    y = np.repeat([1, 0, 1, 0], [4, 16, 12, 8])
    p = np.repeat([0.25, 0.25, 0.75, 0.75], [4, 16, 12, 8])
    sample = Sample.of(y, p)
    assert value("brier_reliability", sample) == pytest.approx((0.05**2 + 0.15**2) / 2)
    assert value("brier_resolution", sample) == pytest.approx(0.2**2)


def test_ece_agrees_with_scikit_learns_calibration_curve():
    y, p = binary(decimals=6)
    rate, forecast = calibration_curve(y, p, n_bins=10)
    counts = np.histogram(p, bins=np.linspace(0, 1, 11))[0]
    counts = counts[counts > 0]
    expected = (counts * np.abs(rate - forecast)).sum() / len(y)
    assert value("ece", Sample.of(y, p)) == pytest.approx(expected)


def test_calibration_slope_is_that_of_a_logistic_regression():
    y, p = binary(decimals=6)
    x = np.log(p / (1 - p))[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, y)
    assert value("calibration_slope", Sample.of(y, p)) == pytest.approx(
        fitted.coef_[0, 0], rel=1e-4
    )
    intercept, slope = fit_logistic(logit(p)[None], y[None] * 1.0, np.ones((1, len(y))))
    assert (intercept[0], slope[0]) == pytest.approx(
        (fitted.intercept_[0], fitted.coef_[0, 0]), rel=1e-3
    )


def test_calibration_intercept_makes_the_mean_forecast_right():
    y, p = binary(decimals=6)
    shift = value("calibration_intercept", Sample.of(y, p))
    odds = p / (1 - p) * np.exp(shift)
    assert (odds / (1 + odds)).mean() == pytest.approx(y.mean())


def test_net_benefit_of_a_published_example():
    # Vickers & Elkin 2006: biopsy everyone, 26 % cancers, threshold 20 %: 0.26 - 0.74 / 4.
    y = np.repeat([1, 0], [26, 74])
    assert value("net_benefit", Sample.of(y, np.ones(100), cutoff=0.2)) == pytest.approx(0.075)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
class TestContract:
    def test_values_lie_within_bounds_and_do_not_depend_on_order(self, metric):
        low, high = metric.bounds
        for labels, scores in (binary(), several(), binary(n=20, seed=4)):
            order = np.random.default_rng(0).permutation(len(labels))
            one = metric(Sample.of(labels, scores))
            other = metric(Sample.of(labels[order], scores[order]))
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
            assert np.isnan(one[0]) or low - 1e-9 <= one[0] <= high + 1e-9

    def test_one_class_is_undefined(self, metric):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.isnan(metric(Sample.of(np.ones(9, int), np.linspace(0, 1, 9)))).all()

    def test_a_padded_unit_of_weight_0_changes_nothing(self, metric):
        labels, scores = binary(50, seed=7, decimals=4)
        padded = Sample.of(
            np.append(labels, [1, 0]),
            np.append(scores, [0.99, 0.999]),
            weights=np.append(np.ones(50), [0, 0]),
        )
        np.testing.assert_allclose(metric(Sample.of(labels, scores)), metric(padded), rtol=1e-9)

    def test_says_what_it_is(self, metric):
        assert metric.__doc__
        assert metric.title
        assert metric.bounds[0] <= metric.best <= metric.bounds[1]


@pytest.mark.parametrize("metric", [m for m in METRICS if m.chance], ids=lambda metric: metric.name)
def test_chance_is_within_bounds_and_not_the_best(metric):
    low, high = metric.bounds
    chance = metric.chance(np.array([0.7, 0.3]))
    assert low <= chance <= high
    assert metric.distance(np.array([chance]))[0] > 0


def test_chance_of_pr_auc_is_what_random_scores_reach():
    rng = np.random.default_rng(0)
    y = (rng.random(20000) < 0.15).astype(int)
    found = value("average_precision", Sample.of(y, rng.random(20000)))
    chance = find_metric("average_precision").chance
    assert found == pytest.approx(chance(np.array([0.85, 0.15])), abs=0.01)


def test_deciding_always_the_same_is_mcc_0_as_in_scikit_learn():
    y, _ = binary()
    assert value("mcc", Sample.of(y, np.zeros(len(y)))) == 0.0
    assert np.isnan(value("ppv", Sample.of(y, np.zeros(len(y)))))


def test_many_metrics_are_there():
    assert len(METRICS) >= 20


def test_metrics_are_found_by_name_or_title():
    assert find_metric("PR-AUC").name == find_metric("average_precision").name
    assert find_metric("roc auc").name == "roc_auc"


def test_an_unknown_metric_names_near_ones():
    with pytest.raises(ConfigError, match=r"unknown metric 'mc'. Did you mean 'mcc'"):
        find_metric("mc")
