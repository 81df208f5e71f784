"""Cells of text become outcomes, and what stands for no value."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from prognobench.datasets.readers.spelling import composed
from prognobench.errors import DataError, listed

if TYPE_CHECKING:
    import pandas as pd

Label = str | int | float | bool
"""A value of an outcome, as a config gives it."""

MOST_CLASSES = 20
"""A column with more values is taken for numbers or names, unless its classes are declared."""

TRUTH = {"true": "1", "false": "0"}
"""What joined tables write in one column: TRUE in one half, 1 in the other."""

ORDERED_PAIRS = (["0", "1"], ["false", "true"])
"""Two values of which everybody knows which is the positive one."""

ERRORS = ("#n/a", "#ref!", "#value!", "#div/0!", "#name?", "#num!", "#null!")
BLANKS = frozenset(("", "?", "na", "n/a", "nan", "nat", "null", "<na>", *ERRORS))
"""What programs write where nothing is known, in lower case."""

NAMELESS = BLANKS | {"none", "-", "--", "unknown"}
"""What stands for no patient and no centre; an outcome may be called so."""


def canonical(value: Label) -> str:
    """Return a label as text such that ``1``, ``1.0``, ``1,0`` and ``"1"`` are one, and ``True``
    and ``"TRUE"`` are.
    """
    text = composed(str(value)).strip()
    if re.fullmatch(r"[+-]?\d+(\.0+|,00?)", text):
        return re.split("[.,]", text)[0]
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
        labels = _unify_truth(labels)
        classes = sorted(set(labels) - {""}, key=_number_first)
    counts = listed(_count_values(labels), MOST_CLASSES)
    if declared is None:
        _refuse_odd_classes(classes, counts, where)
    if positive is not None:
        return labels, _binary_classes(classes, counts, where, positive, declared is not None)
    if declared is None and len(classes) == 2 and classes not in ORDERED_PAIRS:
        raise DataError(
            f"{where}: found {counts}; say which is the positive one, as in "
            f"dataset.positive={classes[1]!r}"
        )
    if len(classes) == 1:
        raise DataError(f"{where}: one value only, {counts}; there is nothing to predict")
    return labels, tuple(classes)


def _count_values(labels: pd.Series[str]) -> list[str]:
    """Each value and how often it stands; what stands once may be no outcome but a second header,
    a unit or a typing error: with its row.
    """
    rows = {str(value): row for row, value in labels.items()}
    return [
        f"{str(value) or '(blank)'!r} ({f'once, in row {rows[str(value)]}' if n == 1 else n})"
        for value, n in labels.value_counts().items()
    ]


def _unify_truth(labels: pd.Series[str]) -> pd.Series[str]:
    """Write 1 and 0 for true and false where a column has both kinds and nothing else."""
    found = set(labels) - {""}
    mixed = found & TRUTH.keys() and found & set(TRUTH.values())
    return labels.replace(TRUTH) if mixed and found <= {*TRUTH, *TRUTH.values()} else labels


def _refuse_odd_classes(classes: Sequence[str], counts: str, where: str) -> None:
    """Refuse values found in a column that cannot be meant as classes."""
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"{where}: found {len(classes)} values, {listed(classes, 5)}; an outcome has a few "
            "classes: is this the right column? If so, declare them with dataset.classes"
        )
    folded = Counter(value.casefold() for value in classes)
    if alike := [value for value in classes if folded[value.casefold()] > 1]:
        raise DataError(
            f"{where}: {' and '.join(map(repr, alike))} differ only in case ({counts}); write them "
            "alike in the table"
        )


def _binary_classes(
    classes: Sequence[str], counts: str, where: str, positive: Label, declared: bool
) -> tuple[str, str]:
    """The negative and the positive class."""
    chosen = canonical(positive)
    if chosen not in classes and TRUTH.get(chosen) in classes:
        chosen = TRUTH[chosen]
    if chosen not in classes:
        raise DataError(f"{where}: dataset.positive={positive!r} is not among {counts}")
    others = [value for value in classes if value != chosen]
    if len(others) != 1:
        kind = f"declared {', '.join(classes)}" if declared else f"found {counts}"
        raise DataError(
            f"{where}: {kind}; a binary outcome has two values. Declare them, as in "
            f"dataset.classes=[NEGATIVE,{chosen}] (with dataset.on_unknown_label=drop the others "
            "are left out), or leave out dataset.positive for several classes"
        )
    return others[0], chosen


def translate(cells: pd.Series[str], where: str, words: Mapping[str, str]) -> pd.Series[str]:
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


def _number_first(text: str) -> tuple[float, str]:
    """Sorts numbers by value and before words."""
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text
