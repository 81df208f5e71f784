"""Processes that share work: workers, leases on cells, and the memory that processes keep.

By default the C library of Linux gives large blocks back to the system at once, which then makes
every page anew a moment later. That costs a fifth of a transformer's forward pass, and three
quarters of the time to decode an uncompressed image. So processes that decode or train keep freed
memory.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
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

PARENT = "PROGNOBENCH_PARENT"
"""Environment variable: the process id of the engine that started this worker."""

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
    watch_parent(parent)


def watch_parent(parent: int) -> None:
    """Let this process end when its parent does; signals are answered as ever."""
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


# ------------------------------------------------------------------ leases

LEASE = "lease"
"""Name of the leases on cells, and on runs whose cells are computed together."""

EXPIRY = float(os.environ.get("PROGNOBENCH_LEASE_SECONDS", "60"))
"""Seconds after which a lease that its process does not renew belongs to nobody."""

LINUX = Path("/proc/self/stat").exists()
"""Whether the system tells of its processes as Linux does."""

BEATS = 6
"""How often a lease is renewed within that time: some renewals may be late."""


@dataclass(frozen=True)
class Holder:
    """Who has a lease.

    Attributes
    ----------
    host, pid
        Of the process.
    machine
        The same for processes that can see each other by their ids: :func:`_machine`.
    started
        When the process started, as its system says it: ids of processes are used again.
    since
        When it took the lease, in seconds since 1970 by its own clock.
    session, attempt
        How many processes of one session, this one included, had the lease and died with it.
    released
        Whether it was given back unfinished.
    """

    host: str = ""
    machine: str = ""
    pid: int = 0
    started: str = ""
    since: float = 0.0
    session: str = ""
    attempt: int = 1
    released: bool = False

    @property
    def is_dead(self) -> bool:
        """Whether the process is known to have ended: only this machine's processes are."""
        return self.machine == _machine() and self.pid > 0 and _started(self.pid) != self.started

    @property
    def is_running(self) -> bool:
        """Whether the process is known to run, and not to be stopped for a debugger, say."""
        return (
            self.machine == _machine()
            and _started(self.pid) == self.started
            and _state(self.pid) not in ("", "T", "t")
        )


