"""Class weights are undone before probabilities are judged, and decisions stay as trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_runs import make_run, store_instead
from PIL import Image
from sklearn import metrics as reference

from prognobench.analysis.scores import Settings, score
from prognobench.analysis.summaries.score_tables import make_table
from prognobench.cli.compose import compose
from prognobench.files import read_json, read_table, write_json, write_table
from prognobench.runs.execute import run
from prognobench.runs.prepare import prepare
from prognobench.runs.workspace import Workspace
from prognobench.store import RunFolder

ODDS = np.array([1.0, 4.0])
"""How much more the classes weighed in training."""

RULES = Settings(rules=("0.5", "validation", "0.2"))
TEXT = ("key", "reason", "threshold", "level", "metric")


def weight(folder: RunFolder, shift: list[float] | None, odds: np.ndarray = ODDS) -> None:
    """Store a run as training with class weights would have left it."""
    for cell in folder.cells:
        predictions = folder.predictions(cell)
        columns = [name for name in predictions if name.startswith("score_")]
        weighted = predictions[columns].to_numpy() * odds
        predictions[columns] = weighted / weighted.sum(axis=1, keepdims=True)
        place = f"cells/{cell}"
        file, cost = (folder.path / place / name for name in ("predictions.csv", "cost.json"))
        write_table(file, predictions)
        write_json(cost, {**read_json(cost), "log_odds_shift": shift})
        for stored in (file, cost):
            store_instead(folder, f"{place}/{stored.name}", stored.read_bytes())


def scored(results: Path) -> pd.DataFrame:
    table = read_table(score(results, settings=RULES), TEXT)
    named = table[~table["model"].isin(["chance", "oracle"]) & (table["level"] == "patient")]
    return named.set_index(["metric", "threshold", "fold"]).sort_index()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, pd.DataFrame, pd.DataFrame]:
    """A run with weights, and the scores of the same run with and without them."""
    plain, weighted = (tmp_path_factory.mktemp(name) for name in ("plain", "weighted"))
    make_run(plain, images=1)
    folder = make_run(weighted, images=1)
    weight(folder, np.log(ODDS).tolist())
    return folder, scored(plain), scored(weighted)


@pytest.mark.parametrize(
    "metric", ["brier", "log_loss", "ece", "calibration_slope", "calibration_intercept"]
)
def test_risks_are_judged_without_class_weights(
    metric: str, pair: tuple[RunFolder, pd.DataFrame, pd.DataFrame]
) -> None:
    _, plain, weighted = pair
    values = [table.loc[(metric, "none"), "value"].to_numpy(float) for table in (plain, weighted)]
    np.testing.assert_allclose(*values, atol=1e-6)


def test_a_numeric_threshold_is_one_of_the_risk(
    pair: tuple[RunFolder, pd.DataFrame, pd.DataFrame],
) -> None:
    _, plain, weighted = pair
    for metric in ("net_benefit", "mcc"):
        rows = [table.loc[(metric, "0.2")] for table in (plain, weighted)]
        np.testing.assert_allclose(*(each["value"].to_numpy(float) for each in rows), atol=1e-9)
        assert set(rows[1]["cutoff"].dropna()) == {0.2}


def test_decisions_stay_those_of_the_weighted_model(
    pair: tuple[RunFolder, pd.DataFrame, pd.DataFrame],
) -> None:
    folder, _, weighted = pair
    for fold in range(5):
        table = folder.predictions(f"r0-f{fold}")
        test = table[table["part"] == "test"]
        expected = reference.matthews_corrcoef(test["label"], test["score_dead"] >= 0.5)
        row = weighted.loc[("mcc", "0.5", fold)]
        assert row["value"].item() == pytest.approx(expected, abs=1e-9)
        # Odds of 1 under a weight of 4 are a risk of 1 in 5.
        assert row["cutoff"].item() == pytest.approx(0.2, abs=1e-9)


def test_the_order_of_patients_stays_within_a_fold(
    pair: tuple[RunFolder, pd.DataFrame, pd.DataFrame],
) -> None:
    folder, _, weighted = pair
    table = folder.predictions("r0-f1")
    test = table[table["part"] == "test"]
    area = reference.roc_auc_score(test["label"], test["score_dead"])
    assert weighted.loc[("roc_auc", "none", 1), "value"].item() == pytest.approx(area, abs=1e-9)


def test_several_classes_are_decided_as_trained(tmp_path: Path) -> None:
    folder = make_run(tmp_path, classes=("mild", "severe", "dead"), images=1, patients=120)
    odds = np.array([1.0, 1.0, 6.0])
    weight(folder, np.log(odds).tolist(), odds)
    table = folder.predictions("r0-f0")
    test = table[table["part"] == "test"]
    stored = test[["score_mild", "score_severe", "score_dead"]].to_numpy()
    found = scored(tmp_path)
    decided = reference.matthews_corrcoef(test["label"], stored.argmax(1))
    assert found.loc[("mcc", "0.5", 0), "value"].item() == pytest.approx(decided, abs=1e-9)
    risks = stored / odds / (stored / odds).sum(axis=1, keepdims=True)
    assert (risks.argmax(1) != stored.argmax(1)).any()
    expected = reference.log_loss(test["label"], risks)
    assert found.loc[("log_loss", "none", 0), "value"].item() == pytest.approx(expected, abs=1e-6)


def test_a_temperature_keeps_the_decisions(tmp_path: Path) -> None:
    folder = make_run(tmp_path, images=1)
    weight(folder, np.log(ODDS).tolist())
    found = []
    for scaling in ("none", "temperature"):
        table = read_table(score(tmp_path, settings=Settings(scaling=scaling)), TEXT)
        own = table[(table["model"] == "cnn") & (table["metric"] == "mcc")]
        found.append(own.loc[own["threshold"] == "0.5", "value"].to_numpy(float))
    np.testing.assert_allclose(*found, atol=1e-12)


def test_what_cannot_be_undone_is_scored_as_stored_and_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path, images=1)
    weight(folder, None)
    score(tmp_path)
    runs = read_table(tmp_path / "runs.csv", ("risks",))
    assert runs.loc[runs["model"] == "cnn", "risks"].item().startswith("as stored")
    (brier,) = make_table(tmp_path, columns="metric", metrics=("brier",)).tables
    assert any("class weights are not undone in 1 runs" in note for note in brier.notes)
    (mcc,) = make_table(tmp_path, columns="metric", metrics=("mcc",)).tables
    assert not any("class weights" in note for note in mcc.notes)


def test_a_run_records_its_shift(tmp_path: Path) -> None:
    common = ["dataset=mortality", "dataset.patients=80", "cv=holdout"]
    paths = [f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}"]
    configs = compose([*common, "strategy=metadata,prior", *paths], multirun=True)
    outcomes = run(configs)
    for outcome in outcomes:
        folder = outcome.folder
        labels = folder.cohort().set_index("patient_id")["label"]
        folds = folder.folds()
        train = labels[folds.loc[folds["part"] == "train", "patient_id"]]
        negatives, positives = np.bincount(train)
        expected = {"metadata": [0.0, np.log(negatives / positives)], "prior": [0.0, 0.0]}
        (cell,) = folder.cells
        np.testing.assert_allclose(folder.shift(cell), expected[folder.meta["strategy"]])


def test_class_weights_count_patients(tmp_path: Path) -> None:
    # Patients 0 to 9 live and have one image each, 10 to 19 die and have three each.
    images = [1] * 10 + [3] * 10
    table = pd.DataFrame(
        {
            "patient_id": np.repeat([f"p{n:02d}" for n in range(20)], images),
            "image": [f"{n}.png" for n in range(40)],
            "outcome": np.repeat([0, 1], [10, 30]),
            "age": np.arange(40),
        }
    )
    noise = np.random.default_rng(0)
    for name in table["image"]:
        Image.fromarray(noise.integers(0, 255, (16, 16), dtype=np.uint8)).save(tmp_path / name)
    table.to_csv(tmp_path / "table.csv", index=False)
    paths = [f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}"]
    named = [
        f"dataset.images={tmp_path}",
        f"dataset.table={tmp_path / 'table.csv'}",
        "dataset.label=outcome",
    ]
    asked = ["dataset=table", *named, "strategy=metadata", "cv=holdout"]
    patient, image = prepare(
        compose([*asked, "train.weight_per=patient,image", *paths], multirun=True), Workspace()
    )
    (fold,) = patient.folds
    deaths = [run.make_loss(fold).class_weights for run in (patient, image)]
    lives, died = patient.count_patients(fold)
    assert deaths[0][1] / deaths[0][0] == pytest.approx(lives / died)
    assert deaths[1][1] / deaths[1][0] == pytest.approx(lives / (3 * died))
    weights = patient.make_loss(fold).image_weights
    assert weights is not None
    assert weights[fold.train].sum() == pytest.approx(lives + died)
    assert image.make_loss(fold).image_weights is None


def test_files_that_tell_the_outcome_are_a_baseline_in_every_table(tmp_path: Path) -> None:
    # Who dies has a larger image, so its size alone tells every outcome.
    noise, rows = np.random.default_rng(0), []
    for number in range(40):
        size = 24 if number % 2 else 16
        picture = noise.integers(0, 255, (size, size), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        rows.append({"patient_id": f"p{number:02d}", "image": f"{number}.png"})
    table = pd.DataFrame(rows).assign(outcome=np.arange(40) % 2)
    table.to_csv(tmp_path / "table.csv", index=False)
    results = tmp_path / "results"
    paths = [f"paths.results={results}", f"paths.cache={tmp_path / 'cache'}"]
    named = [f"dataset.images={tmp_path}", f"dataset.table={tmp_path / 'table.csv'}"]
    asked = ["dataset=table", *named, "dataset.label=outcome", "model=cnn", "strategy=logistic"]
    run(compose([*asked, *paths]))
    (first,) = (results / "runs" / "table" / "shortcut" / "shortcut").iterdir()
    written = sorted(first.glob("cells/*/done.json"))
    assert len(written) == 5
    folder = RunFolder(first)
    test = folder.predictions("r0-f0").query("part == 'test'")
    assert ((test["score_1"] > 0.5) == (test["label"] == 1)).all()
    (made,) = make_table(results, columns="metric", metrics=("mcc",)).tables
    by_name = {names[0]: entries[0].value for names, entries in made.below}
    assert by_name["shortcut (no image)"] == pytest.approx(1.0)
    # Another strategy on the same folds finds it there.
    before = [mark.stat().st_mtime_ns for mark in written]
    run(compose([*asked[:-1], "strategy=knn", *paths]))
    assert [mark.stat().st_mtime_ns for mark in written] == before
    # The command that made it mends it, though its own cells are whole.
    whole = (first / "cells" / "r0-f1" / "predictions.csv").read_bytes()
    for name in ("cells/r0-f1/predictions.csv", "cells/r0-f1/done.json", "run.json", "folds.csv"):
        (first / name).write_bytes((first / name).read_bytes()[:40])
        run(compose([*asked, *paths]))
        assert RunFolder(first).find_damage() is None, name
        assert RunFolder(first).find_cell_damage("r0-f1") is None, name
        assert (first / "cells" / "r0-f1" / "predictions.csv").read_bytes() == whole
