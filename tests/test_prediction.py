"""Stored models applied to new images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from prognobench.compose import compose
from prognobench.errors import ConfigError, DataError, StoreError
from prognobench.prediction import export_merged, predict_images
from prognobench.records import Adapted
from prognobench.registry import MODELS, STRATEGIES
from prognobench.store import RunFolder, describe, run_folder

CLASSES = ("alive", "dead")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    random = np.random.default_rng(0)
    for name in ("a.png", "b.png", "deep/c.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 255, (90, 70), dtype=np.uint8)).save(folder / name)
    return folder


def store_run(results: Path, strategy: str, cells: int = 2, seed: int = 0) -> RunFolder:
    """Leave a run as the runner would, with random changes in the place of training."""
    (config,) = compose(
        [
            "model=vit",
            "model.weights=random",
            f"model.seed={seed}",
            f"strategy={strategy}",
            f"paths.results={results}",
        ]
    )
    source = MODELS[config.model.builder](**config.model.settings)
    names = [f"r0-f{fold}" for fold in range(cells)]
    meta = {
        "key": "key",
        "strategy": strategy,
        "classes": list(CLASSES),
        "cells": names,
        "fingerprints": {"weights": source.fingerprint},
        "config": describe(config),
    }
    folder = run_folder(config, "key")
    folder.create({"format": 1, **meta}, {}, {})
    if STRATEGIES[config.strategy.builder].produces != "Adapted":
        return folder
    for number, name in enumerate(names):
        adapted = change(build(folder), seed=number)
        folder.write_cell(name, pd.DataFrame({"part": []}), [], {}, adapted.save)
    return folder


def build(folder: RunFolder) -> Adapted:
    config = folder.meta["config"]
    source = MODELS[config["model"]["builder"]](**config["model"]["settings"])
    strategy = config["strategy"]
    adapted: Adapted = STRATEGIES[strategy["builder"]](source.load(), 2, **strategy["settings"])
    return adapted


def change(adapted: Adapted, seed: int) -> Adapted:
    random = torch.Generator().manual_seed(seed)
    for parameter in adapted.model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=random)
    return adapted


def scores(table: pd.DataFrame) -> np.ndarray:
    return table[[f"score_{name}" for name in CLASSES]].to_numpy()


@pytest.mark.parametrize("strategy", ["lora", "bitfit"])
def test_the_mean_over_the_cells_models(strategy: str, films: Path, tmp_path: Path) -> None:
    run = store_run(tmp_path / "results", strategy)
    given = {"cache": tmp_path / "cache"}
    together = predict_images(run.path, films, **given)
    assert together["image"].tolist() == ["a.png", "b.png", "deep/c.png"]
    assert together["patient_id"].tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(scores(together).sum(1), 1)
    alone = [scores(predict_images(run.path, films, cells=[cell], **given)) for cell in run.cells]
    assert not np.allclose(alone[0], alone[1])
    np.testing.assert_allclose(scores(together), np.mean(alone, axis=0))
    best = [CLASSES[column] for column in scores(together).argmax(1)]
    assert together["predicted"].tolist() == best


def test_a_table_names_images_and_patients(films: Path, tmp_path: Path) -> None:
    run = store_run(tmp_path / "results", "bitfit", cells=1)
    table = tmp_path / "new.csv"
    table.write_text("patient_id,image,age\n007,b.png,50\n007,deep/c.png,50\n")
    given = {"cache": tmp_path / "cache"}
    listed = predict_images(run.path, table, folder=films, **given)
    assert listed["patient_id"].tolist() == ["007", "007"]
    every = predict_images(run.path, films, **given)
    np.testing.assert_allclose(scores(listed), scores(every)[1:], atol=1e-6)
    one = predict_images(run.path, films / "b.png", **given)
    np.testing.assert_allclose(scores(one), scores(listed)[:1], atol=1e-6)


def test_merged_weights_are_weights_of_the_backbone(tmp_path: Path) -> None:
    run = store_run(tmp_path / "results", "lora", cells=1)
    file = tmp_path / "merged" / "lora.safetensors"
    export_merged(run.path, "r0-f0", file)
    config = run.meta["config"]["model"]
    source = MODELS[config["builder"]](**{**config["settings"], "weights": str(file)})
    adapted = build(run)
    assert adapted.load is not None
    adapted.load(run.path / "cells" / "r0-f0" / "adapted")
    expected = adapted.model.eval()
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            source.load().module(images), expected.encoder(images), rtol=1e-3, atol=1e-4
        )


def test_what_cannot_be_merged_says_so(tmp_path: Path) -> None:
    run = store_run(tmp_path / "results", "adaptformer", cells=1)
    with pytest.raises(StoreError, match="adaptformer adds to the network cannot be merged"):
        export_merged(run.path, "r0-f0", tmp_path / "merged.safetensors")


def test_what_cannot_be_predicted_says_why(films: Path, tmp_path: Path) -> None:
    run = store_run(tmp_path / "results", "bitfit", cells=1)
    given = {"cache": tmp_path / "cache"}
    with pytest.raises(StoreError, match=r"no model of r0-f7 \(models there: r0-f0\)"):
        predict_images(run.path, films, cells=["r0-f7"], **given)
    with pytest.raises(DataError, match="no image, folder or table"):
        predict_images(run.path, tmp_path / "nothing", **given)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="holds no images"):
        predict_images(run.path, empty, **given)
    table = tmp_path / "bad.csv"
    table.write_text("image\nx.png\n../../secret.png\na.png\n")
    with pytest.raises(DataError) as error:
        predict_images(run.path, table, folder=films, **given)
    assert len(error.value.faults) == 2
    table.write_text("film\na.png\n")
    with pytest.raises(DataError, match="expected a column 'image'"):
        predict_images(run.path, table, folder=films, **given)
    frozen = store_run(tmp_path / "results", "logistic")
    with pytest.raises(ConfigError, match="keeps no model"):
        predict_images(frozen.path, films, **given)


def test_other_weights_are_refused(films: Path, tmp_path: Path) -> None:
    run = store_run(tmp_path / "results", "bitfit", cells=1)
    other = store_run(tmp_path / "other", "bitfit", cells=1, seed=1)
    file = tmp_path / "other.safetensors"
    export_merged(other.path, "r0-f0", file)
    with pytest.raises(StoreError, match="the run used other weights"):
        predict_images(run.path, films, cache=tmp_path / "cache", weights=str(file))
