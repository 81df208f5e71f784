"""What every table file becomes: rows of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any

from prognobench.datasets.readers.spelling import composed

Row = tuple[int, list[str]]
"""Number of the row as a spreadsheet shows it, and its cells."""

INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"
"""Characters without width, which web pages and office programs leave beside copied text."""

ROUNDED_FROM = 2.0**53
"""Whole numbers that floats hold exactly are smaller."""


@dataclass(frozen=True)
class Contents:
    """What a table file holds.

    Attributes
    ----------
    sheets
        Names of a workbook's sheets, the one that was read first.
    uncomputed
        Place of each column whose formulas all lack their values -> row of the first.
    hidden
        Numbers of the rows that a workbook hides.
    """

    rows: list[Row]
    sheets: tuple[str, ...] = ()
    uncomputed: Mapping[int, int] = field(default_factory=dict)
    hidden: frozenset[int] = frozenset()


def text_of(value: Any) -> str:
    """Return a cell as text; a whole number without the ``.0`` that floats bring.

    Of larger numbers the last digits may be lost; they are written with an exponent.
    """
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
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
    return strip(str(value))


def strip(text: str) -> str:
    """Return text composed, without what cannot be seen at its ends."""
    return composed(text).strip().strip(INVISIBLE).strip()
