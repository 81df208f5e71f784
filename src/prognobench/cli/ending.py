"""How a command ends: its exit code, its answer to signals, and what it says of an error."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import click

from prognobench.cli import console
from prognobench.errors import PrognobenchError, refusal, shorten

FAILED_CELLS, NOTHING_STARTED, REFUSED, BUG = 1, 2, 3, 70
INTERRUPTED, NO_READER = 128 + signal.SIGINT, 128 + 13

PATIENCE = 1.5
"""Seconds from a signal until the process ends even if a library does not return by then."""

GOES_ON = "finished cells are stored, and the same command goes on from there"

NO_MEMORY = (
    "allocate memory",
    "failed to map segment",
    "can't start new thread",
    "bad_alloc",
    "out of memory",
)
"""What libraries say when the machine refuses memory, in errors of many types."""

_received: list[int] = []
"""Numbers of the signals that this process was sent."""


def finish(command: Callable[[], int], commands: Collection[str] = ()) -> None:
    """Call a command and end the process with its exit code; an error ends without a traceback.

    Parameters
    ----------
    commands
        Names of all commands, of which the report of a bug shows the one that was called.
    """
    _prepare_streams()
    try:
        with _answered_signals():
            try:
                code = command()
                sys.stdout.flush()
            except BaseException as error:
                code = _answer(error, commands)
    except (RuntimeError, OSError, MemoryError) as error:  # not even for a thread, or an answer
        code = _answer(error, commands)
    if _received:
        _leave()
    sys.exit(code)


def _prepare_streams() -> None:
    """Let every text be printed, whatever the locale, even where a stream is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# ------------------------------------------------------------------ errors


def _answer(error: BaseException, commands: Collection[str]) -> int:
    """Say what went wrong, and return the exit code."""
    if _received:  # errors that the interrupt itself causes are not shown
        return 128 + _received[0]
    if isinstance(error, BrokenPipeError):
        _drop_stdout()
        return NO_READER
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        console.say(f"interrupted: {GOES_ON}")
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        text = io.StringIO()
        error.show(file=text)
        console.say(text.getvalue().rstrip())
        return NOTHING_STARTED
    return _complain(error, commands)


def _complain(error: BaseException, commands: Collection[str]) -> int:
    refused = refusal(error)
    if isinstance(error, PrognobenchError):
        console.complain(str(error))
        return REFUSED if refused else NOTHING_STARTED
    if refused is not None:
        where = f"{refused.filename}: " if refused.filename else "output: "
        console.complain(f"{where}{refused.strerror or refused}; {GOES_ON}")
        _drop_stdout()
        return REFUSED
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        console.complain(f"{shorten(str(error.filename))}: {error.strerror}; choose a shorter one")
        return NOTHING_STARTED
    if _lacks_memory(error):
        console.complain(
            f"this machine has too little memory, or this process may use too little; {GOES_ON}"
        )
        return REFUSED
    from prognobench.cli.bug_report import write_report

    file = write_report(error, commands)
    console.complain(
        f"this is a bug in prognobench ({type(error).__name__}). Please report it with the file "
        f"{file}; it holds no data, only places in the code. {GOES_ON.capitalize()}"
    )
    return BUG


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError | ImportError | OSError) and any(
        text in said for text in NO_MEMORY
    )


def _drop_stdout() -> None:
    """Discard what cannot be printed; flushing it at exit would fail again."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


# ------------------------------------------------------------------ signals


@contextmanager
def _answered_signals() -> Iterator[None]:
    """Answer Ctrl-C and SIGTERM by an interrupt of the main thread, and in time.

    Python answers a signal only between two of its own instructions, and a library may compute or
    wait for long. So a thread, which the C part of the answer wakes, ends the process if need be.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    numbers = (signal.SIGINT, signal.SIGTERM)
    # A shell lets background jobs ignore Ctrl-C, which stays so.
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _interrupt) for number in heard}
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        threading.Thread(target=_end_in_time, args=(reading,), daemon=True, name="signals").start()
        yield
    finally:
        if not _received:  # otherwise the process is about to end, and is to end in time
            signal.set_wakeup_fd(woken)
            os.close(writing)
            for number, handler in before.items():
                signal.signal(number, handler)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) > 1:  # a second Ctrl-C means: now
        _leave()
    # Threads of loky raise errors about dropped jobs; the interrupt has caused them.
    threading.excepthook = lambda _: None
    raise KeyboardInterrupt


def _end_in_time(reading: int) -> None:
    while sent := os.read(reading, 1):
        if sent[0] in (signal.SIGINT, signal.SIGTERM):
            time.sleep(PATIENCE)
            if not _received:
                _received.append(sent[0])
            _leave()
    os.close(reading)


_leaving = threading.Lock()


def _leave() -> None:
    """Say that the command was interrupted, and end at once, without waiting for threads.

    Everything stored is whole at any moment, leases end with the process, and so do workers.
    """
    if _leaving.acquire(blocking=False):
        why = "terminated" if _received[0] == signal.SIGTERM else "interrupted"
        with suppress(Exception):
            sys.stdout.flush()
        with suppress(Exception):
            console.say(f"{why}: {GOES_ON}")
        os._exit(128 + _received[0])
