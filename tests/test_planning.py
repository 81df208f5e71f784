from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prognobench.cli.compose import compose
from prognobench.runs import plan as planning
from prognobench.runs.cells.baselines import add_baselines
from prognobench.runs.execute import run
from prognobench.runs.measure import Rates
from prognobench.runs.plan import plan
from prognobench.runs.prepare import prepare
from prognobench.runs.workspace import Workspace

SMALL = (
    "dataset=severity",
    "dataset.patients=40",
    "dataset.image_size=64",
    "model.weights=random",
    "train=quick",
    "cv.folds=3",
    "device=cpu",
)


@pytest.fixture
def here(tmp_path: Path) -> tuple[str, ...]:
    return (f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}")


def planned(*overrides):
    return plan(compose([*SMALL, *overrides], multirun=True)).table.set_index("strategy")


def test_a_plan_says_what_is_left_and_what_it_costs(here, tmp_path):
    table = planned("strategy=linear_probe,bitfit", *here)

    assert table["left"].tolist() == table["cells"].tolist() == [3, 3]
    assert (table["seconds"] > 0).all()
    assert table.loc["bitfit", "parameters_trainable"] < table.loc["bitfit", "parameters_total"]
    assert table.loc["linear_probe", "seconds_usual"] > table.loc["linear_probe", "seconds"]
    assert (table["memory_bytes"] > 1e6).all()
    assert not (tmp_path / "results").exists()


def test_longer_training_costs_more_in_proportion(here):
    table = planned("model=cnn", "strategy=full", "train.epochs=2,200", *here)
    short, long = table["seconds"]

    assert 10 < long / short < 1000


def test_a_second_fit_is_counted(here, monkeypatch):
    monkeypatch.setattr(planning, "_measure", lambda *_: Rates(1.0, 0.0, 0.0, 1.0, 1.0, 1, 1, 1))
    table = planned("strategy=bitfit", "train.refit=false,true", "train.epochs=1", *here)

    once, twice = table["seconds"]
    # Thirds test, half of the rest validates: 8 patients train first, then 16.
    assert twice == 3 * once > 0


def test_each_view_is_one_pass_over_the_images(here, monkeypatch):
    rates = Rates(1.0, 1.0, 0.0, 1.0, 1.0, 1, 1, 1)
    monkeypatch.setattr(planning, "_measure", lambda *_: rates)
    table = planned("strategy=linear_probe", "strategy.views=0,2", *here)

    plain, two_views = table["seconds"]
    assert plain > 0
    assert two_views == 2 * plain  # the plain pass was the first run's


@pytest.mark.parametrize("order", ["prior,metadata,linear_probe", "linear_probe,metadata,prior"])
def test_runs_that_read_no_image_embed_none(here, monkeypatch, order):
    rates = Rates(1.0, 1.0, 0.0, 1.0, 1.0, 1, 1, 1)
    monkeypatch.setattr(planning, "_measure", lambda *_: rates)
    seconds = planned(f"strategy={order}", *here)["seconds"]
    assert seconds["prior"] == seconds["metadata"] == 0
    assert seconds["linear_probe"] > 0


def test_classifiers_that_a_loss_does_not_suit_are_said_as_a_run_says_them(here):
    probes = "strategy=logistic,linear_probe"
    before = planned(probes, "loss=balanced_sampler", *here)
    run(compose([*SMALL, probes, "loss=balanced_sampler", "train.epochs=1", *here], multirun=True))
    after = planned(probes, "loss=balanced_sampler", *here)

    assert "draws no batches" in before["remark"].iloc[0]
    assert before["remark"].tolist() == after["remark"].tolist()
    assert before["seconds"].iloc[0] == 0
    assert before["seconds"].iloc[1] > 0


def test_features_that_are_there_cost_nothing(here, monkeypatch):
    rates = Rates(1.0, 1.0, 0.0, 1.0, 1.0, 1, 1, 1)
    monkeypatch.setattr(planning, "_measure", lambda *_: rates)
    probes = "strategy=linear_probe,logistic"
    before = planned(probes, *here)["seconds"].tolist()
    run(compose([*SMALL, "strategy=linear_probe", "train.epochs=1", *here], multirun=True))

    after = planned(probes, *here)["seconds"].tolist()

    assert before[0] > 0
    assert before[1] == 0  # the first run's
    assert after == [0, 0]


def test_finished_cells_cost_nothing(here):
    run(compose([*SMALL, "strategy=linear_probe", *here], multirun=True))

    table = planned("strategy=linear_probe,prior", *here)

    assert table.loc["linear_probe", ["done", "left", "seconds"]].tolist() == [3, 0, 0]
    assert table.loc["prior", "left"] == 3


def test_a_pair_that_cannot_be_is_said_with_its_reason(here):
    table = planned("model=cnn", "strategy=vpt_deep", *here)

    assert table["remark"].iloc[0].startswith("not applicable: ")
    assert table["seconds"].iloc[0] == 0


# ------------------------------------------------------------------ baselines that join a sweep


def test_a_sweep_gets_the_covariates_baseline_once_for_each_of_its_folds(here, tmp_path):
    swept = [*SMALL, "model=vit,cnn", "strategy=linear_probe", "seed=1,2", *here]
    first = run(compose(swept, multirun=True), sweep=True)
    names = [(one.config.model.name, one.config.strategy.name) for one in first]
    probes = [(model, "linear_probe") for model in ("vit", "vit", "cnn", "cnn")]
    assert names == [*probes, ("vit", "metadata"), ("vit", "metadata")]
    assert all(len(one.computed) == 3 and not one.failed for one in first)
    assert (first[-1].config.seed, first[-2].config.seed) == (2, 1)

    # A later sweep over another model finds them, and one by itself gets none.
    again = run(compose([*SMALL, "model=cnn", "strategy=knn", "seed=1", *here]), sweep=True)
    assert [one.config.strategy.name for one in again] == ["knn"]
    folders = sorted((tmp_path / "results" / "runs").glob("*/*/metadata/*"))
    assert len(folders) == 2


@pytest.mark.parametrize("without", ["baselines=false", "strategy=linear_probe,metadata"])
def test_where_a_baseline_is_not_wanted_or_there_already_none_is_added(here, without):
    asked = compose([*SMALL, "strategy=linear_probe", without, *here], multirun=True)
    assert len(plan(asked, sweep=True).table) == len(asked)
    assert len(plan(asked).table) == len(asked)


def test_without_covariates_there_is_no_such_baseline(here):
    prepared = prepare(compose([*SMALL, "strategy=linear_probe", *here]), Workspace())
    bare = [replace(one, cohort=replace(one.cohort, covariates=())) for one in prepared]
    assert len(add_baselines(prepared)) == 2
    assert add_baselines(bare) == bare
