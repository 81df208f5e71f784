"""Tables as their users have them: every cell as text, every row under its own number.

Text keeps what typed readers lose: the leading zeros of patient numbers, ``N/A`` as a word.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.datasets.readers.spelling import composed
from prognobench.errors import DataError, MissingExtraError, listed
from prognobench.registry import near

if TYPE_CHECKING:
    import pandas as pd

Names = str | tuple[str, ...]

Row = tuple[int, list[str]]
"""Number of the row as a spreadsheet shows it, and its cells."""

MARKS = {
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
"""What files of an encoding begin with; the longer first, since it begins with the shorter."""

ROUNDED_FROM = 2.0**53
"""Whole numbers that floats hold exactly are smaller."""

DELIMITERS = (",", ";", "\t", "|")


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
    """

    path: Path
    frame: pd.DataFrame
    header_row: int = 1

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
            place = self._position(new, names, settings, faults)
            if place is not None:
                selected[new] = place
        if len(selected) < len(columns):
            faults.append(f"{self.path}: {self._header()}")
        if faults:
            raise DataError(faults)
        frame = self.frame.iloc[:, list(selected.values())]
        frame.columns = list(selected)
        return frame.assign(where=[self.where(row) for row in frame.index])

    def has(self, name: str) -> bool:
        """Whether there is a column of this name; case, spaces and marks aside."""
        return _plain(name) in map(_plain, self.frame.columns)

    def _header(self) -> str:
        """What the columns are called, unless that row holds a patient's values."""
        names = list(self.frame.columns)
        if any(re.fullmatch(r"[\d.,:/-]+", name) for name in names):
            return (
                f"row {self.header_row} is taken for the columns' names, and holds numbers or "
                "dates; is the header in another row?"
            )
        return f"its columns are {listed(names, 50)}"

    def _position(self, new: str, names: Names, settings: bool, faults: list[str]) -> int | None:
        names = (names,) if isinstance(names, str) else names
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
        advice = f"; set dataset.{new} to the one that is meant" if settings else ""
        faults.append(f"{self.path}: expected a column {wanted}{advice}{near(names[0], columns)}")
        return None


def read_sheet(path: Path, header_row: int = 1) -> Sheet:
    """Read a CSV, TSV, Excel or Parquet table.

    Text files may be UTF-8, UTF-16 or UTF-32 (these with their mark) or Windows-1252, also mixed
    line by line, and separated by comma, semicolon, tab or bar.

    Parameters
    ----------
    header_row
        Number of the row with the columns' names; what stands above is left out.

    Raises
    ------
    DataError
        If the file is missing, broken, of another kind or empty.
    MissingExtraError
        For Parquet and old Excel files, without the extra ``tables``.
    """
    import pandas as pd

    if not path.is_file():
        raise DataError(f"no table {path}" + (" (it is a folder)" if path.is_dir() else ""))
    readers = {".xlsx": _xlsx, ".xlsm": _xlsx, ".xls": _xls, ".parquet": _parquet}
    read = readers.get(path.suffix.lower(), partial(_text, header_row=header_row))
    try:
        rows = list(read(path))
    except (DataError, MissingExtraError):
        raise
    except Exception as error:  # readers of spreadsheets raise anything on broken input
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    rows = [(number, cells) for number, cells in rows if number >= header_row]
    workbook = path.suffix.lower() in (".xlsx", ".xlsm", ".xls")
    place = f"{path}, first sheet (the one that is read)" if workbook else str(path)
    if not rows or rows[0][0] != header_row or not any(rows[0][1]):
        raise DataError(f"{place}: row {header_row} holds no column names")
    names, body = rows[0][1], [(number, cells) for number, cells in rows[1:] if any(cells)]
    if not body:
        raise DataError(f"{place}: the table has no rows below its header")
    _refuse_wide_rows(path, len(names), body)
    kept = [at for at, name in enumerate(names) if name]
    data = [[cells[at] if at < len(cells) else "" for at in kept] for _, cells in body]
    index = [number for number, _ in body]
    frame = pd.DataFrame(data, index=index, columns=[names[at] for at in kept], dtype=object)
    return Sheet(path, frame, header_row)


