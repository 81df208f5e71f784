"""Positions in time: numbers as they are, dates as days since 1970.

Dates are read by the one form that fits a whole column, not cell by cell with dateutil: that takes
``31/12/2019`` and ``1/2/2020`` of one column for day-month and month-day, and reads ``10`` as the
tenth of the current month.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prognobench.datasets.readers.values import BLANKS
from prognobench.errors import DataError, listed

if TYPE_CHECKING:
    import pandas as pd

DAYS = (
    *("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y"),
    *("%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%B %d, %Y", "%b %d, %Y", "%d-%b-%Y", "%d %B %Y"),
)
TIMES = (
    *("", " %H:%M:%S", " %H:%M", " %H:%M:%S.%f", " %I:%M:%S %p", " %I:%M %p"),
    *(" %H:%M:%S%z", " %H:%M:%S.%f%z"),
)
FORMS = tuple(day + time for day in DAYS for time in TIMES)

EPOCH = datetime(1970, 1, 1)


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
    days = _read_days(filled, where)
    if days is None:
        days = pd.to_numeric(filled, errors="coerce")
        days = days.where(days.abs() < float("inf"))
    if days.isna().any():
        wrong = filled[~_mark_usual_form(filled, days.notna())]
        found = [f"{value!r} in row {row}" for row, value in wrong.items()]
        raise DataError(
            f"{where}: neither all numbers nor all dates of one form: {listed(found, 5)}; "
            "write dates as 2020-03-31"
        )
    result[days.index] = days
    return result


def days_since_1970(text: str, form: str) -> float:
    """Return a date as days; NaN if it does not have the form."""
    try:
        return (datetime.strptime(text.strip(), form) - EPOCH).days
    except ValueError:
        return float("nan")


def _read_days(cells: pd.Series[str], where: str) -> pd.Series[float] | None:
    """Read dates by the one form that fits all of them; None if none does."""
    texts = _normalise(cells)
    # Forms that give the same days are one reading: a column of 5/5/2020 alone is clear.
    readings: dict[str, pd.Series[float]] = {}
    for form in FORMS:
        days = []
        for text in texts:
            if (moment := _parse(text, form)) is None:
                break
            days.append((moment - EPOCH).total_seconds() / 86400)
        else:
            readings.setdefault(str(days), cells.map(dict(zip(cells, days, strict=True))))
    if len(readings) > 1:
        raise DataError(
            f"{where}: day and month cannot be told apart, as in {cells.iloc[0]!r}; "
            "write dates as 2020-03-31"
        )
    return next(iter(readings.values()), None) if len(cells) else None


def _mark_usual_form(cells: pd.Series[str], numbers: pd.Series[bool]) -> pd.Series[bool]:
    """Which cells are written as most are: as numbers, or as dates of one form; if not all are."""
    usual = numbers
    texts = _normalise(cells)
    for form in FORMS:
        fitting = texts.map(lambda text, form=form: _parse(text, form) is not None)
        if fitting.sum() > usual.sum():
            usual = fitting
    return usual


def _normalise(cells: pd.Series[str]) -> pd.Series[str]:
    """Bring the variants that programs mix within one column to one form."""
    texts = cells.str.replace(r"(?<=\d)T(?=\d)", " ", regex=True)
    texts = texts.str.replace(r"(\.\d{6})\d+", r"\1", regex=True)  # strptime reads six digits
    if texts.str.contains(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d").any():  # a day is its midnight
        texts = texts.str.replace(r"^(\d{4}-\d\d-\d\d)$", r"\1 00:00:00", regex=True)
    if texts.str.contains(r":\d\d\.\d").any():  # programs write no fraction where it is zero
        texts = texts.str.replace(r"(:\d\d:\d\d)(?![\d.])", r"\1.0", regex=True)
    return texts.str.replace(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", regex=True)


def _parse(text: str, form: str) -> datetime | None:
    """Read a date and time, in UTC where it has a zone; None if it is of another form."""
    try:
        moment = datetime.strptime(text, form)
    except ValueError:
        return None
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
