"""Leases: each piece of work is held by one process only, and comes free when that one ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prognobench import workers
from prognobench.analysis.checking import check_results
from prognobench.cli.compose import compose
from prognobench.registry import load_components
from prognobench.runs.execute import run
from prognobench.workers import EXPIRY, Lease, find_holder, hold

HOLDS = """
import sys, time
from pathlib import Path
from prognobench.workers import Lease
lease = Lease.take(Path(sys.argv[1]), "lease", "session")
print(lease is not None, flush=True)
sys.stdin.readline()
print(lease.is_ours, flush=True)
"""

TAKES_ALL = """
import sys
from pathlib import Path
from prognobench.workers import Lease
for number in range(40):
    folder = Path(sys.argv[1]) / str(number)
    lease = Lease.take(folder, "lease")
    if lease is not None and not (folder / "done").exists():
        with open(folder / "log", "a") as log:
            print("computed", file=log)
        (folder / "done").touch()
    if lease is not None:
        lease.clear()
"""


@contextmanager
def other_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease of a folder."""
    command = [sys.executable, "-c", HOLDS, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def pass_time(folder: Path, seconds: float) -> None:
    """Let a lease look as if it had been renewed so long ago."""
    for file in folder.glob(".lease-*"):
        before = file.stat().st_mtime - seconds
        os.utime(file, (before, before))


def move_elsewhere(folder: Path) -> None:
    """Let a lease look as if a process of another machine held it."""
    for file in folder.glob(".lease-*"):
        holder = json.loads(file.read_text())
        file.write_text(json.dumps({**holder, "machine": "another", "host": "node7"}))


def test_one_process_has_it_at_a_time(tmp_path: Path) -> None:
    first = Lease.take(tmp_path, "lease")
    assert first is not None
    assert Lease.take(tmp_path, "lease") is None
    holder = find_holder(tmp_path, "lease")
    assert holder is not None
    assert holder.pid == os.getpid()
    first.give_back()
    assert find_holder(tmp_path, "lease") is None
    second = Lease.take(tmp_path, "lease")
    assert second is not None
    second.clear()
    assert not os.listdir(tmp_path)


def test_processes_that_start_at_once_do_each_work_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKES_ALL, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    logs = [file.read_text() for file in tmp_path.glob("*/log")]
    assert logs == ["computed\n"] * 40
    assert not list(tmp_path.glob("*/.lease-*"))


def test_a_killed_process_of_this_machine_holds_nothing(tmp_path: Path) -> None:
    with other_process(tmp_path) as process:
        assert Lease.take(tmp_path, "lease", "session") is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert find_holder(tmp_path, "lease") is None
        lease = Lease.take(tmp_path, "lease", "session")
        assert lease is not None
        lease.clear()


def test_deaths_are_counted_within_a_session(tmp_path: Path) -> None:
    for _ in range(2):
        with other_process(tmp_path):
            pass
    lease = Lease.take(tmp_path, "lease", "session")
    assert lease is not None
    assert lease.holder.attempt == 3
    lease.give_back()
    lease = Lease.take(tmp_path, "lease", "another")
    assert lease is not None
    assert lease.holder.attempt == 1
    lease.clear()


def test_a_process_of_another_machine_holds_it_until_it_expires(tmp_path: Path) -> None:
    with other_process(tmp_path):
        move_elsewhere(tmp_path)
        assert Lease.take(tmp_path, "lease") is None
        holder = find_holder(tmp_path, "lease")
        assert holder is not None
        assert holder.host == "node7"
        pass_time(tmp_path, EXPIRY + 5)
        assert find_holder(tmp_path, "lease") is None
        lease = Lease.take(tmp_path, "lease")
        assert lease is not None
        assert lease.number == 2
        lease.clear()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the state of processes")
def test_a_stopped_process_loses_it_and_notices(tmp_path: Path) -> None:
    with other_process(tmp_path) as process:
        pass_time(tmp_path, EXPIRY + 5)
        assert Lease.take(tmp_path, "lease") is None, "it runs, so it holds"
        process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while (lease := Lease.take(tmp_path, "lease")) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease is not None
        process.send_signal(signal.SIGCONT)
        assert process.communicate("\n")[0] == "False\n"
        assert lease.is_ours
        lease.clear()


def test_a_lease_that_was_taken_over_is_left_to_its_new_holder(tmp_path: Path) -> None:
    first = Lease.take(tmp_path, "lease")
    assert first is not None
    (tmp_path / ".lease-2").write_text("{}")
    assert not first.is_ours
    first.give_back()
    first.clear()
    assert sorted(os.listdir(tmp_path)) == [".lease-1", ".lease-2"]
    assert Lease.take(tmp_path, "lease") is None


def test_a_lease_is_renewed_while_its_process_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "EXPIRY", 0.3)
    monkeypatch.setattr(workers, "_renewed", workers._Renewed())
    lease = Lease.take(tmp_path, "lease")
    assert lease is not None
    move_elsewhere(tmp_path)
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        assert Lease.take(tmp_path, "lease") is None
        time.sleep(0.02)
    lease.clear()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"unknown": 1}', "[" * 9999])
