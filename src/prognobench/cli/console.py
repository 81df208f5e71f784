"""What the terminal shows: data on stdout, messages and progress on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from prognobench.errors import printable

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from prognobench.records import Progress


CELLS = "cells"
"""Label under which the progress of all cells is told."""


def _cell(value: object) -> str:
    """Return a value as one cell of tab-separated text."""
    return printable(str(value)).replace("\t", "\\t").replace("\n", "\\n")


def say(message: str) -> None:
    """Print a message on stderr, where no pipe reads it; a full or closed stderr says nothing."""
    with suppress(OSError, ValueError):
        print(printable(message), file=sys.stderr, flush=True)


def complain(message: str) -> None:
    """Print an error, line by line; red where there is a terminal to show it."""
    for line in message.splitlines():
        _coloured("error", "bold red", line)


def warn(message: str) -> None:
    """Print a warning; yellow where there is a terminal to show it."""
    _coloured("warning", "bold yellow", message)


def _coloured(kind: str, style: str, line: str) -> None:
    try:
        from rich.console import Console
        from rich.text import Text

        begin, text = Text(f"{kind}: ", style=style), Text(printable(line))
        with suppress(OSError, ValueError):
            Console(stderr=True, soft_wrap=True).print(begin, text, sep="")
    except Exception:  # without memory, an import fails with errors of many types
        say(f"{kind}: {line}")


def is_watched() -> bool:
    """Return whether stdout is a terminal, rather than a pipe or a file."""
    return sys.stdout.isatty()


def measure_width() -> int:
    """Return the width of the terminal, in characters."""
    from rich.console import Console

    return Console().width


def draw(drawing: RenderableType) -> None:
    """Print one of rich's drawings on stdout."""
    from rich.console import Console

    Console().print(drawing)


def print_text(*paragraphs: str) -> None:
    """Print text on stdout; as comments of a table when stdout is not a terminal."""
    if not is_watched():
        for text in paragraphs:
            print(f"# {printable(text)}")
        return
    from rich.padding import Padding
    from rich.text import Text

    first, *rest = paragraphs
    draw(Text(printable(first), style="bold"))
    for text in rest:
        draw(Padding(Text(printable(text)), (0, 0, 0, 2)))


def print_rows(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    title: str | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Print a table on stdout; as tab-separated text when stdout is not a terminal."""
    if not is_watched():
        if title:
            print(f"# {printable(title)}")
        for row in [columns, *rows]:
            print("\t".join(map(_cell, row)))
        for note in notes:
            print(f"# {printable(note)}")
        return
    from rich.markup import escape
    from rich.table import Column, Table
    from rich.text import Text

    # Names stay whole and nothing is cut off, however narrow the terminal.
    first, *rest = columns
    headers = [
        Column(Text(printable(first)), no_wrap=True),
        *(Column(Text(printable(name)), overflow="fold") for name in rest),
    ]
    if title:
        title = escape(printable(title))
    table = Table(*headers, title=title, title_justify="left", header_style="bold", box=None)
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    draw(table)
    for note in notes:
        print(printable(note))


def print_frame(frame: pd.DataFrame, title: str | None = None, most: int | None = None) -> None:
    """Print a data frame as a table on stdout: three decimals, what is missing is blank.

    Of a frame longer than ``most`` only the first rows are shown, and the last, often a total.
    """
    if most is not None and len(frame) > most:
        left = len(frame) - most
        frame = frame.iloc[[*range(most - 1), -1]]
        title = f"{title} ({left:,} more rows not shown)"
    cells = frame.round(3).astype(object).where(frame.notna(), "").to_numpy().tolist()
    print_rows([str(column) for column in frame.columns], cells, title)


LOG_EVERY = 60.0
"""Seconds between two lines of a log."""


class _Log:
    """Says in a log how far the cells are, without the steps within them."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()
        self._first: int | None = None

    def __call__(self, label: str, done: int, total: int) -> None:
        if label != CELLS:
            return
        now = time.monotonic()
        if self._first is None:
            self._began, self._first = now, done
        if now - self._told < LOG_EVERY:
            return
        self._told = now
        end = ""
        if done > self._first:
            seconds = (now - self._began) * (total - done) / (done - self._first)
            end = f", the rest takes about {describe_duration(seconds)}"
        say(f"{done:,} of {total:,} cells done{end}")


def describe_duration(seconds: float) -> str:
    """Return a duration in the unit that people would choose."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"


@contextmanager
def progress_bars() -> Iterator[Progress | None]:
    """Yield a callback that draws progress bars on stderr.

    If that is not a terminal but a log, a line a minute says how many cells are done.
    """
    if not sys.stderr.isatty():
        yield _Log()
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(label: str, done: int, total: int) -> None:
            if not total:  # what has ended: a line that stays
                for name in [name for name in tasks if label.startswith(name)]:
                    bars.remove_task(tasks.pop(name))
                bars.refresh()  # or the removed bar is drawn once more below the line
                bars.console.print(printable(label), markup=False, highlight=False)
                return
            if label not in tasks:
                tasks[label] = bars.add_task(escape(printable(label)), total=total)
            bars.update(tasks[label], completed=done, total=total)
            if done >= total:
                bars.remove_task(tasks.pop(label))

        yield report
