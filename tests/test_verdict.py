"""The verdict in words, what it is made of, and what the data cannot show."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from made_runs import make_run

from prognobench.analysis.report.closeups import choose_closeups
from prognobench.analysis.report.figures import say_left_out
from prognobench.analysis.report.sections import make_headline
from prognobench.analysis.scores import read_scores
from prognobench.analysis.shown import show_runs
from prognobench.analysis.statistics.curves import (
    calibration_curve,
    net_benefit_curve,
    precision_recall_curve,
    roc_curve,
)
from prognobench.analysis.statistics.paired_tests import corrected_p
from prognobench.analysis.statistics.panels import load_panels, merge_panels
from prognobench.analysis.statistics.sample_size import (
    count_patients_needed,
    find_detectable_difference,
    list_criteria,
)
from prognobench.analysis.summaries.aggregate import Selection, aggregate, iter_main_contexts
from prognobench.analysis.summaries.best import best_table, compare_with_best
from prognobench.analysis.summaries.comparer import Question
from prognobench.analysis.summaries.comparisons import compare, make_comparison
from prognobench.analysis.summaries.score_tables import make_table
from prognobench.analysis.summaries.selection import add_optimism
from prognobench.analysis.summaries.verdict import reach_verdicts
from prognobench.cli import main
from prognobench.errors import ConfigError
from prognobench.metrics.metric import find_metric

FILES = {"reads": ["files"]}


def judge(results, **wanted):
    return reach_verdicts(read_scores(results), **wanted)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Three choices of which two are good, and two baselines; several seeds; one few-shot run."""
    folder = tmp_path_factory.mktemp("verdict")
    for seed in (1, 2):
        made = {"patients": 400, "risk": False, "seed": seed}
        make_run(folder, "mortality", "vit", "lora", skill=0.95, **made)
        make_run(folder, "mortality", "vit", "full", skill=0.9, **made)
        make_run(folder, "mortality", "cnn", "full", skill=0.0, **made)
        make_run(folder, "mortality", "shortcut", "shortcut", skill=0.0, meta=FILES, **made)
        make_run(folder, "mortality", "vit", "metadata", skill=0.85, **made)
    make_run(folder, "mortality", "vit", "lora", patients=400, risk=False, k=4, skill=0.5)
    return folder


# ------------------------------------------------------------------ the sentences


def test_a_verdict_says_what_the_tests_show(results):
    [verdict] = judge(results)
    said = " ".join(verdict.says)
    assert verdict.context == "mortality"
    best = r"lora on vit scores MCC 0\.\d\d \(95 % interval 0\.\d\d to 0\.\d\d\) on 400 patients"
    assert re.match(best, said)
    assert "Of the 2 other choices 1 is shown to be worse; 1 is not shown to be" in said
    assert re.search(r"better than file metadata alone \(-?0\.\d\d\)\.", said)
    assert re.search(r"not shown to be better than covariates such as age and sex alone \(0", said)
    assert "best of 3 choices, which over-estimates it by" in said


def test_a_verdict_agrees_with_the_marks_of_the_tables(results):
    cells = aggregate(read_scores(results), Selection(("mcc",)))
    own = cells[(cells["k"] == 0) & ~cells["baseline"] & (cells["model"] != "chance")]
    marks = {(row["model"], row["strategy"]): row["mark"] for _, row in own.iterrows()}
    assert marks == {("vit", "lora"): "best", ("vit", "full"): "tie", ("cnn", "full"): ""}
    assert own["below"].all()  # covariates are nearly as good
    assert own.loc[own["mark"] == "best", "choices"].item() == 3


def test_an_advantage_over_the_baselines_is_a_test_not_a_larger_mean(results):
    scored = show_runs(read_scores(results), {"strategy": ["lora", "full", "shortcut"]})
    shortcut = scored.runs["strategy"].isin(["lora", "full", "shortcut"])
    cells = aggregate(
        type(scored)(scored.runs[shortcut], scored.scores, scored.folders, is_shown=True),
        Selection(("mcc",)),
    )
    own = cells[(cells["k"] == 0) & ~cells["baseline"] & (cells["model"] != "chance")]
    below = {(row["model"], row["strategy"]): row["below"] for _, row in own.iterrows()}
    assert below == {("vit", "lora"): False, ("vit", "full"): False, ("cnn", "full"): True}
    assert (own.loc[own["model"] == "vit", "p_baseline"] < 0.05).all()


def test_the_limits_count_events_and_name_what_could_be_detected(results):
    limits = " ".join(judge(results)[0].limits)
    train = re.search(r"A training part has 240 patients, (\d+) of them with the outcome", limits)
    assert 60 <= int(train.group(1)) <= 110
    assert "Riley" in limits
    assert re.search(r"in 4 of 5 studies is MCC 0\.\d\d \(10 folds, one comparison\)", limits)
    assert "1 smaller training part is not judged" in limits


def test_a_single_run_is_judged_against_chance(tmp_path):
    make_run(tmp_path, "mortality", "vit", "lora", skill=1.0, risk=False)
    [verdict] = judge(tmp_path)
    assert "the only choice" in " ".join(verdict.says)
    assert "It is better than chance (0.00)." in verdict.says
    assert any("between it and chance" in limit for limit in verdict.limits)


