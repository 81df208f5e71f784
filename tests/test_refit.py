"""Fitted again on training and validation parts: the choice stays; test patients stay unseen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from prognobench.cli.compose import compose
from prognobench.frozen.estimators import EstimatorTask, fit_estimator
from prognobench.frozen.probes import ProbeTask, fit_probes
from prognobench.frozen.refit import ask_again, join_parts, join_results
from prognobench.records import Fold, Probe, Train
from prognobench.registry import LOSSES, STRATEGIES
from prognobench.runs.execute import run
from prognobench.store import run_key

SMALL = ("dataset=severity", "dataset.patients=24", "dataset.image_size=64", "cv.folds=3")
SMALL += ("model=vit", "model.weights=random", "train=quick", "device=cpu", "train.save=best")


def make_task(probe: Probe, **recipe: object) -> ProbeTask:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 60)
    features = (random.normal(size=(60, 5)) + labels[:, None]).astype(np.float32)
    fold = Fold(np.arange(30), np.arange(30, 45), np.arange(45, 60), fold=0)
    counts = np.bincount(labels[fold.train], minlength=2)
    loss = LOSSES["cross_entropy"](counts, weighting="balanced")
    return ProbeTask({"": features}, labels, fold, loss, probe, Train(**recipe), seed=1)


def refit(task):
    fit = fit_estimator if isinstance(task, EstimatorTask) else lambda one: fit_probes([one])[0]
    first = fit(task)
    second = fit(ask_again(task, first))
    return first, second, join_results(task, first, second)


def test_a_logistic_head_is_that_of_both_parts():
    from sklearn.linear_model import LogisticRegression

    task = make_task(Probe(strengths=(0.01, 0.1, 1.0)))
    first, _, both = refit(task)
    joined = join_parts(task.fold).train
    weights = task.loss.class_weights[task.labels[joined]]
    alone = LogisticRegression(C=first.chosen["C"], tol=1e-10, max_iter=1000)
    # The solver's penalty belongs to weights whose mean is 1.
    alone.fit(task.features[""][joined], task.labels[joined], sample_weight=weights)
    expected = expit(alone.decision_function(task.features[""][task.fold.test]))
    assert np.abs(both.probabilities[task.fold.test, 1] - expected).max() < 5e-3
    seen = task.fold.validation
    assert (both.probabilities[seen] == first.probabilities[seen]).all()
    assert both.chosen == first.chosen


@pytest.mark.parametrize(
    "task",
    [
        make_task(Probe(learning_rates=(1e-1, 1e-2), weight_decays=(0.0, 0.1)), epochs=6),
        make_task(Probe(standardise=True, learning_rates=(1e-1,)), epochs=6, patience=1),
        make_task(Probe(strengths=(0.1, 1.0))),
    ],
)
def test_test_labels_change_nothing(task):
    _, _, plain = refit(task)
    labels = task.labels.copy()
    labels[task.fold.test] = 1 - labels[task.fold.test]
    _, _, turned = refit(replace(task, labels=labels))
    assert (plain.probabilities == turned.probabilities).all()


def test_a_head_trains_for_the_chosen_epochs_alone():
    task = make_task(Probe(learning_rates=(1e-1, 1e-2)), epochs=8, patience=2)
    first = fit_probes([task])[0]
    again = ask_again(task, first)
    assert again.recipe.epochs == first.fitted.best_epoch
    assert again.probe.learning_rates == (first.chosen["lr"],)
    assert len(again.fold.train) == 45
    assert not len(again.fold.validation)


def test_a_classical_classifier_keeps_its_candidate():
    import pandas as pd

    probe = make_task(Probe())
    spec = STRATEGIES["knn"]()
    task = EstimatorTask(
        {"": probe.features[""]}, pd.DataFrame(index=range(60)), probe.labels, probe.fold,
        probe.loss, spec, 1,
    )  # fmt: skip
    first, second, both = refit(task)
    assert both.chosen == first.chosen == second.chosen
    assert not np.array_equal(both.probabilities, first.probabilities)


def test_runs_refit_when_they_are_asked_to(tmp_path):
    sweep = [*SMALL, "strategy=lp_ft,linear_probe", "train.epochs=1", "baselines=false"]
    sweep += [f"paths.cache={tmp_path / 'cache'}"]
    stored = []
    for refits in ("false", "true"):
        given = [*sweep, f"train.refit={refits}", f"paths.results={tmp_path / refits}"]
        outcomes = run(compose(given, multirun=True))
        assert not any(outcome.failed for outcome in outcomes)
        stored.append([outcome.folder for outcome in outcomes if outcome.computed])
    for plain, again in zip(*stored, strict=True):
        cell = plain.cells[0]
        before, after = plain.predictions(cell), again.predictions(cell)
        tested = before["part"] == "test"
        score = before.columns[-1]
        assert (before.loc[~tested, score] == after.loc[~tested, score]).all()
        assert (before.loc[tested, score] != after.loc[tested, score]).any()
        costs = [plain.cost(cell), again.cost(cell)]
        assert costs[0]["best_epoch"] == costs[1]["best_epoch"]
        assert costs[0]["log_odds_shift"] == costs[1]["log_odds_shift"]
        assert ["seconds_refit" in cost for cost in costs] == [False, True]


def test_only_a_run_that_refits_has_another_key():
    plain, off, on = (
        run_key(compose([*SMALL, *more])[0], "c", "f", "w")
        for more in ([], ["train.refit=false", "train.head_grid=false"], ["train.refit=true"])
    )
    assert plain == off == "6bd1e5317417"
    assert on != plain
