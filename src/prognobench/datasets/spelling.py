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


def lookalikes(names: pd.Series[str], places: pd.Series[str], what: str) -> list[str]:
    """Return a fault for each patient or centre that is split in two by how its name is written.

    Parameters
    ----------
    places
        What messages call the row of each name.
    what
        The names are of, in the plural.
    """
    spellings: dict[str, dict[str, str]] = defaultdict(dict)
    firsts = ~names.duplicated()
    for name, where in zip(names[firsts], places[firsts], strict=True):
        spellings[_without_spelling(name)][name] = where
    return [
        f"{what} {' and '.join(f'{name!a} ({where})' for name, where in found.items())} "
        "differ only in case, spaces, leading zeros or how a number is written; write one the "
        "same everywhere, as text"
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
