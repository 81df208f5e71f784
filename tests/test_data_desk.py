"""``prognobench data check`` on trees of the public cohorts: every trap in them is found."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from made_cohorts import (
    make_aiforcovid,
    make_cocross,
    make_covid_19_ar,
    make_covid_19_ny,
    make_covid_chestxray,
    write_csv,
)
from pydicom import dcmread

from prognobench.cli import main
from prognobench.cli.compose import compose
from prognobench.errors import ConfigError
from prognobench.runs.execute import run
from prognobench.runs.workspace import Workspace


def picture(seed: int, image_size: int = 128) -> np.ndarray:
    """A cloudy picture with fine structure, unlike any other."""
    random = np.random.default_rng(seed)
    clouds = cv2.resize(
        random.random((7, 7)), (image_size, image_size), interpolation=cv2.INTER_CUBIC
    )
    ribs = cv2.resize(
        random.random((32, 32)), (image_size, image_size), interpolation=cv2.INTER_CUBIC
    )
    return (170 * clouds + 70 * ribs).clip(0, 255).astype(np.uint8)


def redraw(path: Path, grey: np.ndarray, **tags: Any) -> None:
    """Put another picture of 8 bits into a DICOM file."""
    dataset = dcmread(path)
    dataset.Rows, dataset.Columns = grey.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelData = 7, grey.tobytes()
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    dataset.save_as(path)


def redraw_all(root: Path, tags: Callable[[Path], dict[str, Any]] = lambda path: {}) -> Path:
    for number, path in enumerate(sorted(root.rglob("*.dcm"))):
        redraw(path, picture(number), **tags(path))
    return root


def check(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    (config,) = compose([*overrides, f"paths.cache={tmp_path / 'cache'}"])
    workspace = Workspace()
    found = workspace.audit_fully(config, workspace.split_cohort(config)).to_json()
    found |= {title: rows for title, rows in found["tables"].items()}
    found["reasons"] = " / ".join(row["reason"] for row in found["left out"])
    found["shortcuts"] = {row["metadata"]: row for row in found["metadata-only baseline"]}
    return found


def same_pictures(found: dict[str, Any]) -> dict[str, str]:
    return {row["image"]: row["match"] for row in found["same picture"]}


def image_of(root: Path, patient: str) -> Path:
    return next(iter(sorted(root.rglob(f"*/{patient}/*/*/*.dcm"))))


def test_aiforcovid(tmp_path: Path) -> None:
    root = make_aiforcovid(tmp_path / "afc")
    severe = {f"P_{n}" for n in (2, 4, 6, 8)} | {"P_1_2", "P_1_4", "P_3_1", "P_3_3", "P_3_5"}
    redraw_all(root, lambda path: {"Manufacturer": "A" if path.stem in severe else "B"})
    redraw(root / "imgs" / "P_2.dcm", picture(99))
    redraw(
        root / "imgs_r2" / "P_1_3.dcm", 255 - picture(99), PhotometricInterpretation="MONOCHROME1"
    )
    redraw(root / "imgs_r3" / "P_3_2.dcm", 255 - picture(99))
    redraw(root / "imgs" / "P_5.dcm", np.full((64, 64), 7, dtype=np.uint8))
    given = [f"dataset.root={root}", "cv=five_fold", "cv.folds=4", "dataset.pixels.equalise=false"]
    found = check(tmp_path, "dataset=afc_severity", *given)
    assert same_pictures(found) == {
        "imgs/P_2.dcm": "",
        "imgs_r2/P_1_3.dcm": "similar",
        "imgs_r3/P_3_2.dcm": "inverted",
    }
    assert "pictures filed under different outcomes: 1" in " ".join(found["duplicates"])
    assert "AIforCOVID.xlsx row 3 = AIforCOVID_r2.xlsx row 4" in found["leaks"][0]
    assert found["faulty images"] == [{"image": "imgs/P_5.dcm", "fault": "constant", "why": ""}]
    assert "unusable, as the authors of the study found" in found["reasons"]
    assert found["shortcuts"]["device"]["mcc"] > 0.7
    assert found["shortcuts"]["device"]["follows"]
    assert [row["centre"] for row in found["patients and images"][:-1]] == list("ABCDEF")
    assert "outcome is blank" in check(tmp_path, "dataset=afc_mortality", *given)["reasons"]


def test_covid_19_ar(tmp_path: Path) -> None:
    root = redraw_all(make_covid_19_ar(tmp_path / "car"))
    one, other = (image_of(root, f"COVID-19-AR-1640000{n}") for n in (2, 5))
    redraw(one, picture(50)[8:-8, 8:-8])
    redraw(other, picture(50))
    given = ("dataset=car_icu", f"dataset.root={root}", "cv.folds=3")
    found = check(tmp_path, *given, "dataset.select=all")
    assert sorted(same_pictures(found).values()) == ["", "cropped"]
    assert len(found["leaks"]) == 1
    for word in ("modality CT", "XR ABDOMEN", "not a frontal view", "no frontal chest X-ray"):
        assert word in found["reasons"]
    assert found["shortcuts"]["number of images"]["mcc"] > 0.7
    assert "number of images" not in check(tmp_path, *given)["shortcuts"]


def test_covid_19_ny(tmp_path: Path) -> None:
    root = redraw_all(make_covid_19_ny(tmp_path / "ny"))
    one, other = (image_of(root, f"A00000{n}") for n in (3, 7))
    for path in one.parent.parent.parent.rglob("*.dcm"):
        redraw(path, picture(60))
    for path in other.parent.parent.parent.rglob("*.dcm"):
        redraw(path, picture(60)[:, ::-1])
    given = ("dataset=ny_mortality", f"dataset.root={root}", "cv.folds=3")
    found = check(tmp_path, *given, "dataset.on_missing=drop")
    assert sorted(same_pictures(found).values()) == ["", "mirrored"]
    for word in ("modality CT", "modality MR", "enhanced copy", "processed copy", "LATERAL"):
        assert word in found["reasons"]
    everything = check(tmp_path, *given, "dataset.select=all", "dataset.on_missing=drop")
    assert everything["shortcuts"]["number of images"]["mcc"] > 0.5
    assert "number of images" not in found["shortcuts"]


def test_cocross(tmp_path: Path) -> None:
    table, images = make_cocross(tmp_path / "cocross", [picture(n) for n in range(40)])
    given = ("dataset=cocross_mortality", f"dataset.table={table}", f"dataset.images={images}")
    found = check(tmp_path, *given, "cv.folds=3")
    assert same_pictures(found) == {"003/a.dcm": "", "007/a.dcm": "same file"}
    assert "cocross.xlsx row 5 = cocross.xlsx row 9" in found["leaks"][0]
    everything = check(tmp_path, *given, "cv.folds=3", "dataset.select=all")
    assert everything["shortcuts"]["number of images"]["mcc"] == 1.0
    assert everything["patients and images"][-1] | {"centre": ""} == {
        **{"centre": "", "Alive": 6, "Death": 6, "patients": 12, "images": 18}
    }


def test_covid_chestxray(tmp_path: Path) -> None:
    root = make_covid_chestxray(tmp_path / "cxr")
    found = check(tmp_path, "dataset=cxr_icu", f"dataset.root={root}", "cv.folds=3")
    for word in ("not an X-ray", "not a frontal view", "no image", "outcome is 'Would have been"):
        assert word in found["reasons"]
    assert "an earlier row" in found["reasons"]


@pytest.mark.real_data
def test_an_external_test_on_the_rest_of_a_real_cohort(
    real_cohort_root: Path, tmp_path: Path
) -> None:
    given = ["dataset=union", "dataset.classes=[without,with]", "cv=external", "cv.test=[new]"]
    for part, choice in (("seen", "cxr_icu"), ("new", "cxr_mortality")):
        given += [f"+dataset@dataset.parts.{part}={choice}"]
        given += [f"dataset.parts.{part}.root={real_cohort_root}"]
    with pytest.raises(Exception, match="patients of part new stand in seen as well"):
        check(tmp_path, *given)
    found = check(tmp_path, *given, "dataset.on_overlap=drop")
    assert found["leaks"] == []
    assert "the patient stands in an earlier part" in found["reasons"]
    (fold,) = found["patients by part"]
    assert fold["test without"] + fold["test with"] > 20


# ------------------------------------------------------------------ before a run

QUICK = (
    *("model=vit", "model.weights=random", "train=quick", "train.epochs=1", "device=cpu"),
    *("cv.folds=3", "regime.draws=1"),
)


def small_table(root: Path) -> tuple[str, ...]:
    """Twelve patients; the images of three are one picture, mirrored twice."""
    rows = [{"patient": f"p{n}", "image": f"{n}.png", "outcome": "ab"[n % 2]} for n in range(12)]
    root.mkdir()
    for number in range(12):
        grey = picture(1)[:, ::-1] if number in (4, 9) else picture(number)
        grey = grey // 2 if number == 9 else grey
        cv2.imwrite(str(root / f"{number}.png"), grey)
    table = write_csv(root / "table.csv", rows)
    return (
        *("dataset=table", f"dataset.table={table}", f"dataset.images={root}"),
        *("dataset.label=outcome", "dataset.positive=b"),
    )


def test_a_run_refuses_pictures_that_leak_unless_told_otherwise(tmp_path: Path) -> None:
    here = (f"paths.cache={tmp_path / 'cache'}", f"paths.results={tmp_path / 'results'}")
    given = [*small_table(tmp_path / "images"), *QUICK[:-1], *here, "strategy=linear_probe"]
    with pytest.raises(ConfigError, match="pictures filed under patients of different"):
        run(compose(given))
    assert not (tmp_path / "results").exists()
    (outcome,) = run(compose([*given, "checks.leaks=allow"]))
    assert len(outcome.computed) == 3
    assert (
        "table.csv row 3 = table.csv row 6 = table.csv row 11"
        in outcome.folder.meta["warnings"][-1]
    )
    assert outcome.folder.meta["config"]["checks"]["leaks"] == "allow"
    # What reads no picture does not wait for the pictures of all patients to be compared.
    (outcome,) = run(compose([*given[:-1], "strategy=prior"]))
    assert len(outcome.computed) == 3


def test_a_run_leaves_patients_who_share_pictures_out_of_training(tmp_path: Path) -> None:
    here = (f"paths.cache={tmp_path / 'cache'}", f"paths.results={tmp_path / 'results'}")
    given = [*small_table(tmp_path / "images"), *QUICK[:-1], *here, "checks.leaks=drop"]
    (outcome,) = run(compose([*given, "strategy=linear_probe"]))
    assert len(outcome.computed) == 3
    stored = outcome.folder.path
    folds = pd.read_csv(stored / "folds.csv", dtype=str)
    same = {"p1", "p4", "p9"}
    for _, fold in folds.groupby("fold"):
        parts = fold[fold["patient_id"].isin(same)].groupby("part").groups
        assert len(parts) == 1
    tested = folds[folds["part"] == "test"]
    assert sorted(tested["patient_id"]) == sorted(f"p{n}" for n in range(12))
    meta = outcome.folder.meta
    assert {fold["fold"] for fold in meta["left_out"]} <= set(outcome.folder.cells)
    lost = [fold["train"] + fold["validation"] for fold in meta["left_out"]]
    seen = folds.groupby("fold")["patient_id"].nunique()
    assert sorted(lost) == sorted(12 - count for count in seen if count < 12)
    assert "checks.leaks=drop left patients out of training" in " ".join(meta["warnings"])
    # Whatever a strategy reads, it is compared on the same folds.
    (other,) = run(compose([*given, "strategy=prior"]))
    assert other.folder.meta["fingerprints"]["folds"] == meta["fingerprints"]["folds"]


def test_an_external_test_of_a_cohort_that_shares_images(tmp_path: Path) -> None:
    given = ["dataset=union", "cv=external", "cv.test=[new]", *QUICK[:-2], "strategy=prior"]
    given += [f"paths.cache={tmp_path / 'cache'}", f"paths.results={tmp_path / 'results'}"]
    shared = {0: 3, 1: 8, 2: 5}  # an image of the new part -> the same of the old one
    for part, start in (("old", 0), ("new", 50)):
        root = tmp_path / part
        root.mkdir()
        rows = []
        for number in range(12):
            grey = picture(shared[number] if start and number in shared else start + number)
            cv2.imwrite(str(root / f"{number}.png"), grey)
            rows.append({"patient": f"{number}", "image": f"{number}.png"})
            rows[-1]["outcome"] = "ab"[number % 2]
        table = write_csv(root / "table.csv", rows)
        chosen = {"builder": "table", "table": table, "images": root, "label": "outcome"}
        chosen |= {"positive": "b"}
        given += [f"+dataset.parts.{part}.{key}={value}" for key, value in chosen.items()]
    with pytest.raises(ConfigError, match=r"fold: 3 \(old: table.csv row 5 = new: table.csv row 2"):
        run(compose(given))
    (outcome,) = run(compose([*given, "checks.leaks=drop"]))
    (lost,) = outcome.folder.meta["left_out"]
    assert lost["train"] + lost["validation"] == 3
    folds = pd.read_csv(outcome.folder.path / "folds.csv", dtype=str)
    assert (folds["part"] == "test").sum() == 12
    used = folds[folds["part"] != "test"]["patient_id"]
    assert set(used) == {f"old:{n}" for n in range(12) if n not in shared.values()}


def test_a_run_refuses_repeated_pictures_if_told_so(tmp_path: Path) -> None:
    here = (f"paths.cache={tmp_path / 'cache'}", f"paths.results={tmp_path / 'results'}")
    given = [*small_table(tmp_path / "images"), *QUICK[:-1], *here, "checks.leaks=drop"]
    with pytest.raises(ConfigError, match=r"(?s)several patients: 1.*checks.duplicates=allow"):
        run(compose([*given, "strategy=linear_probe", "checks.duplicates=refuse"]))


def test_a_run_refuses_broken_images_before_it_starts(tmp_path: Path) -> None:
    here = (f"paths.cache={tmp_path / 'cache'}", f"paths.results={tmp_path / 'results'}")
    given = [*small_table(tmp_path / "images"), *QUICK[:-1], *here]
    for number in (3, 5):
        image = tmp_path / "images" / f"{number}.png"
        content = bytearray(image.read_bytes())
        content[len(content) // 2] ^= 255
        image.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        run(compose(given))
    for name in ("3.png", "5.png", "different parts"):
        assert name in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_few_shot_runs_without_a_validation_part(tmp_path: Path) -> None:
    here = (f"paths.cache={tmp_path / 'cache'}", f"paths.results={tmp_path / 'results'}")
    few = ("regime=few_shot", "regime.k=2", "regime.validation=none")
    small = ("dataset=severity", "dataset.patients=30", "dataset.image_size=64")
    small = (*small, "strategy=linear_probe,lora")
    for outcome in run(compose([*small, *few, *QUICK, *here], multirun=True)):
        assert len(outcome.computed) == 3
        assert not outcome.failed
        assert set(outcome.folder.predictions("r0-f0-d0")["part"]) == {"test"}


def test_a_run_says_how_numbers_were_read_and_who_was_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*small_table(tmp_path / "images"), *QUICK[:-1], "strategy=metadata"]
    table = tmp_path / "images" / "table.csv"
    rows = pd.read_csv(table).assign(lab=[f"{70 + n},5 %" for n in range(12)])
    rows.to_csv(table, index=False)
    given += [f"paths.cache={tmp_path / 'cache'}", f"paths.results={tmp_path / 'results'}"]
    given += ["checks.leaks=drop", "dataset.covariates=[lab]"]
    monkeypatch.setattr(sys, "argv", ["prognobench", "run", *given])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    said = capsys.readouterr().err
    rule = "column 'lab': numbers with a decimal comma and the unit '%': '1,5%' is read as 1.5"
    assert said.count(f"table: {rule}") == 1
    assert "table: checks.leaks=drop left patients out of training" in said
    (meta,) = (tmp_path / "results").rglob("run.json")
    assert json.loads(meta.read_text())["notes"] == [rule]