def text_of(value: Any) -> str:
    """Return a cell as text; a whole number without the ``.0`` that floats bring.

    Of larger numbers the last digits may be lost; they are written with an exponent.
    """
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode()
    if hasattr(value, "isoformat"):
        return str(value.isoformat(" ") if hasattr(value, "hour") else value.isoformat())
    if isinstance(value, float):
        if math.isnan(value):  # how typed tables write an empty cell
            return ""
        if abs(value) >= ROUNDED_FROM:
            return f"{value:.15e}"
        return str(int(value)) if value.is_integer() else repr(value)
    return composed(str(value)).strip()


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", composed(name)).casefold()


def _refuse_wide_rows(path: Path, width: int, body: Sequence[Row]) -> None:
    wide = [str(number) for number, cells in body if any(cells[width:])]
    if wide:
        raise DataError(
            f"{path}: more cells than column names in row {listed(wide)}; "
            "is a text with the separator in it not quoted?"
        )


def _text(path: Path, header_row: int) -> Iterator[Row]:
    text = _decoded(path)
    separator = re.match(
        r'"?sep=(.)"?\r?\n', text, re.IGNORECASE
    )  # for a spreadsheet program, which hides it
    if separator and header_row == 1:
        text = text[separator.end() :]
    head = "".join(text.splitlines()[header_row - 1 : header_row])
    unquoted = re.sub(r'"[^"]*"', "", head)
    delimiter = separator[1] if separator else _delimiter(path, unquoted)
    csv.field_size_limit(1 << 24)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    try:
        for number, cells in enumerate(lines, 1):
            yield number, [composed(cell).strip() for cell in cells]
    except csv.Error as error:
        raise DataError(
            f"{path}, row {number + 1}: {error}; a quotation mark that opens a cell closes it, "
            "too, and one inside of it is written twice"
        ) from error


def _delimiter(path: Path, header: str) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else max(DELIMITERS, key=header.count)


def _decoded(path: Path) -> str:
    raw = path.read_bytes()
    for encoding, marks in MARKS.items():
        if raw.startswith(marks):
            return raw.decode(encoding)
    if b"\x00" in raw:
        raise DataError(
            f"{path}: not a text table (it holds zero bytes); is it an Excel or Parquet file "
            "under another name?"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        lines = raw.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)
        return "".join(_line(path, at, line) for at, line in enumerate(lines, 1))


def _line(path: Path, at: int, line: bytes) -> str:
    for encoding in ("utf-8", "cp1252"):
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path}: line {at} is neither UTF-8 nor Windows-1252; save it as UTF-8")


def _xlsx(path: Path) -> Iterator[Row]:
    from openpyxl import load_workbook

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and validations that are not read
        book = load_workbook(path, read_only=True, data_only=True)
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # some programs write wrong ones, and rows would be cut off
        rows = [[_excel_text(cell) for cell in cells] for cells in sheet.iter_rows()]
        book.close()
    yield from enumerate(rows, 1)


def _excel_text(cell: Any) -> str:
    """A number shown with leading zeros (format ``00000``) keeps them."""
    text = text_of(cell.value)
    zeros = getattr(cell, "number_format", "") or ""
    return text.zfill(len(zeros)) if re.fullmatch("0{2,}", zeros) and text.isdigit() else text


def _xls(path: Path) -> Iterator[Row]:
    try:
        import xlrd
    except ImportError as error:
        raise MissingExtraError("tables", f"reading {path}") from error
    book = xlrd.open_workbook(path)
    sheet = book.sheet_by_index(0)
    for at in range(sheet.nrows):
        yield at + 1, [_xls_text(cell, book.datemode) for cell in sheet.row(at)]


def _xls_text(cell: Any, datemode: int) -> str:
    import xlrd

    if cell.ctype == xlrd.XL_CELL_DATE:
        return text_of(xlrd.xldate_as_datetime(cell.value, datemode))
    if cell.ctype == xlrd.XL_CELL_BOOLEAN:
        return str(bool(cell.value))
    return "" if cell.ctype == xlrd.XL_CELL_ERROR else text_of(cell.value)


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("tables", f"reading {path}") from error
    table = parquet.read_table(path)
    yield 1, [str(name).strip() for name in table.column_names]
    columns = [column.to_pylist() for column in table.columns]
    for number, cells in enumerate(zip(*columns, strict=True), 2):
        yield number, [text_of(value) for value in cells]
