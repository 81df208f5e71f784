"""Workers on a SLURM cluster: an array of jobs, submitted through submitit and left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

from prognobench.errors import ConfigError, MissingExtraError
from prognobench.records import Progress
from prognobench.registry import ENGINES
from prognobench.runs.engines.order import Ended, Order, Ready, count_left, prepare_sweep
from prognobench.runs.sweeps import Sweep, worker_arguments
from prognobench.workers import PARENT

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

MOST_TIMEOUTS = 1000
"""Requeues after the time limit: a worker goes on as long as cells are left."""

POLL = 2.0
"""Seconds between two looks at the tasks of the array."""

KILLED_WITHIN = 300
"""Seconds that SLURM may take from its first signal to its last."""

WARNING = 60
"""Seconds before the time limit at which a worker is told to make room for its next try."""


@dataclass
class SlurmWorker:
    """What a task of the array does; it is requeued as it is after a time limit."""

    sweep: Path

    def __call__(self) -> int:
        sweep = Sweep(self.sweep)
        environment = {**os.environ, PARENT: str(os.getpid())}
        done = subprocess.run(
            [*worker_arguments(sweep), "--no-wait"],
            cwd=sweep.content["folder"],
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode == 128 + signal.SIGTERM:
            # The cluster pre-empts or cancels, and kills this process too. An end that is told now
            # would be taken for the end of a task that may be requeued.
            time.sleep(KILLED_WITHIN)
        if done.returncode:
            raise RuntimeError(f"the worker ended with exit code {done.returncode}")
        return 0

    def checkpoint(self) -> DelayedSubmission:
        """Return what is submitted again: finished cells are in the store."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@ENGINES.register("slurm")
def slurm(
    order: Order,
    *,
    workers: Annotated[int, Gt(0)] = 4,
    partition: str | None = None,
    account: str | None = None,
    hours: Annotated[float, Gt(0)] = 24.0,
    memory_gb: Annotated[float, Gt(0)] = 16.0,
    cpus: Annotated[int, Gt(0)] = 4,
    gpus: Annotated[int, Ge(0)] = 1,
    at_once: Annotated[int, Gt(0)] | None = None,
    options: Mapping[str, Any] | None = None,
    wait: bool = False,
) -> Ended:
    """Submit an array of workers to SLURM, and leave them alone.

    Pre-empted and timed-out workers are requeued, and go on with the cells that are left. A worker
    ends when no cell is free, so that no graphics card idles.

    Parameters
    ----------
    workers
        Tasks of the array.
    partition, account
        As SLURM calls them; without one the cluster decides.
    hours, memory_gb, cpus, gpus
        What each worker asks for.
    at_once
        Most tasks that run at once; without it, all.
    options
        More options of sbatch.
    wait
        Stay until the workers have ended, and print the table.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "engine=slurm: there is no SLURM here (no command 'sbatch'); start this on a login "
            "node of the cluster, or use engine=local"
        )
    try:
        import submitit
    except ImportError as error:
        raise MissingExtraError("slurm", "engine=slurm") from error
    ready, sweep = prepare_sweep(order, "slurm")
    if sweep is None:
        return Ended(ready.outcomes())
    executor = submitit.SlurmExecutor(folder=sweep.path / "slurm", max_num_timeout=MOST_TIMEOUTS)
    workers = min(workers, sum(map(len, ready.left.values())))
    asked = {
        **{"job_name": "prognobench", "time": max(1, round(60 * hours))},
        **{"partition": partition, "account": account, "cpus_per_task": cpus},
        **{"mem": f"{max(1, round(1024 * memory_gb))}M", "gpus_per_node": gpus or None},
        **{"array_parallelism": at_once or workers, "signal_delay_s": WARNING},
        **{"stderr_to_stdout": True, "additional_parameters": {"requeue": True, **(options or {})}},
    }
    executor.update_parameters(
        **{name: value for name, value in asked.items() if value is not None}
    )
    try:
        with executor.batch():
            jobs = [executor.submit(SlurmWorker(sweep.path)) for _ in range(workers)]
    except submitit.core.utils.FailedJobError as error:
        sweep.abandon()
        raise ConfigError(f"SLURM refuses the workers: {_reason(error)}") from error
    number = jobs[0].job_id.partition("_")[0]
    results = order.configs[0].paths.results
    message = (
        f"{workers} workers are submitted as SLURM job {number}. 'squeue -j {number}' shows them, "
        f"'prognobench status {results}' the cells, 'scancel {number}' stops them"
    )
    if not wait:
        return Ended(message=message)
    warnings.warn(message, stacklevel=2)
    _wait(jobs, ready, sweep, order.progress)
    return Ended(ready.outcomes())


def _wait(jobs: Sequence[Any], ready: Ready, sweep: Sweep, progress: Progress | None) -> None:
    """Show the cells until every task of the array has ended."""
    while not all(job.done() for job in jobs):
        count_left(ready, sweep, progress)
        time.sleep(POLL)
    count_left(ready, sweep, progress)


def _reason(error: Exception) -> str:
    """Return what sbatch said, of everything that submitit says around it."""
    lines = [line.strip() for line in str(error).splitlines() if "error:" in line]
    said = [line.partition("error:")[2].strip() for line in lines]
    return "; ".join(said) or str(error).strip().splitlines()[-1]
