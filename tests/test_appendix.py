"""Calibration before and after, and the appendix of reporting guidelines."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from made_runs import make_run

from prognobench.analysis.report.appendix import (
    BLANK,
    read_guidelines,
    tabulate_characteristics,
    tabulate_events,
    write_appendix,
)
from prognobench.analysis.report.calibrating import (
    STORED,
    UNDONE,
    compare_calibration,
    follow_calibration,
    measure_benefit,
)
from prognobench.analysis.report.closeups import choose_closeups
from prognobench.analysis.report.facts import FACTS
from prognobench.analysis.scores import read_scores
from prognobench.analysis.shown import show_runs
from prognobench.analysis.summaries.aggregate import Selection, aggregate
from prognobench.metrics.metric import find_metric

EVIL = "<script>alert(1)</script>|&"


def closeup(results):
    shown = show_runs(read_scores(results))
    cells = aggregate(shown, Selection(["mcc"]))
    return choose_closeups(cells, shown, find_metric("mcc"))[0][0]


def test_calibration_is_that_of_the_run_without_weights(tmp_path):
    for name, shift in (("plain", 0.0), ("weighted", 1.5)):
        make_run(tmp_path / name, shift=shift)
    plain, weighted = (follow_calibration(closeup(tmp_path / n)) for n in ("plain", "weighted"))
    before, after = weighted[STORED].repetitions[0], weighted[UNDONE].repetitions[0]
    unweighted = plain[STORED].repetitions[0]
    assert np.allclose(after.scores, unweighted.scores)
    assert before.scores[:, 1].mean() > after.scores[:, 1].mean() + 0.1
    # The decision is the same one, at a lower cutoff of the risk.
    assert (before.decisions("0.5") == after.decisions("0.5")).all()
    assert np.allclose(after.cutoffs["0.5"], 1 / (1 + np.exp(1.5)))
    assert before.cutoffs["0.5"].mean() == 0.5


def test_the_table_of_calibration_says_what_always_the_prevalence_scores(tmp_path):
    make_run(tmp_path, shift=1.5)
    one = closeup(tmp_path)
    stages = follow_calibration(one)
    table = compare_calibration(one, stages)
    brier = table.columns.index("Brier score")
    values = {names[0]: row[brier].value for names, row in table.rows}
    prevalence = one.prevalence
    assert values["always the prevalence"] == pytest.approx(prevalence * (1 - prevalence))
    assert values[UNDONE] < values[STORED]
    at = stages[UNDONE].repetitions[0]
    treated, ill = at.scores[:, 1] >= 0.2, at.labels == 1
    expected = ((treated & ill).sum() - 0.25 * (treated & ~ill).sum()) / len(ill)
    assert measure_benefit(stages[UNDONE], 0.2) == pytest.approx(expected)


def test_guidelines_name_known_facts_and_every_item_once():
    numbers = {"TRIPOD+AI": (27, 52), "CLAIM 2024": (44, 44)}
    for guideline in read_guidelines():
        items = [item["item"] for item in guideline["items"]]
        last, count = numbers[guideline["name"]]
        assert len(items) == len(set(items)) == count
        assert {int(re.match(r"\d+", item)[0]) for item in items} == set(range(1, last + 1))
        for item in guideline["items"]:
            assert set(item.get("filled", ())) <= set(FACTS)


class Checker(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


def test_the_appendix_is_filled_escaped_and_names_nobody(tmp_path):
    folder = make_run(tmp_path, meta={"weights": EVIL, "warnings": [EVIL]})
    paths = write_appendix(tmp_path, show_runs(read_scores(tmp_path)))
    assert [path.name for path in paths] == ["appendix.md", "appendix.html"]
    markdown, html = (path.read_text(encoding="utf-8") for path in paths)
    checker = Checker()
    checker.feed(html)
    assert "script" not in checker.tags
    assert "<script>" not in markdown
    cohort = folder.cohort()
    for text in (markdown, html):
        assert BLANK in text
        assert "100 patients" in text
        assert "synthetic images, no clinical data" in text
        assert not [name for name in (*cohort["image"], "0099") if str(name) in text]
    assert markdown.count("| 20a |") == 1


def test_events_are_counted_in_each_part(tmp_path):
    folder = make_run(tmp_path, patients=100, prevalence=0.3)
    cohort = folder.cohort().drop_duplicates("patient_id")
    table = tabulate_events("toy", folder)
    patients = {names[0]: (row[0].value, row[1].value) for names, row in table.rows}
    assert patients["test"] == (20, pytest.approx((cohort["label"] == 1).sum() / 5))
    assert sum(part[0] for part in patients.values()) == 100


def test_characteristics_count_patients_and_what_is_missing(tmp_path):
    folder = make_run(tmp_path)
    cohort = folder.cohort()
    table = tabulate_characteristics("toy", folder)
    rows = {names: [entry.text for entry in row] for names, row in table.rows}
    first = cohort.drop_duplicates("patient_id")
    counts = [len(first), *(int((first["label"] == code).sum()) for code in (0, 1))]
    assert rows["patients", ""][:3] == [str(count) for count in counts]
    assert len(rows) > 2
    for (column, value), texts in rows.items():
        if column in first and value in set(first[column].map(str)):
            share = (first[column].dropna().map(str) == value).mean()
            assert f"({100 * share:.0f} %)" in texts[0]


def test_small_numbers_do_not_follow_from_the_others(tmp_path):
    folder = make_run(tmp_path)
    cohort = folder.cohort().drop_duplicates("patient_id").copy()
    device = ["mobile"] * 3 + ["fixed"] * 41 + ["wall"] * (len(cohort) - 44)
    given = SimpleNamespace(cohort=lambda: cohort.assign(device=device), meta=folder.meta)
    rows = {names: [e.text for e in row] for names, row in tabulate_characteristics("", given).rows}
    assert rows["device", "mobile"][0] == "<5"
    assert rows["device", "fixed"][0] == "≈40 (40 %)"
    # Neither numbers nor shares of the other values are exact, those of other covariates are.
    for value in ("fixed", "wall"):
        for text in rows["device", value][:3]:
            assert text.startswith("≈")
            assert int(text[1:].split()[0].replace(",", "")) % 5 == 0
    assert all("≈" not in text for text in rows["sex", "F"])
