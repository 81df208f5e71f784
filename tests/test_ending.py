"""How a command ends: exit codes, signals, no process left, and never a traceback."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_cohorts import write_csv

from prognobench.cli import cli, console, ending, main
from prognobench.errors import StoreError, printable
from prognobench.imaging import draft

SMALL = (
    *("dataset=severity", "dataset.patients=36", "dataset.image_size=64", "model=vit"),
    *("model.weights=random", "train=quick", "train.epochs=1", "cv.folds=3", "device=cpu"),
)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prognobench", *arguments]


def shell(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    python = f'prognobench() {{ {sys.executable} -m prognobench "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", python + text],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# ------------------------------------------------------------------ exit codes


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("prognobench list > /dev/full", 3, "No space left on device"),
        ("prognobench list >&-", 0, ""),
        ("prognobench list 2>&-", 0, ""),
        ("prognobench list metrics | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("LC_ALL=C PYTHONIOENCODING=ascii prognobench list metrics", 0, ""),
        ("prognobench table $(printf 'a%.0s' {1..300})", 2, "File name too long"),
        ("prognobench run hydra.launcher._target_=os.system", 2, "does not use Hydra's launchers"),
        ("prognobench claims --file tags.yaml", 2, "tags.yaml"),
        ("prognobench nothing", 2, "No such command"),
    ],
)
def test_an_awkward_machine_gets_an_exit_code_and_no_traceback(
    tmp_path: Path, text: str, code: int, said: str
) -> None:
    (tmp_path / "tags.yaml").write_text("!!python/object/apply:os.system [touch done]")
    end = shell(text, tmp_path)
    assert end.returncode == code, end.stderr
    assert "Traceback" not in end.stderr
    assert "Exception ignored" not in end.stderr
    assert said in end.stderr
    assert not (tmp_path / "done").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_too_little_memory_is_what_the_machine_refused(tmp_path: Path) -> None:
    end = shell(f"ulimit -v 600000; prognobench run {' '.join(SMALL)}", tmp_path)
    assert end.returncode == 3
    assert "too little memory" in end.stderr
    assert "Traceback" not in end.stderr


def ended(error: BaseException | None, monkeypatch: pytest.MonkeyPatch) -> int:
    def fail() -> int:
        if error is not None:
            raise error
        return 0

    with pytest.raises(SystemExit) as end:
        ending.finish(fail, cli.commands)
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (StoreError("no results in x"), 2),
        (PermissionError(13, "Permission denied", "x"), 3),
        (OSError(30, "Read-only file system", "x"), 3),
        (MemoryError(), 3),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 3),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
        (ZeroDivisionError("division by zero"), 70),
    ],
)
def test_each_kind_of_end_has_its_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException | None, code: int
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(ending, "_drop_stdout", lambda: None)
    assert ended(error, monkeypatch) == code


def test_a_machine_that_refuses_a_thread_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert ended(None, monkeypatch) == 3
    assert "too little memory" in capsys.readouterr().err


def test_an_error_is_shown_when_there_is_no_memory_to_colour_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lack(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("rich.console.Console", lack)
    assert ended(MemoryError(), monkeypatch) == 3
    assert "error: this machine has too little memory" in capsys.readouterr().err


def test_a_full_disk_behind_a_message_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = StoreError("results/run.json cannot be written: No space left on device")
    error.__cause__ = OSError(28, "No space left on device")
    assert ended(error, monkeypatch) == 3
    assert "results/run.json cannot be written" in capsys.readouterr().err


def test_a_bug_leaves_a_report_without_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["prognobench", "run", "dataset.table=smith/ids.csv"])
    assert ended(KeyError("patient 4711-Smith"), monkeypatch) == 70
    said = capsys.readouterr().err
    (report,) = tmp_path.glob("prognobench-bug-*.txt")
    assert str(report) in said
    assert "4711" not in said
    text = report.read_text()
    assert "builtins.KeyError" in text
    assert "command: run" in text
    assert "prognobench/cli/ending.py:" in text
    for private in ("4711", "smith", "Smith", str(tmp_path), str(Path.home())):
        assert private not in text


def test_a_read_only_results_folder_is_a_refusal(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("nothing is read-only to root")
    (tmp_path / "results").mkdir(mode=0o500)
    end = shell(f"prognobench run {' '.join(SMALL)}", tmp_path)
    assert end.returncode == 3
    assert "Permission denied" in end.stderr


class Executed:
    """What a pickle of somebody else may hold."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


