"""Files of tables become rows of text: CSV and its kin, workbooks, Parquet.

Text keeps what typed readers lose: the leading zeros of patient numbers, ``N/A`` as a word.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from prognobench.datasets.readers.spelling import composed
from prognobench.errors import DataError, MissingExtraError

Row = tuple[int, list[str]]
"""Number of the row as a spreadsheet shows it, and its cells."""

WORKBOOKS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")

MARKS = {
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
"""First bytes of the files of an encoding; UTF-32 first, since its mark begins with UTF-16's."""

ROUNDED_FROM = 2.0**53
"""Whole numbers that floats hold exactly are smaller."""

DELIMITERS = (",", ";", "\t", "|")


def read_rows(path: Path, header_row: int) -> list[Row]:
    """Read every row of a table file as stripped text, accents composed (Unicode NFC).

    Raises
    ------
    DataError
        If the file is missing, broken or of another kind.
    MissingExtraError
        For Parquet, without the extra ``tables``.
    """
    if not path.is_file():
        raise DataError(f"no table {path}" + (" (it is a folder)" if path.is_dir() else ""))
    suffix = path.suffix.lower()
    try:
        if suffix in WORKBOOKS:
            return _read_workbook(path)
        if suffix == ".parquet":
            return list(_read_parquet(path))
        return list(_read_text(path, header_row))
    except (DataError, MissingExtraError):
        raise
    except Exception as error:  # readers of spreadsheets raise anything on broken input
        raise DataError(f"{path}: cannot be read as a table ({error})") from error


def text_of(value: Any) -> str:
    """Return a cell as text; a whole number without the ``.0`` that floats bring.

    Of larger numbers the last digits may be lost; they are written with an exponent.
    """
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, float):
        if math.isnan(value):  # how typed tables write an empty cell
            return ""
        if abs(value) >= ROUNDED_FROM:
            return f"{value:.15e}"
        return str(int(value)) if value.is_integer() else repr(value)
    return composed(str(value)).strip()


# ------------------------------------------------------------------ text


def _read_text(path: Path, header_row: int) -> Iterator[Row]:
    """Read comma-separated text and its kin.

    By the standard library, not by pandas: pandas' quick parser joins the rows between two stray
    quotation marks without a word, and its strict one does not say where they are.
    """
    text = _decode(path)
    # Spreadsheet programs hide this line, so row 1 is the one behind it.
    separator = re.match(r'"?sep=(.)"?\r?\n', text, re.IGNORECASE)
    if separator and header_row == 1:
        text = text[separator.end() :]
    header = "".join(text.splitlines()[header_row - 1 : header_row])
    delimiter = separator[1] if separator else _guess_delimiter(path, header)
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


def _guess_delimiter(path: Path, header: str) -> str:
    """The separator that the header has most of, outside quotation marks."""
    unquoted = re.sub(r'"[^"]*"', "", header)
    return "\t" if path.suffix.lower() == ".tsv" else max(DELIMITERS, key=unquoted.count)


def _decode(path: Path) -> str:
    """Decode by mark, else as UTF-8, else line by line as UTF-8 or Windows-1252.

    A table that several people typed has lines of both kinds, as the one of covid-chestxray has.
    charset-normalizer gives one encoding per file, and takes small Windows-1252 tables for Big5
    or Windows-1250 (two of four that were tried), which changes their letters.
    """
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
        lines = raw.removeprefix(codecs.BOM_UTF8).splitlines(keepends=True)
        return "".join(_decode_line(path, at, line) for at, line in enumerate(lines, 1))


def _decode_line(path: Path, at: int, line: bytes) -> str:
    for encoding in ("utf-8", "cp1252"):
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path}: line {at} is neither UTF-8 nor Windows-1252; save it as UTF-8")


# ------------------------------------------------------------------ workbooks


def _read_workbook(path: Path) -> list[Row]:
    """Read the first sheet of an Excel or OpenDocument workbook by calamine.

    It is eight times as quick as openpyxl, but does not say how a number is shown.
    """
    from python_calamine import SheetTypeEnum, load_workbook

    with load_workbook(path) as book:
        sheets = [each.name for each in book.sheets_metadata if each.typ == SheetTypeEnum.WorkSheet]
        # With the empty area, so that rows keep their numbers.
        cells = book.get_sheet_by_name(sheets[0]).to_python(skip_empty_area=False)
    rows = [[_workbook_text(cell) for cell in row] for row in cells]
    if _shows_leading_zeros(path):
        _restore_leading_zeros(path, sheets[0], rows)
    return list(enumerate(rows, 1))


def _workbook_text(cell: Any) -> str:
    """A day is its midnight, since one column may hold days and moments."""
    if isinstance(cell, date) and not isinstance(cell, datetime):
        cell = datetime.combine(cell, time())
    return text_of(cell)


def _shows_leading_zeros(path: Path) -> bool:
    """Whether any cell of the workbook may have a format such as ``00000``."""
    if path.suffix.lower() not in (".xlsx", ".xlsm"):
        return False
    with ZipFile(path) as parts:
        styles = "xl/styles.xml"
        return styles in parts.namelist() and b'formatCode="00' in parts.read(styles)


def _restore_leading_zeros(path: Path, sheet: str, rows: list[list[str]]) -> None:
    """Write numbers as the workbook shows them: patient 7 in the format ``000`` is ``007``."""
    from openpyxl import load_workbook

    book = load_workbook(path, read_only=True)
    book[sheet].reset_dimensions()  # some programs write wrong ones, and rows would be cut off
    for row, cells in zip(rows, book[sheet].iter_rows(), strict=False):
        for at, (text, cell) in enumerate(zip(row, cells, strict=False)):
            zeros = getattr(cell, "number_format", "") or ""
            if text.isdigit() and re.fullmatch("0{2,}", zeros):
                row[at] = text.zfill(len(zeros))
    book.close()


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("tables", f"reading {path}") from error
    table = parquet.read_table(path)
    yield 1, [str(name).strip() for name in table.column_names]
    columns = [column.to_pylist() for column in table.columns]
    for number, cells in enumerate(zip(*columns, strict=True), 2):
        yield number, [text_of(value) for value in cells]
