"""Work that is shared out to the processors."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

Job = TypeVar("Job")
Done = TypeVar("Done")


def shared_out(
    work: Callable[[Job], Done], jobs: Sequence[Job], *, separate: bool, ordered: bool = True
) -> Generator[Done]:
    """Yield what comes of each job; what is not yet begun is given up with the generator.

    Parameters
    ----------
    separate
        Use processes, which are started afresh: forking one in which torch has threads can hang.
        They take a second to start, and then do not wait for each other, as threads do where
        libraries keep the interpreter's lock. Without, threads share this process.
    ordered
        Yield in the order of the jobs, not as each is done.
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
    results: Generator[Done] = parallel(delayed(work)(job) for job in jobs)
    return results
