"""A table with named columns, read from a file of any kind; every row under its own number."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prognobench.datasets.readers.cells import Row
from prognobench.datasets.readers.spelling import composed
from prognobench.datasets.readers.table_files import read_contents
from prognobench.datasets.readers.workbooks import WORKBOOKS
from prognobench.errors import DataError, listed
from prognobench.registry import near

if TYPE_CHECKING:
    import pandas as pd

Names = str | tuple[str, ...]

HEADERS = 10
"""So many rows below the header are looked at for the columns that it lacks."""


@dataclass(frozen=True)
class Sheet:
    """One table.

    Attributes
    ----------
    frame
        All cells as stripped text, characters composed (Unicode NFC); the index holds the rows'
        numbers in the file. Rows without any text are left out, and so are columns without a name.
    header_row
        Number of the row with the columns' names.
    others
        Names of the workbook's other sheets.
    uncomputed
        Columns of formulas without any value -> row of the first.
    below
        The first rows below the header, as they are.
    notes
        What is not plain to see in the file.
    """

    path: Path
    frame: pd.DataFrame
    header_row: int = 1
    others: tuple[str, ...] = ()
    uncomputed: Mapping[str, int] = field(default_factory=dict)
    below: Sequence[Row] = ()
    notes: tuple[str, ...] = ()

    def where(self, row: int) -> str:
        return f"{self.path.name} row {row}"

    def select(self, columns: Mapping[str, Names], settings: bool = False) -> pd.DataFrame:
        """Return the wanted columns under new names, and ``where``: what messages call each row.

        Parameters
        ----------
        columns
            New name -> name in the table, or several that it may have; case, spaces and marks
            aside.
        settings
            The new names are settings of ``dataset``: messages say so.

        Raises
        ------
        DataError
            For all columns at once: which are not there, and what there is instead; which stand
            there twice.
        """
        faults: list[str] = []
        selected: dict[str, int] = {}
        for new, names in columns.items():
            place = self._find_column(new, names, settings, faults)
            if place is not None:
                selected[new] = place
                faults += self._formula_faults(place)
        if len(selected) < len(columns):
            hint = self._guess_header(columns) or self._describe_header()
            faults.append(f"{self.path}: {hint}")
        if faults:
            raise DataError(faults)
        frame = self.frame.iloc[:, list(selected.values())]
        frame.columns = list(selected)
        return frame.assign(where=[self.where(row) for row in frame.index])

    def _formula_faults(self, place: int) -> list[str]:
        name = self.frame.columns[place]
        if name not in self.uncomputed:
            return []
        return [
            f"{self.path}: column {name!r} holds formulas that were never computed, the first in "
            f"row {self.uncomputed[name]}; open the workbook in a spreadsheet program and save it"
        ]

    def has(self, name: str) -> bool:
        """Whether there is a column of this name; case, spaces and marks aside."""
        return _plain(name) in map(_plain, self.frame.columns)

    def _guess_header(self, columns: Mapping[str, Names]) -> str:
        """Say which of the rows below holds columns that the header lacks."""

        def count(cells: Sequence[str]) -> int:
            plain = set(map(_plain, cells)) - {""}
            return sum(bool(plain & set(map(_plain, _tuple(names)))) for names in columns.values())

        of_header = count(list(self.frame.columns))
        most, number = max(((count(cells), -row) for row, cells in self.below), default=(0, 0))
        if most > of_header:
            return (
                f"row {-number} holds {most} of these names, row {self.header_row} {of_header}; "
                f"set dataset.header_row={-number}"
            )
        if most:
            return (
                f"the columns' names stand in rows {self.header_row} and {-number}; write them in "
                "one row"
            )
        return ""

    def _describe_header(self) -> str:
        """What the columns are called, unless that row holds a patient's values."""
        names = list(self.frame.columns)
        if any(re.fullmatch(r"[\d.,:/-]+", name) for name in names):
            return (
                f"row {self.header_row} is taken for the columns' names, and holds numbers or "
                "dates; is the header in another row (dataset.header_row)?"
            )
        others = f"; it has other sheets: {listed(map(repr, self.others))}; choose one with "
        way_out = f"{others}dataset.sheet=NAME" if self.others else ""
        return f"its columns are {listed(names, 50)}{way_out}"

    def _find_column(self, new: str, names: Names, settings: bool, faults: list[str]) -> int | None:
        names = _tuple(names)
        columns = list(self.frame.columns)
        plain = [_plain(column) for column in columns]
        for name in names:
            exact = [at for at, column in enumerate(columns) if column == name]
            places = exact or [at for at, column in enumerate(plain) if column == _plain(name)]
            if len(places) > 1:
                faults.append(
                    f"{self.path}: column {name!r} stands {len(places)} times (columns "
                    f"{', '.join(str(at + 1) for at in places)}); rename all but one"
                )
            if places:
                return places[0]
        wanted = " or ".join(repr(name) for name in names)
        guess = near(names[0], columns) or "."
        advice = f" To choose one, set dataset.{new}=NAME" if settings else ""
        faults.append(f"{self.path}: expected a column {wanted}{guess}{advice}")
        return None


