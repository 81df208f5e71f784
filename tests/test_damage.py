"""Damaged, exchanged and foreign files of a results folder: refused by name, never scored."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made_runs import forget_checksums, make_run

from prognobench.analysis.checking import ASIDE, check_results, repair_results
from prognobench.analysis.scores import Settings, read_scores, score
from prognobench.analysis.summaries.score_tables import make_table
from prognobench.errors import DamagedError, StoreError
from prognobench.files import read_sealed, write_sealed


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def change_digit(content: bytes) -> bytes:
    place = next(i for i in reversed(range(len(content))) if content[i : i + 1].isdigit())
    return (
        content[:place]
        + b"%d" % ((int(content[place : place + 1]) + 1) % 10)
        + content[place + 1 :]
    )


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "half zeroed": lambda content: cut(content) + bytes(len(content) - len(cut(content))),
    "cut": cut,
    "bit flipped": flip,
    "digit changed": change_digit,
    "header only": lambda content: content.partition(b"\n")[0] + b"\n",
}


def table_of(results: Path) -> str:
    """The numbers that a user is shown."""
    (made,) = make_table(results, metrics=("mcc",), formats=("csv",)).tables
    return repr(made.rows)


def list_files(results: Path) -> list[Path]:
    return sorted(file for file in results.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("stored")
    make_run(results, patients=40, folds=2)
    make_run(results, model="vit", patients=40, folds=2, failed=["r0-f1"])
    table_of(results)
    return results


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_of_any_stored_file_gives_other_numbers(
    stored: Path, tmp_path: Path, damage: str
) -> None:
    results = tmp_path / "results"
    shutil.copytree(stored, results)
    whole = table_of(results)
    refused = 0
    files = [file for file in list_files(results) if file.parent.name != "tables"]
    assert len(files) == 3 + 2 * 5 + 3 * 4 + 1
    for file in files:
        content = file.read_bytes()
        damaged = DAMAGES[damage](content)
        if damaged == content:  # of a file of one line the header is all
            continue
        file.write_bytes(damaged)
        if file.parent == results:  # a cache: made anew
            assert table_of(results) == whole
        else:
            with pytest.raises(DamagedError, match=f"{file.name} .*the same 'prognobench run'"):
                table_of(results)
            refused += 1
        file.write_bytes(content)
    assert table_of(results) == whole
    assert refused >= 20


def test_runs_exchanged_with_their_old_times_are_noticed(tmp_path: Path) -> None:
    results, older = tmp_path / "results", tmp_path / "older"
    make_run(older, model="vit", patients=40, folds=2, skill=0.1)
    for file in list_files(older):
        os.utime(file, (0, 0))
    make_run(results, model="cnn", patients=40, folds=2)
    table_of(results)
    shutil.rmtree(results / "runs")
    shutil.copytree(older / "runs", results / "runs")
    assert read_scores(results).runs["model"].tolist() == ["vit", "oracle"]


def test_scores_that_were_made_anew_keep_their_settings(tmp_path: Path) -> None:
    make_run(tmp_path, patients=40, folds=2)
    score(tmp_path, settings=Settings(scaling="platt", by={"age": (50.0,)}))
    before = (tmp_path / "scores.csv").read_bytes()
    (tmp_path / "scores.csv").write_bytes(change_digit(before))
    assert read_scores(tmp_path).scaling == "platt"
    assert (tmp_path / "scores.csv").read_bytes() == before


def test_a_run_without_its_description_is_missed(tmp_path: Path) -> None:
    folder = make_run(tmp_path, patients=40, folds=2)
    make_run(tmp_path, model="vit", patients=40, folds=2)
    (folder.path / "run.json").unlink()
    with pytest.raises(DamagedError, match=r"run\.json is missing"):
        score(tmp_path)


def test_a_store_without_checksums_is_read_and_that_is_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path, patients=40, folds=2)
    score(tmp_path)
    before = (tmp_path / "scores.csv").read_bytes()
    forget_checksums(folder)
    with pytest.warns(UserWarning, match="2 cells .* without checksums"):
        score(tmp_path)
    assert (tmp_path / "scores.csv").read_bytes() == before


def test_a_mark_of_other_files_is_damage(tmp_path: Path) -> None:
    folder = make_run(tmp_path, patients=40, folds=2)
    first, second = (folder.path / "cells" / cell for cell in folder.cells)
    shutil.copy(second / "predictions.csv", first / "predictions.csv")
    assert not folder.is_done("r0-f0")
    assert folder.done_cells() == ["r0-f1"]
    with pytest.raises(DamagedError, match=r"r0-f0/predictions\.csv"):
        folder.predictions("r0-f0")


def test_a_newer_format_is_no_damage(tmp_path: Path) -> None:
    folder = make_run(tmp_path, patients=40, folds=2)
    described, _ = read_sealed(folder.path / "run.json")
    write_sealed(folder.path / "run.json", {**described, "format": 99})
    with pytest.raises(StoreError, match="update prognobench"):
        score(tmp_path)


def test_check_lists_what_is_damaged_torn_or_foreign_and_changes_nothing(tmp_path: Path) -> None:
    folder = make_run(tmp_path, patients=40, folds=2)
    assert check_results(tmp_path) == []
    cells = folder.path / "cells"
    (cells / "r0-f0" / "history.csv").write_bytes(b"")
    (cells / "r9-f9").mkdir()
    (cells / "r0-f1" / ".cost.json.123").write_text("{")
    before = list_files(tmp_path)
    found = check_results(tmp_path)
    assert [state for _, state, _ in found] == ["torn", "foreign", "damaged"]
    assert "r0-f0/history.csv" in found[2][2]
    assert list_files(tmp_path) == before


def test_repair_moves_what_is_wrong_aside_and_deletes_nothing(tmp_path: Path) -> None:
    folder = make_run(tmp_path, patients=40, folds=3)
    score(tmp_path)
    assert check_results(tmp_path) == []
    cells = folder.path / "cells"
    (cells / "r0-f0" / "history.csv").write_bytes(b"")
    (cells / "r9-f9").mkdir()
    (cells / "r9-f9" / "mine.txt").write_text("mine")
    new, old = cells / "r0-f1" / ".cost.json.123", cells / "r0-f1" / ".cost.json.124"
    for draft in (new, old):
        draft.write_text("{")
    os.utime(old, (1, 1))
    contents = sorted(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    states = [state for _, state, _ in check_results(tmp_path)]
    assert states == ["torn", "torn", "foreign", "damaged", "stale"]

    moved = dict(repair_results(tmp_path).moved)

    assert [Path(before).name for before in moved] == [".cost.json.124", "r9-f9", "r0-f0"]
    assert all(Path(after).parts[0] == ASIDE for after in moved.values())
    assert new.exists()
    assert sorted(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()) == contents
    assert [state for _, state, _ in check_results(tmp_path)] == ["torn", "stale"]
    assert folder.done_cells() == ["r0-f1", "r0-f2"]
    assert len(read_scores(tmp_path).scores)
    assert [state for _, state, _ in check_results(tmp_path)] == ["torn"]


def test_repair_of_a_description_leaves_its_cells(tmp_path: Path) -> None:
    folder = make_run(tmp_path, patients=40, folds=2)
    (folder.path / "cohort.csv").write_bytes(b"")
    for number in ("", "-2"):
        ((before, after),) = repair_results(tmp_path).moved
        assert Path(before).name == "run.json"
        assert Path(after).name == f"run.json{number}"
        assert len([*folder.path.glob("cells/*/done.json")]) == 2
        (folder.path / "run.json").write_text("{")
        folder.__dict__.pop("meta", None)


HELD = """
import sys, time
from pathlib import Path
from prognobench.workers import LEASE, Lease
lease = Lease.take(Path(sys.argv[1]), LEASE)
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("held", [".", "cells/r0-f0"])
def test_repair_leaves_what_another_process_computes(tmp_path: Path, held: str) -> None:
    folder = make_run(tmp_path, patients=40, folds=2)
    for cell in folder.cells:
        (folder.path / "cells" / cell / "history.csv").write_bytes(b"")
    other = [sys.executable, "-c", HELD, str(folder.path / held)]
    with subprocess.Popen(other, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            done = repair_results(tmp_path)
        finally:
            process.kill()
    run = str(folder.path.relative_to(tmp_path))
    whole = held == "."
    assert done.in_use == [run if whole else f"{run}/{held}"]
    assert [before for before, _ in done.moved] == ([] if whole else [f"{run}/cells/r0-f1"])
    # The process has ended: now nothing is in use.
    assert not repair_results(tmp_path).in_use
    assert not list(folder.path.glob("cells/*"))
