"""Commands as processes that can be killed at once, and what they leave behind.

A command is a fork of this process, which has imported what commands import and computed nothing:
it starts in milliseconds, so that hundreds can be killed at moments when they work. Every tenth is
a new interpreter, which can be killed while it imports.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import resource
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ENDS_WITHIN = 2.0
"""Seconds after a signal in which a command, and every process that it started, has to end."""

GIVES_UP = 600.0
"""Seconds after which a command that nobody disturbs counts as hanging."""

Harm = Callable[[], object]


@dataclass
class Row:
    """One kind of harm."""

    kind: str
    tries: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, *faults: str | None) -> None:
        self.tries += 1
        if found := [fault for fault in faults if fault]:
            self.faults.append("; ".join(found))
            print(f"{self.kind}: {self.faults[-1]}", file=sys.stderr)


@dataclass
class Command:
    """A command that runs, in a session of its own."""

    pid: int
    log: Path
    code: int | None = None

    @property
    def printed(self) -> str:
        """What it wrote to stdout."""
        return self.log.with_suffix(".out").read_text(errors="backslashreplace")

    @property
    def said(self) -> str:
        """What it wrote to stderr, and then to stdout."""
        return self.log.with_suffix(".err").read_text(errors="backslashreplace") + self.printed

    def poll(self) -> int | None:
        """Return how it ended: its exit code, or the negative number of a signal."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float = GIVES_UP) -> int | None:
        """Wait for its end, at most so long."""
        until = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        return self.code

    def end_by(self, number: signal.Signals) -> str | None:
        """Send a signal and return what was wrong with how it ended."""
        if self.poll() is not None:
            return None
        os.kill(self.pid, number)
        begun = time.monotonic()
        while (left := self.members()) and time.monotonic() < begun + 30:
            self.poll()
            time.sleep(0.02)
        gone = time.monotonic() - begun
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self.wait()
        if gone > ENDS_WITHIN:
            return f"a process was left for {gone:.1f} s"
        if "Traceback" in self.said:
            return f"a traceback: {self.said[-300:]}"
        # Before the command has begun to listen, the system answers, with the same code in a shell.
        if self.code not in (-number, 128 + number, 0):
            return f"exit {self.code}"
        return None

    def members(self) -> list[int]:
        """Return the processes of its session that still run."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.pid and fields[0] != "Z":
                found.append(int(folder.name))
        return found


class Starter:
    """Starts commands in a folder."""

    def __init__(self, home: Path) -> None:
        # What commands import, and nothing that starts threads, which a fork would lose.

        gc.freeze()
        self.home, self._count = home, 0

    def start(self, arguments: Sequence[str], name: str = "", *harms: Harm) -> Command:
        """Start a command with the results folder of this name, harmed before it begins."""
        self._count += 1
        log = self.home / f"said-{self._count}"
        streams = [
            os.open(log.with_suffix(ending), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            for ending in (".out", ".err")
        ]
        if name:
            arguments = [*arguments, f"paths.results={name}", f"paths.cache={name}-cache"]
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            self._become(arguments, streams, harms)
        for stream in streams:
            os.close(stream)
        return Command(pid, log)

    def call(self, arguments: Sequence[str], name: str = "", *harms: Harm) -> Command:
        """Start a command and wait for its end."""
        command = self.start(arguments, name, *harms)
        if command.wait() is None:
            command.end_by(signal.SIGKILL)
        return command

    def _become(
        self, arguments: Sequence[str], streams: Sequence[int], harms: Sequence[Harm]
    ) -> None:
        code = 1
        try:
            os.setsid()
            os.chdir(self.home)
            for number, stream in enumerate((os.open(os.devnull, os.O_RDONLY), *streams)):
                os.dup2(stream, number)
            for harm in harms:
                harm()
            if self._count % 10 == 0 and not harms:
                os.execv(sys.executable, [sys.executable, "-m", "prognobench", *arguments])
            sys.argv = ["prognobench", *arguments]
            runpy.run_module("prognobench", run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # which the command should have answered
            traceback.print_exc()
        finally:
            os._exit(code)


# ------------------------------------------------------------------ harms


def refuse_locks() -> None:
    """Let every lock of the system fail, as on mounts without a lock daemon."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    fcntl.flock = fcntl.lockf = refuse


def grant_all_locks() -> None:
    """Let everybody have every lock of the system, as other mounts do."""
    fcntl.flock = fcntl.lockf = lambda *_: None


def limit_files(size: int) -> None:
    """Let no file grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def limit_memory(size: int) -> None:
    """Allow this process so many bytes beside those that it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + size
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


# ------------------------------------------------------------------ what is left behind


def read_predictions(results: Path) -> dict[str, bytes]:
    """Return the stored predictions of every complete cell."""
    return {
        str(mark.parent.relative_to(results)): (mark.parent / "predictions.csv").read_bytes()
        for mark in results.glob("runs/*/*/*/*/cells/*/done.json")
    }


def find_left(results: Path) -> list[str]:
    """Return what nobody took away: drafts of files, and leases that still hold."""
    from prognobench.workers import find_holder

    left = [str(path.relative_to(results)) for path in results.glob("runs/**/.*.*")]
    folders = {path.parent for path in results.glob("runs/**/.lease-*")}
    return left + [str(folder) for folder in folders if find_holder(folder, "lease")]
