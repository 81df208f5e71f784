"""Run folders: identity, whole files, marks, text that stays text."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_runs import store_instead

from prognobench.errors import DamagedError, NotApplicableError, StoreError, TrainingError
from prognobench.files import (
    read_json,
    read_sealed,
    read_table,
    read_tables,
    write_json,
    write_table,
)
from prognobench.records import Component, Paths, RunConfig, Train
from prognobench.store import RunFolder, iter_runs, run_folder, run_key

DIGESTS = {"cohort": "c", "folds": "f", "weights": "w"}


def config_for(results: Path) -> RunConfig:
    return RunConfig(
        dataset=Component("mortality", "embedded", {"patients": 20}),
        model=Component("vit", "embedded", {"weights": "embedded", "image_size": 64}),
        strategy=Component("lora", "lora", {"rank": 8}),
        regime=Component("full", "full"),
        cv=Component("five_fold", "k_fold", {"folds": 5}),
        loss=Component("cross_entropy", "cross_entropy", {}),
        train=Train(),
        paths=Paths(results, results / "cache"),
    )


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return config_for(tmp_path)


@pytest.fixture
def folder(config: RunConfig) -> RunFolder:
    folder = run_folder(config, run_key(config, **DIGESTS))
    meta = {"cells": ["r0-f0", "r0-f1"], "not_applicable": None}
    table = pd.DataFrame({"patient_id": ["007", "=1+1", "NA", ""], "age": [1.5, None, 3, 4]})
    folder.create(meta, {"python": "3"}, {"cohort": table})
    return folder


@pytest.fixture
def complete(folder: RunFolder) -> RunFolder:
    """A run with a complete cell, whose model is saved, and a failed one."""
    meta = {"cells": ["r0-f0", "r0-f1"], "not_applicable": None}
    nothing = pd.DataFrame({"item": [], "reason": []}, dtype=str)
    folder.create({**meta, "classes": ["a", "b"]}, {"python": "3"}, {"exclusions": nothing})
    predictions = pd.DataFrame({"part": ["test"], "patient_id": ["1"], "score_a": [0.5]})
    folder.write_cell("r0-f0", predictions, [], {}, save=lambda t: write_json(t / "a.json", 1))
    folder.write_failure("r0-f1", TrainingError("loss is not finite"))
    return folder


def test_the_key_ignores_what_changes_no_number(config: RunConfig, tmp_path: Path) -> None:
    same = [
        replace(config, paths=Paths(tmp_path / "b", tmp_path / "c")),
        replace(config, device="cpu"),
        replace(config, dataset=replace(config.dataset, name="other name")),
        replace(config, train=replace(config.train, save="all")),
        replace(config, train=replace(config.train, speedups=False)),
        replace(
            config, model=replace(config.model, settings={"weights": "moved", "image_size": 64})
        ),
    ]
    assert {run_key(one, **DIGESTS) for one in same} == {run_key(config, **DIGESTS)}


def test_the_key_changes_with_everything_that_changes_numbers(config: RunConfig) -> None:
    others = [
        replace(config, seed=43),
        replace(config, strategy=Component("lora", "lora", {"rank": 4})),
        replace(config, train=replace(config.train, epochs=31)),
        replace(config, image=replace(config.image, equalise=True)),
        replace(config, cv=Component("five_fold", "k_fold", {"folds": 4})),
    ]
    keys = [run_key(one, **DIGESTS) for one in [config, *others]]
    keys += [run_key(config, **{**DIGESTS, name: "x"}) for name in DIGESTS]
    assert len(set(keys)) == len(keys)


def test_text_stays_text_and_numbers_numbers(folder: RunFolder) -> None:
    cohort = folder.cohort()
    assert cohort["patient_id"].tolist() == ["007", "=1+1", "NA", ""]
    assert cohort["age"].isna().tolist() == [False, True, False, False]
    raw = (folder.path / "cohort.csv").read_text()
    assert "'=1+1" in raw


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


CONTROL = {*map(chr, (*range(32), *range(0x7F, 0xA0)))} - {"\t", "\n"}

texts = st.text(st.characters(blacklist_categories=["Cs"]) | st.sampled_from("'\\=u\x1b\r\0"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(texts, min_size=1))
def test_any_text_survives_and_none_is_a_formula(tmp_path: Path, values: list[str]) -> None:
    file = tmp_path / "t.csv"
    write_table(file, pd.DataFrame({"n": range(len(values)), "image": values}))
    assert read_table(file)["image"].tolist() == values
    written = pd.read_csv(file, dtype=str, keep_default_na=False)["image"]
    assert not written.str.startswith(FORMULA).any()
    assert not CONTROL & set(file.read_text(encoding="utf-8"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(texts.filter(bool), min_size=1, unique=True))
def test_names_of_columns_survive_and_none_is_a_formula(tmp_path: Path, names: list[str]) -> None:
    file = tmp_path / "t.csv"
    write_table(file, pd.DataFrame({name: [1.5] for name in names}))
    assert list(read_table(file).columns) == names
    assert not [name for name in pd.read_csv(file).columns if name.startswith(FORMULA)]
    assert not CONTROL & set(file.read_text(encoding="utf-8"))


def test_a_cell_is_done_when_its_mark_is_there(folder: RunFolder) -> None:
    predictions = pd.DataFrame({"part": ["test"], "patient_id": ["1"], "score_a": [0.5]})
    folder.write_failure("r0-f0", TrainingError("loss is not finite in epoch 3"))
    assert folder.failures()["r0-f0"]["message"] == "loss is not finite in epoch 3"
    assert folder.done_cells() == []
    folder.write_cell("r0-f0", predictions, [{"epoch": 1, "train_loss": 0.7}], {"seconds": 1})
    assert folder.done_cells() == ["r0-f0"]
    assert folder.failures() == {}
    assert not folder.is_done("r0-f0", "adapted")
    assert folder.predictions("r0-f0")["score_a"].tolist() == [0.5]
    assert folder.history("r0-f0")["epoch"].tolist() == [1]
    assert folder.cost("r0-f0") == {"seconds": 1}


def test_an_adapted_part_appears_whole_or_not_at_all(folder: RunFolder) -> None:
    def broken(target: Path) -> None:
        (target / "half").write_text("x")
        raise OSError("disk full")

    predictions = pd.DataFrame({"part": ["test"]})
    with pytest.raises(OSError, match="disk full"):
        folder.write_cell("r0-f1", predictions, [], {}, save=broken)
    assert not folder.is_done("r0-f1")
    assert not (folder.path / "cells" / "r0-f1" / "adapted").exists()
    folder.write_cell("r0-f1", predictions, [], {}, save=lambda t: write_json(t / "a.json", 1))
    assert folder.is_done("r0-f1", "adapted")


def test_drafts_of_dead_processes_go_when_the_cell_is_complete(complete: RunFolder) -> None:
    cell = complete.path / "cells" / "r0-f1"
    (cell / ".adapted.77").mkdir(parents=True)
    (cell / ".adapted.77" / "half").write_text("x")
    for name in (".predictions.csv.77", ".lease-1", "mine.txt"):
        (cell / name).write_text("x")
    complete.write_cell("r0-f1", pd.DataFrame({"part": ["test"]}), [], {})
    names = {file.name for file in cell.iterdir()}
    stored = {"predictions.csv", "history.csv", "cost.json", "done.json"}
    assert names == stored | {".lease-1", "mine.txt"}


def test_a_run_that_cannot_be_says_why(folder: RunFolder) -> None:
    folder.mark_not_applicable(NotApplicableError("no attention in resnet18"))
    assert RunFolder(folder.path).meta["not_applicable"] == "no attention in resnet18"


def test_machines_that_describe_a_run_at_once_do_not_mix_their_files(
    config: RunConfig, tmp_path: Path
) -> None:
    machines = 4
    for number in range(5):
        begin = Barrier(machines)
        runs = [run_folder(config, f"key{number}") for _ in range(machines)]

        def describe(machine: int, begin: Barrier = begin, runs: list[RunFolder] = runs) -> None:
            begin.wait()
            meta = {"cells": ["r0-f0"], "not_applicable": None}
            runs[machine].create(meta, {"machine": machine}, {"folds": pd.DataFrame({"a": [1]})})

        with ThreadPoolExecutor(machines) as threads:
            list(threads.map(describe, range(machines)))
        assert {run.environment()["machine"] for run in runs} <= {*range(machines)}
        assert [run.find_damage() for run in runs] == [None] * machines
        assert not list(runs[0].path.glob(".*"))


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("run.json", "{}", lambda folder: folder.meta),
        ("run.json", "[]", lambda folder: folder.cells),
        ("cells/r0-f0/done.json", '{"finished": "today", "files": {}}', RunFolder.done_cells),
        ("cells/r0-f0/done.json", "[" * 9999, lambda folder: folder.cost("r0-f0")),
        ("cells/r0-f1/failure.json", '{"type": "TrainingError"}', RunFolder.failures),
    ],
)
def test_a_file_with_other_entries_than_it_is_written_with_is_damaged(
    complete: RunFolder, name: str, content: str, read: Callable[[RunFolder], object]
) -> None:
    (complete.path / name).write_text(content)
    folder = RunFolder(complete.path)
    if read is RunFolder.done_cells:
        assert folder.done_cells() == []
        with pytest.raises(DamagedError, match=r"done.json .* lacks its own checksum"):
            folder.predictions("r0-f0")
    else:
        with pytest.raises(DamagedError, match=rf"{Path(name).name} .*the same 'prognobench run'"):
            read(folder)


@pytest.mark.parametrize("name", ["environment.json", "cells/r0-f0/cost.json"])
def test_a_file_without_entries_is_damaged_although_its_checksum_is_right(
    complete: RunFolder, name: str
) -> None:
    store_instead(complete, name, b"[1]")
    with pytest.raises(DamagedError, match=f"{Path(name).name} is damaged"):
        complete.environment() if name.startswith("environment") else complete.cost("r0-f0")


def test_a_saved_model_is_whole_or_refused(complete: RunFolder) -> None:
    saved = complete.require_model("r0-f0") / "a.json"
    assert read_json(saved) == 1
    assert complete.is_done("r0-f0", "adapted")
    content = saved.read_bytes()
    saved.write_bytes(content + b" ")
    with pytest.raises(DamagedError, match=r"a.json is damaged or missing"):
        complete.require_model("r0-f0")
    assert not complete.is_done("r0-f0", "adapted")
    assert complete.is_done("r0-f0"), "predictions do not need it"
    saved.unlink()
    assert not complete.is_done("r0-f0", "adapted")
    saved.write_bytes(content)
    assert complete.require_model("r0-f0") == saved.parent
    with pytest.raises(StoreError, match=r"done.json cannot be read"):
        complete.require_model("r0-f1")


def test_what_is_not_there_yet_is_said(complete: RunFolder, config: RunConfig) -> None:
    assert run_folder(config, "none").not_applicable is None
    assert complete.failed_at("r0-f0") == 0
    assert complete.failed_at("r0-f1") > 0
    assert len(complete.exclusions()) == 0
    (complete.path / "run.json").write_text("{")
    assert RunFolder(complete.path).not_applicable is None
    with pytest.raises(DamagedError):
        [folder.cells for folder in iter_runs(config.paths.results)]


def test_a_run_that_cannot_be_described_is_an_error_for_the_user(config: RunConfig) -> None:
    config.paths.results.joinpath("runs").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="cannot be written"):
        run_folder(config, "key").create({"cells": [], "not_applicable": None}, {}, {})


def test_runs_are_found_again(folder: RunFolder, tmp_path: Path) -> None:
    assert [run.path for run in iter_runs(tmp_path)] == [folder.path]
    with pytest.raises(StoreError, match="start with 'prognobench run'"):
        list(iter_runs(tmp_path / "elsewhere"))


def test_a_newer_format_is_refused(folder: RunFolder) -> None:
    write_json(folder.path / "run.json", {**folder.meta, "format": 99})
    with pytest.raises(StoreError, match="update prognobench"):
        _ = RunFolder(folder.path).meta


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(StoreError, match=r"run\.json cannot be read"):
        read_json(tmp_path / "run.json")


def test_a_name_cannot_leave_the_results_folder(config: RunConfig, tmp_path: Path) -> None:
    hostile = replace(config, dataset=replace(config.dataset, name="../../etc"))
    path = run_folder(hostile, "k").path
    assert path.resolve().is_relative_to((tmp_path / "runs").resolve())


def test_a_folder_that_cannot_be_written_is_an_error_for_the_user(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="cannot be written"):
        write_json(tmp_path / "results" / "a.json", 1)


def test_many_tables_are_read_as_one(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.csv" for number in range(3)]
    for number, file in enumerate(files):
        rows = {"image": [f"{number}-{row}" for row in range(number)], "n": range(number)}
        write_table(file, pd.DataFrame(rows, columns=["image", "n"]))
    table = read_tables(files)
    assert table["image"].tolist() == ["1-0", "2-0", "2-1"]
    assert table["file"].tolist() == [1, 2, 2]


def test_many_tables_may_have_line_breaks_within_cells(tmp_path: Path) -> None:
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    write_table(files[0], pd.DataFrame({"image": ["one\ntwo", "three"]}))
    write_table(files[1], pd.DataFrame({"image": ["four"]}))
    table = read_tables(files)
    assert table["image"].tolist() == ["one\ntwo", "three", "four"]
    assert table["file"].tolist() == [0, 0, 1]


def test_many_tables_that_do_not_fit_are_named(tmp_path: Path) -> None:
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    sums = [write_table(file, pd.DataFrame({file.stem: [1]})) for file in files]
    with pytest.raises(StoreError, match=r"b\.csv: its columns differ from those of"):
        read_tables(files)
    with pytest.raises(StoreError, match=r"c\.csv cannot be read"):
        read_tables([*files[:1], tmp_path / "c.csv"])
    with pytest.raises(DamagedError, match=r"a\.csv cannot be read: it has another checksum"):
        read_tables(files[:1], wanted=[sums[0][::-1]])


def test_rows_are_kept_while_a_large_table_is_read(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", pd.DataFrame({"n": range(5)}))
    for least, kept in ((3, [3, 4]), (9, [])):
        table = read_table(tmp_path / "t.csv", keep=lambda piece, n=least: piece["n"] >= n)
        assert table["n"].tolist() == kept
    write_table(tmp_path / "empty.csv", pd.DataFrame({"n": []}))
    assert list(read_table(tmp_path / "empty.csv", keep=lambda piece: piece["n"] > 0)) == ["n"]


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot write set as JSON"):
        write_json(tmp_path / "x.json", {"x": {1}})
    assert not list(tmp_path.iterdir())
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(DamagedError, match="it holds no entries"):
        read_sealed(tmp_path / "list.json")
