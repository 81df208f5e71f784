"""The form of a table, and how it is written as Markdown, LaTeX, HTML and for the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.errors import ConfigError, printable
from prognobench.files import write_table, write_text
from prognobench.registry import near

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment
    from rich.table import Table as RichTable

SYNTHETIC = "synthetic images, no clinical data"

WHOLE = 20
"""Names of so many characters are not folded in a terminal."""


@dataclass(frozen=True)
class Entry:
    """One entry of a table.

    Attributes
    ----------
    mark
        ``best``, ``tie`` (its difference to the best could be chance), or empty.
    below
        Not better than the best baseline, which sees no image.
    value
        To sort by; NaN where there is none.
    """

    text: str
    mark: str = ""
    below: bool = False
    value: float = float("nan")

    @property
    def plain(self) -> str:
        """The text with its marks, except that bold type is left to the format."""
        marks = (TIE if self.mark == "tie" else "") + (BELOW if self.below else "")
        return self.text + (f" {marks}" if marks else "")

    @property
    def is_number(self) -> bool:
        """Whether there is a value to sort by."""
        return not math.isnan(self.value)


Row = tuple[tuple[str, ...], tuple[Entry, ...]]
"""Names of a row, and its entries."""


@dataclass(frozen=True)
class Table:
    """A table as it is read.

    Attributes
    ----------
    heads
        Headings of the leading columns, which name the rows.
    columns
        Headings of the other columns.
    references
        Number of rows at the end that do not compete: ceiling, baselines, chance.
    """

    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    references: int = 0
    notes: tuple[str, ...] = ()

    @property
    def competing(self) -> tuple[Row, ...]:
        """The rows without the references."""
        return self.rows[: len(self.rows) - self.references]

    @property
    def below(self) -> tuple[Row, ...]:
        """The rows of the references."""
        return self.rows[len(self.rows) - self.references :]

    def has_numbers(self, column: int) -> bool:
        """Whether any entry of a column (of :attr:`columns`) is a number."""
        return any(row[column].is_number for _, row in self.rows)


@dataclass(frozen=True)
class Made:
    """Tables, and the files that they were written to."""

    tables: tuple[Table, ...]
    files: tuple[Path, ...]


def make_number(value: Any, write: Callable[[float], str], mark: str = "") -> Entry:
    """Return the entry of a number; blank where there is none."""
    if value is None or not math.isfinite(value):
        return Entry("")
    return Entry(write(float(value)), mark, value=float(value))


def make_count(value: float, remark: str = "") -> Entry:
    """Return the entry of a whole number; blank where there is none."""
    return Entry("" if math.isnan(value) else f"{value:.0f}{remark}", value=float(value))


def make_interval(value: float, low: float, high: float) -> Entry:
    """Return the entry of a score with the ends of its interval, where it has them."""
    if math.isnan(value):
        return Entry("not defined")
    ends = "" if math.isnan(low) else f" [{low:.3f}, {high:.3f}]"
    return Entry(f"{value:.3f}{ends}", value=float(value))


def make_difference(value: float, low: float, high: float) -> Entry:
    """Return the entry of a difference with the ends of its interval, where it has them."""
    if math.isnan(value):
        return Entry("")
    ends = "" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]"
    return Entry(f"{value:+.3f}{ends}", value=float(value))


# ------------------------------------------------------------------ files


def write_tables(
    stem: Path, frame: pd.DataFrame, tables: Sequence[Table], formats: Iterable[str]
) -> Made:
    """Write tables in some formats: the frame as CSV in long form, the tables as the others.

    Raises
    ------
    ConfigError
        For an unknown format.
    """
    if faults := find_unknown_formats(formats):
        raise ConfigError(faults)
    return Made(tuple(tables), tuple(_write_each(stem, frame, tables, formats)))


def _write_each(
    stem: Path, frame: pd.DataFrame, tables: Sequence[Table], formats: Iterable[str]
) -> Iterator[Path]:
    for name in formats:
        path = stem.with_name(f"{stem.name}.{name}")
        if name == "csv":
            write_table(path, frame)
        else:
            write_text(path, FORMATS[name](tables))
        yield path


def find_unknown_formats(formats: Iterable[str]) -> list[str]:
    """Return a fault for each format that tables are not written in."""
    kinds = ["csv", *FORMATS]
    return [
        f"unknown format {name!r}{near(name, kinds)} (known: {', '.join(kinds)})"
        for name in formats
        if name not in kinds
    ]


def make_slug(*parts: Any) -> str:
    """Return a name that is safe as a file's name and in an address."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(str(part) for part in parts)).strip("-")


# ------------------------------------------------------------------ formats

TIE, BELOW = "*", "†"


