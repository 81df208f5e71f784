"""How far the runs of a results folder are: from the store alone, on any machine, at any time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from prognobench.errors import StoreError
from prognobench.files import read_sealed
from prognobench.runs.sweeps import SWEEPS, Sweep
from prognobench.store import RunFolder, iter_runs
from prognobench.workers import LEASE, Holder, find_holder

RECENT = 100
"""Cells that finished last, by which the rate is told."""

STATES = ("done", "running", "failed", "left")


@dataclass(frozen=True)
class Failure:
    """The last failure of a cell: where, when, and why."""

    where: str
    when: float
    message: str


@dataclass(frozen=True)
class Status:
    """What the store says of its cells.

    Attributes
    ----------
    table
        One row per run: ``dataset``, ``model``, ``strategy``, ``run``, then how many cells are
        ``done``, ``running``, ``failed``, ``left``; ``remark`` says what is not applicable, and
        which runs no worker has begun.
    running
        Cell -> the process that computes it.
    failures
        The latest first.
    finished
        When cells were finished, in seconds since 1970, in order.
    refusals
        What workers said that cannot work for a sweep whose cells are not all done.
    """

    table: pd.DataFrame
    running: dict[str, Holder]
    failures: Sequence[Failure]
    finished: Sequence[float]
    refusals: Sequence[str] = ()

    def count(self, state: str) -> int:
        return int(self.table[state].sum()) if len(self.table) else 0

    @property
    def rate(self) -> float:
        """Cells per hour over those that were finished last; 0 where nothing can be said."""
        recent = self.finished[-RECENT:]
        if len(recent) < 2 or not self.running:
            return 0.0
        hours = (max(recent[-1], datetime.now(UTC).timestamp()) - recent[0]) / 3600
        return (len(recent) - 1) / hours if hours > 0 else 0.0

    @property
    def expected_end(self) -> datetime | None:
        """When all cells will be done if it goes on like this."""
        left = self.count("left") + self.count("running")
        if not left or not self.rate:
            return None
        return datetime.now().astimezone() + timedelta(hours=left / self.rate)


def read_status(results: Path) -> Status:
    """Look at every cell's marks and leases; nothing is verified, and nothing written.

    Raises
    ------
    StoreError
        If there is no such folder.
    """
    rows, running, failures, finished = [], dict[str, Holder](), list[Failure](), list[float]()
    known = set()
    for folder in iter_runs(results):
        known.add(folder.path.absolute())
        counts: Counter[str] = Counter()
        holder = find_holder(folder.path, LEASE)
        not_applicable = folder.not_applicable
        for cell in () if not_applicable else folder.cells:
            state, when = _look(folder, cell)
            computing = None if state == "done" else holder or _find_holder(folder, cell)
            if state == "done":
                finished.append(when)
            elif computing is not None:
                state = "running"
                running[f"{_name(folder)} {cell}"] = computing
            elif state == "failed":
                failures.append(Failure(f"{_name(folder)} {cell}", when, _reason(folder, cell)))
            counts[state] += 1
        remark = f"not applicable: {not_applicable}" if not_applicable else ""
        rows.append(_row(folder, counts, remark))
    refusals = dict[str, None]()
    for sweep in _list_sweeps(results):
        promised = [(RunFolder(results / name), c) for name, c in sweep.content["runs"].items()]
        for folder, cells in promised:
            if folder.path.absolute() not in known:
                known.add(folder.path.absolute())
                rows.append(_row(folder, Counter(left=len(cells)), "not begun"))
        if any(_look(folder, cell)[0] == "left" for folder, cells in promised for cell in cells):
            told = sweep.workers().values()
            refusals |= {each["message"]: None for each in told if each["state"] == "refused"}
    columns = ["dataset", "model", "strategy", "run", *STATES, "remark"]
    failures.sort(key=lambda failure: -failure.when)
    table = pd.DataFrame(rows, columns=columns)
    return Status(table, running, failures, sorted(finished), tuple(refusals))


def _look(folder: RunFolder, cell: str) -> tuple[str, float]:
    """Return how a cell is by its marks, and since when."""
    for state, name in (("done", "done.json"), ("failed", "failure.json")):
        try:
            return state, os.stat(folder.path / "cells" / cell / name).st_mtime
        except OSError:
            continue
    return "left", 0.0


def _find_holder(folder: RunFolder, cell: str) -> Holder | None:
    return find_holder(folder.path / "cells" / cell, LEASE)


def _reason(folder: RunFolder, cell: str) -> str:
    with suppress(StoreError):
        failure, _ = read_sealed(folder.path / "cells" / cell / "failure.json")
        return str(failure.get("message", ""))
    return "its record cannot be read"


def _list_sweeps(results: Path) -> Iterator[Sweep]:
    """Yield the sweeps whose file can be read, the oldest first."""
    for file in sorted(results.glob(f"{SWEEPS}/*/sweep.json")):
        with suppress(StoreError):
            sweep = Sweep(file.parent)
            if "runs" in sweep.content:
                yield sweep


def _name(folder: RunFolder) -> str:
    return "/".join(folder.path.parts[-4:])


def _row(folder: RunFolder, counts: Counter[str], remark: str) -> dict[str, object]:
    dataset, model, strategy, run = folder.path.parts[-4:]
    names = {"dataset": dataset, "model": model, "strategy": strategy, "run": run}
    return {**names, **{state: counts[state] for state in STATES}, "remark": remark}
