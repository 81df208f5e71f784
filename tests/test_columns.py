"""The columns of every aggregated CSV are those that docs/results.md explains."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_run

from prognobench.analysis.claims.tables import make_claims
from prognobench.analysis.summaries.comparer import Question
from prognobench.analysis.summaries.comparisons import make_comparison
from prognobench.analysis.summaries.costs import COSTS, make_costs
from prognobench.analysis.summaries.intervals import make_intervals
from prognobench.analysis.summaries.ranks import make_ranks
from prognobench.analysis.summaries.score_tables import make_table
from prognobench.files import read_table

PAGE = Path(__file__).parents[1] / "docs" / "results.md"


def documented(start: str) -> list[str]:
    """The names in the first column of the table that follows a file's name."""
    table = PAGE.read_text().split(f"`{start}", 1)[1].split("| --- |", 1)[1].split("\n\n")[0]
    firsts = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]
    return re.findall(r"`([^`]+)`", " ".join(firsts))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    skills = np.random.default_rng(0).uniform(0.1, 0.9, (5, 3))
    for dataset, row in enumerate(skills):
        for strategy, skill in zip(("full", "lora", "bitfit"), row, strict=True):
            make_run(folder, f"d{dataset}", strategy=strategy, skill=skill, patients=60)
    return folder


def made(results, name):
    make = {
        "tables/METRICS_ROWS": lambda: make_table(results),
        "tables/intervals_": lambda: make_intervals(results),
        "tables/comparisons_": lambda: make_comparison(results, Question()),
        "tables/ranks_": lambda: make_ranks(results),
        "tables/claims": lambda: make_claims(results),
    }
    return list(read_table(make[name]().files[0]).columns)


@pytest.mark.parametrize("name", ["scores.csv", "runs.csv"])
def test_scores_and_runs(results, name):
    make_table(results)
    assert list(read_table(results / name).columns) == documented(name + "`, one row")


@pytest.mark.parametrize(
    "name", ["tables/METRICS_ROWS", "tables/intervals_", "tables/comparisons_", "tables/claims"]
)
def test_tables(results, name):
    assert made(results, name) == documented(name)


def test_ranks_have_a_column_for_each_choice(results):
    columns = made(results, "tables/ranks_")
    kinds = dict.fromkeys(re.sub(":.*", ":CHOICE", column) for column in columns)
    assert list(kinds) == documented("tables/ranks_")
    assert len(columns) == 2 + 3 + 3


def test_efficiency_has_the_columns_of_tables_and_costs(results):
    columns = list(read_table(make_costs(results).files[0]).columns)
    assert columns == [*documented("tables/METRICS_ROWS"), *COSTS]
    assert columns == documented("tables/efficiency.csv")
    assert set(COSTS) - {"trainable_share"} <= set(documented("runs.csv`, one row"))
