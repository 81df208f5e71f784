"""What an engine is asked for and returns, and the watch that it keeps over its workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from prognobench.errors import ConfigError, StoreError
from prognobench.records import Progress, RunConfig
from prognobench.runs.cells.baselines import add_baselines
from prognobench.runs.execute import Outcome, check_strategies, report_outcome
from prognobench.runs.kinds import TRAINED
from prognobench.runs.prepare import Prepared, prepare
from prognobench.runs.sweeps import Command, Sweep, begin_sweep
from prognobench.runs.workspace import Workspace

LOOK = 0.2
"""Seconds between two looks at the workers."""

PATIENCE = 10.0
"""Seconds for workers to end by themselves when no cell is left."""

COUNT = 20
"""Looks at the cells take at most one part in so many of the time."""

MOST_DEATHS = 3
"""Deaths in a row, for each place, without a cell that was finished in between."""

NOT_STARTED, REFUSED = 2, 3
"""Exit codes of a worker that cannot work here, whatever the cell."""


@dataclass(frozen=True)
class Order:
    """What was asked for.

    Attributes
    ----------
    joined
        The sweep of which this process is a worker, if it is one.
    """

    configs: Sequence[RunConfig]
    command: Command
    progress: Progress | None = None
    wait: bool = True
    joined: Sweep | None = None


@dataclass(frozen=True)
class Ended:
    """How it ended.

    Attributes
    ----------
    message
        What the user has to know of workers that go on; there are no outcomes then.
    """

    outcomes: Sequence[Outcome] = ()
    message: str = ""


@dataclass(frozen=True)
class Ready:
    """Runs that can be computed.

    Attributes
    ----------
    left
        Folder of a run -> its unfinished cells.
    """

    runs: Sequence[Prepared]
    workspace: Workspace
    left: Mapping[str, frozenset[str]]

    @property
    def todo(self) -> list[Prepared]:
        """The runs that are not finished, or not described by whole files."""
        return [run for run in self.runs if self.cells_of(run) or not run.folder.is_described]

    def cells_of(self, run: Prepared) -> frozenset[str]:
        """The cells of a run that were unfinished."""
        return self.left[str(run.folder.path)]

    def outcomes(self) -> list[Outcome]:
        """How the runs have ended by now, as the store has it."""
        return [report_outcome(run, self.cells_of(run)) for run in self.runs]


def get_ready(order: Order) -> Ready:
    """Find every fault of every run, and which of their cells are left; nothing is computed.

    Raises
    ------
    ConfigError
        With all faults.
    """
    workspace = Workspace(order.progress)
    runs = prepare(order.configs, workspace, look=True)
    if order.command.multirun:
        runs = add_baselines(runs)
    left = {
        str(run.folder.path): frozenset(fold.name for fold in run.list_unfinished()) for run in runs
    }
    return Ready(runs, workspace, left)


class Worker(Protocol):
    """A worker that runs somewhere."""

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; ``None`` while it runs."""
        ...

    def complaint(self) -> str:
        """Return what it said last."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


def prepare_sweep(order: Order, engine: str) -> tuple[Ready, Sweep | None]:
    """Find all faults, and write what workers are told; no sweep if no cell is left."""
    ready = get_ready(order)
    todo = ready.todo
    if not todo:
        return ready, None
    check_strategies(todo, ready.workspace)
    results = todo[0].config.paths.results
    cells = [
        (run.folder, [fold.name for fold in run.folds if fold.name in ready.cells_of(run)])
        for run in order_runs(todo, ready)
    ]
    return ready, begin_sweep(results, order.command, engine, cells)


def order_runs(runs: Sequence[Prepared], ready: Ready) -> list[Prepared]:
    """Return the runs with the longest cells first, those of one backbone and cohort together.

    A long cell that begins last keeps one worker busy while all others have nothing left to do.
    """
    groups: dict[tuple[str, str], list[tuple[float, Prepared]]] = {}
    for run in runs:
        group = (run.fingerprints["weights"], run.fingerprints["cohort"])
        groups.setdefault(group, []).append((_estimate(run, ready), run))
    longest = sorted(groups.values(), key=lambda group: -max(cost for cost, _ in group))
    return [run for group in longest for _, run in sorted(group, key=lambda pair: -pair[0])]


def _estimate(run: Prepared, ready: Ready) -> float:
    """Return about how many operations a cell takes; 0 where little is computed or known.

    The order is a matter of speed alone: what cannot be counted comes last, and its cells say why.
    """
    from prognobench.runs.cells.trained_cells import count_operations

    if run.kind is not TRAINED:
        return 0.0
    with suppress(Exception):
        per_image = count_operations(run, ready.workspace)
        images = max(len(fold.train) for fold in run.folds)
        return float(per_image) * images * run.config.train.epochs
    return 0.0


@dataclass
class Watch:
    """Keeps a worker in every place until no cell is left; starts another where one dies.

    Attributes
    ----------
    places
        Names of where workers can be; they may come and go.
    start
        Starts a worker in a place.
    """

    ready: Ready
    sweep: Sweep
    places: Callable[[], Sequence[str]]
    start: Callable[[str], Worker]
    progress: Progress | None

    def __post_init__(self) -> None:
        self._running: dict[str, Worker] = {}
        self._deaths, self._left = 0, -1

    def keep(self) -> None:
        """Return when no cell is left.

        Raises
        ------
        ConfigError, StoreError
            What a worker says that cannot work at all; no other is started then.
        """
        try:
            while True:
                began = time.monotonic()
                left = count_left(self.ready, self.sweep, self.progress)
                looked = time.monotonic() - began
                if left != self._left:
                    self._left, self._deaths = left, 0
                if not left:
                    self._await_ends()
                    break
                places = self.places()
                ended = self._look(places)
                for place in places:
                    # One that just ended may have computed what was left at the last look.
                    if place not in self._running and place not in ended:
                        self._running[place] = self.start(place)
                time.sleep(max(LOOK, COUNT * looked))
        finally:
            for worker in self._running.values():
                worker.stop()

    def _await_ends(self) -> None:
        """Give workers the time to find out that nothing is left."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and any(
            worker.poll() is None for worker in self._running.values()
        ):
            time.sleep(LOOK)

    def _look(self, places: Sequence[str]) -> set[str]:
        """Take note of the workers that ended, and return their places."""
        ended = set()
        for place, worker in [*self._running.items()]:
            code = worker.poll()
            if code is None and place in places:
                continue
            del self._running[place]
            ended.add(place)
            if code in (NOT_STARTED, REFUSED):
                kind = ConfigError if code == NOT_STARTED else StoreError
                raise kind(worker.complaint())
            self._deaths += code not in (0, None)
            if self._deaths > MOST_DEATHS * max(1, len(places)):
                raise StoreError(
                    f"{self._deaths} workers died one after the other without finishing a cell; "
                    f"the last one said: {worker.complaint()}"
                )
        return ended


def count_left(ready: Ready, sweep: Sweep, progress: Progress | None) -> int:
    """Return how many cells may still be computed, and show how many are done."""
    left, began = 0, sweep.file.stat().st_mtime_ns
    total = sum(map(len, ready.left.values()))
    for run in ready.runs:
        cells = ready.cells_of(run)
        if not cells or run.folder.not_applicable:
            continue
        folder = run.folder.path / "cells"
        for cell in cells:
            ended = (folder / cell / "done.json").exists()
            # A failure of an earlier time is tried again.
            left += not ended and run.folder.failed_at(cell) <= began
    if progress and total:
        progress("cells", total - left, total)
    return left
