"""Excel and OpenDocument workbooks become rows of text."""

from __future__ import annotations

import re
from datetime import date, datetime, time
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from prognobench.datasets.readers.cells import Contents, text_of
from prognobench.errors import DataError
from prognobench.registry import near

OPEN_XML = (".xlsx", ".xlsm")
WORKBOOKS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")


def read_workbook(path: Path, sheet: str) -> Contents:
    """Read one sheet of an Excel or OpenDocument workbook by calamine.

    It is eight times as quick as openpyxl, but does not say how a number is shown, nor what is a
    formula: of workbooks that may have such, openpyxl reads this.
    """
    from python_calamine import SheetTypeEnum, SheetVisibleEnum, load_workbook

    with load_workbook(path) as book:
        known = [each for each in book.sheets_metadata if each.typ == SheetTypeEnum.WorkSheet]
        sheets = [each.name for each in known]
        seen = [each.name for each in known if each.visible == SheetVisibleEnum.Visible]
        chosen = sheet or (seen or sheets)[0]
        if chosen not in sheets:
            raise DataError(
                f"{path}: has no sheet {sheet!r}{near(sheet, sheets)} (its sheets: "
                f"{', '.join(map(repr, sheets))})"
            )
        # With the empty area, so that rows keep their numbers.
        cells = book.get_sheet_by_name(chosen).to_python(skip_empty_area=False)
    rows = [[_workbook_text(cell) for cell in row] for row in cells]
    uncomputed = _read_formats(path, chosen, rows) if _needs_formats(path) else {}
    others = [name for name in sheets if name != chosen]
    hidden = _find_hidden_rows(path, chosen) if path.suffix.lower() in OPEN_XML else frozenset()
    return Contents(list(enumerate(rows, 1)), (chosen, *others), uncomputed, hidden)


def _workbook_text(cell: Any) -> str:
    """A day is its midnight, since one column may hold days and moments."""
    if isinstance(cell, date) and not isinstance(cell, datetime):
        cell = datetime.combine(cell, time())
    return text_of(cell)


def _needs_formats(path: Path) -> bool:
    """Whether the workbook may have formulas, or numbers in a format such as ``00000``."""
    if path.suffix.lower() not in OPEN_XML:
        return False
    with ZipFile(path) as parts:
        names = parts.namelist()
        if "xl/styles.xml" in names and b'formatCode="00' in parts.read("xl/styles.xml"):
            return True
        sheets = [name for name in names if name.startswith("xl/worksheets/")]
        return any(re.search(rb"<f[ >/]", parts.read(name)) for name in sheets)


def _find_hidden_rows(path: Path, sheet: str) -> frozenset[int]:
    """Numbers of the rows that a filter or a person has hidden; neither reader tells them."""
    with ZipFile(path) as parts:
        relations = _attributes(parts, "xl/_rels/workbook.xml.rels", "Relationship")
        targets = {each["Id"]: each["Target"] for each in relations}
        for each in _attributes(parts, "xl/workbook.xml", "sheet"):
            if each["name"] == sheet:
                target = targets[each["id"]].removeprefix("/xl/")
                rows = re.findall(rb"<row [^>]*>", parts.read(f"xl/{target}"))
                hidden = [row for row in rows if b' hidden="1"' in row or b' hidden="true"' in row]
                numbers = [re.search(rb' r="(\d+)"', row) for row in hidden]
                return frozenset(int(number[1]) for number in numbers if number)
    return frozenset()


def _attributes(parts: ZipFile, name: str, tag: str) -> list[dict[str, str]]:
    """The attributes of all elements of a kind, without their namespaces."""
    from xml.etree import ElementTree

    return [
        {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        for element in ElementTree.fromstring(parts.read(name)).iter()
        if element.tag.rpartition("}")[2] == tag
    ]


def _read_formats(path: Path, sheet: str, rows: list[list[str]]) -> dict[int, int]:
    """Write numbers as the workbook shows them: patient 7 in the format ``000`` is ``007``.

    Returns
    -------
    Columns of formulas without any value, and where they begin: a script wrote them, and no
    spreadsheet program has computed them. One formula may well give nothing.
    """
    from openpyxl import load_workbook

    book = load_workbook(path, read_only=True)
    book[sheet].reset_dimensions()  # some programs write wrong ones, and rows would be cut off
    blank: dict[int, int] = {}
    computed: set[int] = set()
    for number, (row, cells) in enumerate(zip(rows, book[sheet].iter_rows(), strict=False), 1):
        for at, (text, cell) in enumerate(zip(row, cells, strict=False)):
            if cell.value is None:
                continue
            zeros = getattr(cell, "number_format", "") or ""
            if text.isdigit() and re.fullmatch("0{2,}", zeros):
                row[at] = text.zfill(len(zeros))
            if cell.data_type == "f" and text:
                computed.add(at)
            elif cell.data_type == "f":
                blank.setdefault(at, number)
    book.close()
    return {at: row for at, row in blank.items() if at not in computed}
