"""A packed results folder tells nobody who the patients are, and gives the same scores."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_cohorts import write_csv
from PIL import Image

from prognobench.analysis.packing import pack
from prognobench.cli import main
from prognobench.errors import ConfigError, StoreError
from prognobench.files import Pseudonyms
from prognobench.imaging import content

PLANTED = ("Müller", "MRN4711", "ACC998877", "St-Elsewhere", "19640203", "secretfolder")
"""Parts of a name, an id, an accession number, a hospital, a birth date and a path."""


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["prognobench", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of a cohort full of what nobody must learn."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "secretfolder"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        image = f"Müller_ACC998877_{number}.png"
        Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)).save(
            folder / "images" / image
        )
        rows.append(
            {
                "patient": f"MRN4711{number:03d}",
                "image": image,
                "label": ("alive", "dead")[number % 2],
                "hospital": f"St-Elsewhere {number % 2}",
                "age": 40 + number,
                "accession": f"ACC998877{number}",
                "born": "19640203",
            }
        )
    rows.append({**rows[0], "patient": "MRN4711999", "image": "MRN4711-missing.png"})
    write_csv(folder / "cohort.csv", rows)
    overrides = (
        *("dataset=table", "dataset.table=secretfolder/cohort.csv"),
        *(f"dataset.images={folder / 'images'}", "dataset.label=label", "dataset.positive=dead"),
        *("dataset.patient=patient", "dataset.image=image", "dataset.centre=hospital"),
        *("dataset.covariates=[age,accession,born]", "dataset.on_missing=drop"),
        *("model=vit", "model.weights=random", "cv.folds=3", "device=cpu", "train=quick"),
        *("strategy=linear_probe", "train.epochs=1"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("PROGNOBENCH_CACHE", str(home / "cache"))
        patch.setattr(content, "SETTLED_NS", 0)  # files are remembered at once
        assert call(patch, "run", *overrides, "--no-table") == 0
        assert call(patch, "report") == 0
    return home


@pytest.fixture
def packed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    arguments = ("results", "pack", "results", str(tmp_path / "out.zip"), "--keep", "age")
    assert call(monkeypatch, *arguments, "--key", str(tmp_path / "key")) == 0
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


def found(folder: Path, words: tuple[str, ...]) -> list[str]:
    """Return the planted words that names or contents of files hold."""
    return [
        f"{word} in {path.relative_to(folder)}"
        for path in folder.rglob("*")
        for word in words
        if word in str(path.relative_to(folder))
        or (path.is_file() and word.encode() in path.read_bytes())
    ]


def test_a_packed_folder_names_nobody(home: Path, packed: Path) -> None:
    assert found(home / "results" / "runs", PLANTED), "nothing was planted"
    assert list((packed / "out").rglob("predictions.csv"))
    assert not found(packed / "out", (*PLANTED, str(home), str(packed)))
    assert (packed / "key").stat().st_mode & 0o077 == 0


def test_the_report_and_the_shared_caches_name_nobody(home: Path) -> None:
    text = (home / "results" / "report.html").read_text(encoding="utf-8")
    # The report compares centres by their names, which are no patient's.
    assert [word for word in PLANTED if word in text] == ["St-Elsewhere"]
    assert str(home) not in text
    assert list((home / "cache" / "digests").iterdir())
    assert not found(home / "cache", (*PLANTED, str(home)))


def test_what_is_printed_names_nobody(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    assert call(monkeypatch, "table") == 0
    assert call(monkeypatch, "table", "--intervals", "--resamples", "20") == 0
    said = capsys.readouterr()
    assert "mcc" in said.out.lower()
    assert not [word for word in PLANTED if word in said.out + said.err]


def test_packed_predictions_give_the_same_scores(
    home: Path, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(packed)
    assert call(monkeypatch, "score", "out") == 0
    monkeypatch.chdir(home)
    assert call(monkeypatch, "score", "results") == 0
    before, after = (
        pd.read_csv(folder / "scores.csv") for folder in (home / "results", packed / "out")
    )
    assert len(before) > 10
    pd.testing.assert_frame_equal(before, after)


def test_only_covariates_that_are_asked_for_are_packed(packed: Path) -> None:
    (file,) = packed.glob("out/runs/*/vit/*/*/cohort.csv")
    cohort = pd.read_csv(file)
    assert set(cohort) == {"patient_id", "image", "source", "label", "centre", "order", "age"}
    assert cohort["patient_id"].nunique() == 24
    assert cohort["centre"].nunique() == 2


def test_the_same_key_gives_the_same_names(tmp_path: Path) -> None:
    first, again, other = (Pseudonyms.of(tmp_path / name) for name in ("a", "a", "b"))
    assert first.name("patient", "007") == again.name("patient", "007")
    assert first.name("patient", "007") != other.name("patient", "007")
    assert first.name("patient", "007") != first.name("image", "007")


def test_wrong_wishes_are_refused(home: Path, tmp_path: Path) -> None:
    key = Pseudonyms.of(tmp_path / "key")
    with pytest.raises(ConfigError, match="--keep weight"):
        pack(home / "results", tmp_path / "out.zip", key, ["weight"])
    (tmp_path / "out.zip").touch()
    with pytest.raises(StoreError, match="exists already"):
        pack(home / "results", tmp_path / "out.zip", key)
    (tmp_path / "no-key").write_text("abc")
    with pytest.raises(ConfigError, match="not a key"):
        Pseudonyms.of(tmp_path / "no-key")
    (tmp_path / "short").write_text("ab" * 8)
    with pytest.raises(ConfigError, match="fewer than 64 hexadecimal digits"):
        Pseudonyms.of(tmp_path / "short")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="cannot be used"):
        Pseudonyms.of(tmp_path / "folder")
    assert Pseudonyms.of(tmp_path / "key").name("patient", "") == ""
