"""Files of tables become rows of text: CSV and its kin, workbooks, Parquet.

Text keeps what typed readers lose: the leading zeros of patient numbers, ``N/A`` as a word.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
from collections.abc import Iterator
from pathlib import Path

from prognobench.datasets.readers.cells import Contents, Row, strip, text_of
from prognobench.datasets.readers.workbooks import WORKBOOKS, read_workbook
from prognobench.errors import DataError, MissingExtraError

MARKS = {
    "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
"""First bytes of the files of an encoding; UTF-32 first, since its mark begins with UTF-16's."""

DELIMITERS = (",", ";", "\t", "|")

COMPRESSED = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of packed files that are not unpacked here."""

LARGEST = 1 << 31
"""Bytes that a gzipped table may grow to."""


def read_contents(path: Path, header_row: int, sheet: str = "") -> Contents:
    """Read every row of a table file as stripped text, accents composed (Unicode NFC).

    Parameters
    ----------
    header_row
        The row by which the separator of a text file is told.
    sheet
        Name of a workbook's sheet; the first if there is none.

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
    if sheet and suffix not in WORKBOOKS:
        raise DataError(f"{path}: dataset.sheet={sheet} is for workbooks; leave it out")
    try:
        if suffix in WORKBOOKS:
            return read_workbook(path, sheet)
        if suffix == ".parquet":
            return Contents(list(_read_parquet(path)))
        return Contents(list(_read_text(path, header_row)))
    except (DataError, MissingExtraError):
        raise
    except Exception as error:  # readers of spreadsheets raise anything on broken input
        raise DataError(
            f"{path}: {_guess_kind(path) or f'cannot be read as a table ({error})'}"
        ) from error


def _guess_kind(path: Path) -> str:
    """Say what a file is that has the name of a workbook; nothing if that cannot be told."""
    with path.open("rb") as file:
        start = file.read(4096).lstrip(codecs.BOM_UTF8).lstrip()
    if start[:9].lower().startswith((b"<html", b"<!doctype", b"<table")):
        return (
            "is a web page under the name of a workbook, as web systems export; open it in a "
            "spreadsheet program and save it as .xlsx"
        )
    is_text = not re.search(rb"^PK|[\x00-\x08\x0e-\x1f]", start)
    if start and is_text and path.suffix.lower() in WORKBOOKS:
        return "is text under the name of a workbook; rename it to .csv"
    return ""


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
            yield number, [strip(cell) for cell in cells]
    except csv.Error as error:
        raise DataError(
            f"{path}, row {number + 1}: {error}; a quotation mark that opens a cell closes it, "
            "too, and one inside of it is written twice"
        ) from error


def _guess_delimiter(path: Path, header: str) -> str:
    """The separator that the header has most of, outside quotation marks."""
    unquoted = re.sub(r'"[^"]*"', "", header)
    return "\t" if ".tsv" in path.suffixes[-2:] else max(DELIMITERS, key=unquoted.count)


def _decode(path: Path) -> str:
    """Decode by mark, else as UTF-8, else line by line as UTF-8 or Windows-1252.

    A table that several people typed has lines of both kinds, as the one of covid-chestxray has.
    charset-normalizer gives one encoding per file, and takes small Windows-1252 tables for Big5
    or Windows-1250 (two of four that were tried), which changes their letters.
    """
    raw = _unpack(path)
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


def _unpack(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        with gzip.open(path) as file:
            raw = file.read(LARGEST + 1)
        if len(raw) > LARGEST:
            raise DataError(f"{path}: unpacks to more than {LARGEST:,} bytes; is it a table?")
    for mark, kind in COMPRESSED.items():
        if raw.startswith(mark):
            raise DataError(
                f"{path}: is compressed ({kind}), or a workbook under another name; unpack it, or "
                "compress it with gzip"
            )
    return raw


def _decode_line(path: Path, at: int, line: bytes) -> str:
    for encoding in ("utf-8", "cp1252"):
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path}: line {at} is neither UTF-8 nor Windows-1252; save it as UTF-8")


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("tables", f"reading {path}") from error
    table = parquet.read_table(path)
    yield 1, [strip(str(name)) for name in table.column_names]
    columns = [column.to_pylist() for column in table.columns]
    for number, cells in enumerate(zip(*columns, strict=True), 2):
        yield number, [text_of(value) for value in cells]
