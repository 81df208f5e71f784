"""The form of a table, and how it is written as Markdown, LaTeX, HTML and for the terminal."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table as RichTable


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    Attributes
    ----------
    mark
        ``best``, ``tie`` (its difference to the best could be chance), or empty.
    below
        Not better than the best strategy that looks at no image.
    value
        To sort by; NaN where there is none.
    """

    text: str
    mark: str = ""
    below: bool = False
    value: float = float("nan")


@dataclass(frozen=True)
class Table:
    """A table as it is read.

    Attributes
    ----------
    heads
        Names of the leading columns, which name the rows.
    columns
        Names of the others.
    rows
        Names of the row, and its entries.
    references
        So many rows at the end are no competitors: ceiling, baselines, chance.
    """

    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Entry, ...]], ...]
    references: int = 0
    notes: tuple[str, ...] = ()


def number_entry(value: Any, write: Callable[[float], str], mark: str = "") -> Entry:
    """A number as it is written; blank where there is none."""
    if value is None or not math.isfinite(value):
        return Entry("")
    return Entry(write(float(value)), mark, value=float(value))


def interval_entry(value: float, low: float, high: float) -> Entry:
    """A difference with its ends, where it has them."""
    if math.isnan(value):
        return Entry("")
    ends = "" if math.isnan(low) else f" [{low:+.3f}, {high:+.3f}]"
    return Entry(f"{value:+.3f}{ends}", value=float(value))


TIE, BELOW = "*", "†"

NO_BREAK = "\u00a0"
"""A number and its spread stay on one line; what follows in brackets may go to the next."""


def _plain(entry: Entry) -> str:
    marks = (TIE if entry.mark == "tie" else "") + (BELOW if entry.below else "")
    return entry.text + (f" {marks}" if marks else "")


def markdown(tables: Sequence[Table]) -> str:
    """Return the tables as GitHub's Markdown."""

    def cell(entry: Entry) -> str:
        text = _markdown(_plain(entry))
        return f"**{text}**" if entry.mark == "best" else text

    blocks = []
    for table in tables:
        heads = [*table.heads, *table.columns]
        lines = [f"### {_markdown(table.title)}", "", _row(map(_markdown, heads))]
        lines.append(_row(["---"] * len(table.heads) + ["---:"] * len(table.columns)))
        lines += [_row([*map(_markdown, names), *map(cell, row)]) for names, row in table.rows]
        lines += ["", *(f"- {_markdown(note)}" for note in table.notes)]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown(text: str) -> str:
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
        text = _latex(entry.text)
        if entry.mark == "best":
            text = rf"\textbf{{{text}}}"
        marks = (r"\ast" if entry.mark == "tie" else "") + (r"\dagger" if entry.below else "")
        return f"{text}$^{{{marks}}}$" if marks else text

    blocks = []
    for table in tables:
        heads = [*table.heads, *table.columns]
        lines = [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{_latex(table.title)}. {_latex('; '.join(table.notes))}.}}",
            f"  \\begin{{tabular}}{{{'l' * len(table.heads)}{'r' * len(table.columns)}}}",
            r"    \toprule",
            f"    {' & '.join(map(_latex, heads))} \\\\",
            r"    \midrule",
        ]
        for number, (names, row) in enumerate(table.rows):
            if table.references and number == len(table.rows) - table.references:
                lines.append(r"    \midrule")
            lines.append(f"    {' & '.join([*map(_latex, names), *map(cell, row)])} \\\\")
        lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
        blocks.append("\n".join(lines))
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(blocks) + "\n"


def _latex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def html_tables(tables: Sequence[Table]) -> str:
    """Return the tables as HTML fragments; columns carry their values for sorting."""
    return "\n".join(_html(table) for table in tables)


def _html(table: Table) -> str:
    numeric = [
        any(not math.isnan(row[column].value) for _, row in table.rows)
        for column in range(len(table.columns))
    ]
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.heads)
    heads += "".join(
        f'<th scope="col"{" class=n" if number else ""}>{html.escape(name)}</th>'
        for name, number in zip(table.columns, numeric, strict=True)
    )
    body: list[str] = []
    foot: list[str] = []
    for place, (names, row) in enumerate(table.rows):
        line = "".join(f'<th scope="row">{html.escape(name)}</th>' for name in names)
        line += _html_row(row)
        competes = place < len(table.rows) - table.references
        (body if competes else foot).append(f"<tr>{line}</tr>")
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    title = html.escape(table.title, quote=True)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f'<table class="sortable"><caption>{title}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody>"
        + (f"<tfoot>{''.join(foot)}</tfoot>" if foot else "")
        + "</table></div>"
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
    )


def _html_row(row: Sequence[Entry]) -> str:
    """One cell per entry; a reason that is the same in all of them is said once."""
    if len({entry.text for entry in row}) == 1 and all(math.isnan(e.value) for e in row):
        return _html_cell(row[0], len(row))
    return "".join(map(_html_cell, row))


def _html_cell(entry: Entry, columns: int = 1) -> str:
    text = html.escape(_plain(entry))
    if entry.mark == "best":
        text = f"<strong>{text}</strong>"
    if math.isnan(entry.value):
        return f"<td colspan={columns}>{text}</td>" if columns > 1 else f"<td>{text}</td>"
    number, bracket, remark = text.partition(" (")
    held = number.replace(" ", NO_BREAK) + bracket + remark
    return f'<td class="n" data-value="{entry.value:.9g}">{held}</td>'


def terminal(table: Table) -> RichTable:
    """Return a table for ``rich``: best in bold, references dim."""
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(title=table.title, title_justify="left", box=None, header_style="bold")
    drawn.caption = "\n".join(table.notes)
    drawn.caption_justify = "left"
    for name in table.heads:
        drawn.add_column(name)
    for name in table.columns:
        drawn.add_column(name, justify="right")
    for number, (names, row) in enumerate(table.rows):
        competes = number < len(table.rows) - table.references
        cells = [Text(_plain(entry), "bold" if entry.mark == "best" else "") for entry in row]
        drawn.add_row(*map(Text, names), *cells, style="" if competes else "dim")
    return drawn


def rows(table: Table) -> tuple[list[str], list[list[str]]]:
    """Return column names and rows of plain text, for a pipe."""
    return (
        [*table.heads, *table.columns],
        [[*names, *map(_plain, row)] for names, row in table.rows],
    )


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "md": markdown,
    "tex": latex,
    "html": html_tables,
}
"""File ending -> how tables are written."""
