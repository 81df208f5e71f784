"""A sweep that several workers compute: what they are told, and what they tell.

``results/sweeps/<name>/sweep.json`` is written before the first worker starts. It has the command,
the versions, and the cells. Each worker proves that it sees the folder by a file of its own in
``workers/``.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.errors import ConfigError, StoreError
from prognobench.files import read_json, write_json
from prognobench.store import RunFolder

if TYPE_CHECKING:
    from prognobench.runs.prepare import Prepared

SWEEPS = "sweeps"
"""Folder below the results."""

ALIKE = ("prognobench", "torch")
"""Packages that must be the same everywhere, or one sweep would mix the numbers of two versions."""


@dataclass(frozen=True)
class Command:
    """What the user asked for, as arguments of ``prognobench run``.

    Attributes
    ----------
    folder
        Where relative paths start.
    """

    overrides: tuple[str, ...]
    multirun: bool = False
    config_dir: Path | None = None
    components: Path | None = None
    folder: Path = Path()

    def for_worker(self, sweep: Path) -> list[str]:
        """Return the arguments of a worker: the same cells, in its own process."""
        others = [
            o
            for o in self.overrides
            if o.lstrip("+~").partition("=")[0].partition(".")[0] != "engine"
        ]
        options = [
            *(["-m"] if self.multirun else []),
            *([f"--config-dir={self.config_dir.absolute()}"] if self.config_dir else []),
            *([f"--components={self.components.absolute()}"] if self.components else []),
        ]
        return ["run", *options, "--no-table", f"--worker={sweep.absolute()}", *others]


@dataclass(frozen=True)
class Sweep:
    """The folder of a sweep."""

    path: Path

    @property
    def file(self) -> Path:
        return self.path / "sweep.json"

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """``command``, ``folder``, ``versions``, ``engine``, ``started``, ``runs``."""
        content: dict[str, Any] = read_json(self.file)
        return content

    def order(self, runs: Sequence[Prepared]) -> list[Prepared]:
        """Return runs in the order that the sweep gives, others last."""
        results = self.path.absolute().parents[1]
        places = {results / name: at for at, name in enumerate(self.content["runs"])}
        return sorted(runs, key=lambda run: places.get(run.folder.path.absolute(), len(places)))

    def tell(self, state: str, message: str = "") -> None:
        """Say, as a worker, what this process does for the sweep.

        Raises
        ------
        ConfigError
            If it cannot write there.
        """
        file = self.path / "workers" / f"{worker_name()}.json"
        content = {
            **{"state": state, "message": message, "host": platform.node(), "pid": os.getpid()},
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            write_json(file, content)
        except StoreError as error:
            raise ConfigError(
                f"worker on {platform.node()}: it cannot write in {self.path} ({error}). Choose "
                "results that all workers can write, with paths.results=FOLDER"
            ) from error

    def workers(self) -> dict[str, dict[str, Any]]:
        """What each worker told of itself, by its name."""
        files = sorted(self.path.glob("workers/*.json"))
        return {file.stem: read_json(file) for file in files}

    def abandon(self) -> None:
        """Delete the sweep's folder, before any worker has begun."""
        shutil.rmtree(self.path)


def begin_sweep(
    results: Path,
    command: Command,
    engine: str,
    runs: Sequence[tuple[RunFolder, Sequence[str]]],
) -> Sweep:
    """Write what workers are told.

    Parameters
    ----------
    runs
        Each run with the names of its cells, in the order in which they are computed.
    """
    now = datetime.now(UTC)
    sweep = Sweep(results.absolute() / SWEEPS / f"{now:%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}")
    content = {
        "engine": engine,
        "started": now.isoformat(timespec="seconds"),
        "folder": str(command.folder.absolute()),
        "versions": _versions(),
        "command": command.for_worker(sweep.path),
        "runs": {
            folder.path.relative_to(results).as_posix(): list(cells) for folder, cells in runs
        },
    }
    write_json(sweep.file, content)
    return sweep


def worker_name() -> str:
    """Return a name for this process that no other process has."""
    job = os.environ.get("SLURM_JOB_ID", "")
    return "-".join(filter(None, [platform.node(), str(os.getpid()), job]))


def join_sweep(folder: Path) -> Sweep:
    """Begin to work for a sweep, in a worker.

    Raises
    ------
    ConfigError
        If the folder cannot be seen from here, or this machine has other versions.
    """
    sweep = Sweep(folder)
    check_place(sweep)
    sweep.tell("working")
    return sweep


def check_place(sweep: Sweep) -> None:
    """Check that this process can work for a sweep, where it runs.

    Raises
    ------
    ConfigError
        As :func:`join_sweep`.
    """
    folder = sweep.path
    if not sweep.file.exists():
        raise ConfigError(
            f"worker on {platform.node()}: it does not see {folder}. Choose results on a file "
            "system that all workers share, with paths.results=FOLDER"
        )
    told, mine = sweep.content["versions"], _versions()
    if differing := [name for name in ALIKE if told[name] != mine[name]]:
        here = ", ".join(f"{name} {mine[name]}" for name in differing)
        there = ", ".join(f"{name} {told[name]}" for name in differing)
        message = (
            f"worker on {platform.node()} has {here}; the sweep was started with {there}. "
            "Install the same version on all machines"
        )
        sweep.tell("refused", message)
        raise ConfigError(message)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ALIKE} | {"python": platform.python_version()}


def worker_arguments(sweep: Sweep) -> list[str]:
    """Return the whole command line of a worker."""
    return [sys.executable, "-m", "prognobench", *sweep.content["command"]]
