"""A grid of heads on a backbone that trains: validation chooses one, which is kept and saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_backbones import BACKBONES, images
from torch import nn

from prognobench.cli.compose import compose
from prognobench.errors import NotApplicableError
from prognobench.records import Adapted, Backbone
from prognobench.registry import DATASETS, STRATEGIES
from prognobench.runs.applying.stored_models import AdaptedModels, read_run
from prognobench.runs.execute import run
from prognobench.runs.prepare import ReadyRun
from prognobench.strategies.layers.head_grid import RATES, choose_head, chosen_head, find_grid

SMALL = ("dataset=severity", "dataset.patients=24", "dataset.image_size=64", "cv.folds=3")
SMALL += ("model=vit", "model.weights=random", "train=quick", "device=cpu", "train.save=best")
SMALL += ("train.epochs=3", "train.head_grid=true", "baselines=false")


def build(builder: str, backbone: str, seed: int = 0) -> tuple[Adapted, Backbone] | None:
    made = replace(BACKBONES[backbone](), head_grid=True)
    torch.manual_seed(seed)
    try:
        return STRATEGIES[builder](made, 2), made
    except NotApplicableError:
        return None


@pytest.mark.parametrize("backbone", list(BACKBONES))
@pytest.mark.parametrize(
    "builder", sorted(b for b, part in STRATEGIES.items() if part.produces == "Adapted")
)
def test_each_strategy_takes_a_grid_and_keeps_the_choice(builder, backbone, tmp_path: Path):
    built, other = build(builder, backbone), build(builder, backbone, seed=5)
    if built is None or other is None:
        return
    (adapted, made), (again, _) = built, other
    heads = len(made.layers) * len(RATES)
    adapted.model.train()
    assert adapted.model(images()).shape == (4, heads, 2)
    rates = {group.lr for group in adapted.groups if group.role == "head"}
    assert rates == set(RATES)
    choose_head(adapted.model, heads - 1)
    adapted.model.eval()
    again.model.eval()
    with torch.no_grad():
        expected = adapted.model(images())
        assert expected.shape == (4, 2)
        if adapted.save and again.load:
            adapted.save(tmp_path)
            again.load(tmp_path)
            assert chosen_head(again.model) == heads - 1
            torch.testing.assert_close(again.model(images()), expected)
        if adapted.merge:
            merged = adapted.merge()(images())
            torch.testing.assert_close(merged, expected, rtol=1e-3, atol=1e-4)


def test_a_run_stores_the_best_head_and_predicts_with_it(tmp_path):
    paths = [f"paths.cache={tmp_path / 'cache'}", f"paths.results={tmp_path}"]
    (config,) = compose([*SMALL, *paths, "strategy=lora"])
    folder = run([config])[0].folder
    stored = read_run(folder.path)
    cohort = DATASETS[config.dataset.builder](**config.dataset.settings)
    given = AdaptedModels(stored, folder.cells).predict(cohort, "cpu", None)
    for cell, probabilities in zip(folder.cells, given, strict=True):
        chosen, predictions = folder.cost(cell)["chosen"], folder.predictions(cell)
        assert chosen["layer"] in ("last1", "last4", "last1+avg", "last4+avg")
        assert chosen["lr"] in RATES
        # Both parts: the stored ones of validation are of the epoch and head that were chosen.
        scores = predictions.filter(like="score_").to_numpy()
        rows = [list(cohort.table["image"]).index(image) for image in predictions["image"]]
        np.testing.assert_allclose(scores, probabilities[rows], atol=1e-6)
        model = AdaptedModels(stored, folder.cells).build(cell).model
        grid = find_grid(model)
        assert grid is not None
        assert grid.points[chosen_head(model)] == (chosen["layer"], chosen["lr"])


def test_the_second_fit_keeps_the_head_of_the_first(tmp_path):
    chosen = []
    for refit in ("false", "true"):
        paths = [f"paths.cache={tmp_path / 'cache'}", f"paths.results={tmp_path / refit}"]
        folder = run(compose([*SMALL, *paths, "strategy=bitfit", f"train.refit={refit}"]))[0].folder
        chosen.append([folder.cost(cell)["chosen"] for cell in folder.cells])
    assert chosen[0] == chosen[1]


def test_a_head_of_its_own_is_refused():
    def build_own(backbone: Backbone, num_classes: int) -> Adapted:
        return Adapted(nn.Sequential(backbone.module, nn.Linear(backbone.width, num_classes)), ())

    config = compose([*SMALL, "strategy=lora"])[0]
    own = replace(config.strategy, name="mine", builder="own_head", settings={})
    STRATEGIES.register("own_head")(build_own)
    try:
        ready = ReadyRun(replace(config, strategy=own), None, None, ("a", "b"))
        with pytest.raises(NotApplicableError, match="mine brings a head of its own"):
            ready.adapt(BACKBONES["vit"]())
    finally:
        STRATEGIES._parts.pop("own_head", None)
