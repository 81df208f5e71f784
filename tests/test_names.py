"""Runs that differ in a setting have different names, and what is not shown is counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made_runs import make_run, store_instead

from prognobench.analysis.report.page import write_report
from prognobench.analysis.scores import read_scores, score
from prognobench.analysis.summaries.comparisons import Question, compare
from prognobench.analysis.summaries.score_tables import make_table
from prognobench.cli import cli
from prognobench.errors import ConfigError
from prognobench.store import RunFolder


def lora(rank: int, **more: Any) -> dict[str, Any]:
    """Return the config of a strategy, with settings that no two runs share by chance."""
    return {"strategy": {"builder": "lora", "name": "lora", "settings": {"rank": rank, **more}}}


def table(**settings: Any) -> dict[str, Any]:
    return {"dataset": {"builder": "table", "name": "table", "settings": settings}}


def columns(results: Path, **more: Any) -> list[str]:
    return list(make_table(results, metrics=("mcc",), **more).tables[0].columns)


def test_a_setting_that_differs_completes_the_name(tmp_path: Path) -> None:
    make_run(tmp_path, strategy="lora", skill=0.9, settings=lora(8, alpha=16))
    make_run(tmp_path, strategy="lora", skill=0.5, settings=lora(16, alpha=16))
    make_run(tmp_path, strategy="full")

    assert columns(tmp_path) == ["full", "lora (rank=16)", "lora (rank=8)"]
    assert columns(tmp_path, where={"strategy": ["lora (rank=8)"]}) == ["lora"]
    made = make_table(tmp_path, metrics=("mcc",), where={"strategy": ["lora"]})
    assert made.tables[0].columns == ("lora (rank=16)", "lora (rank=8)")
    assert not any("hidden" in note for note in made.tables[0].notes)


def test_names_are_as_stored_where_nothing_differs(tmp_path: Path) -> None:
    make_run(tmp_path, strategy="lora", settings=lora(8))
    make_run(tmp_path, strategy="lora", settings=lora(8), seed=43)

    assert columns(tmp_path) == ["lora"]
    assert read_scores(tmp_path).scores["strategy"].isin(["lora", "oracle", "chance"]).all()


def test_a_recipe_names_runs_that_would_share_a_row(tmp_path: Path) -> None:
    make_run(tmp_path, settings={"train": {"epochs": 10, "save": "none"}})
    make_run(tmp_path, settings={"train": {"epochs": 30, "save": "best"}})
    make_run(tmp_path, strategy="lora", settings={"train": {"epochs": 50, "save": "none"}})

    assert columns(tmp_path) == ["full (train.epochs=10)", "full (train.epochs=30)", "lora"]


def test_two_seeds_of_two_settings_are_not_averaged(tmp_path: Path) -> None:
    make_run(tmp_path, strategy="lora", settings=lora(8), seed=1)
    make_run(tmp_path, strategy="lora", settings=lora(16), seed=2)

    assert columns(tmp_path) == ["lora (rank=16)", "lora (rank=8)"]


def test_own_tables_are_named_by_file_and_label(tmp_path: Path) -> None:
    for file, label in (("a.csv", "dead"), ("a.csv", "icu"), ("b.csv", "dead")):
        settings = table(table=f"/data/{file}", label=label, images="/data/images")
        make_run(tmp_path, "table", settings=settings, data=file + label)

    made = make_table(tmp_path, rows=("dataset",), metrics=("mcc",))
    names = {names[0] for each in made.tables for names, _ in each.competing}
    assert names == {"table (a.csv, dead)", "table (a.csv, icu)", "table (b.csv, dead)"}
    # Ceiling and chance stand beside each of them.
    assert sum(len(each.below) for each in made.tables) == 6


def test_a_moved_folder_is_the_same_dataset(tmp_path: Path) -> None:
    make_run(tmp_path, "table", settings=table(table="/here/a.csv", label="dead"))
    make_run(tmp_path, "table", strategy="lora", settings=table(table="/there/a.csv", label="dead"))

    made = make_table(tmp_path, rows=("dataset",), metrics=("mcc",))
    assert [names for each in made.tables for names, _ in each.competing] == [("table",)]


def test_comparisons_are_between_complete_names(tmp_path: Path) -> None:
    make_run(tmp_path, strategy="lora", skill=0.9, settings=lora(8))
    make_run(tmp_path, strategy="lora", skill=0.5, settings=lora(16))

    compared = compare(tmp_path, Question())
    assert compared[["first", "second"]].to_numpy().tolist() == [
        ["lora (rank=16)", "lora (rank=8)"]
    ]


def test_what_newer_data_hide_is_counted_and_shown_on_demand(tmp_path: Path) -> None:
    make_run(tmp_path, data="old")
    make_run(tmp_path, data="new")

    hidden = make_table(tmp_path, metrics=("mcc",)).tables[0]
    assert hidden.columns == ("full",)
    assert any("1 run is hidden" in note and "--all" in note for note in hidden.notes)
    assert len(columns(tmp_path, everything=True)) == 2
    score(tmp_path)
    shown = CliRunner().invoke(cli, ["table", str(tmp_path), "--all", "--metric", "mcc"])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("full [") == 2
    assert "hidden" not in shown.output


def test_a_missing_closeup_says_why(tmp_path: Path) -> None:
    for number in range(7):
        make_run(tmp_path, f"task{number}", patients=60)

    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "no close-up of task6 · full · five_fold: the page shows the 6 contexts" in text


def test_subgroups_of_mixed_cohorts(tmp_path: Path) -> None:
    make_run(tmp_path, "two")
    make_run(tmp_path, "three", classes=("mild", "moderate", "severe"))
    three = RunFolder(next((tmp_path / "runs" / "three").glob("*/*/*")))
    lines = (three.path / "cohort.csv").read_text(encoding="utf-8")
    store_instead(three, "cohort.csv", lines.replace("sex", "gender", 1).encode())

    asked = CliRunner().invoke(cli, ["score", str(tmp_path), "--by", "sex"])
    assert asked.exit_code == 0, asked.output
    groups = read_scores(tmp_path).scores.groupby("dataset")["subgroup"].unique()
    assert {*groups["two"]} == {"", "sex=F", "sex=M"}
    assert {*groups["three"]} == {""}
    wrong = CliRunner().invoke(cli, ["score", str(tmp_path), "--by", "sez"])
    assert isinstance(wrong.exception, ConfigError)
    with pytest.raises(ConfigError, match="no column 'sez'"):
        raise wrong.exception
