"""Workers on a Dask cluster: one on each of its workers, and again wherever one joins."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt

from prognobench.errors import ConfigError, MissingExtraError
from prognobench.registry import ENGINES
from prognobench.runs.engines.local import last_lines
from prognobench.runs.engines.order import Ended, Order, Watch, prepare_sweep
from prognobench.runs.sweeps import Sweep, check_place, worker_arguments
from prognobench.workers import PARENT

PATIENCE = 10
"""Seconds to wait for the scheduler."""


@ENGINES.register("dask")
def dask(
    order: Order,
    *,
    address: str = "local",
    workers: Annotated[int, Gt(0)] | Literal["auto"] = "auto",
) -> Ended:
    """Run one worker on each worker of a Dask cluster, and one on each that joins later.

    Parameters
    ----------
    address
        Of the scheduler, as in ``tcp://node1:8786``; ``local`` starts a cluster on this machine.
    workers
        Of a local cluster; ``auto``: one per processor.
    """
    try:
        # Its own types are incomplete, so that it is taken as a library without any.
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise MissingExtraError("dask", "engine=dask") from error
    ready, sweep = prepare_sweep(order, "dask")
    if sweep is None:
        return Ended(ready.outcomes())
    cluster: Any = None
    if address == "local":
        cluster = distributed.LocalCluster(
            n_workers=None if workers == "auto" else workers,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
    with ExitStack() as opened:
        if cluster is not None:
            opened.callback(cluster.close)
        try:
            client = distributed.Client(cluster or address, timeout=PATIENCE, set_as_default=False)
        except OSError as error:
            sweep.abandon()
            raise ConfigError(
                f"engine.address={address}: no Dask scheduler answers there ({error}); start one "
                "with 'dask scheduler', or use engine.address=local"
            ) from error
        opened.callback(client.close)
        _require_sight(client, sweep)
        Watch(
            ready,
            sweep,
            lambda: [*client.scheduler_info(n_workers=-1)["workers"]],
            lambda place: DaskWorker(_submit(client, sweep, place)),
            order.progress,
        ).keep()
    return Ended(ready.outcomes())


@dataclass
class DaskWorker:
    """A worker inside one of Dask's."""

    future: Any

    def poll(self) -> int | None:
        if not self.future.done():
            return None
        if self.future.status != "finished":
            return -1
        code: int = self.future.result()[0]
        return code

    def complaint(self) -> str:
        if self.future.status != "finished":
            return f"{self.future.exception()}"
        return last_lines(self.future.result()[1])

    def stop(self) -> None:
        self.future.cancel(force=True)


def _submit(client: Any, sweep: Sweep, place: str) -> Any:
    # A task that may go elsewhere would meet the worker that is there already.
    return client.submit(
        work, str(sweep.path), pure=False, workers=[place], allow_other_workers=False, retries=0
    )


def work(folder: str) -> tuple[int, str]:
    """Compute cells in a process of its own; return its exit code and what it said."""
    sweep = Sweep(Path(folder))
    done = subprocess.run(
        worker_arguments(sweep),
        cwd=sweep.content["folder"],
        env={**os.environ, PARENT: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr[-2000:]


def see(folder: str) -> str:
    """Return why a worker cannot work for a sweep, or nothing; it writes in its folder."""
    try:
        sweep = Sweep(Path(folder))
        check_place(sweep)
        sweep.tell("ready")
    except ConfigError as error:
        return str(error)
    return ""


def _require_sight(client: Any, sweep: Sweep) -> None:
    """Check that every worker sees the results and has the same versions.

    Raises
    ------
    ConfigError
        With what each worker says, before anything is started.
    """
    refusals: Sequence[str] = [r for r in client.run(see, str(sweep.path)).values() if r]
    if refusals:
        sweep.abandon()
        raise ConfigError(dict.fromkeys(refusals))