def test_what_is_not_defined_says_why(tmp_path):
    make_run(tmp_path / "one", done=1, skill=1.0)
    said = " ".join(judge(tmp_path / "one")[0].lines)
    assert "not shown to be better than chance" in said
    assert "unknown: that needs two choices with two folds in common" in said
    make_run(tmp_path / "classes", classes=("mild", "severe", "dead"), skill=1.0)
    assert "two classes only" in " ".join(judge(tmp_path / "classes")[0].limits)
    make_run(tmp_path / "failed", done=0, failed=["r0-f0"])
    assert (
        "no choice has a score (1 failed: loss is not finite)"
        in judge(tmp_path / "failed")[0].says[0]
    )
    make_run(tmp_path / "baselines", strategy="metadata")
    assert "no choice that looks at images" in judge(tmp_path / "baselines")[0].says[0]


def test_two_data_sets_have_a_verdict_each_and_another_metric_another_score(tmp_path):
    for name in ("icu", "mortality"):
        make_run(tmp_path, name, skill=0.9)
    assert [verdict.context for verdict in judge(tmp_path)] == ["icu", "mortality"]
    assert "PR-AUC" in judge(tmp_path, metric="average_precision")[0].says[0]
    with pytest.raises(ConfigError, match="mcc"):
        judge(tmp_path, metric="mccc")