class Lease:
    """This process's hold on a piece of work, by a file that every process and machine sees.

    The lease number ``n`` of a name is the file ``.<name>-<n>``, and the highest number holds.
    Creating a file that must not exist yet is the one thing that every shared file system does for
    one process only. So a lease is taken, and an expired one taken over, by creating the next
    number; none is ever deleted while the work is unfinished. Locks of the system are not used:
    some mounts of NFS and Lustre refuse them, others grant them to everybody. A thread renews the
    file's time; a lease that is not renewed for :data:`EXPIRY` seconds, by the clock of the file
    system alone, has expired, and one whose process on this machine has ended does so at once.
    """

    def __init__(self, folder: Path, name: str, number: int, holder: Holder) -> None:
        self.folder, self.name, self.number, self.holder = folder, name, number, holder

    @cached_property
    def path(self) -> Path:
        return self.folder / f".{self.name}-{self.number}"

    @classmethod
    def take(cls, folder: Path, name: str, session: str = "") -> Lease | None:
        """Take a lease if no other process holds it; ``None`` where one does.

        Raises
        ------
        OSError
            If nothing can be written in the folder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        number = max(_numbers(folder, name), default=0)
        attempt = 1
        if number:
            before = _read_holder(folder / f".{name}-{number}")
            if before is None:  # finished and cleared just now
                return None
            if not _is_free(folder / f".{name}-{number}", before):
                return None
            if before.session == session and session and not before.released:
                attempt = before.attempt + 1
        now = os.getpid()
        holder = Holder(
            platform.node(), _machine(), now, _started(now), time.time(), session, attempt
        )
        lease = cls(folder, name, number + 1, holder)
        try:
            lease.path.touch(exist_ok=False)
        except FileExistsError:
            return None
        try:
            lease.path.write_text(json.dumps(vars(holder)), encoding="utf-8")
        except BaseException:  # on a full disk a nameless lease would hold until it expires
            with suppress(OSError):
                lease.path.unlink()
            raise
        _renewed.add(lease)
        return lease

    @property
    def is_ours(self) -> bool:
        """Whether nobody has taken this lease over, as happens to a process that is stopped."""
        return max(_numbers(self.folder, self.name), default=0) == self.number

    def clear(self) -> None:
        """Delete all that is left of the lease, when its work is finished.

        A lease that was taken over belongs to its new holder and stays.
        """
        _renewed.discard(self)
        if not self.is_ours:
            return
        # The highest number goes last: it is the one that others look at.
        for number in sorted(_numbers(self.folder, self.name)):
            with suppress(OSError):  # the disk refuses; the work is done, so the rest is harmless
                (self.folder / f".{self.name}-{number}").unlink()

    def give_back(self) -> None:
        """Let others do the work, which is not finished."""
        _renewed.discard(self)
        if self.is_ours:
            draft = self.folder / f".{self.name}.{os.getpid()}.{threading.get_ident()}"
            told = json.dumps({**vars(self.holder), "released": True})
            try:
                draft.write_text(told, encoding="utf-8")
                draft.replace(self.path)
            except OSError:
                # A full disk can still delete. Otherwise this process would hold it until it ends.
                for file in (draft, self.path):
                    with suppress(OSError):
                        file.unlink()


@contextmanager
def hold(folder: Path, name: str, *, wait: bool = True) -> Iterator[Lease | None]:
    """Hold a lease on work that is short or can be done twice, such as filling a cache.

    Yields ``None`` if another process has it and ``wait`` is false.
    """
    lease, pause = Lease.take(folder, name), 0.01
    while lease is None and wait:
        time.sleep(pause)
        pause = min(1.0, 1.5 * pause)
        lease = Lease.take(folder, name)
    try:
        yield lease
    finally:
        if lease is not None:
            with suppress(OSError):
                lease.clear()


def find_holder(folder: Path, name: str) -> Holder | None:
    """Return who holds a lease now, if anybody does."""
    number = max(_numbers(folder, name), default=0)
    file = folder / f".{name}-{number}"
    holder = _read_holder(file) if number else None
    return None if holder is None or _is_free(file, holder) else holder


def find_dead(folder: Path) -> list[Path]:
    """Return the lease files below a folder whose process has ended or no longer renews them.

    They are harmless: the next process that wants the work takes it over.
    """
    found = []
    for file in sorted(folder.rglob(".*-[1-9]*")):
        name, _, number = file.name[1:].rpartition("-")
        # Lower numbers belong to leases that were taken over.
        numbers = _numbers(file.parent, name) if number.isdecimal() and file.is_file() else []
        if numbers and int(number) == max(numbers):
            holder = _read_holder(file)
            if holder is not None and not holder.released and _is_free(file, holder):
                found.append(file)
    return found


def _numbers(folder: Path, name: str) -> list[int]:
    start = f".{name}-"
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    ends = (each[len(start) :] for each in names if each.startswith(start))
    # Only as a lease writes it: 007 and ² are files of somebody else.
    return [int(end) for end in ends if re.fullmatch("[1-9][0-9]*", end)]


def _read_holder(file: Path) -> Holder | None:
    """Return who wrote a lease; nobody known while it is being written, ``None`` once deleted."""
    try:
        holder = Holder(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError):
        return Holder()
    nobody = vars(Holder())
    fits = all(type(value) is type(nobody[key]) for key, value in vars(holder).items())
    return holder if fits else Holder()


def _is_free(file: Path, holder: Holder) -> bool:
    if holder.released or holder.is_dead:
        return True
    if holder.is_running:
        return False
    try:
        renewed = file.stat().st_mtime
    except OSError:
        return False
    return _clock(file.parent) - renewed > EXPIRY


_clocks: dict[int, tuple[float, float]] = {}


def _clock(folder: Path) -> float:
    """Return the time by the clock of the file system, which may differ from this machine's."""
    device = folder.stat().st_dev
    asked, ahead = _clocks.get(device, (-1e9, 0.0))
    if time.monotonic() - asked > EXPIRY:
        probe = folder / f".clock.{os.getpid()}.{threading.get_ident()}"
        try:
            probe.write_bytes(b"")
            asked = time.monotonic()
            ahead = probe.stat().st_mtime - asked
        except OSError:  # a folder that can only be read is looked at by this machine's clock
            return time.time()
        finally:
            with suppress(OSError):
                probe.unlink()
        _clocks[device] = asked, ahead
    return time.monotonic() + ahead


class _Renewed:
    """The leases of this process, which a thread renews."""

    def __init__(self) -> None:
        self._leases: set[Lease] = set()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        self._leases.add(lease)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._renew, daemon=True, name="leases")
            self._thread.start()

    def discard(self, lease: Lease) -> None:
        self._leases.discard(lease)

    def _renew(self) -> None:
        while True:
            time.sleep(EXPIRY / BEATS)
            for lease in tuple(self._leases):
                with suppress(OSError):  # it was taken over and cleared, or the next beat does it
                    os.utime(lease.path)


_renewed = _Renewed()


@cache
def _machine() -> str:
    """Return what is the same for all processes that can see each other by their ids."""
    seen = [platform.node()]
    for file in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            link = os.path.islink(file)
            seen.append(os.readlink(file) if link else Path(file).read_text(encoding="ascii"))
    return hashlib.sha256("|".join(seen).encode()).hexdigest()[:16]


def _stat(pid: int) -> Sequence[str]:
    """Return what Linux says of a process, from its state on; nothing if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return text.rpartition(")")[2].split()  # the name before may hold any character


def _started(pid: int) -> str:
    """Return when a process started, as its system says it; numbers of processes are used again."""
    if LINUX:
        fields = _stat(pid)
        return fields[19] if fields and fields[0] not in "ZX" else ""
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):
        return ""
    return "runs"


def _state(pid: int) -> str:
    fields = _stat(pid)
    return fields[0] if fields else ("" if LINUX else "R")


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