def read_sheet(path: Path, header_row: int = 1, sheet: str = "") -> Sheet:
    """Read a CSV, TSV, Excel, OpenDocument or Parquet table.

    Text files may be gzipped; they are UTF-8, UTF-16 or UTF-32 (these with their mark) or
    Windows-1252, also mixed line by line, and separated by comma, semicolon, tab or bar.

    Parameters
    ----------
    header_row
        Number of the row with the columns' names; what stands above is left out.
    sheet
        Name of a workbook's sheet; the first if there is none.

    Raises
    ------
    DataError
        If the file is missing, broken, of another kind or empty.
    MissingExtraError
        For Parquet files, without the extra ``tables``.
    """
    import pandas as pd

    contents = read_contents(path, header_row, sheet)
    rows = [row for row in contents.rows if row[0] >= header_row]
    place = str(path)
    if path.suffix.lower() in WORKBOOKS:
        place += f", sheet {sheet!r}" if sheet else ", first sheet (the one that is read)"
    if not rows or rows[0][0] != header_row or not any(rows[0][1]):
        raise DataError(f"{place}: row {header_row} holds no column names")
    names, body = rows[0][1], [(number, cells) for number, cells in rows[1:] if any(cells)]
    if not body:
        raise DataError(f"{place}: the table has no rows below its header")
    _refuse_wide_rows(path, header_row, len(names), body)
    kept = [at for at, name in enumerate(names) if name]
    data = [[cells[at] if at < len(cells) else "" for at in kept] for _, cells in body]
    index = [number for number, _ in body]
    frame = pd.DataFrame(data, index=index, columns=[names[at] for at in kept], dtype=object)
    uncomputed = {names[at]: row for at, row in contents.uncomputed.items() if at in kept}
    below = tuple(body[:HEADERS])
    hidden = len(contents.hidden.intersection(index))
    notes = (f"{path.name}: {hidden} rows that the workbook hides are read too",) if hidden else ()
    return Sheet(path, frame, header_row, contents.sheets[1:], uncomputed, below, notes)


def _refuse_wide_rows(path: Path, header_row: int, width: int, body: Sequence[Row]) -> None:
    wide = [str(number) for number, cells in body if any(cells[width:])]
    if not wide:
        return
    where = f"{path}: more cells than column names in row {listed(wide)}"
    if width > 1 and all(len(cells) == width + 1 for _, cells in body):
        raise DataError(
            f"{path}: every row has one cell more than row {header_row} has names; name the first "
            "column too (R leaves out the name of its row names), or quote texts with the "
            "separator in them"
        )
    first, cells = body[len(body) - len(wide)]
    if str(first) == wide[0] and 2 * width <= len(cells):  # titles stand above all rows from there
        raise DataError(
            f"{where}; what stands above seems to be a title: if the columns' names stand in row "
            f"{wide[0]}, set dataset.header_row={wide[0]}"
        )
    raise DataError(
        f"{where}; is a text with the separator in it not quoted, or the header in another row "
        "(dataset.header_row)?"
    )


def _tuple(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _plain(name: str) -> str:
    """A column's name without case, spaces and marks, as it is looked up."""
    return re.sub(r"[\W_]+", "", composed(name)).casefold()
