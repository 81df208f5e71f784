"""What the terminal shows: data on stdout, everything else on stderr, quiet when piped."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from prognobench.preparation import Progress


def say(message: str) -> None:
    """Print a message for the person, not for a pipe."""
    print(message, file=sys.stderr, flush=True)


def complain(message: str) -> None:
    """Print an error; red where there is a terminal to show it."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    for line in message.splitlines():
        console.print(Text("error: ", style="bold red") + Text(line))


def print_rows(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None
) -> None:
    """Print a table on stdout; as tab-separated text when stdout is not a terminal."""
    if not sys.stdout.isatty():
        for row in [columns, *rows]:
            print("\t".join(map(str, row)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title, title_justify="left", header_style="bold", box=None)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console().print(table)


def print_frame(frame: pd.DataFrame, title: str | None = None) -> None:
    """Print a data frame as a table on stdout."""
    rows = [["" if _is_blank(cell) else cell for cell in row] for row in frame.to_numpy().tolist()]
    print_rows([str(column) for column in frame.columns], rows, title)


def _is_blank(cell: Any) -> bool:
    return cell is None or cell != cell  # noqa: PLR0124  NaN alone differs from itself


@contextmanager
def progress_bars() -> Iterator[Progress | None]:
    """Give a progress callback that draws bars on stderr, or ``None`` where nobody looks."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total)
            bars.update(tasks[label], completed=done, total=total)
            if done >= total:
                bars.remove_task(tasks.pop(label))

        yield report


def counted(number: int, noun: str) -> str:
    """Return "1 cell" or "3 cells"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def join_counts(counts: Mapping[str, int]) -> str:
    """Return "3 done, 1 failed", leaving out what did not occur."""
    return ", ".join(f"{number:,} {what}" for what, number in counts.items() if number)
