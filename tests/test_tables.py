"""Tables: what stands in a cell, what is marked, what every format makes of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from made_runs import make_run
from scipy import stats

from prognobench.analysis.scores import Settings, read_scores, score
from prognobench.analysis.statistics.marks import share_tested
from prognobench.analysis.statistics.paired_tests import corrected_t, holm
from prognobench.analysis.statistics.resampling import Resampling
from prognobench.analysis.summaries import costs
from prognobench.analysis.summaries.aggregate import Selection, aggregate
from prognobench.analysis.summaries.comparer import Question, bootstrap_p
from prognobench.analysis.summaries.comparisons import compare, comparison_table
from prognobench.analysis.summaries.intervals import COLUMNS as INTERVALS
from prognobench.analysis.summaries.intervals import Wanted, make_intervals
from prognobench.analysis.summaries.ranks import make_ranks, rank, rank_table, wins_table
from prognobench.analysis.summaries.score_tables import make_table
from prognobench.analysis.tables import latex, markdown, plain_rows, terminal
from prognobench.cli import main
from prognobench.errors import ConfigError
from prognobench.files import read_sealed, read_table, write_sealed


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for model, skill in (("cnn", 0.95), ("vit", 0.2)):
        make_run(folder, model=model, skill=skill)
        make_run(folder, model=model, strategy="lora", skill=skill - 0.1, parameters=50)
        make_run(folder, model=model, strategy="lora", skill=0.5, k=4, draws=2)
    make_run(folder, model="cnn", strategy="metadata", skill=0.6)
    make_run(folder, model="vit", strategy="bitfit", not_applicable="it has no biases")
    make_run(folder, model="cnn", strategy="bitfit", done=3, failed=["r0-f3"])
    make_run(folder, "real", model="cnn", skill=0.9, risk=False)
    make_run(folder, "real", model="vit", skill=0.9, risk=False)
    return folder


@pytest.fixture(scope="module")
def scored(results):
    return read_scores(results)


def table(results, scored, **wanted):
    made = make_table(results, scored=scored, formats=(), **wanted)
    return made.tables


def entry(one, row, column):
    heads = one.columns.index(column)
    return next(entries[heads] for names, entries in one.rows if names[: len(row)] == row)


def test_a_cell_is_mean_and_standard_deviation_over_folds(results, scored):
    one = table(results, scored, metrics=("roc_auc",), where={"dataset": ["toy"]})[0]
    own = scored.scores
    own = own[(own["metric"] == "roc_auc") & (own["level"] == "patient") & own["fold"].notna()]
    own = own[(own["model"] == "cnn") & (own["strategy"] == "full") & (own["dataset"] == "toy")]
    expected = f"{own['value'].mean():.3f} ± {own['value'].std():.3f}"
    assert entry(one, ("cnn",), "full").text == expected


def test_the_best_is_marked_and_what_could_be_as_good(results, scored):
    cells = aggregate(scored, Selection(("mcc",), where={"dataset": ["toy"], "regime": ["full"]}))
    real = cells[~cells["model"].isin(["oracle", "chance"]) & ~cells["baseline"]]
    best = real.loc[real["mean"].idxmax()]
    assert best["mark"] == "best"
    own = scored.scores[(scored.scores["metric"] == "mcc") & (scored.scores["threshold"] == "0.5")]
    own = own[(own["level"] == "patient") & own["fold"].notna() & (own["regime"] == "full")]
    folds = own[own["dataset"] == "toy"].pivot_table(
        index="fold", columns=["model", "strategy"], values="value"
    )
    others = real[(real["mark"] != "best") & (real["folds"] > 0)].to_dict("records")
    pairs = [
        folds[best["model"], best["strategy"]] - folds[cell["model"], cell["strategy"]]
        for cell in others
    ]
    corrected = holm([corrected_t(pair.to_numpy(), 20 / 80).p for pair in pairs])
    for cell, p in zip(others, corrected, strict=True):
        assert cell["mark"] == ("tie" if p >= 0.05 else "")
    assert set(real["mark"]) == {"best", "tie", ""}


def test_where_less_is_better_the_least_is_best(scored):
    cells = aggregate(scored, Selection(("brier",), where={"dataset": ["toy"], "k": [0]}))
    real = cells[~cells["model"].isin(["oracle", "chance"]) & ~cells["baseline"]]
    assert real.loc[real["mean"].idxmin(), "mark"] == "best"


def test_impossible_and_unfinished_pairs_say_so(results, scored):
    one = table(results, scored, metrics=("mcc",), where={"dataset": ["toy"]})[0]
    assert entry(one, ("vit",), "bitfit").text == "n/a: it has no biases"
    assert "(3/5 folds)" in entry(one, ("cnn",), "bitfit").text
    assert any("loss is not finite" in note for note in one.notes)


def test_references_stand_below(results, scored):
    one = table(results, scored, metrics=("average_precision",), where={"dataset": ["toy"]})[0]
    names = [names[0] for names, _ in one.rows[-one.references :]]
    assert names == ["ceiling (true risk)", "metadata (no image)", "chance"]
    assert one.rows[-1][1][0].value == pytest.approx(0.35)
    assert any("chance level" in note for note in one.notes)
    assert "synthetic" in one.title


def test_what_is_no_better_than_metadata_is_marked(results, scored):
    one = table(results, scored, metrics=("roc_auc",), where={"dataset": ["toy"]})[0]
    assert entry(one, ("vit",), "full").below
    assert not entry(one, ("cnn",), "full").below


def test_only_synthetic_datasets_are_called_so(results, scored):
    where = {"regime": ["full"]}
    one = table(results, scored, rows=("dataset", "model"), metrics=("mcc",), where=where)[0]
    assert one.title.endswith("toy: synthetic images, no clinical data")


def test_few_shot_with_k_across(results, scored):
    one = table(results, scored, rows=("model", "strategy"), columns="k", metrics=("mcc",))
    toy = next(each for each in one if "toy" in each.title)
    assert toy.columns == ("all", "k=4")
    assert entry(toy, ("cnn", "lora"), "k=4").text
    assert toy.rows[-toy.references][0][0] == "ceiling (true risk)"


def test_metrics_as_columns_keep_their_order(results, scored):
    one = table(
        results,
        scored,
        rows=("model", "strategy"),
        columns="metric",
        metrics=("roc_auc", "mcc"),
        where={"dataset": ["real"]},
    )[0]
    assert one.columns == ("ROC-AUC", "MCC")


def test_files_and_their_columns(results, scored):
    made = make_table(results, scored=scored, formats=("csv", "md", "tex", "html"))
    assert [path.suffix for path in made.files] == [".csv", ".md", ".tex", ".html"]
    long = read_table(made.files[0])
    assert {"dataset", "model", "strategy", "mean", "sd", "folds", "expected", "reason"} <= set(
        long
    )
    assert "n/a: it has no biases" in made.files[1].read_text()
    assert "<script" not in made.files[3].read_text()


def test_markdown_marks_the_best_and_escapes(results, scored):
    text = markdown(table(results, scored, metrics=("mcc",), where={"dataset": ["toy"]}))
    assert re.search(r"\*\*\d\.\d+ ± \d\.\d+ \(best of 5; optimism \d\.\d+\) †\*\*", text)
    assert "five\\_fold" in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_latex_compiles(results, scored, tmp_path):
    body = latex(table(results, scored))
    head = "\\documentclass{article}\\usepackage[utf8]{inputenc}\\usepackage{booktabs}"
    (tmp_path / "t.tex").write_text(f"{head}\\begin{{document}}{body}\\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_latex_is_balanced_and_escaped(results, scored):
    text = latex(table(results, scored))
    assert text.count("\\begin{table}") == text.count("\\end{table}") > 1
    assert text.count("\\toprule") == text.count("\\bottomrule")
    assert not re.search(r"(?<!\\)_", text.replace("\\usepackage{booktabs}", ""))
    lines = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert all(re.sub(r"\\&", "", line).count("&") >= 1 for line in lines)


def test_the_terminal_gets_bold_and_a_pipe_gets_text(results, scored):
    one = table(results, scored, metrics=("mcc",), where={"dataset": ["toy"]})[0]
    drawn = terminal(one)
    assert drawn.row_count == len(one.rows)
    narrow = terminal(one, 20)  # a line for each name and value
    assert len(narrow.columns) == 2
    assert narrow.row_count > 2 * len(one.rows)
    assert len(terminal(one, 200).columns) == len(one.heads) + len(one.columns)
    heads, lines = plain_rows(one)
    assert heads[0] == "model"
    assert all(len(line) == len(heads) for line in lines)


def test_unknown_names_are_refused_together(results, scored):
    with pytest.raises(ConfigError) as error:
        make_table(results, scored=scored, rows=("modell",), columns="strateg", formats=("pdff",))
    assert len(error.value.faults) == 3
    assert "Did you mean 'model'" in str(error.value)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"metrics": ("mc",)}, "Did you mean 'mcc'"),
        ({"where": {"dataset": ["toyy"]}}, r"no run has dataset=toyy. Did you mean 'toy'"),
        ({"where": {"datset": ["toy"]}}, "Did you mean 'dataset'"),
        ({"threshold": "0.7"}, "no scores at threshold '0.7'"),
        ({"rows": ("model", "model")}, "different dimensions"),
    ],
)
def test_wrong_choices(results, scored, wanted, said):
    with pytest.raises(ConfigError, match=said):
        make_table(results, scored=scored, formats=(), **wanted)


def test_the_latest_of_runs_that_differ_in_settings_is_shown(tmp_path):
    old = make_run(tmp_path, skill=0.1)
    new = make_run(tmp_path, skill=0.99, folds=4)
    for mark in new.path.glob("cells/*/done.json"):
        content, _ = read_sealed(mark)
        write_sealed(mark, {**content, "finished": "2099-01-01T00:00:00+00:00"})
    one = make_table(tmp_path, metrics=("mcc",), formats=()).tables[0]
    assert any(old.path.name in note for note in one.notes)
    assert entry(one, ("cnn",), "full").value > 0.4


def test_mixed_versions_are_said(tmp_path):
    make_run(tmp_path)
    make_run(tmp_path, model="vit", version="0.2.0")
    one = make_table(tmp_path, metrics=("mcc",), formats=()).tables[0]
    assert any("0.1.0, 0.2.0" in note for note in one.notes)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["table", "--metric", "mcc", "--dataset", "toy"], 0, "ceiling (true risk)"),
        (["table", "--efficiency", "--dataset", "toy"], 0, "trainable parameters"),
        (["compare", "--ranks", "--regime", "full"], 0, "won / tied / lost"),
        (["compare", "--by", "model", "--dataset", "toy"], 0, "these trained models [95 %]"),
        (["claims"], 0, "undecided"),
        (["compare", "--by", "model", "--interval", "bca", "--rope", "0.05"], 0, "BCa"),
        (["compare", "--threshold", "sensitivity 0.8"], 0, "threshold: sensitivity 0.8"),
        (["compare", "--threshold", "half"], 2, ""),
        (["table", "--intervals", "--dataset", "toy", "--resamples", "50"], 0, "50 resamples"),
        (["table", "--by", "sex", "--stratified", "--resamples", "50"], 0, "sex=F"),
        (["table", "--k", "4", "--rows", "model,k"], 0, "k=4"),
        (["score", "--by", "age:old"], 2, ""),
    ],
)
def test_on_the_command_line(results, monkeypatch, capsys, *, arguments, code, said):
    monkeypatch.setattr("sys.argv", ["prognobench", *arguments, str(results)])
    try:
        main()
        left = 0
    except SystemExit as end:
        left = end.code or 0
    assert left == code
    assert said in capsys.readouterr().out


def test_scores_are_made_again_only_when_something_was_computed(tmp_path):
    make_run(tmp_path, model="cnn")
    score(tmp_path, settings=Settings(scaling="platt", by={"sex": ()}))
    one = make_table(tmp_path, metrics=("mcc",), formats=()).tables[0]
    assert any("platt scaling" in note for note in one.notes)
    make_run(tmp_path, model="vit")
    one = make_table(tmp_path, metrics=("mcc",), formats=()).tables[0]
    assert [names[0] for names, _ in one.rows[:2]] == ["cnn", "vit"]
    assert not any("platt" in note for note in one.notes)
    shutil.rmtree(tmp_path / "runs" / "toy" / "vit")
    one = make_table(tmp_path, metrics=("mcc",), formats=()).tables[0]
    assert "vit" not in {names[0] for names, _ in one.rows}


# ------------------------------------------------------------------ intervals


def test_pooled_scores_have_intervals_and_stand_beside_those_of_folds(results, scored):
    wanted = Wanted(("roc_auc", "mcc"), where={"dataset": ["toy"]}, by={"sex": ()})
    made = make_intervals(results, wanted)
    long = read_table(made.files[0], ("subgroup", "threshold"))
    assert tuple(long.columns) == INTERVALS
    own = long[(long["model"] == "cnn") & (long["strategy"] == "full") & (long["k"] == 0)]
    everybody = own[(own["subgroup"] == "") & (own["metric"] == "roc_auc")].iloc[0]
    assert everybody["low"] < everybody["value"] < everybody["high"]
    stored = scored.scores[(scored.scores["metric"] == "roc_auc") & (scored.scores["k"] == 0)]
    stored = stored[(stored["dataset"] == "toy") & (stored["level"] == "patient")]
    stored = stored[(stored["model"] == "cnn") & (stored["strategy"] == "full")]
    assert everybody["value"] == pytest.approx(stored.loc[stored["fold"].isna(), "value"].item())
    folds = stored.loc[stored["fold"].notna(), "value"]
    assert everybody["fold_mean"] == pytest.approx(folds.mean())
    assert everybody["fold_sd"] == pytest.approx(folds.std())
    sexes = own[own["subgroup"].str.startswith("sex=") & (own["metric"] == "mcc")]
    assert sexes["n"].sum() == everybody["n"] == 100
    full = next(one for one in made.tables if "full" in one.title)
    assert full.rows[-1][0][0] == "chance"
    assert full.heads == ("model", "strategy", "subgroup")


def test_intervals_by_another_bootstrap_differ_and_the_same_seed_repeats_them(results):
    where = {"dataset": ["real"], "model": ["cnn"]}

    def low(**how):
        frame = read_table(
            make_intervals(
                results,
                Wanted(("brier",), where=where, resampling=Resampling(resamples=200, **how)),
            ).files[0]
        )
        return frame["low"].iloc[0]

    assert low() == low()
    kinds = [{}, {"method": "bca"}, {"stratified": True}, {"seed": 1}]
    assert len({low(**how) for how in kinds}) == len(kinds)


# ------------------------------------------------------------------ efficiency


def test_efficiency_marks_the_pareto_front(scored):
    cells = aggregate(scored, Selection(where={"dataset": ["toy"]}))
    one = next(iter(costs.lay_out(cells, scored)))
    assert one.columns[2] == "trainable"
    assert entry(one, ("cnn", "full"), "trainable").text == "1,000"
    fronts = {names for names, entries in one.rows if entries[0].mark}
    assert ("cnn", "lora") in fronts
    assert ("vit", "full") not in fronts


def test_tables_of_cost_and_ranks_as_files(results):
    made = costs.make_costs(results, where={"dataset": ["toy"]})
    assert "trainable parameters" in made.files[1].read_text()
    assert {"mean", "parameters_trainable", "storage_bytes"} <= set(read_table(made.files[0]))
    made = make_ranks(results, "roc_auc", where={"regime": ["full"]})
    assert "mean_rank" in read_table(made.files[0])
    with pytest.raises(ConfigError, match="nothing to rank"):
        make_ranks(results, where={"model": ["cnn"], "strategy": ["full"]})


def test_few_events_are_a_warning(tmp_path):
    for dataset, patients in (("small", 25), ("large", 300)):
        make_run(tmp_path, dataset, patients=patients)
    notes = " ".join(note for one in make_intervals(tmp_path).tables for note in one.notes)
    frame = read_table(make_intervals(tmp_path).files[0])
    fewest = frame[frame["dataset"] == "small"].iloc[0]["positives"]
    assert f"small: {fewest:.0f} patients in the smaller class" in notes
    assert "large: " not in notes


# ------------------------------------------------------------------ comparisons


def test_comparison_of_two_models(results):
    found = compare(results, Question(by="model", metric="roc_auc"), {"dataset": ["toy"]})
    row = found[(found["strategy"] == "full")].iloc[0]
    assert (row["first"], row["second"]) == ("cnn", "vit")
    difference = row["value_first"] - row["value_second"]
    assert row["patients_difference"] == pytest.approx(difference)
    assert 0 < row["patients_low"] < difference < row["patients_high"]
    assert row["folds"] == 5
    assert row["delong_p"] < 0.01
    assert row["delong_p_holm"] >= row["delong_p"]
    beliefs = row[["p_first_better", "p_equal", "p_second_better"]].astype(float)
    assert beliefs.sum() == pytest.approx(1)
    assert beliefs.iloc[0] > 0.9


def test_draws_of_a_fold_count_once_and_their_patients_as_those_drawn_from(results, scored):
    row = compare(results, Question(by="model"), {"dataset": ["toy"], "k": ["4"]}).iloc[0]
    own = scored.scores[(scored.scores["k"] == 4) & (scored.scores["dataset"] == "toy")]
    own = own[(own["metric"] == "mcc") & (own["threshold"] == "0.5") & (own["level"] == "patient")]
    own = own[own["fold"].notna() & own["model"].isin(["cnn", "vit"])]
    folds = own.groupby(["model", "fold"])["value"].mean().unstack("model")
    assert row["folds"] == len(folds) == 5
    expected = corrected_t((folds["cnn"] - folds["vit"]).to_numpy(), 20 / 80)
    assert share_tested(own) == pytest.approx(20 / 80)
    assert (row["fold_difference"], row["fold_p"]) == pytest.approx((expected.value, expected.p))


def test_a_run_compared_with_the_order_reversed(results):
    where = {"dataset": ["toy"], "regime": ["full"]}
    to_cnn = compare(results, Question(by="model", against="cnn", metric="brier"), where)
    to_vit = compare(results, Question(by="model", against="vit", metric="brier"), where)
    pair = [each[each["strategy"] == "full"].iloc[0] for each in (to_cnn, to_vit)]
    assert pair[0]["patients_difference"] == pytest.approx(-pair[1]["patients_difference"])
    assert pair[0]["patients_low"] == pytest.approx(-pair[1]["patients_high"])
    # Less is better: the second of the first comparison, cnn, wins.
    assert pair[0]["p_second_better"] > 0.9


def test_unfinished_and_impossible_runs_are_not_compared(results):
    found = compare(results, Question(by="strategy"), {"dataset": ["toy"]})
    refused = dict(zip(found["model"], found["refused"], strict=True))
    reasons = " ".join(text for text in found["refused"] if isinstance(text, str))
    assert "not finished: 3/5 cells done, 1 failed" in reasons
    assert "not applicable: it has no biases" in reasons
    assert refused
    one = comparison_table(found, Question(by="strategy"))
    assert len(one.rows) == len(found)


def test_runs_on_other_folds_are_not_compared(tmp_path):
    make_run(tmp_path, model="cnn")
    make_run(tmp_path, model="vit", folds=4)
    found = compare(tmp_path, Question(by="model"))
    assert "folds differ" in found["refused"].iloc[0]


def test_seeds_are_one_row_and_one_analysis(tmp_path):
    for seed in (1, 2, 3):
        for model, skill in (("cnn", 0.9), ("vit", 0.7)):
            make_run(tmp_path, model=model, skill=skill, seed=seed)
    make_run(tmp_path, model="vit", seed=4)  # has no partner
    found = compare(tmp_path, Question(by="model"))
    row = found.iloc[0]
    assert len(found) == 1
    assert (row["seeds"], row["folds"]) == (3, 15)
    own = read_scores(tmp_path).scores
    own = own[(own["metric"] == "mcc") & (own["threshold"] == "0.5") & (own["level"] == "patient")]
    own = own[own["fold"].notna() & (own["seed"] != 4)]
    folds = own.pivot_table(index=["seed", "fold"], columns="model", values="value")
    expected = corrected_t((folds["cnn"] - folds["vit"]).to_numpy(), 20 / 80)
    assert (row["fold_difference"], row["fold_p"]) == pytest.approx((expected.value, expected.p))
    # Over patients, the difference is the mean of those of each seed alone.
    alone = [
        compare(tmp_path, Question(by="model"), {"seed": [str(seed)]}).iloc[0] for seed in (1, 2, 3)
    ]
    mean = np.mean([each["patients_difference"] for each in alone])
    assert row["patients_difference"] == pytest.approx(mean)


def test_seeds_are_compared_over_patients(tmp_path):
    for seed in (1, 2):
        make_run(tmp_path, seed=seed, skill=0.6)
    row = compare(tmp_path, Question(by="seed")).iloc[0]
    assert (row["first"], row["second"]) == ("1", "2")
    assert row["patients_low"] < row["patients_difference"] < row["patients_high"]
    assert np.isnan(row["fold_p"])  # their folds differ, so no fold is a pair


def test_scaled_scores_are_compared_scaled(tmp_path):
    make_run(tmp_path, model="cnn")
    make_run(tmp_path, model="vit", skill=0.3)
    question = Question(by="model", metric="brier")
    plain = compare(tmp_path, question)["value_first"].iloc[0]
    score(tmp_path, settings=Settings(scaling="platt"))
    scaled = compare(tmp_path, question)["value_first"].iloc[0]
    pooled = read_table(tmp_path / "scores.csv")
    pooled = pooled[(pooled["model"] == "cnn") & (pooled["metric"] == "brier")]
    pooled = pooled[(pooled["level"] == "patient") & pooled["fold"].isna()]
    assert scaled == pytest.approx(pooled["value"].item())
    assert scaled != pytest.approx(plain)


def test_without_the_extra_all_but_its_tests_are_there(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "baycomp.single", None)
    monkeypatch.setitem(sys.modules, "scikit_posthocs", None)
    found = compare(results, Question(by="model"), {"dataset": ["toy"]})
    assert found["fold_p"].notna().any()
    assert found["p_equal"].isna().all()
    ranks = rank(cells_of(np.random.default_rng(0).random((6, 4))), "mcc")
    assert "prognobench[stats]" in ranks.untested
    assert "Friedman" in rank_table(ranks).notes[0]


def test_nothing_to_compare_and_unknown_names(results, tmp_path):
    make_run(tmp_path)
    with pytest.raises(ConfigError, match="no two runs"):
        compare(tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'strategy'"):
        compare(results, Question(by="strateg"))


def test_bootstrap_p_counts_what_lies_beyond_zero():
    assert bootstrap_p(np.r_[np.full(975, 1.0), np.full(24, -1.0)]) == pytest.approx(0.05)
    assert np.isnan(bootstrap_p(np.array([np.nan])))


# ------------------------------------------------------------------ ranks


def cells_of(scores):
    """Aggregated cells of a matrix of datasets by strategies."""
    lines = [
        {
            "dataset": f"d{i}",
            "regime": "full",
            "k": 0,
            "cv": "five_fold",
            "model": "m",
            "strategy": f"s{j}",
            "metric": "mcc",
            "mean": score,
            "baseline": False,
        }
        for i, row in enumerate(scores)
        for j, score in enumerate(row)
    ]
    return pd.DataFrame(lines)


def test_ranks_of_a_published_example():
    # Demsar 2006, table 6: C4.5 and three variants on 14 datasets. His 9.28 does not correct for
    # ties, SciPy does: of n k (k^2 - 1) = 840, 60 + 3 * 6 are lost to them.
    scores = np.array(
        [
            [0.763, 0.768, 0.771, 0.798],
            [0.599, 0.591, 0.590, 0.569],
            [0.954, 0.971, 0.968, 0.967],
            [0.628, 0.661, 0.654, 0.657],
            [0.882, 0.888, 0.886, 0.898],
            [0.936, 0.931, 0.916, 0.931],
            [0.661, 0.668, 0.609, 0.685],
            [0.583, 0.583, 0.563, 0.625],
            [0.775, 0.838, 0.866, 0.875],
            [1.000, 1.000, 1.000, 1.000],
            [0.940, 0.962, 0.965, 0.962],
            [0.619, 0.666, 0.614, 0.669],
            [0.972, 0.981, 0.9751, 0.975],
            [0.957, 0.978, 0.946, 0.970],
        ]
    )
    found = rank(cells_of(scores), "mcc")
    means = found.mean_rank.sort_index().to_numpy()
    assert means == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=0.002)
    assert found.p == pytest.approx(stats.chi2.sf(9.28 / (1 - 78 / 840), 3), abs=1e-4)
    # Nemenyi's critical difference is 1.25: none of the pairs reaches it.
    assert found.pairwise.to_numpy()[~np.eye(4, dtype=bool)].min() > 0.05
    assert found.wins.loc["m, s1", "m, s0"] == 10
    assert rank_table(found).rows[0][0] == ("m, s3",)


def test_too_few_datasets_for_a_rank_test_say_so():
    found = rank(cells_of(np.random.default_rng(0).random((3, 4))), "mcc")
    assert "at least 5" in found.untested
    assert found.pairwise is None


def test_ranks_by_conover_and_who_beats_whom():
    scores = np.linspace(0, 1, 4) + np.random.default_rng(0).random((9, 4)) / 2
    tests = {name: rank(cells_of(scores), "mcc", name) for name in ("nemenyi", "conover")}
    p = {name: found.pairwise.loc["m, s3", "m, s0"] for name, found in tests.items()}
    assert p["conover"] < p["nemenyi"] < 0.05
    assert rank_table(tests["conover"]).notes[1].startswith("Conover: ")
    matrix = wins_table(tests["nemenyi"])
    assert matrix.rows[0][1][0].text == ""
    won, tied, lost = map(int, matrix.rows[0][1][1].text.split(" / "))
    assert won + tied + lost == 9


def test_nothing_to_rank():
    assert rank(cells_of(np.ones((4, 1))), "mcc") is None


def test_every_table_refuses_unknown_formats(results):
    for make in (make_intervals, costs.make_costs, make_ranks):
        with pytest.raises(ConfigError, match=r"unknown format 'mdd'\. Did you mean 'md'"):
            make(results, formats=("mdd",))


def test_a_long_selection_still_names_a_file(results, scored):
    runs = scored.runs[scored.runs["model"] != "oracle"]
    names = ("dataset", "model", "strategy", "regime", "cv")
    where = {name: sorted(runs[name].unique()) * 5 for name in names}
    first = make_table(results, scored=scored, where=where).files
    other = make_table(results, scored=scored, where={**where, "cv": where["cv"][:1]}).files
    assert all(len(file.name) < 120 for file in (*first, *other))
    assert {*first}.isdisjoint(other)


def test_tables_say_what_strategies_do_not_reach(tmp_path):
    reach, fused = "LoRA reaches 3 of 4 blocks", "LoRA: one adapter on each fused matrix"
    make_run(tmp_path, model="cnn", strategy="lora", notes=[fused, reach])
    make_run(tmp_path, model="vit", strategy="lora", notes=[fused])
    make_run(tmp_path, model="vit", strategy="rslora", notes=[fused])
    make_run(tmp_path, "other", model="vit", strategy="dora", notes=["of another table"])
    make_run(tmp_path, model="vit")
    said = [f"cnn, lora: {fused}; {reach}", f"vit, lora; vit, rslora: {fused}"]
    made = make_table(tmp_path, where={"dataset": ["toy"]}, metrics=("mcc",), formats=()).tables
    assert [note for note in made[0].notes if "LoRA" in note or "another" in note] == said
    (cost,) = costs.make_costs(tmp_path, where={"dataset": ["toy"]}, formats=()).tables
    assert list(cost.notes[-2:]) == said
    runs = read_table(tmp_path / "runs.csv", ("notes",)).set_index("strategy")["notes"]
    assert runs["dora"] == "of another table"
    assert runs["full"] == ""


def test_many_notes_are_counted(tmp_path):
    for at in range(11):
        make_run(tmp_path, strategy=f"lora{at:02d}", notes=[f"reaches {at} blocks"], folds=2)
    (one,) = make_table(tmp_path, metrics=("mcc",), formats=()).tables
    notes = [note for note in one.notes if "reaches" in note or "more notes" in note]
    assert len(notes) == 9
    assert notes[-1] == "3 more notes stand in the column notes of runs.csv"
