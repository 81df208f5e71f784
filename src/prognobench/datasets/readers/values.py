"""Cells of text become outcomes, positions in time, and covariates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prognobench.datasets.readers.spelling import composed
from prognobench.errors import DataError, listed

if TYPE_CHECKING:
    import pandas as pd

Label = str | int | float | bool
"""A value of an outcome, as a config gives it."""

MOST_CLASSES = 20
"""More values than that are taken for a number or a name, unless they are declared."""

ERRORS = ("#n/a", "#ref!", "#value!", "#div/0!", "#name?", "#num!", "#null!")
BLANKS = frozenset(("", "?", "na", "n/a", "nan", "nat", "null", "<na>", *ERRORS))
"""What programs write where nothing is known, in lower case."""

NAMELESS = BLANKS | {"none", "-", "--", "unknown"}
"""What stands for no patient and no centre; an outcome may be called so."""

DATES = (
    *("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y"),
    *("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%B %d, %Y", "%b %d, %Y", "%d-%b-%Y", "%d %B %Y"),
)
TIMES = (
    *("", " %H:%M:%S", " %H:%M", " %H:%M:%S.%f", " %I:%M:%S %p", " %I:%M %p"),
    *(" %H:%M:%S%z", " %H:%M:%S.%f%z"),
)
FORMS = tuple(date + time for date in DATES for time in TIMES)


def canonical(value: Label) -> str:
    """Return a label as text such that ``1``, ``1.0`` and ``"1"`` are one, and ``True`` and
    ``"TRUE"`` are.
    """
    text = composed(str(value)).strip()
    if re.fullmatch(r"[+-]?\d+\.0+", text):
        return text.partition(".")[0]
    return text.lower() if text.lower() in ("true", "false") else text


def labels_and_classes(
    cells: pd.Series[str],
    where: str,
    positive: Label | None,
    declared: Sequence[Label] | None,
) -> tuple[pd.Series[str], tuple[str, ...]]:
    """Return canonical labels, blank where unknown, and the classes.

    With ``positive`` the outcome is binary and the positive class the second. Else the classes
    are those declared, in that order; else the values found: false and true, 0 and 1, or more
    than two in sorted order.

    Parameters
    ----------
    where
        Names table and column, for messages.

    Raises
    ------
    DataError
        If the classes do not follow from the values.
    """
    labels = cells.map(canonical)
    classes = [canonical(value) for value in declared or ()]
    if len(set(classes)) != len(classes):
        raise DataError(f"dataset.classes names a class twice: {', '.join(classes)}")
    if not classes:
        labels = labels.where(~labels.str.casefold().isin(BLANKS), "")
        found = sorted(set(labels) - {""}, key=_by_number)
        classes = found
    told = [f"{str(v) or '(blank)'!r} ({n})" for v, n in labels.value_counts().items()]
    counts = listed(told, MOST_CLASSES)
    if declared is None and len(classes) > MOST_CLASSES:
        raise DataError(
            f"{where}: found {len(classes)} values, {listed(classes, 5)}; an outcome has a few "
            "classes: is this the right column? If so, declare them with dataset.classes"
        )
    folded = Counter(value.casefold() for value in classes)
    if declared is None and (alike := [v for v in classes if folded[v.casefold()] > 1]):
        raise DataError(
            f"{where}: {' and '.join(map(repr, alike))} differ only in case ({counts}); write them "
            "alike in the table"
        )
    if positive is None:
        if (
            declared is None
            and len(classes) == 2
            and classes not in (["0", "1"], ["false", "true"])
        ):
            raise DataError(
                f"{where}: found {counts}; say which is the positive one, as in "
                f"dataset.positive={classes[1]!r}"
            )
        if len(classes) == 1:
            raise DataError(f"{where}: one value only, {counts}; there is nothing to predict")
        return labels, tuple(classes)
    chosen = canonical(positive)
    if chosen not in classes:
        raise DataError(f"{where}: dataset.positive={positive!r} is not among {counts}")
    others = [value for value in classes if value != chosen]
    if len(others) != 1:
        kind = f"found {counts}" if declared is None else f"declared {', '.join(classes)}"
        raise DataError(
            f"{where}: {kind}; a binary outcome has two values. Declare them, as in "
            f"dataset.classes=[NEGATIVE,{chosen}] (with dataset.on_unknown_label=drop the others "
            "are left out), or leave out dataset.positive for several classes"
        )
    return labels, (others[0], chosen)


def decoded(cells: pd.Series[str], where: str, words: Mapping[str, str]) -> pd.Series[str]:
    """Replace the words of a known table by the names of classes, blanks by nothing.

    Parameters
    ----------
    words
        Word in lower case -> class.

    Raises
    ------
    DataError
        Saying which words were expected and which were found.
    """
    labels = cells.map(canonical).str.lower()
    labels = labels.where(~labels.isin(BLANKS), "")
    unknown = cells[~labels.isin([*words, ""])]
    if len(unknown):
        found = [f"{value!r} ({count})" for value, count in unknown.value_counts().items()]
        raise DataError(
            f"{where}: expected {', '.join(words)} or blank, found {listed(found)}, the first in "
            f"row {unknown.index[0]}; correct the table, or read it with dataset=table, where "
            "the words are settings"
        )
    return labels.replace(dict(words))


def positions(cells: pd.Series[str], where: str) -> pd.Series[float]:
    """Return positions in time, NaN where blank: numbers as they are, dates as days.

    Raises
    ------
    DataError
        If cells are neither, or day and month could be exchanged.
    """
    import pandas as pd

    filled = cells[~cells.str.casefold().isin(BLANKS)]
    result = pd.Series(float("nan"), index=cells.index, dtype=float)
    days = _days(filled, where)
    if days is None:
        days = pd.to_numeric(filled, errors="coerce")
        days = days.where(days.abs() < float("inf"))
    if days.isna().any():
        wrong = filled[~_of_the_usual_form(filled, days.notna())]
        told = [f"{value!r} in row {row}" for row, value in wrong.items()]
        raise DataError(
            f"{where}: neither all numbers nor all dates of one form: {listed(told, 5)}; "
            "write dates as 2020-03-31"
        )
    result[days.index] = days
    return result


def _of_the_usual_form(cells: pd.Series[str], numbers: pd.Series[bool]) -> pd.Series[bool]:
    """Which cells are written as most are: as numbers, or as dates of one form; if not all are."""
    usual = numbers
    texts = _plain_dates(cells)
    for form in FORMS:
        fitting = texts.map(lambda text, form=form: _moment(text, form) is not None)
        if fitting.sum() > usual.sum():
            usual = fitting
    return usual


def _plain_dates(cells: pd.Series[str]) -> pd.Series[str]:
    texts = cells.str.replace(r"(?<=\d)T(?=\d)", " ", regex=True)
    texts = texts.str.replace(r"(\.\d{6})\d+", r"\1", regex=True)
    if texts.str.contains(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d").any():  # a day is its midnight
        texts = texts.str.replace(r"^(\d{4}-\d\d-\d\d)$", r"\1 00:00:00", regex=True)
    if texts.str.contains(r":\d\d\.\d").any():  # programs write no fraction where it is zero
        texts = texts.str.replace(r"(:\d\d:\d\d)(?![\d.])", r"\1.0", regex=True)
    return texts.str.replace(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", regex=True)


def _moment(text: str, form: str) -> datetime | None:
    """Read a date and time, in UTC where it has a zone; None if it is of another form."""
    try:
        moment = datetime.strptime(text, form)
    except ValueError:
        return None
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def _days(cells: pd.Series[str], where: str) -> pd.Series[float] | None:
    """Read dates by the one form that fits all of them; None if none does."""
    texts = _plain_dates(cells)
    readings: dict[str, pd.Series[float]] = {}
    for form in FORMS:
        days = []
        for text in texts:
            if (moment := _moment(text, form)) is None:
                break
            days.append((moment - datetime(1970, 1, 1)).total_seconds() / 86400)
        else:
            readings.setdefault(str(days), cells.map(dict(zip(cells, days, strict=True))))
    if len(readings) > 1:
        raise DataError(
            f"{where}: day and month cannot be told apart, as in {cells.iloc[0]!r}; "
            "write dates as 2020-03-31"
        )
    return next(iter(readings.values()), None) if len(cells) else None


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
    with_comma = cells.str.fullmatch(r"[+-]?\d+,\d+")
    words = numbers.isna() & ~blank
    mostly_numbers = 2 * (numbers.notna() | with_comma).sum() > (~blank).sum()
    wrong = infinite | words if mostly_numbers else infinite
    if wrong.any():
        told = [f"{v!r} in {at}" for v, at in zip(cells[wrong], places[wrong], strict=True)]
        raise DataError(
            f"column {str(cells.name)!r}: {listed(told, 5)} is no finite number, as "
            f"{'most' if mostly_numbers else 'covariates'} are; write numbers with a point and "
            "without separators of thousands, or leave the cell blank; codes that are no numbers "
            "need a letter before each, or dataset=table and its setting dataset.codes"
        )
    return as_names(cells) if words.any() else numbers.astype(float)


def as_names(cells: pd.Series[str]) -> pd.Series[str]:
    """Return text as the names that it is, blank where programs write that there is none."""
    return cells.mask(cells.str.casefold().isin(BLANKS), "")


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text
