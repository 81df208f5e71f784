"""Stored models applied to new images."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_dicom import image, write_dicom
from made_runs import store_instead
from PIL import Image

from prognobench.cli.compose import compose
from prognobench.errors import DamagedError, DataError, StoreError
from prognobench.records import Adapted
from prognobench.registry import MODELS, STRATEGIES
from prognobench.runs.applying.predict import export_merged, predict_images
from prognobench.runs.execute import run
from prognobench.store import RunFolder, describe, run_folder

CLASSES = ("alive", "dead")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for name in ("a.png", "b.png", "deep/c.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 255, (90, 70), dtype=np.uint8)).save(folder / name)
    return folder


def store_run(results: Path, strategy: str, *more: str, cells: int = 2, seed: int = 0) -> RunFolder:
    """Leave a run as the runner would, with random changes in the place of training."""
    (config,) = compose(
        [
            "model=vit",
            "model.weights=random",
            f"model.seed={seed}",
            f"strategy={strategy}",
            f"paths.results={results}",
            *more,
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
def test_the_mean_over_the_cells_models(strategy: str, images: Path, tmp_path: Path) -> None:
    run = store_run(tmp_path / "results", strategy)
    given = {"cache": tmp_path / "cache"}
    together = predict_images(run.path, images, **given)
    assert together["image"].tolist() == ["a.png", "b.png", "deep/c.png"]
    assert together["patient_id"].tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(scores(together).sum(1), 1)
    alone = [scores(predict_images(run.path, images, cells=[cell], **given)) for cell in run.cells]
    assert not np.allclose(alone[0], alone[1])
    np.testing.assert_allclose(scores(together), np.mean(alone, axis=0))
    best = [CLASSES[column] for column in scores(together).argmax(1)]
    assert together["predicted"].tolist() == best


def test_dicom_files_of_an_archive(tmp_path: Path) -> None:
    run = store_run(tmp_path / "results", "bitfit", cells=1)
    archive = tmp_path / "archive"
    names = ("IM0001", "IM0002.dcm", "s1/1.2.840.1", "s1/1.2.840.2", "s1/IM", "s2/IM")
    for seed, name in enumerate(names):
        write_dicom(archive / name, image(seed), bits=12)
    shutil.copy(archive / "IM0001", archive / "DICOMDIR")
    (archive / "LOG.TXT").write_text("4 files")
    given = {"cache": tmp_path / "cache"}
    found = predict_images(run.path, archive, **given)
    assert found["image"].tolist() == list(names)
    patients = ["IM0001", "IM0002", "1.2.840.1", "1.2.840.2", "s1/IM", "s2/IM"]
    assert found["patient_id"].tolist() == patients
    one = predict_images(run.path, archive / "s1/1.2.840.2", **given)
    np.testing.assert_allclose(scores(one), scores(found)[3:4], atol=1e-6)
    with pytest.raises(DataError, match="an index of DICOM files; give the folder"):
        predict_images(run.path, archive / "DICOMDIR", **given)


def test_a_run_in_tf32_predicts_without_a_gpu(images: Path, tmp_path: Path) -> None:
    found = []
    for precision in ("tf32", "fp32"):
        torch.manual_seed(0)
        run = store_run(tmp_path / precision, "bitfit", f"train.precision={precision}")
        found.append(predict_images(run.path, images, cache=tmp_path / "cache"))
    pd.testing.assert_frame_equal(*found)


def test_a_table_names_images_and_patients(images: Path, tmp_path: Path) -> None:
    run = store_run(tmp_path / "results", "bitfit", cells=1)
    table = tmp_path / "new.csv"
    table.write_text("patient_id,image,age\n007,b.png,50\n007,deep/c.png,50\n")
    given = {"cache": tmp_path / "cache"}
    listed = predict_images(run.path, table, folder=images, **given)
    assert listed["patient_id"].tolist() == ["007", "007"]
    every = predict_images(run.path, images, **given)
    np.testing.assert_allclose(scores(listed), scores(every)[1:], atol=1e-6)
    one = predict_images(run.path, images / "b.png", **given)
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


def test_what_cannot_be_predicted_says_why(images: Path, tmp_path: Path) -> None:
    run = store_run(tmp_path / "results", "bitfit", cells=1)
    given = {"cache": tmp_path / "cache"}
    with pytest.raises(StoreError, match=r"no model of r0-f7 \(models there: r0-f0\)"):
        predict_images(run.path, images, cells=["r0-f7"], **given)
    with pytest.raises(DataError, match="no image, folder or table"):
        predict_images(run.path, tmp_path / "nothing", **given)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="holds no images"):
        predict_images(run.path, empty, **given)
    (empty / os.fsdecode(b"\xff.png")).touch()
    with pytest.raises(DataError, match="is not UTF-8; rename it"):
        predict_images(run.path, empty, **given)
    table = tmp_path / "bad.csv"
    table.write_text("image\nx.png\n../../secret.png\na.png\n")
    with pytest.raises(DataError) as error:
        predict_images(run.path, table, folder=images, **given)
    assert len(error.value.faults) == 2
    table.write_text("photo\na.png\n")
    with pytest.raises(DataError, match="expected a column 'image'"):
        predict_images(run.path, table, folder=images, **given)
    frozen = store_run(tmp_path / "results", "logistic")
    with pytest.raises(StoreError, match=r"keeps no model of any cell .*train\.save=best"):
        predict_images(frozen.path, images, **given)
    with pytest.raises(StoreError, match="leaves the backbone's weights as they are"):
        export_merged(frozen.path, "r0-f0", tmp_path / "merged.safetensors")


def test_other_weights_are_refused(images: Path, tmp_path: Path) -> None:
    run = store_run(tmp_path / "results", "bitfit", cells=1)
    other = store_run(tmp_path / "other", "bitfit", cells=1, seed=1)
    file = tmp_path / "other.safetensors"
    export_merged(other.path, "r0-f0", file)
    with pytest.raises(StoreError, match="the run used other weights"):
        predict_images(run.path, images, cache=tmp_path / "cache", weights=str(file))


# ------------------------------------------------------------------ frozen backbones


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of thirty patients with age and sex, and their images beside it."""
    folder = tmp_path_factory.mktemp("patients")
    random = np.random.default_rng(1)
    lines = ["patient_id,image,outcome,age,sex"]
    for number in range(30):
        dead = number % 2
        image = random.integers(0, 120 + 100 * dead, (64, 64), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
        age = "" if number % 7 == 3 else 50 + 10 * dead + number % 5
        sex = ("F", "M", "")[number % 3]
        lines.append(f"p{number},{number}.png,{CLASSES[dead]},{age},{sex}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def runs_of(
    patients: Path, tmp_path: Path, *overrides: str, cv: str = "cv.folds=3"
) -> list[RunFolder]:
    outcomes = run(
        compose(
            [
                "dataset=table",
                f"dataset.table={patients}",
                f"dataset.images={patients.parent}",
                "dataset.label=outcome",
                "dataset.positive=dead",
                "dataset.covariates=[age,sex]",
                "model=cnn",
                "model.weights=random",
                cv,
                "train=quick",
                f"paths.results={tmp_path / 'results'}",
                f"paths.cache={tmp_path / 'cache'}",
                *overrides,
            ],
            multirun=True,
        )
    )
    assert not any(outcome.failed for outcome in outcomes)
    return [outcome.folder for outcome in outcomes]


def test_saved_classifiers_predict_what_the_run_did(patients: Path, tmp_path: Path) -> None:
    strategies = "linear_probe,logistic,knn,svm,gradient_boosting,covariates_image,metadata,prior"
    runs = runs_of(patients, tmp_path, f"strategy={strategies}", "train.save=best")
    assert len(runs) == 8
    for folder in runs:
        for cell in folder.cells:
            saved = folder.path / "cells" / cell / "adapted"
            assert all(file.suffix in (".json", ".safetensors") for file in saved.iterdir())
            given = predict_images(folder.path, patients, cache=tmp_path / "cache", cells=[cell])
            stored = folder.predictions(cell).set_index("patient_id")
            again = given.set_index("patient_id").loc[stored.index]
            np.testing.assert_allclose(scores(again), scores(stored), rtol=1e-6, atol=1e-8)
            cost = folder.cost(cell)
            size = sum(file.stat().st_size for file in saved.glob("*.safetensors"))
            assert 0 < cost["storage_bytes"] <= size
            if folder.meta["strategy"] in ("linear_probe", "logistic"):
                head = cost["parameters_trainable"]
                assert cost["parameters_share"] == head / cost["parameters_total"]
                assert cost["parameters_total"] - head == backbone_parameters(folder)
        together = predict_images(folder.path, patients, cache=tmp_path / "cache")
        np.testing.assert_allclose(scores(together).sum(1), 1)


@pytest.mark.parametrize("augmentation", ["none", "light"])
def test_saved_adapters_predict_what_the_run_did(
    patients: Path, tmp_path: Path, augmentation: str
) -> None:
    """The validation part as well, on which early stopping rests."""
    chosen = ("model=vit", "strategy=lora,ia3,last_blocks", "train.epochs=3")
    given = (*chosen, f"train.augmentation={augmentation}", "train.head_lr=0.05")
    for folder in runs_of(patients, tmp_path, *given, "train.save=best", cv="cv=holdout"):
        stored = folder.predictions("r0-f0").set_index("patient_id")
        again = predict_images(folder.path, patients, cache=tmp_path / "cache")
        again = again.set_index("patient_id").loc[stored.index]
        assert set(stored["part"]) == {"validation", "test"}
        np.testing.assert_allclose(scores(again), scores(stored), rtol=1e-5, atol=1e-7)


def backbone_parameters(folder: RunFolder) -> int:
    config = folder.meta["config"]["model"]
    module = MODELS[config["builder"]](**config["settings"]).load().module
    return sum(parameter.numel() for parameter in module.parameters())


def test_cells_without_a_saved_classifier_are_computed_again(
    patients: Path, tmp_path: Path
) -> None:
    (folder,) = runs_of(patients, tmp_path, "strategy=logistic")
    before = folder.predictions(folder.cells[0])
    with pytest.raises(StoreError, match=r"train\.save=best"):
        predict_images(folder.path, patients, cache=tmp_path / "cache")
    (again,) = runs_of(patients, tmp_path, "strategy=logistic", "train.save=best")
    assert again.path == folder.path
    pd.testing.assert_frame_equal(again.predictions(again.cells[0]), before)
    predict_images(again.path, patients, cache=tmp_path / "cache")


def test_covariates_of_new_patients_are_asked_for(patients: Path, tmp_path: Path) -> None:
    (folder,) = runs_of(patients, tmp_path, "strategy=metadata", "train.save=best")
    given = {"cache": tmp_path / "cache", "folder": patients.parent}
    with pytest.raises(DataError, match="give a table with the columns image, age, sex"):
        predict_images(folder.path, patients.parent, **given)
    table = tmp_path / "new.csv"
    table.write_text("image,age\n0.png,50\n")
    with pytest.raises(DataError, match="expected a column 'sex'"):
        predict_images(folder.path, table, **given)
    table.write_text("image,age,sex\n0.png,old,male\n1.png,50,F\n")
    with pytest.raises(DataError) as error:
        predict_images(folder.path, table, **given)
    assert ["is a number" in fault for fault in error.value.faults] == [True, False]
    assert "the models know F, M; found 'male'" in error.value.faults[1]
    table.write_text("image,age,sex\n0.png,?,n/a\n1.png,50,F\n")
    plain = predict_images(folder.path, table, **given)
    assert len(plain) == 2
    assert plain.attrs["notes"] == ()
    table.write_text("image,age,sex\n0.png,,n/a\n1.png,050Y,F\n")
    of_dicom = predict_images(folder.path, table, **given)
    pd.testing.assert_frame_equal(of_dicom, plain)
    assert "column 'age': ages as DICOM writes them, in years" in of_dicom.attrs["notes"][0]


def test_classifiers_of_other_features_or_damaged_are_refused(
    patients: Path, tmp_path: Path
) -> None:
    (folder,) = runs_of(patients, tmp_path, "strategy=knn", "train.save=best")
    saved = folder.path / "cells" / folder.cells[0] / "adapted"
    about = json.loads((saved / "adapted.json").read_text())
    name = f"cells/{folder.cells[0]}/adapted/adapted.json"
    given = {"cache": tmp_path / "cache", "cells": [folder.cells[0]]}
    for change, message in (
        ({"backbone": "other"}, "trained on other weights"),
        ({"candidate": "k=99"}, "no candidate 'k=99'"),
        ({"columns": None}, "does not belong to this run"),
    ):
        store_instead(folder, name, json.dumps({**about, **change}).encode())
        with pytest.raises(StoreError, match=message):
            predict_images(folder.path, patients, **given)
    store_instead(folder, name, json.dumps(about).encode())
    file = saved / "classifier.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(DamagedError, match=r"classifier\.safetensors is damaged .* computes the"):
        predict_images(folder.path, patients, **given)
