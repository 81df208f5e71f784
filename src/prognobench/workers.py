"""Work on several processors: processes that end with this one, and the memory that they keep.

By default the C library of Linux gives large blocks back to the system at once, which then makes
every page anew a moment later. That costs a fifth of a transformer's forward pass, and three
quarters of the time to decode an uncompressed image. So processes that decode or train keep freed
memory.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
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
        **({"initializer": end_with_parent, "initargs": _parent()} if separate else {}),
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
        self._executor = (
            ProcessPoolExecutor(
                others, timeout=IDLE, initializer=end_with_parent, initargs=_parent()
            )
            if others
            else None
        )

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


# ------------------------------------------------------------------ the end of processes

PR_SET_PDEATHSIG = 1
"""Option of ``prctl``, from Linux's ``sys/prctl.h``."""

LOOK = 0.25
"""Seconds between two looks at whether the parent still lives."""


def end_with_parent(parent: int, by_thread: bool) -> None:
    """Let this worker process end when its parent does, however that ends.

    Otherwise a worker of a killed parent waits for its next job for minutes. Ctrl-C is left to the
    parent, or each worker would print a traceback.

    Parameters
    ----------
    parent
        The parent's process id.
    by_thread
        Whether a thread other than the parent's main one starts workers. The system kills a worker
        when the thread that started it ends, so then only the regular look at the parent is left.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if (libc := _linux_libc()) and not by_thread:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.name == "posix":  # elsewhere the parent's id stays the same when it ends
        threading.Thread(target=_watch, args=(parent,), daemon=True, name="parent").start()


def _parent() -> tuple[int, bool]:
    """Return the arguments of :func:`end_with_parent`, as this process and thread see them.

    Also keep loky's tracker, a process that cleans up after a killed parent, from telling of it.
    """
    silent = "ignore:resource_tracker:UserWarning"
    others = os.environ.get("PYTHONWARNINGS", "")
    if silent not in others:
        os.environ["PYTHONWARNINGS"] = f"{others},{silent}".lstrip(",")
    return os.getpid(), threading.current_thread() is not threading.main_thread()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


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


def _glibc() -> ctypes.CDLL | None:
    libc = _linux_libc()
    return libc if libc and hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


@cache
def _linux_libc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None)
    except OSError:  # a static interpreter
        return None
