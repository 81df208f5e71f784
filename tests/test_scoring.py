"""Stored predictions become scores: levels, thresholds, references, reasons."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_runs import make_run, store_instead
from sklearn import metrics as reference

from prognobench.analysis.evaluation import make_cells
from prognobench.analysis.predictions import load_predictions, parse_cell
from prognobench.analysis.scores import COLUMNS, Settings, score
from prognobench.analysis.statistics.resampling import make_panel
from prognobench.analysis.subgroups import groupable_columns
from prognobench.analysis.thresholds import mcc_threshold, rescale, sensitivity_threshold
from prognobench.errors import ConfigError, StoreError
from prognobench.files import read_table
from prognobench.store import RunFolder


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    make_run(folder, model="cnn", skill=0.9)
    make_run(folder, model="vit", skill=0.6, repeats=2)
    make_run(folder, "real", "cnn", risk=False, done=3, failed=["r0-f3"])
    make_run(folder, "three", "cnn", classes=("mild", "severe", "dead"))
    make_run(folder, model="cnn", strategy="lora", k=4, draws=2)
    score(folder, settings=Settings(by={"age": (), "sex": ()}))
    return folder


@pytest.fixture(scope="module")
def scores(results):
    text = ("key", "reason", "subgroup", "threshold", "level", "metric")
    return read_table(results / "scores.csv", text)


def of(scores, **wanted):
    for name, value in wanted.items():
        scores = scores[scores[name] == value]
    return scores


def folder_of(results, dataset, model, strategy="full"):
    return RunFolder(next((results / "runs" / dataset / model / strategy).iterdir()))


def patients(folder, cell, part="test"):
    table = folder.predictions(cell)
    own = table[table["part"] == part].groupby("patient_id")[["label", "score_dead"]].mean()
    return own["label"].to_numpy(int), own["score_dead"].to_numpy()


def test_columns_are_as_documented(scores):
    assert tuple(scores.columns) == COLUMNS


def test_a_patients_score_is_the_mean_of_his_images(results, scores):
    folder = folder_of(results, "toy", "cnn")
    own = of(scores, model="cnn", strategy="full", dataset="toy", fold=2, level="patient")
    own = own[own["subgroup"] == ""].set_index(["metric", "threshold"])["value"]
    y, p = patients(folder, "r0-f2")
    assert own["roc_auc", "none"] == pytest.approx(reference.roc_auc_score(y, p), abs=1e-7)
    assert own["mcc", "0.5"] == pytest.approx(reference.matthews_corrcoef(y, p >= 0.5), abs=1e-7)


def test_the_threshold_comes_from_validation_alone(results, scores):
    folder = folder_of(results, "toy", "cnn")
    own = of(scores, model="cnn", strategy="full", dataset="toy", fold=2, level="patient")
    row = of(own, metric="mcc", threshold="validation").iloc[0]
    y, p = patients(folder, "r0-f2", "validation")
    best = max(reference.matthews_corrcoef(y, p >= cut) for cut in p)
    assert reference.matthews_corrcoef(y, p >= row["cutoff"]) == pytest.approx(best)
    y, p = patients(folder, "r0-f2")
    expected = reference.matthews_corrcoef(y, p >= row["cutoff"])
    assert row["value"] == pytest.approx(expected, abs=1e-7)


def test_images_are_scored_too(results, scores):
    table = folder_of(results, "toy", "cnn").predictions("r0-f0")
    test = table[table["part"] == "test"]
    own = of(scores, model="cnn", strategy="full", dataset="toy", fold=0, level="image")
    row = of(own, metric="average_precision").iloc[0]
    expected = reference.average_precision_score(test["label"], test["score_dead"])
    assert (row["value"], row["n"]) == (pytest.approx(expected, abs=1e-7), len(test))


def test_pooled_scores_are_of_all_folds_of_a_repetition(results, scores):
    folder = folder_of(results, "toy", "vit")
    own = of(scores, model="vit", dataset="toy", level="patient", subgroup="", metric="roc_auc")
    pooled = own[own["fold"].isna()].set_index("repeat")
    assert list(pooled.index) == [0, 1]
    y, p = map(np.concatenate, zip(*(patients(folder, f"r1-f{f}") for f in range(5)), strict=True))
    assert pooled.loc[1, "value"] == pytest.approx(reference.roc_auc_score(y, p), abs=1e-7)
    assert pooled.loc[1, "n"] == 100


def test_ceiling_and_chance_are_scored_on_the_same_patients(scores):
    own = of(scores, dataset="toy", regime="full", level="patient", metric="average_precision")
    own = own[(own["subgroup"] == "") & (own["fold"] == 1)]
    sizes = own.groupby("model")[["n", "positives"]].first()
    assert {"oracle", "chance", "cnn"} <= set(sizes.index)
    assert own[own["model"] == "chance"]["value"].iloc[0] == pytest.approx(
        own["prevalence"].iloc[0], abs=1e-9
    )
    means = of(own, repeat=0).groupby("model")["value"].mean()
    assert means["oracle"] > means["chance"]


def test_a_real_cohort_has_no_ceiling(scores):
    assert set(of(scores, dataset="real")["model"]) == {"cnn", "chance"}


def test_more_than_two_classes(results, scores):
    table = folder_of(results, "three", "cnn").predictions("r0-f0")
    test = table[table["part"] == "test"].groupby("patient_id").mean(numeric_only=True)
    own = of(scores, dataset="three", model="cnn", fold=0, level="patient", metric="mcc")
    decided = test.filter(like="score_").to_numpy().argmax(axis=1)
    expected = reference.matthews_corrcoef(test["label"].astype(int), decided)
    assert list(own["threshold"]) == ["0.5"]
    assert own["value"].iloc[0] == pytest.approx(expected, abs=1e-7)
    assert own["positives"].isna().all()


def test_subgroups_have_counts_and_add_up(scores):
    own = of(scores, model="vit", dataset="toy", level="patient", metric="accuracy", repeat=0)
    own = own[(own["threshold"] == "0.5") & own["fold"].isna()]
    by_sex = own[own["subgroup"].str.startswith("sex=")]
    whole = own[own["subgroup"] == ""].iloc[0]
    assert set(by_sex["subgroup"]) == {"sex=F", "sex=M"}
    assert by_sex["n"].sum() == whole["n"]
    assert np.average(by_sex["value"], weights=by_sex["n"]) == pytest.approx(whole["value"])
    by_age = own[own["subgroup"].str.startswith("age=")]
    assert len(by_age) == 3
    assert by_age["n"].sum() == whole["n"]
    assert by_age["n"].min() > 0.2 * whole["n"]


def test_an_unknown_subgroup_lists_the_columns(results):
    with pytest.raises(ConfigError, match=r"no column 'sexx'.*Did you mean 'sex'"):
        score(results, settings=Settings(by={"sexx": ()}))


def test_columns_that_make_no_or_too_many_groups_are_left_out():
    cohort = pd.DataFrame(
        {
            "patient_id": [f"P{i}" for i in range(40)],
            "label": [0, 1] * 20,
            "order": range(40),
            "centre": [f"c{i}" for i in range(40)],
            "sex": ["F", "M"] * 20,
            "accession": [f"A{i % 9}" for i in range(40)],
            "age": range(40),
            "view": "PA",
            "risk_dead": range(40),
        }
    )
    assert groupable_columns(cohort) == ["sex", "age"]


def test_bands_depend_on_the_values_and_not_on_the_name_of_a_column(tmp_path):
    folder = make_run(tmp_path)
    cohort = folder.cohort()
    changed = cohort.assign(dosage=cohort["age"]).to_csv(index=False).encode()
    store_instead(folder, "cohort.csv", changed)
    table = read_table(score(tmp_path, settings=Settings(by={"age": (), "dosage": ()})))
    bands = {
        name: {
            group.partition("=")[2] for group in set(table["subgroup"].dropna()) if name in group
        }
        for name in ("age", "dosage")
    }
    assert len(bands["age"]) == 3
    assert bands["age"] == bands["dosage"]


def test_few_shot_runs_carry_k_and_draws(scores):
    own = of(scores, strategy="lora", level="patient", metric="mcc", threshold="0.5", subgroup="")
    assert set(own["k"]) == {4}
    assert own["fold"].notna().sum() == 10
    assert set(own["draw"]) == {0, 1}


def test_a_blank_value_has_its_reason(tmp_path):
    make_run(tmp_path, patients=30, prevalence=0.06)
    table = read_table(score(tmp_path), ("reason", "level", "metric"))
    blank = table[table["value"].isna()]
    assert (blank["reason"] != "").all()
    assert (table[table["value"].notna()]["reason"] == "").all()
    assert blank["reason"].str.contains("no patient of class 'dead' among 6").any()


def test_scoring_again_gives_the_same_bytes(tmp_path):
    make_run(tmp_path)
    first = score(tmp_path).read_bytes()
    assert score(tmp_path).read_bytes() == first


def test_runs_say_how_far_they_are(results):
    runs = read_table(results / "runs.csv")
    real = runs[runs["dataset"] == "real"].iloc[0]
    assert (real["done"], real["cells"], real["failed"]) == (3, 5, 1)
    assert "not finite" in real["failure"]


def test_no_results_say_how_to_start(tmp_path):
    with pytest.raises(StoreError, match="prognobench run"):
        score(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="prognobench run"):
        score(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    folder = make_run(tmp_path)
    path = folder.path / "cells" / "r0-f1" / "predictions.csv"
    path.write_text("part,patient_id\n")
    with pytest.raises(StoreError, match="r0-f1"):
        score(tmp_path)


# ------------------------------------------------------------------ thresholds, calibration


def test_mcc_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(20):
        y = rng.integers(0, 2, 40)
        p = np.clip(0.4 * y + rng.random(40).round(1) * 0.6, 0, 1)
        cut = mcc_threshold(y, p)
        best = max(reference.matthews_corrcoef(y, p >= c) for c in np.unique(p))
        assert reference.matthews_corrcoef(y, p >= cut) == pytest.approx(best)


def test_of_equal_thresholds_the_one_nearest_to_a_half_is_taken():
    # Perfect between 0.2 and 0.4 only.
    assert mcc_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.4, 0.9])) == pytest.approx(
        0.3
    )
    # 0.15 and 0.75 are equally good, mirrored.
    cut = mcc_threshold(np.array([0, 1, 0, 1]), np.array([0.1, 0.2, 0.7, 0.8]))
    assert cut == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("labels", "scores"), [([1, 1], [0.2, 0.8]), ([0, 1], [0.5, 0.5]), ([], [])]
)
def test_no_threshold_where_validation_gives_none(labels, scores):
    assert np.isnan(mcc_threshold(np.array(labels, dtype=int), np.array(scores)))


def test_the_wanted_sensitivity_is_reached_and_no_more_is_given_away():
    y, p = np.array([1, 1, 1, 1, 0]), np.array([0.9, 0.7, 0.5, 0.3, 0.6])
    assert sensitivity_threshold(y, p, 0.75) == 0.5
    assert sensitivity_threshold(y, p, 0.76) == 0.3


def test_scaling_undoes_overconfidence():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=4000)
    y = (rng.random(4000) < 1 / (1 + np.exp(-truth))).astype(int)
    loud = 1 / (1 + np.exp(-3 * truth))
    scores = np.stack([1 - loud, loud], axis=1)
    for method in ("temperature", "platt"):
        scaled = rescale(method, y[:2000], scores[:2000], scores[2000:])[:, 1]
        expected = 1 / (1 + np.exp(-truth[2000:]))
        assert np.abs(scaled - expected).mean() < 0.03
        assert reference.log_loss(y[2000:], scaled) < reference.log_loss(y[2000:], loud[2000:])
    assert (rescale("none", y, scores, scores) == scores).all()


def test_scaling_more_than_two_classes_keeps_probabilities():
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.ones(3), 200)
    y = rng.integers(0, 3, 200)
    for method in ("temperature", "platt"):
        scaled = rescale(method, y, p, p)
        assert scaled.sum(axis=1) == pytest.approx(np.ones(200))


def test_scaled_scores_and_a_wanted_sensitivity_by_setting(tmp_path):
    make_run(tmp_path)
    settings = Settings(
        scaling="platt", rules=("0.5", "sensitivity 0.9", "0.20"), levels=("patient",)
    )
    table = read_table(score(tmp_path, settings=settings), ("threshold", "metric"))
    plain = read_table(score(tmp_path, settings=Settings(levels=("patient",))), ("metric",))
    own = table[table["model"] == "cnn"].groupby("metric")["value"].mean()
    before = plain[plain["model"] == "cnn"].groupby("metric")["value"].mean()
    assert {"sensitivity 0.9", "0.2"} <= set(table["threshold"])
    assert set(table.loc[table["threshold"] == "0.2", "cutoff"].dropna()) == {0.2}
    assert own["brier"] != before["brier"]
    fold_auc = [
        t[(t["model"] == "cnn") & (t["metric"] == "roc_auc") & t["fold"].notna()]
        for t in (table, plain)
    ]
    assert fold_auc[0]["value"].to_numpy() == pytest.approx(fold_auc[1]["value"].to_numpy())


@pytest.mark.parametrize("rule", ["valid", "sensitivity high", "1.5", "specificity 0.9"])
def test_a_threshold_that_is_none(results, rule):
    with pytest.raises(ConfigError, match="use a number from 0 to 1"):
        score(results, settings=Settings(rules=(rule,)))


# ------------------------------------------------------------------ predictions


def test_names_of_cells():
    assert parse_cell("r1-f2-d3") == (1, 3, 2)
    assert parse_cell("r0-f4") == (0, -1, 4)
    with pytest.raises(StoreError, match="cells are named like r0-f2"):
        parse_cell("fold3")


def test_a_panel_has_every_test_patient_of_each_repetition(results):
    folder = folder_of(results, "toy", "vit")
    runs = pd.DataFrame({"model": ["vit"]})
    (predictions,) = load_predictions(runs, [folder])
    panel = make_panel(predictions, make_cells(predictions, "image"), 0)
    assert len(panel.patients) == 100
    assert len(panel.repetitions) == 2
    for repetition in panel.repetitions:
        assert set(repetition.patient) == set(range(100))
    assert panel.test_size == 20
