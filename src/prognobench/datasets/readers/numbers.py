"""Numbers as people write them: with a unit, a decimal comma, separators of thousands.

A column is read by the one convention that fits all of its cells, never cell by cell: ``1.734`` is
a thousand in one spreadsheet and a decimal in another.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from prognobench.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

WRITTEN_NUMBER = re.compile(
    r"(?P<sign>[+\u2212-]?)"
    r"(?P<body>(?:\d|[.,](?=\d))(?:[\d.,'\u2019]|\s(?=\d))*(?:[eEdD][+-]?\d+(?![^\W_]))?)"
    # 71%, 80 years, 5 mg/dl; not a second number, as in 3 days 02:00
    r"(?P<unit>\s*(?:[%\u2030\u00b0]|(?![dDeE][+-]?\d)[^\W\d_])[^\s:]*(?:\s[^\W\d_][^\s:]*)?)?"
)
"""A number as people write it; the body is what a convention has to explain."""

EXPONENT = re.compile(r"[eEdD][+-]?\d+")
"""Fortran and SAS write 1.5D+03."""

ONE_LETTER_UNITS = frozenset("ydhgls%\u2030\u00b0")
"""Single characters that are units; others behind numbers (1A, 2A) make names of them."""

DICOM_AGE = re.compile(r"(\d{3})([DWMY])")
IN_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
"""Unit of an age as DICOM writes it (080Y, 006M) -> years."""


class Convention(NamedTuple):
    """A decimal mark, and what stands between thousands."""

    decimal: str
    thousands: str

    def fits(self, body: str) -> bool:
        fraction = rf"(?:\{self.decimal}\d+)?"
        whole = rf"(?:\d+|[1-9]\d{{0,2}}(?:[{self.thousands}]\d{{3}})+)?"
        return bool(re.fullmatch(rf"{whole}{fraction}(?:{EXPONENT.pattern})?", body))

    def value(self, body: str) -> float:
        plain = re.sub(f"[{self.thousands}]", "", body).replace(self.decimal, ".")
        return float(plain.casefold().replace("d", "e"))


CONVENTIONS = (
    *(Convention(decimal, thousands) for decimal in ".," for thousands in ("'\u2019", r"\s")),
    *(Convention(".", ","), Convention(",", ".")),
)


@dataclass(frozen=True)
class Written:
    """How the cells of a column are read.

    Attributes
    ----------
    values
        The numbers, under the rows of their cells.
    rule
        What a reader of the results should know of it, without a value of the table.
    """

    values: pd.Series[float]
    rule: str


def mark_written_numbers(cells: pd.Series[str]) -> pd.Series[bool]:
    """Which cells are numbers as people write them.

    Different single letters behind numbers (1A, 1B, 2A) make names of them.
    """
    matches = cells.map(WRITTEN_NUMBER.fullmatch)
    units = matches.map(lambda match: _unit(match) if match else "")
    letters = units.str.fullmatch(r"[^\W\d_]")
    one_letter = units[letters].nunique() < 2
    return matches.astype(bool) & (~letters | one_letter)


def mark_unusual(cells: pd.Series[str]) -> pd.Series[bool]:
    """Which cells are not written as most are: another convention, another unit, no number."""
    matches = cells.map(WRITTEN_NUMBER.fullmatch)
    units = matches.map(lambda match: _unit(match) if match else None)
    usual = units.mode()
    of_unit = matches.notna() & units.isin(usual[:1])
    fitting = [
        of_unit & matches.map(lambda match, each=each: bool(match) and each.fits(match["body"]))
        for each in CONVENTIONS
    ]
    return ~max(fitting, key=lambda fits: int(fits.sum()))


def read_written_numbers(cells: pd.Series[str], places: pd.Series[str]) -> Written | None:
    """Read a column whose cells all follow one convention and have one unit.

    Parameters
    ----------
    cells
        The filled cells.
    places
        What messages call each row.

    Returns
    -------
    None if no convention fits all cells.

    Raises
    ------
    DataError
        If several conventions fit, and give different numbers.
    """
    if cells.str.fullmatch(DICOM_AGE.pattern).all():
        return _read_ages(cells)
    matches = [WRITTEN_NUMBER.fullmatch(cell) for cell in cells]
    found = [match for match in matches if match]
    units = {_unit(match) for match in found}
    if len(found) < len(cells) or len(units) > 1:
        return None
    unit = units.pop()
    if len(unit) == 1 and unit not in ONE_LETTER_UNITS:
        return None
    bodies = [match["body"] for match in found]
    fitting = [each for each in CONVENTIONS if all(map(each.fits, bodies))]
    readings = {tuple(map(each.value, bodies)): each for each in reversed(fitting)}
    if not readings:
        return None
    if len(readings) > 1 or _is_unproven(fitting[0], bodies):
        _refuse_ambiguous(cells, places, bodies)
    (values, convention), *_ = readings.items()
    signed = [-v if m["sign"] in ("-", "\u2212") else v for v, m in zip(values, found, strict=True)]
    read = cells.index.to_series().map(dict(zip(cells.index, signed, strict=True))).astype(float)
    return Written(read, _describe(convention, bodies, unit))


def _unit(match: re.Match[str]) -> str:
    return " ".join((match["unit"] or "").casefold().split())


def _read_ages(cells: pd.Series[str]) -> Written:
    parts = cells.str.extract(DICOM_AGE.pattern)
    years = parts[0].astype(float) * parts[1].map(IN_YEARS)
    return Written(years, "ages as DICOM writes them, in years: '006M' is read as 0.5")


def _is_unproven(convention: Convention, bodies: Sequence[str]) -> bool:
    """Whether points or commas may stand between thousands, and no cell shows that they do.

    ``1,734`` beside ``950.5`` may as well be a decimal that someone else typed.
    """
    if convention.thousands not in (",", "."):
        return False
    grouped = [body for body in bodies if convention.thousands in body]
    return bool(grouped) and not any(
        convention.decimal in body or body.count(convention.thousands) > 1 for body in grouped
    )


def _refuse_ambiguous(cells: pd.Series[str], places: pd.Series[str], bodies: Sequence[str]) -> None:
    unclear = [bool(re.fullmatch(r"[1-9]\d{0,2}[.,]\d{3}", body)) for body in bodies]
    at = unclear.index(True)
    raise DataError(
        f"column {str(cells.name)!r}: {cells.iloc[at]!r} in {places.iloc[at]} may be thousands or "
        f"decimals ({sum(unclear)} such rows), and no other cell tells which; write 1734, or 1.7340"
    )


def _describe(convention: Convention, bodies: Sequence[str], unit: str) -> str:
    """Say how numbers are written, with an example that is none of them."""
    used = "".join(bodies)
    parts, example, value = [], "1", "1"
    if marks := re.findall(f"[{convention.thousands}]", used):
        parts.append(f"{marks[0]!r} between thousands")
        example, value = f"1{marks[0]}234", "1234"
    if convention.decimal == "," and "," in used:
        parts.append("a decimal comma")
        example, value = f"{example},5", f"{value}.5"
    if unit:
        parts.append(f"the unit {unit!r}")
        example += "" if unit in ONE_LETTER_UNITS else " "
        example += unit
    if not parts:
        return "numbers in an unusual notation (1.5D+03, other minus signs or digits)"
    return f"numbers with {' and '.join(parts)}: {example!r} is read as {value}"
