"""Cells of text become covariates: numbers where they are numbers, else names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prognobench.datasets.readers.values import BLANKS, NAMELESS
from prognobench.errors import DataError, listed

if TYPE_CHECKING:
    import pandas as pd

WRITTEN_NUMBER = re.compile(
    r"[+\u2212-]?\d[\d.,'\u2019]*(?:\s\d{3})*[\d.,]*"  # 1.734,5 or 1 734.5
    r"(?P<unit>\s*(?:[%\u2030\u00b0]|[^\W\d_])\S*(?:\s\S+)?)?"  # 71%, 80 years, 5 mg/dl
)
"""A number as people write it: separators of thousands, a decimal comma, a unit."""

SENTINEL = re.compile(r"-9{2,}(\.0+)?")
"""What some programs write for a missing number: -99, -999."""


def covariate(cells: pd.Series[str], places: pd.Series[str]) -> pd.Series[float] | pd.Series[str]:
    """Return numbers, NaN where blank, if the filled cells are numbers; else the text.

    Parameters
    ----------
    places
        What messages call each row.

    Raises
    ------
    DataError
        If a number is infinite, or most cells are numbers and some are not: one ``>89`` would
        make names of all ages.
    """
    import pandas as pd

    blank = cells.str.casefold().isin(NAMELESS)
    numbers = pd.to_numeric(cells.where(~blank), errors="coerce")
    infinite = numbers.abs() == float("inf")
    words = numbers.isna() & ~blank
    number_like = numbers.notna() | (words & _mark_written_numbers(cells))
    mostly_numbers = 2 * number_like.sum() > (~blank).sum()
    wrong = infinite | words if mostly_numbers else infinite
    if wrong.any():
        found = [f"{v!r} in {at}" for v, at in zip(cells[wrong], places[wrong], strict=True)]
        raise DataError(
            f"column {str(cells.name)!r}: {listed(found, 5)} is no finite number, as "
            f"{'most' if mostly_numbers else 'covariates'} are; write numbers with a point, "
            "without units and separators of thousands, or leave the cell blank; codes that are "
            "no numbers need a letter before each, or dataset=table and its setting dataset.codes"
        )
    if words.any():
        return as_names(cells)
    _refuse_sentinels(cells, numbers, places)
    _refuse_thousands(cells, places)
    return numbers.astype(float)


def _mark_written_numbers(cells: pd.Series[str]) -> pd.Series[bool]:
    """Which cells are numbers as people write them.

    Different single letters behind numbers (1A, 1B, 2A) make names of them.
    """
    matches = cells.map(WRITTEN_NUMBER.fullmatch)
    units = matches.map(lambda match: (match["unit"] or "").casefold() if match else "")
    letters = units.str.fullmatch(r"[^\W\d_]")
    one_letter = units[letters].nunique() < 2
    return matches.astype(bool) & (~letters | one_letter)


def _refuse_sentinels(
    cells: pd.Series[str], numbers: pd.Series[float], places: pd.Series[str]
) -> None:
    """Refuse -999 among numbers that are never negative: it is no measurement."""
    sentinel = cells.str.fullmatch(SENTINEL.pattern)
    if sentinel.any() and not (numbers[~sentinel] < 0).any():
        first = cells[sentinel].iloc[0]
        raise DataError(
            f"column {str(cells.name)!r}: {first!r} in {places[sentinel].iloc[0]} stands among "
            f"numbers that are never negative ({int(sentinel.sum())} such rows); it seems to mean "
            "that the value is missing: leave these cells blank"
        )


def _refuse_thousands(cells: pd.Series[str], places: pd.Series[str]) -> None:
    """Refuse 1.734 beside 950: a German spreadsheet means the larger one of the two."""
    dotted = cells.str.contains(".", regex=False)
    grouped = cells.str.fullmatch(r"[+-]?[1-9]\d{0,2}\.\d{3}")
    hundreds = cells.str.fullmatch(r"[+-]?[1-9]\d\d")
    beyond = cells.str.fullmatch(r"[+-]?\d{4,}")
    if grouped.any() and (grouped | ~dotted).all() and hundreds.any() and not beyond.any():
        raise DataError(
            f"column {str(cells.name)!r}: {cells[grouped].iloc[0]!r} in "
            f"{places[grouped].iloc[0]} beside {cells[hundreds].iloc[0]!r} in "
            f"{places[hundreds].iloc[0]} may be thousands or decimals; write 1734, or 1.7340"
        )


def as_names(cells: pd.Series[str]) -> pd.Series[str]:
    """Return text as the names that it is, blank where programs write that there is none."""
    return cells.mask(cells.str.casefold().isin(BLANKS), "")