def test_a_foreign_config_runs_no_pickle_even_under_plan(tmp_path: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Executed()))
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nhydra:\n  callbacks:\n    mine:\n"
        "      _target_: pandas.read_pickle\n      filepath_or_buffer: evil.pkl\n"
    )
    end = shell("prognobench plan -m --config-dir own experiment=mine", tmp_path)
    assert end.returncode == 2
    assert "only hydra.sweeper.params is read" in end.stderr
    assert not (tmp_path / "executed").exists()


# ------------------------------------------------------------------ signals


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Enough images of a size that decoding takes some seconds, in processes of its own."""
    folder = tmp_path / "images"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (1100, 1100), dtype=np.uint8)
    png = cv2.imencode(".png", noise)[1].tobytes()
    rows = []
    for number in range(320):
        (folder / f"{number}.png").write_bytes(png + str(number).encode())
        label = ("no", "yes")[number % 2]
        rows.append({"patient_id": f"p{number}", "image": f"{number}.png", "label": label})
    write_csv(tmp_path / "cohort.csv", rows)
    return tmp_path


def start_decoding(folder: Path) -> subprocess.Popen[bytes]:
    overrides = (
        *("dataset=table", "dataset.table=cohort.csv", "dataset.images=images"),
        *("dataset.label=label", "dataset.positive=yes", "dataset.patient=patient_id"),
        *("dataset.image=image", "paths.cache=cache", *SMALL[3:]),
    )
    with (folder / "err").open("wb") as err:
        return subprocess.Popen(
            command("run", *overrides, "strategy=linear_probe", "--no-table"),
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=err,
            start_new_session=True,
        )


def members(session: int) -> list[int]:
    """Return the processes of a session that still run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def wait_for_workers(process: subprocess.Popen[bytes]) -> None:
    """Wait until decoding has processes of its own: two workers, and the tracker of both."""
    end = time.monotonic() + 90
    while len(members(process.pid)) < 3 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it had workers"
    assert len(members(process.pid)) >= 3


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_is_left_when_decoding_is_killed(cohort: Path, number: signal.Signals) -> None:
    process = start_decoding(cohort)
    try:
        wait_for_workers(process)
        time.sleep(random.uniform(0, 1.5))  # any moment will do
        process.send_signal(number)
        begun = time.monotonic()
        code = process.wait(timeout=30)
        took = time.monotonic() - begun
        while members(process.pid) and time.monotonic() < begun + 10:
            time.sleep(0.02)
        gone = time.monotonic() - begun
    finally:
        for left in members(process.pid):
            os.kill(left, signal.SIGKILL)
    said = (cohort / "err").read_text()
    assert "Traceback" not in said
    assert gone < 2 + 1.5, "a worker outlived its parent"
    if number is signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 128 + number
        assert took < 2 + 1.5
        word = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}[number]
        assert said.splitlines()[-1].startswith(f"{word}: finished cells are stored")


def test_a_signal_is_answered_even_inside_a_library(tmp_path: Path) -> None:
    """Threads that nobody can interrupt keep the main thread waiting, as libraries' do."""
    text = (
        "import threading, time\n"
        "from prognobench.cli import ending\n"
        "def command():\n"
        "    print('ready', flush=True)\n"
        "    lock = threading.Thread(target=time.sleep, args=(60,))\n"
        "    lock.start()\n"
        "    try:\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        lock.join()\n"
        "ending.finish(command)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    begun = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert time.monotonic() - begun < 3
    assert said == f"terminated: {ending.GOES_ON}\n"


# ------------------------------------------------------------------ what is printed


def test_control_characters_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b[2Jb\x07\x9bc\u202ed\rz"
    console.say(evil)
    console.warn(evil)
    console.complain(evil)
    console.print_rows([evil], [[evil], ["x\ty\nz"]], title=evil, notes=[evil])
    said = capsys.readouterr()
    for character in "\x1b\x07\x9b\u202e\r":
        assert character not in said.out + said.err
    assert "a\\x1b[2Jb\\x07\\x9bc\\u202ed\\rz" in said.out
    assert "x\\ty\\nz" in said.out


def test_names_of_people_stay_as_they_are() -> None:
    for name in ("Müller", "患者", "пациент 7", "μm²", "two\nlines\tand a tab"):
        assert printable(name) == name


def test_a_disk_that_is_full_at_the_first_image_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(draft, "_reserve", fill)
    monkeypatch.setattr(sys, "argv", ["prognobench", "run", *SMALL, "paths.cache=cache"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 3
    assert "No space left on device" in capsys.readouterr().err
