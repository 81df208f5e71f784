"""Engines start workers on one results folder; every cell is computed once, whatever dies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from prognobench.cli import cli, console
from prognobench.errors import ConfigError
from prognobench.files import read_json, write_json
from prognobench.registry import ENGINES
from prognobench.runs.status import read_status
from prognobench.runs.sweeps import Command, begin_sweep, join_sweep

OWN = """
import os, signal, time
from functools import partial
from prognobench.records import Estimator
from prognobench.registry import STRATEGIES

@STRATEGIES.register("logged_prior")
def logged_prior(*, log: str, pause: float = 0.0, deadly: bool = False) -> Estimator:
    "Leaves a line for each fit; may kill its own process."
    return Estimator("none", {"one": partial(make, log, pause, deadly)})

def make(log, pause, deadly, seed):
    from sklearn.dummy import DummyClassifier
    with open(log, "a") as file:
        print(os.getpid(), file=file)
    if deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(pause)
    return DummyClassifier()
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a user's own strategies, ``logged`` and ``deadly``."""
    files = {
        "components/own.py": OWN,
        "configs/strategy/logged.yaml": (
            f"name: logged\nbuilder: logged_prior\nlog: {tmp_path / 'log'}\npause: 0.2\n"
        ),
        "configs/strategy/deadly.yaml": (
            f"name: deadly\nbuilder: logged_prior\nlog: {tmp_path / 'deadly'}\ndeadly: true\n"
        ),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def command(own: Path, *overrides: str) -> list[str]:
    return [
        *(sys.executable, "-m", "prognobench", "run", "-m"),
        *(f"--config-dir={own / 'configs'}", f"--components={own / 'components'}"),
        *("dataset=severity", "dataset.patients=30", "dataset.image_size=64", "device=cpu"),
        *("model=cnn", "model.weights=random", "cv.folds=3", "baselines=false", "--no-table"),
        *(f"paths.results={own / 'results'}", f"paths.cache={own / 'cache'}", *overrides),
    ]


def lines(file: Path) -> Sequence[str]:
    return file.read_text().split() if file.exists() else []


def done_cells(own: Path) -> list[Path]:
    return sorted((own / "results").glob("runs/*/*/*/*/cells/*/done.json"))


def test_local_workers_share_cells_and_a_killed_one_costs_nothing(own: Path) -> None:
    sweep = command(own, "strategy=logged", "seed=range(1,9)", "engine=local", "engine.workers=2")
    engine = subprocess.Popen(sweep, stderr=subprocess.PIPE, text=True)
    while len(lines(own / "log")) < 2:
        assert engine.poll() is None
        time.sleep(0.01)
    os.kill(int(lines(own / "log")[-1]), signal.SIGKILL)
    said = engine.communicate()[1]
    assert engine.returncode == 0, said
    assert len(done_cells(own)) == 24
    assert 24 <= len(lines(own / "log")) <= 27, "the killed one's run may be fitted again"
    assert len(set(lines(own / "log"))) >= 2
    now = read_status(own / "results")
    assert (now.count("done"), now.count("left"), now.running) == (24, 0, {})


def test_a_terminated_worker_gives_its_cells_back(own: Path) -> None:
    path = begin_sweep(own / "results", Command(()), "local", []).path
    slow = command(own, "strategy=logged", "strategy.pause=60", f"--worker={path}")
    worker = subprocess.Popen(slow, stderr=subprocess.PIPE, text=True)
    while not lines(own / "log"):
        assert worker.poll() is None
        time.sleep(0.01)
    worker.terminate()
    said = worker.communicate()[1]
    assert worker.returncode == 128 + signal.SIGTERM
    assert said.startswith("terminated: ")
    (lease,) = (own / "results").glob("runs/*/*/*/*/.lease-1")
    assert read_json(lease)["released"] is True


def test_a_cell_that_kills_its_workers_fails_and_costs_no_other(own: Path) -> None:
    sweep = command(own, "strategy=logged,deadly", "engine=local", "engine.workers=1")
    ended = subprocess.run(sweep, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert "3 workers died while they computed this cell" in ended.stderr
    assert len(lines(own / "deadly")) == 3
    assert len(done_cells(own)) == 3
    now = read_status(own / "results")
    assert (now.count("done"), now.count("failed")) == (3, 3)
    shown = CliRunner().invoke(cli, ["status", str(own / "results")])
    assert shown.exit_code == 0
    assert "3 failed" in shown.stderr
    assert "workers died" in shown.stderr


def test_dask_workers_share_cells(own: Path) -> None:
    pytest.importorskip("distributed")
    sweep = command(own, "strategy=logged", "seed=1,2,3,4", "engine=dask", "engine.workers=2")
    ended = subprocess.run(sweep, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert len(done_cells(own)) == len(lines(own / "log")) == 12


# ------------------------------------------------------------------ what workers are told


@pytest.fixture
def sweep_folder(tmp_path: Path) -> Path:
    return begin_sweep(tmp_path / "results", Command(("model=vit",)), "local", []).path


def test_a_worker_gets_the_command_without_the_engine(tmp_path: Path) -> None:
    told = Command(("model=vit,cnn", "engine=slurm", "engine.workers=3"), True, tmp_path)
    arguments = told.for_worker(tmp_path / "sweep")
    assert "model=vit,cnn" in arguments
    assert "-m" in arguments
    assert not [argument for argument in arguments if argument.startswith("engine")]


def test_a_worker_that_sees_the_sweep_says_so(sweep_folder: Path) -> None:
    sweep = join_sweep(sweep_folder)
    assert [told["state"] for told in sweep.workers().values()] == ["working"]
    sweep.tell("ended")
    assert [told["state"] for told in sweep.workers().values()] == ["ended"]


def test_a_worker_with_another_version_is_refused(sweep_folder: Path) -> None:
    content = read_json(sweep_folder / "sweep.json")
    versions = {**content["versions"], "torch": "1.0"}
    write_json(sweep_folder / "sweep.json", {**content, "versions": versions})
    with pytest.raises(ConfigError, match=r"has torch 2\..*was started with torch 1\.0"):
        join_sweep(sweep_folder)


def test_status_says_which_workers_were_refused(tmp_path: Path) -> None:
    from prognobench.store import RunFolder

    results = tmp_path / "results"
    run = RunFolder(results / "runs" / "mortality" / "vit" / "lora" / "0123456789ab")
    sweep = begin_sweep(results, Command(()), "slurm", [(run, ["r0-f0"])])
    sweep.tell("refused", "worker on node7 has torch 1.0")
    assert read_status(results).refusals == ("worker on node7 has torch 1.0",)
    shown = CliRunner().invoke(cli, ["status", str(results)])
    assert "error: worker on node7 has torch 1.0" in shown.stderr
    (run.path / "cells" / "r0-f0").mkdir(parents=True)
    (run.path / "cells" / "r0-f0" / "failure.json").write_text("{}")
    assert read_status(results).refusals == ()


def test_a_worker_that_does_not_see_the_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not see .*file system that all workers share"):
        join_sweep(tmp_path / "elsewhere")


# ------------------------------------------------------------------ what cannot be started


def refusal(own: Path, *overrides: str) -> str:
    arguments = command(own, "strategy=logged", *overrides)[3:]
    ended = CliRunner().invoke(cli, arguments)
    assert isinstance(ended.exception, ConfigError), ended.output
    assert not list((own / "results").glob("sweeps/*"))
    assert not done_cells(own)
    return str(ended.exception)


def test_slurm_is_missed_where_there_is_none(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(own))
    assert "there is no SLURM here" in refusal(own, "engine=slurm")


def test_what_sbatch_refuses_is_said(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    sbatch = own / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition specified: gpu' >&2\nexit 1\n"
    )
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}")
    said = refusal(own, "engine=slurm", "engine.partition=gpu")
    assert said == "SLURM refuses the workers: invalid partition specified: gpu"


def test_a_dask_scheduler_that_does_not_answer_is_named(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    from prognobench.runs.engines import dask

    monkeypatch.setattr(dask, "PATIENCE", 0.5)
    said = refusal(own, "engine=dask", "engine.address=tcp://127.0.0.1:1")
    assert "engine.address=tcp://127.0.0.1:1: no Dask scheduler answers there" in said


def test_one_engine_computes_a_sweep(own: Path) -> None:
    assert "one engine computes all of a sweep" in refusal(own, "engine=local,dask")


def test_every_engine_has_a_file_and_a_purpose() -> None:
    assert set(ENGINES) == {"here", "local", "slurm", "dask"}
    assert all(part.summary for part in ENGINES.values())


def test_status_of_a_sweep_that_nobody_has_begun(tmp_path: Path) -> None:
    from prognobench.store import RunFolder

    run = RunFolder(tmp_path / "runs" / "mortality" / "vit" / "lora" / "0123456789ab")
    begin_sweep(tmp_path, Command(()), "slurm", [(run, ["r0-f0", "r0-f1"])])
    now = read_status(tmp_path)
    assert now.count("left") == 2
    assert now.table["remark"].tolist() == ["not begun"]
    assert now.expected_end is None


def test_a_log_says_once_a_minute_how_many_cells_are_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with console.progress_bars() as progress:
        assert progress is not None
        for done in range(5):
            progress("mortality, vit, lora, cell r0-f0", 1, 10)
            progress("cells", done, 10)
            now[0] += 31
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "2 of 10 cells done, the rest takes about 4.1 minutes",
        "4 of 10 cells done, the rest takes about 3.1 minutes",
    ]


# ------------------------------------------------------------------ a real SLURM

real_slurm = pytest.mark.skipif(
    "SLURM_CONF" not in os.environ or shutil.which("sbatch") is None,
    reason="needs a SLURM of its own: scripts/local-slurm start FOLDER, then SLURM_CONF",
)
SMALL = ("engine=slurm", "engine.gpus=0", "engine.cpus=1", "engine.memory_gb=1.8")


def submit(own: Path, *overrides: str) -> str:
    """Submit a sweep, whose submitting process ends at once, and return the job's number."""
    sweep = command(own, "strategy=logged", *SMALL, *overrides)
    submitted = subprocess.run(sweep, capture_output=True, text=True, check=True)
    return submitted.stderr.partition("SLURM job ")[2].partition(".")[0]


def queue(job: str) -> list[str]:
    shown = subprocess.run(
        ["squeue", "-h", "-o", "%T", "-j", job], capture_output=True, text=True, check=False
    )
    return shown.stdout.split()


def await_true(holds: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.1)


@real_slurm
def test_slurm_computes_each_cell_once_whatever_is_killed(own: Path) -> None:
    job = submit(own, "seed=range(1,13)", "engine.workers=2")
    await_true(lambda: len(set(lines(own / "log"))) == 2)
    os.kill(int(lines(own / "log")[0]), signal.SIGKILL)
    await_true(lambda: len(done_cells(own)) == 36)
    assert 36 <= len(lines(own / "log")) <= 39
    await_true(lambda: not queue(job))  # workers leave when nothing is free


@real_slurm
def test_a_preempted_worker_goes_on_where_it_was(own: Path) -> None:
    job = submit(own, "seed=range(1,13)", "engine.workers=1", "engine.partition=low")
    await_true(lambda: len(done_cells(own)) >= 3)
    urgent = ["sbatch", "--partition=high", "--cpus-per-task=2", "--wrap=sleep 1"]
    subprocess.run(urgent, cwd=own, check=True, stdout=subprocess.DEVNULL)
    await_true(lambda: queue(job) == ["PENDING"])
    assert len(done_cells(own)) < 36
    subprocess.run(["scontrol", "update", f"jobid={job}_0", "starttime=now"], check=False)
    await_true(lambda: len(done_cells(own)) == 36, 300)
    assert len(lines(own / "log")) <= 39
    await_true(lambda: not queue(job))
