"""Runs under pseudonyms: the results folder names nobody, and holds the numbers of a plain run."""

from __future__ import annotations

import json
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_cohorts import write_csv
from made_dicom import write_dicom

from prognobench.cli import main
from prognobench.cli.compose import compose
from prognobench.files import HIDDEN
from prognobench.imaging import content
from prognobench.runs.applying import predict
from prognobench.runs.cells import frozen_cells
from prognobench.runs.hiding import hide_config
from prognobench.store import describe, iter_runs

PLANTED = (
    *("Müller", "MRN4711", "ACC998877", "St-Elsewhere", "secretfolder", "SecretTable"),
    *("Zwetschge", "19640203", "SecretScanner"),
)
"""Parts of names, ids, accession numbers, paths and values of DICOM headers."""


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["prognobench", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def found(folder: Path, *more: str) -> list[str]:
    return [
        f"{word} in {path.relative_to(folder)}"
        for path in folder.rglob("*")
        for word in (*PLANTED, *more)
        if word in str(path.relative_to(folder))
        or (path.is_file() and word.encode() in path.read_bytes())
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of one cohort, under plain names and under pseudonyms."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "secretfolder"
    (folder / "images").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for number in range(27):
        image = f"Müller_ACC998877_{number}.dcm"
        pixels = rng.integers(0, 256, (32, 32), dtype=np.uint8)
        header = {"PatientName": f"Zwetschge^{number}", "PatientID": f"MRN4711{number % 24:03d}"}
        header |= {"AccessionNumber": f"ACC998877{number}", "PatientBirthDate": "19640203"}
        header |= {"InstitutionName": "St-Elsewhere", "StationName": "SecretScanner"}
        write_dicom(folder / "images" / image, pixels, **header)
        # Three patients have two images, of which the first in time is taken.
        row = {"patient": f"MRN4711{number % 24:03d}", "image": image}
        row |= {"label": ("alive", "dead")[number % 2], "hospital": f"St-Elsewhere {number % 2}"}
        row["label"] = ("alive", "dead")[number % 24 % 2]
        rows.append({**row, "age": 40 + number % 24, "day": 100 - number})
    rows.append({**rows[0], "patient": "MRN4711999", "image": "MRN4711-missing.dcm"})
    write_csv(folder / "SecretTable.csv", rows)
    overrides = (
        *("dataset=table", "dataset.table=secretfolder/SecretTable.csv", "dataset.order=day"),
        *(f"dataset.images={folder / 'images'}", "dataset.label=label", "dataset.positive=dead"),
        *("dataset.patient=patient", "dataset.image=image", "dataset.centre=hospital"),
        *("dataset.covariates=[age]", "dataset.on_missing=drop", "dataset.select=all"),
        *("model=vit", "model.weights=random", "cv.folds=3", "device=cpu", "train=quick"),
        *("strategy=linear_probe,metadata", "train.epochs=1", "train.save=best"),
    )
    (home / "command.json").write_text(json.dumps(overrides))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("PROGNOBENCH_CACHE", str(home / "cache"))
        patch.setattr(content, "SETTLED_NS", 0)
        names = ("privacy.ids=pseudonyms", f"privacy.key={home / 'key'}")
        assert call(patch, "run", "-m", *overrides, "paths.results=plain") == 0
        # What is handed on, and what was printed on the way.
        (home / "handed").mkdir()
        with (home / "handed" / "log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
            assert call(patch, "run", "-m", *overrides, "paths.results=hidden", *names) == 0
            for said in (["report", "hidden", "--appendix"], ["results", "check", "hidden"]):
                assert call(patch, *said) == 0
            assert call(patch, "table", "hidden") == 0
            assert call(patch, "compare", "hidden") == 0
            pack = ("results", "pack", "hidden", "handed/packed.zip", "--key", str(home / "key"))
            assert call(patch, *pack) == 0
    with zipfile.ZipFile(home / "handed" / "packed.zip") as archive:
        archive.extractall(home / "handed")
    return home


def test_the_results_name_nobody(home: Path) -> None:
    assert len(found(home / "plain")) > 20
    assert list((home / "hidden").rglob("predictions.csv"))
    assert not found(home / "hidden", str(home))
    assert not found(home / "cache")
    assert not found(home / "handed")
    assert "packed.zip" in (home / "handed" / "log").read_text()
    assert list((home / "handed").rglob("predictions.csv"))
    assert (home / "key").stat().st_mode & 0o077 == 0


def test_the_numbers_are_those_of_a_plain_run(home: Path) -> None:
    plain, hidden = (sorted(run.path.name for run in iter_runs(home / n)) for n in NAMES)
    assert plain == hidden
    scores = [pd.read_csv(home / name / "scores.csv") for name in NAMES]
    assert len(scores[0]) > 10
    pd.testing.assert_frame_equal(*scores)
    for one, other in zip(*(iter_runs(home / name) for name in NAMES), strict=True):
        numbers = [
            run.predictions(cell).filter(like="score_").to_numpy()
            for run in (one, other)
            for cell in run.cells
        ]
        half = len(numbers) // 2
        assert all((a == b).all() for a, b in zip(numbers[:half], numbers[half:], strict=True))
        cohorts = [run.cohort().groupby("patient_id")["image"].nunique() for run in (one, other)]
        assert sorted(cohorts[0]) == sorted(cohorts[1])


NAMES = ("plain", "hidden")


def test_the_same_command_finds_what_is_done(home: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("PROGNOBENCH_CACHE", str(home / "cache"))
    again = ["run", "-m", *json.loads((home / "command.json").read_text()), "paths.results=hidden"]
    assert call(monkeypatch, *again, "privacy.ids=pseudonyms", f"privacy.key={home / 'key'}") == 0
    assert "computed" not in capsys.readouterr().out
    # Under other names, or with another key, one run would mix two.
    assert call(monkeypatch, *again) == 2
    other = f"privacy.key={home / 'other'}"
    assert call(monkeypatch, *again, "privacy.ids=pseudonyms", other) == 2
    said = capsys.readouterr().err
    assert "set privacy.ids and privacy.key as they were" in said.replace("\n", " ")


def test_a_stored_model_predicts(home: Path) -> None:
    folders = {run.meta["strategy"]: run for run in iter_runs(home / "hidden")}
    images = home / "secretfolder" / "images"
    given = predict.predict_images(folders["linear_probe"].path, images, cache=home / "cache")
    assert len(given) == 27


def test_a_file_of_weights_is_not_stored(home: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "klinik.safetensors").touch()
    for weights, stored in (("hub", "hub"), ("klinik.safetensors", HIDDEN), ("/a/b.pt", HIDDEN)):
        (config,) = compose(["dataset=mortality", "model=resnet18", f"model.weights={weights}"])
        hidden = hide_config(config, describe(config))
        assert hidden["model"]["settings"]["weights"] == stored
        assert hidden["model"]["settings"]["hub"] == config.model.settings["hub"]
        assert not hidden["paths"]


def test_a_failure_is_stored_without_names(home: Path, tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError(f"MRN4711003 of {home}/secretfolder/images/Müller_ACC998877_3.dcm is odd")

    monkeypatch.chdir(home)
    monkeypatch.setenv("PROGNOBENCH_CACHE", str(home / "cache"))
    monkeypatch.setattr(frozen_cells, "tabulate_predictions", fail)
    overrides = json.loads((home / "command.json").read_text())
    names = ("privacy.ids=pseudonyms", f"privacy.key={home / 'key'}")
    results = tmp_path / "failed"
    assert call(monkeypatch, "run", "-m", *overrides, f"paths.results={results}", *names) == 1
    assert not found(results)
    run = next(run for run in iter_runs(results) if run.meta["strategy"] == "linear_probe")
    (message, *_) = [each["message"] for each in run.failures().values()]
    assert message.startswith("ValueError: patient-")
    assert message.endswith("is odd")