def test_a_lease_that_cannot_be_read_holds_until_it_expires(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lease-1").write_text(content)
    assert Lease.take(tmp_path, "lease") is None
    pass_time(tmp_path, EXPIRY + 5)
    lease = Lease.take(tmp_path, "lease")
    assert lease is not None
    lease.clear()


def test_a_lease_that_is_cleared_just_now_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / ".lease-1").symlink_to(tmp_path / "gone")  # listed, and not there when it is read
    assert Lease.take(tmp_path, "lease") is None
    assert find_holder(tmp_path, "lease") is None


def test_a_place_where_no_lease_can_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Lease.take(tmp_path / "file" / "folder", "lease")


@pytest.mark.parametrize("wrong", [{"pid": "1"}, {"attempt": None}, {"released": "no"}])
def test_a_lease_with_values_of_other_types_holds_until_it_expires(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    lease = Lease.take(tmp_path, "lease", "session")
    assert lease is not None
    lease.path.write_text(json.dumps({**vars(lease.holder), **wrong}))
    assert Lease.take(tmp_path, "lease", "session") is None
    pass_time(tmp_path, EXPIRY + 5)
    after = Lease.take(tmp_path, "lease", "session")
    assert after is not None
    assert after.holder.attempt == 1
    after.clear()


@pytest.mark.parametrize("name", [".lease-\u00b2", ".lease-007", ".lease-0", ".lease-x", ".lease-"])
def test_files_that_only_look_like_a_lease_hold_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    lease = Lease.take(tmp_path, "lease")
    assert lease is not None
    assert lease.number == 1
    lease.clear()
    assert os.listdir(tmp_path) == [name]


def test_a_lease_that_a_full_disk_refuses_to_write_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    lease = Lease.take(tmp_path, "other")
    assert lease is not None
    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space"):
            Lease.take(tmp_path, "lease")
        lease.give_back()
    assert not os.listdir(tmp_path), "a full disk can still delete"
    for name in ("lease", "other"):
        after = Lease.take(tmp_path, name)
        assert after is not None
        after.clear()


def test_a_folder_that_can_only_be_read_tells_who_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    lease = Lease.take(tmp_path, "lease")
    assert lease is not None
    move_elsewhere(tmp_path)
    monkeypatch.setattr(workers, "_clocks", {})
    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", read_only)
        disk.setattr(Path, "unlink", read_only)
        holder = find_holder(tmp_path, "lease")
        assert holder is not None
        assert holder.host == "node7"
        pass_time(tmp_path, EXPIRY + 5)
        assert find_holder(tmp_path, "lease") is None
        lease.clear()
    assert os.listdir(tmp_path) == [".lease-1"]


def test_results_check_tells_leases_of_dead_processes_only(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "dataset" / "model" / "strategy" / "key"
    held = Lease.take(run, "lease")
    assert held is not None
    cell = run / "cells" / "fold1"
    with other_process(cell):
        assert [kind for _, kind, _ in check_results(tmp_path)] == ["foreign"], "no run.json"
    found = check_results(tmp_path)
    assert [kind for _, kind, _ in found] == ["left", "foreign"]
    assert str(cell / ".lease-1") in found[0][2]
    after = Lease.take(cell, "lease")
    assert after is not None
    after.give_back()
    assert [kind for _, kind, _ in check_results(tmp_path)] == ["foreign"]
    held.clear()


def test_what_is_held_briefly_is_waited_for(tmp_path: Path) -> None:
    with hold(tmp_path, "cache") as first:
        assert first is not None
        with hold(tmp_path, "cache", wait=False) as second:
            assert second is None
    with hold(tmp_path, "cache") as third:
        assert third is not None
    assert not os.listdir(tmp_path)


# ------------------------------------------------------------------ whole commands

LOGGED = """
import time
from functools import partial
from prognobench.records import Estimator
from prognobench.registry import STRATEGIES

@STRATEGIES.register("logged_forest")
def logged_forest(*, log: str) -> Estimator:
    "A forest that leaves a line for each fit."
    return Estimator("features", {"one": partial(make, log)})

def make(log, seed):
    from sklearn.ensemble import RandomForestClassifier
    with open(log, "a") as file:
        print("fitted", file=file)
    time.sleep(0.05)
    return RandomForestClassifier(5, random_state=seed % 2**32)
"""

TAKEN_OVER = """
from functools import partial
from pathlib import Path
from prognobench.records import Adapted, Estimator
from prognobench.registry import STRATEGIES

def lose(results, pattern):
    "Take over the leases of this process, as another does while it is stopped."
    leases = list(Path(results).glob(pattern + "/.lease-1"))
    assert leases
    for lease in leases:
        lease.with_name(".lease-2").write_text("{}")

@STRATEGIES.register("lost_training")
def lost_training(backbone, num_classes: int, *, results: str, fails: bool) -> Adapted:
    "Its lease is taken over while it trains."
    adapted = STRATEGIES["bitfit"](backbone, num_classes)
    if next(backbone.module.parameters()).device.type != "meta":
        lose(results, "runs/*/*/*/*/cells/*")
        if fails:
            raise ArithmeticError("it failed only here")
    return adapted

@STRATEGIES.register("lost_fitting")
def lost_fitting(*, results: str, fails: bool) -> Estimator:
    "Its lease is taken over while it is fitted."
    return Estimator("features", {"one": partial(make, results, fails)})

def make(results, fails, seed):
    from sklearn.dummy import DummyClassifier
    lose(results, "runs/*/*/*/*")
    if fails:
        raise ArithmeticError("it failed only here")
    return DummyClassifier()
"""

NO_LOCKS = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = fcntl.lockf = flock
"""


def test_processes_share_frozen_cells_without_locks_of_the_system(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for file, text in (
        ("components/logged.py", LOGGED),
        ("configs/strategy/logged.yaml", f"name: logged\nbuilder: logged_forest\nlog: {log}\n"),
        ("site/sitecustomize.py", NO_LOCKS),
    ):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(text)
    command = [
        *(sys.executable, "-m", "prognobench", "run", "-m", "--no-table"),
        *(f"--config-dir={tmp_path / 'configs'}", f"--components={tmp_path / 'components'}"),
        *("dataset=severity", "dataset.patients=40", "dataset.image_size=64", "device=cpu"),
        *("model=cnn", "model.weights=random", "strategy=logged", "cv.folds=3", "seed=1,2,3,4"),
        "baselines=false",
        *(f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}"),
    ]
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path}
    all_of_them = [
        subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for _ in range(3)
    ]
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    all_of_them[0].send_signal(signal.SIGKILL)
    assert [process.wait() for process in all_of_them][1:] == [0, 0]

    assert len(list(tmp_path.glob("results/runs/*/*/*/*/cells/*/done.json"))) == 12
    assert 12 <= len(log.read_text().split()) <= 15, "the killed one's run may be fitted again"
    assert not list(tmp_path.glob("results/runs/**/.lease-*"))


@pytest.fixture
def taken_over(tmp_path: Path) -> Path:
    """The folder with the code of strategies that lose their leases, which is loaded."""
    folder = tmp_path / "taken_over"
    folder.mkdir()
    (folder / "components").mkdir()
    (folder / "components" / "taken_over.py").write_text(TAKEN_OVER)
    load_components(folder / "components")
    return folder


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("builder", ["lost_training", "lost_fitting"])
def test_what_is_computed_without_a_lease_is_not_stored(
    tmp_path: Path, taken_over: Path, builder: str, fails: bool
) -> None:
    results = tmp_path / "results"
    config = tmp_path / "configs" / "strategy" / "lost.yaml"
    config.parent.mkdir(parents=True)
    settings = f"results: {results}\nfails: {str(fails).lower()}\n"
    config.write_text(f"name: lost\nbuilder: {builder}\n{settings}")
    overrides = [
        *("dataset=severity", "dataset.patients=40", "dataset.image_size=64", "device=cpu"),
        *("model=cnn", "model.weights=random", "train=quick", "train.epochs=1", "cv.folds=3"),
        *("strategy=lost", f"paths.results={results}", f"paths.cache={taken_over / 'cache'}"),
    ]
    (outcome,) = run(compose(overrides, config_dir=config.parents[1]), wait=False)
    assert outcome.computed == ()
    assert outcome.failed == {}
    assert outcome.elsewhere == 3
    assert not list(results.glob("runs/**/done.json"))