def markdown(tables: Sequence[Table]) -> str:
    """Return the tables as GitHub's Markdown."""

    def cell(entry: Entry) -> str:
        text = _escape_markdown(entry.plain)
        return f"**{text}**" if entry.mark == "best" else text

    blocks = []
    for table in tables:
        heads = [*table.heads, *table.columns]
        lines = [f"### {_escape_markdown(table.title)}", "", _join(map(_escape_markdown, heads))]
        lines.append(_join(["---"] * len(table.heads) + ["---:"] * len(table.columns)))
        lines += [
            _join([*map(_escape_markdown, names), *map(cell, row)]) for names, row in table.rows
        ]
        lines += ["", *(f"- {_escape_markdown(note)}" for note in table.notes)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _join(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape_markdown(text: str) -> str:
    for special in "\\|*_`<>":
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split())


LATEX = {
    "\\": r"\textbackslash{}",
    **{special: f"\\{special}" for special in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "†": r"$^{\dagger}$",
    "≤": r"$\le$",
}


def latex(tables: Sequence[Table]) -> str:
    """Return the tables for a document that loads ``booktabs`` (and ``inputenc`` utf8)."""

    def cell(entry: Entry) -> str:
        text = _escape_latex(entry.text)
        if entry.mark == "best":
            text = rf"\textbf{{{text}}}"
        marks = (r"\ast" if entry.mark == "tie" else "") + (r"\dagger" if entry.below else "")
        return f"{text}$^{{{marks}}}$" if marks else text

    def line(row: Row) -> str:
        return f"    {' & '.join([*map(_escape_latex, row[0]), *map(cell, row[1])])} \\\\"

    blocks = []
    for table in tables:
        heads = [*table.heads, *table.columns]
        notes = _escape_latex("; ".join(table.notes))
        lines = [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{_escape_latex(table.title)}. {notes}.}}",
            f"  \\begin{{tabular}}{{{'l' * len(table.heads)}{'r' * len(table.columns)}}}",
            r"    \toprule",
            f"    {' & '.join(map(_escape_latex, heads))} \\\\",
            r"    \midrule",
            *map(line, table.competing),
            *([r"    \midrule"] if table.below else []),
            *map(line, table.below),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
        blocks.append("\n".join(lines))
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(blocks) + "\n"


def _escape_latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


@cache
def templates() -> Environment:
    """Return the HTML templates of tables and of the report; they escape what they are given."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("prognobench.analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_show,
    )
    environment.tests["said_once"] = _is_said_once
    environment.filters["unbroken"] = _unbroken
    return environment


def _show(value: Any) -> Any:
    """Return text without control characters; what is HTML already, and no text, as it is."""
    return printable(value) if type(value) is str else value


def html(tables: Sequence[Table]) -> str:
    """Return the tables as a piece of HTML; numbers carry their values for sorting."""
    return templates().get_template("fragment.html").render(tables=tables)


def _is_said_once(row: Sequence[Entry]) -> bool:
    """Whether a row has the same reason in every column: it then goes into one wide cell."""
    return len({entry.text for entry in row}) == 1 and not any(entry.is_number for entry in row)


def _unbroken(text: str) -> str:
    """Keep a number and its spread on one line; what follows in brackets may go to the next."""
    number, bracket, remark = text.partition(" (")
    return number.replace(" ", "\u00a0") + bracket + remark


def terminal(table: Table, width: int | None = None) -> RichTable:
    """Return a table for ``rich``: best in bold, references dim.

    Parameters
    ----------
    width
        Of the terminal, in characters. Where the words of a row do not fit beside each other, every
        value gets a line of its own, below the names of its row.
    """
    from rich.text import Text

    if width is not None and _least_width(table) > width:
        return _cards(table)
    drawn = _draw_title(table)
    # Nothing is cut off, however narrow the terminal: short names stay whole, the rest is folded.
    for place, name in enumerate(table.heads):
        longest = max((len(names[place]) for names, _ in table.rows), default=0)
        drawn.add_column(Text(printable(name)), no_wrap=longest <= WHOLE, overflow="fold")
    for name in table.columns:
        drawn.add_column(Text(printable(name)), justify="right", overflow="fold")
    for style, part in (("", table.competing), ("dim", table.below)):
        for names, row in part:
            cells = [
                Text(printable(entry.plain), "bold" if entry.mark == "best" else "")
                for entry in row
            ]
            drawn.add_row(*(Text(printable(name)) for name in names), *cells, style=style)
    return drawn


def _least_width(table: Table) -> int:
    """Return the width that the longest words of each column need beside each other."""
    heads, rows = plain_rows(table)
    words = [
        max((len(word) for cell in column for word in cell.split()), default=0)
        for column in zip(heads, *rows, strict=True)
    ]
    return sum(words) + 2 * len(words)


def _draw_title(table: Table) -> RichTable:
    """Return a table for ``rich`` that has its title and notes, and no column yet."""
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(title_justify="left", box=None, header_style="bold")
    drawn.title = Text(printable(table.title))
    drawn.caption = Text(printable("\n".join(table.notes)))
    drawn.caption_justify = "left"
    return drawn


def _cards(table: Table) -> RichTable:
    """Return a table for ``rich`` with a line for each row's names and for each of its values."""
    from rich.text import Text

    drawn = _draw_title(table)
    drawn.show_header = False
    drawn.add_column(overflow="fold")
    drawn.add_column(justify="right", overflow="fold")
    for style, part in (("", table.competing), ("dim", table.below)):
        for names, row in part:
            named = " · ".join(printable(name) for name in names if name)
            drawn.add_row(Text(named, "bold"), "", style=style)
            for head, entry in zip(table.columns, row, strict=True):
                if entry.plain:
                    value = Text(printable(entry.plain), "bold" if entry.mark == "best" else "")
                    drawn.add_row(Text(f"  {printable(head)}"), value, style=style)
    return drawn


def plain_rows(table: Table) -> tuple[list[str], list[list[str]]]:
    """Return column names and rows of plain text, for a pipe."""
    return (
        [*table.heads, *table.columns],
        [[*names, *(entry.plain for entry in row)] for names, row in table.rows],
    )


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "md": markdown,
    "tex": latex,
    "html": html,
}
"""File ending -> how tables are written."""
