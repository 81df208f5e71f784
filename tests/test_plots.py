"""Figures: their data is right, their files open, their words say what is seen."""

from __future__ import annotations

from io import BytesIO
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from made_runs import make_run
from PIL import Image
from sklearn import metrics as reference

from prognobench.analysis.report.closeup_figures import draw_closeup
from prognobench.analysis.report.closeups import choose_closeups
from prognobench.analysis.report.figures import (
    draw_differences,
    few_shot,
    heat_maps,
    save_figures,
    trade_offs,
)
from prognobench.analysis.report.groups import find_groups
from prognobench.analysis.scores import read_scores
from prognobench.analysis.summaries.aggregate import Selection, aggregate
from prognobench.analysis.summaries.best import compare_each
from prognobench.analysis.summaries.costs import pareto
from prognobench.analysis.tables import make_slug
from prognobench.metrics.metric import find_metric


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for number, model in enumerate(("cnn", "vit $a$ <b>")):
        for strategy, skill in (("full", 0.9), ("lora", 0.5)):
            make_run(
                folder,
                model=model,
                strategy=strategy,
                skill=skill - 0.3 * number,
                parameters=10 ** (2 + number),
            )
        for k in (2, 8):
            make_run(folder, model=model, strategy="lora", skill=0.3, k=k, draws=2)
    make_run(folder, "three", "cnn", classes=("mild", "severe", "dead"))
    return folder


@pytest.fixture(scope="module")
def drawn(results):
    """Every figure of the results, by its kind and dataset."""
    scored = read_scores(results)
    mcc = find_metric("mcc")
    cells = aggregate(scored, Selection(("mcc",)))
    made = [*heat_maps(cells, mcc), *few_shot(cells, mcc), *trade_offs(cells, scored, mcc)]
    made += [draw_differences(*each, mcc) for each in compare_each(cells, scored, mcc)]
    for closeup in choose_closeups(cells, scored, mcc)[0]:
        made += draw_closeup(closeup, find_groups(closeup))
    return {figure.name: figure for figure in made}


def find(drawn, start, dataset="toy-full"):
    return next(f for name, f in drawn.items() if name.startswith(start) and dataset in name)


def test_all_kinds_are_there(drawn):
    kinds = (
        "heat",
        "cost-parameters",
        "cost-seconds",
        "difference",
        "roc",
        "pr",
        "calibration",
        "decision",
        "confusion",
        "interval",
        "subgroups",
    )
    for kind in kinds:
        find(drawn, kind)
    assert next(name for name in drawn if name.startswith("few-shot"))
    assert find(drawn, "confusion", "three")


def test_every_figure_says_what_it_is_of(drawn):
    for figure in drawn.values():
        assert len(figure.alt) > 40
        assert figure.command.startswith("prognobench ")
        assert figure.synthetic
        assert len(figure.data)


@pytest.mark.parametrize("kind", ["heat", "roc", "subgroups", "cost-parameters", "few-shot"])
def test_svg_is_sound_small_and_says_synthetic(drawn, kind):
    figure = next(f for name, f in drawn.items() if name.startswith(kind))
    text = figure.inline()
    ElementTree.fromstring(text.replace("xlink:", ""))
    assert len(text) < 150_000
    assert "synthetic images" in text
    assert "currentColor" in text
    assert figure.inline() == text


def test_names_are_text_and_no_formulas_or_tags(drawn):
    assert "vit $a$ &lt;b&gt;" in find(drawn, "heat").inline()


def test_a_figure_does_not_depend_on_settings_around_it(drawn):
    figure = find(drawn, "confusion")
    plain = figure.inline()
    with matplotlib.rc_context({"axes.linewidth": 5, "xtick.major.size": 9}):
        assert figure.inline() == plain
        assert matplotlib.rcParams["axes.linewidth"] == 5


def test_files_for_papers(drawn, tmp_path):
    figure = find(drawn, "confusion")
    files = save_figures([figure], tmp_path)
    assert [path.suffix for path in files] == [".svg", ".png", ".pdf"]
    assert Image.open(BytesIO(files[1].read_bytes())).size[0] > 400
    assert files[2].read_bytes().startswith(b"%PDF")
    assert (tmp_path / f"{figure.name}.csv").exists()


def predictions(results):
    from prognobench.store import RunFolder

    folder = RunFolder(next((results / "runs" / "toy" / "cnn" / "full").iterdir()))
    tables = [folder.predictions(cell) for cell in folder.cells]
    tests = [
        t[t["part"] == "test"].groupby("patient_id")[["label", "score_dead"]].mean() for t in tables
    ]
    y, p = (np.concatenate([t[c] for t in tests]) for c in ("label", "score_dead"))
    return y.astype(int), p


def test_roc_curve_agrees_with_scikit_learn(results, drawn):
    data = find(drawn, "roc").data
    own = data[data["series"] == "cnn, full"]
    fpr, tpr, _ = reference.roc_curve(*predictions(results), drop_intermediate=False)
    assert own["y"].to_numpy() == pytest.approx(np.interp(own["x"], fpr, tpr), abs=1e-9)
    inside = (own["low"] <= own["y"] + 1e-9) & (own["y"] <= own["high"] + 1e-9)
    assert inside.mean() > 0.9


def test_precision_recall_curve_agrees_with_scikit_learn(results, drawn):
    data = find(drawn, "pr-").data
    own = data[data["series"] == "cnn, full"]
    precision, recall, _ = reference.precision_recall_curve(*predictions(results))
    for x, y in own[own["x"] > 0][["x", "y"]].to_numpy()[::10]:
        at = np.flatnonzero(recall >= x - 1e-12)[-1]
        assert y == pytest.approx(precision[at], abs=1e-9)


def test_decision_curve_is_net_benefit(results, drawn):
    y, p = predictions(results)
    data = find(drawn, "decision").data
    own = data[data["series"] == "cnn, full"].iloc[19]
    t = own["x"]
    expected = (y[p >= t].sum() - (1 - y[p >= t]).sum() * t / (1 - t)) / len(y)
    assert own["y"] == pytest.approx(expected, abs=1e-9)


def test_confusion_counts_every_patient(drawn):
    assert find(drawn, "confusion").data["n"].sum() == 100


def test_subgroups_are_in_order_with_counts(drawn):
    labels = [label for label in find(drawn, "subgroups").data["label"] if "age=" in label]
    assert labels[0].startswith("age=under ")
    assert " and over (" in labels[-1]
    assert "dead)" in labels[0]


def test_pareto_front():
    cost, score = np.array([1.0, 2.0, 3.0, 2.0]), np.array([0.5, 0.7, 0.6, 0.7])
    assert pareto(cost, score, find_metric("mcc")).tolist() == [True, True, False, True]
    assert pareto(cost, score, find_metric("brier")).tolist() == [True, False, False, False]


def test_slugs_are_safe():
    assert make_slug("a/b", "../c d") == "a-b-..-c-d"
