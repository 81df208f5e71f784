"""Which cell a process computes next: one that is open, and that no other process computes.

The store is the scheduler. Any number of processes on any machines take the next cell that is
neither done nor leased. A cell that failed since this work began is not tried again by another.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prognobench.errors import StoreError, WorkerDiedError
from prognobench.records import Fold, Progress
from prognobench.runs.prepare import Prepared
from prognobench.store import RunFolder
from prognobench.workers import LEASE, Holder, Lease, find_holder

MOST_ATTEMPTS = 3
"""Workers of one sweep that may die over a cell before it is recorded as failed."""

POLL = 0.5
"""Shortest time, in seconds, between two looks at what other processes compute."""


class Turns:
    """The open cells of some runs, and this process's turn to compute them.

    Parameters
    ----------
    session
        Names the workers of one sweep, among which deaths over a cell are counted.
    since
        Of that sweep: a failure that is recorded later than this file stands; without it, one that
        is recorded from now on.
    progress
        Told under the label ``cells`` how many of them have ended.
    """

    def __init__(
        self,
        runs: Sequence[Prepared],
        session: str = "",
        since: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._session, self._progress = session, progress
        self._since = since.stat().st_mtime_ns if since else None
        self._failures = {
            (run.folder.path, fold.name): self._failure(run, fold)
            for run in runs
            for fold in run.list_unfinished()
        }
        self._ended = 0

    def is_open(self, run: Prepared, fold: Fold) -> bool:
        """Whether a cell is unfinished, and has not failed since this work began."""
        before = self._failures.get((run.folder.path, fold.name))
        return before is not None and run.is_unfinished(fold) and self._failure(run, fold) == before

    def list_open(self, run: Prepared) -> list[Fold]:
        """The open cells of a run, whoever computes them."""
        return [fold for fold in run.folds if self.is_open(run, fold)]

    @contextmanager
    def take_cell(self, run: Prepared, fold: Fold) -> Iterator[Lease | None]:
        """Lease an open cell while it is computed; ``None`` where another process has it."""
        folder = run.folder.path / "cells" / fold.name
        with self._take(folder, lambda: [fold] if self.is_open(run, fold) else [], run) as lease:
            yield lease

    @contextmanager
    def take_run(self, run: Prepared) -> Iterator[Lease | None]:
        """Lease a run, whose cells are computed together; ``None`` where another process has it."""
        with self._take(run.folder.path, lambda: self.list_open(run), run) as lease:
            yield lease

    @contextmanager
    def _take(
        self, folder: Path, open_folds: Callable[[], list[Fold]], run: Prepared
    ) -> Iterator[Lease | None]:
        try:
            lease = Lease.take(folder, LEASE, self._session) if open_folds() else None
        except OSError as error:
            raise StoreError(f"{folder} cannot be written: {error.strerror or error}") from error
        if lease is None:
            yield None
            return
        left: list[Fold] = []
        start = time.monotonic()
        try:
            # Looked at again, now that nobody else can end them.
            left = open_folds()
            too_many = lease.holder.attempt > MOST_ATTEMPTS
            for fold in left if too_many else ():
                run.record_failure(fold, WorkerDiedError(MOST_ATTEMPTS))
            yield lease if left and not too_many else None
        finally:
            still = open_folds()
            if still:
                lease.give_back()
            else:
                lease.clear()
            names = {fold.name for fold in still}
            ended = [fold for fold in left if fold.name not in names]
            self._ended += len(ended)
            if self._progress:
                if ended:
                    self._progress(_describe_ended(run, ended, time.monotonic() - start), 0, 0)
                self._progress("cells", self._ended, len(self._failures))

    def _failure(self, run: Prepared, fold: Fold) -> object:
        """Return what changes when a cell fails anew; of a sweep, whether it failed since."""
        if self._since is None:
            return run.folder.failure(fold.name)
        return run.folder.failed_at(fold.name) > self._since


def _describe_ended(run: Prepared, ended: Sequence[Fold], seconds: float) -> str:
    """Return a line about cells that have just ended, which begins as their progress does."""
    config, failed = run.config, sum(bool(run.folder.failure(fold.name)) for fold in ended)
    name = f"{config.dataset.name}, {config.model.name}, {config.strategy.name}"
    what = f"{name}, cell {ended[0].name}" if len(ended) == 1 else f"{name}: {len(ended):,} cells"
    failures = f", {failed:,} of them failed" if failed else ""
    if failed and len(ended) == 1:
        failures = ", failed"
    return f"{what}, {seconds:,.1f} seconds{failures}"


def wait_for_others(
    compute: Callable[[], None], runs: Sequence[Prepared], turns: Turns, *, wait: bool
) -> int:
    """Compute what is free, again and again, until no cell is open.

    Cells that other processes compute are looked at in turn, and what a dead one left is computed.

    Parameters
    ----------
    wait
        Wait for the cells that others compute; otherwise return when they have all that is left.
        What nobody has is waited for in any case: its images are just being embedded elsewhere.

    Returns
    -------
    How many cells other processes still compute.
    """
    told = False
    while True:
        before = _count(runs, turns)
        compute()
        start = time.monotonic()
        left = _count(runs, turns)
        if not left:
            return 0
        if left < before:  # what was free took a while, and more may be free by now
            continue
        if not wait and _are_computed(runs, turns):
            return left
        if not told:
            told = True
            warnings.warn(
                f"other processes compute {left} of these cells ({_describe(runs, turns)}); "
                "waiting for them",
                stacklevel=2,
            )
        time.sleep(max(POLL, 5 * (time.monotonic() - start)))


def find_computing(folder: RunFolder, cell: str) -> Holder | None:
    """Return the process that computes a cell, by itself or with all of its run, if one does."""
    return find_holder(folder.path / "cells" / cell, LEASE) or find_holder(folder.path, LEASE)


def _count(runs: Sequence[Prepared], turns: Turns) -> int:
    return sum(len(turns.list_open(run)) for run in runs)


def _are_computed(runs: Sequence[Prepared], turns: Turns) -> bool:
    """Whether a process computes each of the open cells."""
    open_cells = ((run.folder, fold.name) for run in runs for fold in turns.list_open(run))
    return all(find_computing(*cell) is not None for cell in open_cells)


def _describe(runs: Sequence[Prepared], turns: Turns) -> str:
    """Say which processes compute the open cells."""
    holders: dict[str, None] = {}
    for run in runs:
        for fold in turns.list_open(run):
            if (holder := find_computing(run.folder, fold.name)) is not None:
                holders[f"process {holder.pid} on {holder.host}"] = None
    return ", ".join([*holders][:3]) + (" and others" if len(holders) > 3 else "") or "unknown"