def test_commands_begin_with_the_verdict(results, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["prognobench", "compare", "--format", "csv", str(results)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    first = capsys.readouterr().out.splitlines()
    assert first[0].startswith("# mortality: lora on vit scores MCC")
    assert first[1].startswith("# What this cannot show: ")
    assert first[2].startswith("# MCC, first minus second")


# ------------------------------------------------------------------ baselines in comparisons


def test_baselines_are_compared_with_choices_of_every_model(results):
    table = compare(results, Question(by="strategy"), {"regime": ["full"]})
    rows = table[table["second"] == "shortcut"].set_index(["model", "first"])
    assert set(rows.index) == {("vit", "full"), ("vit", "lora"), ("cnn", "full")}
    assert (rows["seeds"] == 2).all()
    assert rows.loc[("vit", "lora"), "fold_p_holm"] < 0.05
    assert len(table[(table["model"] == "cnn") & (table["second"] == "metadata")]) == 1
    by_model = compare(results, Question(by="model"), {"regime": ["full"]})
    assert {"shortcut", "metadata"} <= set(by_model["second"])
    against = compare(results, Question(against="shortcut"), {"regime": ["full"]})
    assert set(against["second"]) == {"shortcut"}


def test_a_comparison_marks_what_is_not_shown_better_than_the_baselines(results):
    made = make_comparison(results, Question(), {"regime": ["full"]}, formats=())
    rows = {names[-2:]: entries[-1].text for names, entries in made.tables[0].rows}
    assert rows["full", "lora"] == "first, second"
    assert rows["lora", "shortcut"] == "first"
    assert any(note.startswith("†") for note in made.tables[0].notes)


# ------------------------------------------------------------------ the best of many


def test_the_best_has_its_optimism_beside_it(tmp_path):
    for number in range(8):
        make_run(tmp_path, strategy=f"s{number}", skill=0.5, patients=80)
    scored = show_runs(read_scores(tmp_path))
    cells = add_optimism(aggregate(scored, Selection(("mcc", "roc_auc"))), scored)
    best = cells[cells["mark"] == "best"]
    assert set(best["choices"]) == {8}
    assert best["optimism"].between(0.01, 0.2).all()
    assert cells.loc[cells["mark"] != "best", "optimism"].isna().all()


# ------------------------------------------------------------------ sample sizes


def test_rileys_criteria_of_published_examples():
    # Riley 2020 (pre-eclampsia): 30 parameters, prevalence 0.05, R squared 0.05.
    prevalence = 0.05
    largest = 1 - (prevalence**prevalence * (1 - prevalence) ** (1 - prevalence)) ** 2
    found = list_criteria(prevalence, 30, explained=0.05 / largest)
    assert found["overall"] == 73
    assert found["individual"] == 544
    assert found["shrinkage"] == 5249
    # The example of the R package pmsampsize: 24 parameters, prevalence 0.174, R squared 0.288.
    prevalence = 0.174
    largest = 1 - (prevalence**prevalence * (1 - prevalence) ** (1 - prevalence)) ** 2
    found = list_criteria(prevalence, 24, explained=0.288 / largest)
    assert (found["shrinkage"], found["optimism"], found["overall"]) == (623, 662, 221)
    assert count_patients_needed(0.2, 10) == max(list_criteria(0.2, 10).values())


def test_the_detectable_difference_is_detected_in_four_of_five_studies():
    folds, share, spread = 10, 1 / 4, 0.1
    correlation = share / (1 + share)
    within = spread * math.sqrt(1 - correlation)
    least = find_detectable_difference(within * math.sqrt(1 / folds + share), folds)
    rng = np.random.default_rng(1)
    noise = math.sqrt(1 - correlation) * rng.normal(size=(folds, 20_000))
    shared = math.sqrt(correlation) * rng.normal(size=20_000)
    studies = least + spread * (noise + shared)
    assert (corrected_p(studies, share) < 0.05).mean() == pytest.approx(0.8, abs=0.02)
    assert math.isnan(find_detectable_difference(0.1, 1))
    assert math.isnan(find_detectable_difference(math.nan, 5))


# ------------------------------------------------------------------ seeds are pooled


def test_curves_are_the_mean_over_all_seeds_not_the_first(tmp_path):
    for seed in (1, 2):
        make_run(tmp_path, skill=0.8, seed=seed, patients=120)
    scored = show_runs(read_scores(tmp_path))
    real = scored.runs[scored.runs["model"] == "cnn"]
    panels = list(load_panels(real, scored, "patient").values())
    both = merge_panels(panels)
    assert len(both.repetitions) == 2
    for curve in (roc_curve, precision_recall_curve, net_benefit_curve):
        mean = np.mean([curve(panel)["y"] for panel in panels], axis=0)
        np.testing.assert_allclose(curve(both)["y"], mean)
        once = curve(panels[0])
        twice = curve(merge_panels([panels[0], panels[0]]))
        for name in ("y", "low", "high"):
            np.testing.assert_allclose(twice[name], once[name])
    calibrated = calibration_curve(both)
    assert calibrated["n"].sum() == 120  # two forecasts of a patient are no two patients


def test_the_report_pools_seeds(tmp_path):
    for seed in (1, 2):
        make_run(tmp_path, skill=0.8, seed=seed, patients=120)
        make_run(tmp_path, strategy="lora", skill=0.2, seed=seed, patients=120)
    cells = aggregate(read_scores(tmp_path), Selection(("mcc",)))
    scored = show_runs(read_scores(tmp_path))
    [closeup], missing = choose_closeups(cells, scored, find_metric("mcc"))
    assert missing == []
    assert [len(one.rows) for one in closeup.series] == [2, 2]
    [verdict] = reach_verdicts(scored)
    headline = make_headline(cells, [verdict], find_metric("mcc"))
    assert f"{verdict.pooled.value:.3f} [" in headline.rows[0][1][2].text


# ------------------------------------------------------------------ nothing left out uncounted


def test_choices_without_a_partner_are_counted(tmp_path):
    make_run(tmp_path, model="cnn", strategy="full")
    make_run(tmp_path, model="cnn", strategy="lora")
    make_run(tmp_path, model="vit", strategy="full")
    notes = make_comparison(tmp_path, Question(by="strategy"), formats=()).tables[0].notes
    assert next(n for n in notes if n.startswith("1 of the choices")).endswith("--by model")
    notes = make_comparison(tmp_path, Question(by="model"), formats=()).tables[0].notes
    assert any(note.startswith("1 of the choices") for note in notes)
    make_run(tmp_path, model="vit", strategy="lora")
    notes = make_comparison(tmp_path, Question(by="model"), formats=()).tables[0].notes
    assert not any("are in no row" in note for note in notes)


def test_figures_count_the_choices_that_they_leave_out(tmp_path):
    for number in range(8):
        make_run(tmp_path, model=f"m{number}", strategy=f"s{number % 5}", skill=0.5, patients=60)
    scored = show_runs(read_scores(tmp_path))
    cells = aggregate(scored, Selection(("mcc",)))
    _, remarks = choose_closeups(cells, scored, find_metric("mcc"))
    assert ["4 of 8 choices are not drawn" in remark for remark in remarks] == [True]
    assert say_left_out(0, "x") == ""
    assert "1 more is not drawn" in say_left_out(1, "x")
    rows = make_table(tmp_path, rows=("dataset", "model"), metrics=("mcc",), formats=()).tables[0]
    assert rows.rows[-1][0][0] == "toy"


# ------------------------------------------------------------------ the best beside the others


def test_the_best_is_compared_with_every_choice_and_baseline(results):
    scored = show_runs(read_scores(results))
    cells = aggregate(scored, Selection(("mcc",)))
    [context] = iter_main_contexts(cells)
    table = compare_with_best(context, scored, find_metric("mcc"))
    labels = ["vit, full", "cnn, full", "metadata (no image)", "shortcut (no image)"]
    assert list(table["label"]) == labels
    assert (table["value"] < 0).all()  # nothing is better than the best
    by_label = table.set_index("label")
    own = context[1].set_index(["model", "strategy"])
    assert by_label.loc["cnn, full", "p_corrected"] == own.loc[("cnn", "full"), "p_best"]
    assert by_label.loc["shortcut (no image)", "p_corrected"] < 0.05
    compared = compare(results, Question(by="strategy", against="shortcut"), {"regime": ["full"]})
    pair = compared[(compared["model"] == "vit") & (compared["first"] == "lora")].iloc[0]
    assert by_label.loc["shortcut (no image)", "p"] == pytest.approx(pair["fold_p"])
    shown = best_table(context, table, find_metric("mcc"))
    assert shown.references == 2
    assert [entries[-1].text for _, entries in shown.competing] == ["†", "†"]
