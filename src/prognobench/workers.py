"""Work on several processors, and the memory that its processes keep.

By default the C library of Linux gives large blocks back to the system at once, which then makes
every page anew a moment later. That costs a fifth of a transformer's forward pass, and three
quarters of the time to decode an uncompressed image. So processes that decode or train keep freed
memory.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Generator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

if TYPE_CHECKING:
    from concurrent.futures import Future

Job = TypeVar("Job")
Done = TypeVar("Done")

IDLE = 60
"""Seconds without work after which a process ends, in case this one was killed."""

MOST_BESIDE = 3
"""Most processes beside this one: starting one takes as long as drawing a dozen figures."""


def shared_out(
    work: Callable[[Job], Done], jobs: Sequence[Job], *, separate: bool, ordered: bool = True
) -> Generator[Done]:
    """Yield the result of each job; closing the generator drops the jobs that wait.

    Parameters
    ----------
    separate
        Use processes, which take a second to start, instead of threads, which wait for each other
        where a library holds the interpreter's lock. They are spawned, because a fork of a process
        in which torch has threads can hang.
    ordered
        Yield in the order of the jobs; otherwise, as soon as each is done.
    """
    from joblib import Parallel, cpu_count, delayed

    parallel = Parallel(
        n_jobs=max(1, min(cpu_count(), len(jobs))),
        backend="loky" if separate else "threading",
        return_as="generator" if ordered else "generator_unordered",
        max_nbytes=None,
        batch_size=1,
        pre_dispatch="4 * n_jobs",
    )
    results: Generator[Done] = parallel(delayed(_done)(work, job) for job in jobs)
    return results


def _done(work: Callable[[Job], Done], job: Job) -> Done:
    keep_freed_memory()
    return work(job)


class Beside(Generic[Job, Done]):
    """Other processes start on the first jobs while this one still makes the rest.

    The processes start at once and end with the context. This process does the work where there is
    no second processor, or where a process dies. Jobs and results are pickled.
    """

    def __init__(self, work: Callable[[Job], Done]) -> None:
        from joblib import cpu_count
        from joblib.externals.loky import ProcessPoolExecutor

        self._work = work
        self._jobs: list[Job] = []
        self._begun: list[Future[Done] | None] = []
        others = min(cpu_count() - 1, MOST_BESIDE)
        self._executor = ProcessPoolExecutor(others, timeout=IDLE) if others else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._executor is not None:
            for future in self._begun:
                if future is not None:
                    future.cancel()
            # Without kill_workers: after cancelled jobs loky would leave the processes running.
            self._executor.shutdown()

    def prepare(self, ahead: Callable[[], object]) -> None:
        """Have a process do this before its first job, such as imports."""
        self._submit(ahead)

    def add(self, job: Job) -> None:
        """Start a job as soon as a process is free."""
        self._jobs.append(job)
        self._begun.append(self._submit(self._work, job))

    def _submit(self, work: Callable[..., Any], *jobs: Job) -> Future[Any] | None:
        from concurrent.futures import BrokenExecutor

        if self._executor is None:
            return None
        try:
            return cast("Future[Any]", self._executor.submit(work, *jobs))
        except BrokenExecutor:  # a process died before
            return None

    def finish(self) -> list[Done]:
        """Return the result of each job, in order; do here what no process has started."""
        done: dict[int, Done] = {}
        for number in reversed(range(len(self._jobs))):
            future = self._begun[number]
            if future is None or future.cancel():
                done[number] = self._work(self._jobs[number])
        for number in range(len(self._jobs)):
            if number not in done:
                done[number] = self._result(number)
        return [done[number] for number in range(len(self._jobs))]

    def _result(self, number: int) -> Done:
        from concurrent.futures import BrokenExecutor

        future = self._begun[number]
        assert future is not None
        try:
            return future.result()
        except BrokenExecutor:
            return self._work(self._jobs[number])


# ------------------------------------------------------------------ memory

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt``, from glibc's ``malloc.h``."""

LARGEST_KEPT = 2**25
"""Bytes; the most that every version of glibc accepts. Larger blocks are still given back."""


@cache
def keep_freed_memory() -> None:
    """Let this process keep freed memory; has no effect with another C library than glibc."""
    if libc := _glibc():
        libc.mallopt(MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Give kept memory back to the system, such as before memory is measured."""
    if libc := _glibc():
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None)
    except OSError:  # a static interpreter
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
