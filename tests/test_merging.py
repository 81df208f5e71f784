"""Halves of a sweep become one results folder; what conflicts is refused as a whole."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_runs import make_run, store_instead

from prognobench.analysis.merging import merge
from prognobench.analysis.scores import score
from prognobench.cli import cli
from prognobench.errors import StoreError
from prognobench.store import iter_runs


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Two runs of one cohort, complete."""
    for strategy in ("lora", "full"):
        make_run(tmp_path / "whole", strategy=strategy, patients=40)
    return tmp_path / "whole"


def halve(whole: Path, name: str, kept: range) -> Path:
    """Copy a results folder with only some of the cells of each run."""
    half = whole.parent / name
    shutil.copytree(whole, half)
    for run in iter_runs(half):
        for number, cell in enumerate(run.cells):
            if number not in kept:
                shutil.rmtree(run.path / "cells" / cell)
    return half


def test_two_halves_are_the_whole(whole: Path, tmp_path: Path) -> None:
    halves = [halve(whole, "mine", range(3)), halve(whole, "theirs", range(2, 5))]
    merged = merge(halves, tmp_path / "both")
    assert (merged.runs, merged.cells, merged.equal) == (2, 10, 2)
    score(whole)
    score(tmp_path / "both")
    assert (tmp_path / "both/scores.csv").read_bytes() == (whole / "scores.csv").read_bytes()
    assert merge(halves, tmp_path / "both").cells == 0, "all of it is there"


def test_other_predictions_of_one_cell_are_a_conflict(whole: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(whole, theirs)
    run = next(iter_runs(theirs))
    file = run.path / "cells" / "r0-f3" / "predictions.csv"
    store_instead(run, "cells/r0-f3/predictions.csv", file.read_bytes().replace(b"0.1", b"0.2", 1))
    with pytest.raises(StoreError, match=r"nothing was merged:\n") as refused:
        merge([whole, theirs], tmp_path / "both")
    assert "cell r0-f3: other predictions in" in str(refused.value)
    assert not (tmp_path / "both").exists()


def test_what_is_damaged_is_named_and_nothing_is_merged(whole: Path, tmp_path: Path) -> None:
    run = next(iter_runs(whole))
    store_instead(run, "cells/r0-f0/predictions.csv", b"part\n")
    file = run.path / "cells" / "r0-f1" / "predictions.csv"
    file.write_bytes(file.read_bytes()[:-20])
    shown = CliRunner().invoke(
        cli, ["results", "merge", str(whole), "--into", str(tmp_path / "both")]
    )
    assert isinstance(shown.exception, StoreError)
    assert "r0-f1/predictions.csv is damaged" in str(shown.exception)
    assert not (tmp_path / "both").exists()


def test_the_command_counts(whole: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(
        cli, ["results", "merge", str(whole), "--into", str(tmp_path / "both")]
    )
    assert shown.exit_code == 0
    assert "2 new runs, 10 new cells" in shown.stderr
