"""Cells of text become covariates: numbers where they are numbers, else names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prognobench.datasets.readers.numbers import (
    mark_unusual,
    mark_written_numbers,
    read_written_numbers,
)
from prognobench.datasets.readers.values import BLANKS, NAMELESS, Label, canonical
from prognobench.errors import DataError, listed

if TYPE_CHECKING:
    import pandas as pd

SENTINEL = re.compile(r"[-\u2212]9{2,}([.,]0+)?")
"""What some programs write for a missing number: -99, -999."""

NINES = re.compile(r"9{3,}([.,]0+)?")
"""The same where it may as well be a measurement."""

MANY_NAMES = 20
"""So many different names in most rows of a column are no groups of patients."""

FAR = 3
"""A number so many times as far from zero as all others may mean that there is none."""


def covariate(
    cells: pd.Series[str],
    places: pd.Series[str],
    notes: list[str] | None = None,
    missing: Sequence[Label] | None = None,
) -> pd.Series[float] | pd.Series[str]:
    """Return numbers, NaN where blank, if the filled cells are numbers; else the text.

    Parameters
    ----------
    places
        What messages call each row.
    notes
        Gets a sentence where numbers were not written as programs write them.
    missing
        Values that mean that nothing is known. Unless they are given, a number that looks like
        one is an error.

    Raises
    ------
    DataError
        If a number is infinite, or most cells are numbers and some are not: one ``>89`` would
        make names of all ages. If it is unclear what a number means.
    """
    import pandas as pd

    said: list[str] = []
    cells = cells.mask(cells.map(canonical).isin(set(map(canonical, missing or ()))), "")
    blank = cells.str.casefold().isin(NAMELESS)
    numbers = pd.to_numeric(cells.where(~blank), errors="coerce")
    infinite = numbers.abs() == float("inf")
    words = numbers.isna() & ~blank
    if words.any() and not infinite.any():
        written = read_written_numbers(cells[~blank], places[~blank])
        if written is not None:
            numbers = written.values.reindex(cells.index)
            words = numbers.isna() & ~blank
            said.append(written.rule)
    known: pd.Series[float] | pd.Series[str]
    if words.any() or infinite.any():
        _refuse_words_among_numbers(cells, places, infinite, words, blank)
        known = as_names(cells)
        said += (*_note_many_names(known), *_note_case(known))
    else:
        if missing is None:
            _refuse_sentinels(cells, numbers, places)
            said += _note_nines(cells, numbers)
        _refuse_thousands(cells, places)
        known = numbers.astype(float).mask(numbers.isin(_numbers_among(missing or ())))
    if notes is not None:
        notes += [f"column {str(cells.name)!r}: {sentence}" for sentence in said]
    return known


def _numbers_among(values: Sequence[Label]) -> list[float]:
    """A missing value may be written -999, -999.0 or -999,0."""
    import pandas as pd

    texts = pd.Series([canonical(value) for value in values], dtype=object)
    return pd.to_numeric(texts, errors="coerce").dropna().tolist()


def _refuse_words_among_numbers(
    cells: pd.Series[str],
    places: pd.Series[str],
    infinite: pd.Series[bool],
    words: pd.Series[bool],
    blank: pd.Series[bool],
) -> None:
    number_like = ~words & ~blank | (words & mark_written_numbers(cells))
    mostly_numbers = 2 * number_like.sum() > (~blank).sum()
    wrong = infinite
    if mostly_numbers and words.any():
        unusual = mark_unusual(cells[~blank]).reindex(cells.index, fill_value=False)
        # All of one kind, as of letters that may be units, are named for what they are not.
        wrong = infinite | (unusual if unusual.any() else words)
    if wrong.any():
        found = [f"{v!r} in {at}" for v, at in zip(cells[wrong], places[wrong], strict=True)]
        raise DataError(
            f"column {str(cells.name)!r}: {listed(found, 5)} is no finite number, as "
            f"{'most' if mostly_numbers else 'covariates'} are; write all numbers in one way (one "
            "decimal mark, one unit), or leave the cell blank; codes that are no numbers need a "
            "letter before each, or dataset=table and its setting dataset.codes"
        )


def _refuse_sentinels(
    cells: pd.Series[str], numbers: pd.Series[float], places: pd.Series[str]
) -> None:
    """Refuse -999 among numbers that never come near it: it is no measurement."""
    sentinel = cells.str.fullmatch(SENTINEL.pattern) & numbers.notna()
    if not sentinel.any():
        return
    others = numbers[~sentinel & numbers.notna()]
    if not len(others) or numbers[sentinel].max() <= FAR * min(others.min(), 0.0):
        first = cells[sentinel].iloc[0]
        raise DataError(
            f"column {str(cells.name)!r}: {first!r} in {places[sentinel].iloc[0]} is far below all "
            f"other numbers ({int(sentinel.sum())} such rows); it seems to mean that the value is "
            "missing: leave these cells blank, or name what means that with dataset=table and its "
            "setting dataset.missing ([] if nothing does)"
        )


def _note_nines(cells: pd.Series[str], numbers: pd.Series[float]) -> list[str]:
    """Ask about 999 far above all other numbers: a missing value, or a measurement."""
    nines = cells.str.fullmatch(NINES.pattern) & numbers.notna()
    others = numbers[~nines & numbers.notna()]
    if not nines.any() or not len(others) or numbers[nines].min() < FAR * others.abs().max():
        return []
    return [
        f"{cells[nines].iloc[0]!r} ({int(nines.sum())} rows) is far above all other numbers; if it "
        "means that the value is missing, name it with dataset.missing"
    ]


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


def _note_many_names(names: pd.Series[str]) -> list[str]:
    """Ask about a column whose names say nothing: a pair of numbers (120/80), times, ids."""
    filled = names[names != ""]
    different = filled.nunique()
    if different <= MANY_NAMES or 2 * different <= len(filled):
        return []
    return [
        # Without an example, which the report would show: it may name a patient.
        f"{different} different names in {len(filled)} rows; a name that occurs once says nothing. "
        "If these are numbers, write them as numbers"
    ]


def _note_case(names: pd.Series[str]) -> list[str]:
    """Ask about names that differ only in case, which are different ones here."""
    different = names[names != ""].drop_duplicates()
    alike = int(different.str.casefold().duplicated().sum())
    if not alike:
        return []
    return [
        f"{alike} of {len(different)} names differ from another one only in case, and are taken "
        "for different ones; write them alike"
    ]


def as_names(cells: pd.Series[str]) -> pd.Series[str]:
    """Return text as the names that it is, blank where programs write that there is none."""
    return cells.mask(cells.str.casefold().isin(BLANKS), "")
