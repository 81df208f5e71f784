"""Names that stand for one thing, written in two ways."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def composed(text: str) -> str:
    """Return text whose accents are part of their letters (Unicode NFC).

    Some systems write names of files, and what is copied from them, with the two apart.
    """
    return unicodedata.normalize("NFC", text)


def lookalikes(
    names: pd.Series[str], places: pd.Series[str], what: str, *, strict: bool
) -> list[str]:
    """Return a fault for each patient or centre that is split in two by how its name is written.

    Parameters
    ----------
    places
        What messages call the row of each name.
    what
        The names are of, in the plural.
    strict
        Case, separators and leading zeros never tell two names apart, not even in codes and where
        there are several numbers. Some sites mean different patients, so there must be a way out.
    """
    plain, marks = (bare, "dashes, underscores, dots, ") if strict else (_without_spelling, "")
    spellings: dict[str, dict[str, str]] = defaultdict(dict)
    firsts = ~names.duplicated()
    for name, where in zip(names[firsts], places[firsts], strict=True):
        spellings[plain(name)][name] = where
    return [
        f"{what} {' and '.join(f'{name!a} ({where})' for name, where in found.items())} "
        f"differ only in case, spaces, {marks}leading zeros or how a number is written; write one "
        "the same everywhere, as text"
        for found in spellings.values()
        if len(found) > 1
    ]


def _without_spelling(name: str) -> str:
    """What is left of a name without what programs and typists change."""
    plain = unicodedata.normalize("NFKC", name)
    kept = "".join(c for c in plain if unicodedata.category(c) != "Cf")
    kept = " ".join(kept.removeprefix("'").split())
    letters = "".join(filter(str.isalpha, kept))
    if letters in (letters.upper(), letters.lower(), letters.capitalize()):  # else it is a code
        kept = kept.casefold()
    if re.fullmatch(r"\d{1,3}(,\d{3})+", kept):
        kept = kept.replace(",", "")
    if re.fullmatch(r"\d+\.0+", kept):
        kept = kept.partition(".")[0]
    if len(re.findall(r"\d+", kept)) == 1:
        kept = re.sub(r"(?<!\d)0+(?=\d)", "", kept)
    return kept


def bare(name: str) -> str:
    """Only the letters and numbers of a name; two numbers side by side stay apart (1-11, 11-1)."""
    plain = _without_spelling(name).casefold()
    kept = "".join("-" if _separates(c) else c for c in plain)
    kept = re.sub("-+", "-", kept)
    kept = re.sub(r"(?<!\d)-|-(?!\d)", "", kept)
    return re.sub(r"(?<!\d)0+(?=\d)", "", kept)


def _separates(c: str) -> bool:
    """Whether a character is a space, a dash (or minus), an underscore or a dot."""
    return c.isspace() or c in ".\N{MINUS SIGN}" or unicodedata.category(c) in ("Pd", "Pc")
