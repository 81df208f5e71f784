"""What can go wrong, as the user should hear it: what, where, and the way out."""

from __future__ import annotations

import errno
import unicodedata
from collections.abc import Iterable

LONGEST = 500
"""Characters of one thing in a message; of a longer one the middle is left out."""


class PrognobenchError(Exception):
    """An error whose message is meant for the user; shown without a traceback."""


class FaultsError(PrognobenchError):
    """Several faults of one thing, reported together.

    Parameters
    ----------
    faults
        One sentence each: what is wrong, where, and what to do.
    """

    def __init__(self, faults: Iterable[str] | str) -> None:
        self.faults = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[type[FaultsError], tuple[tuple[str, ...]]]:
        return type(self), (self.faults,)


class ConfigError(FaultsError):
    """The command or its config is wrong; nothing was started."""


class DataError(FaultsError):
    """A cohort's table or images are not what they should be."""


class WeightsError(PrognobenchError):
    """Weights were asked for and cannot be had, or are not what they say."""


class MissingExtraError(PrognobenchError):
    """An optional library is needed; names the extra that brings it."""

    def __init__(self, extra: str, purpose: str) -> None:
        self.extra, self.purpose = extra, purpose
        super().__init__(f"{purpose} needs an extra: pip install 'prognobench[{extra}]'")

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.extra, self.purpose)


class NotApplicableError(PrognobenchError):
    """A pair of model and strategy that cannot be; its message is the reason shown in tables."""


class TrainingError(PrognobenchError):
    """Training of one cell cannot go on (a non-finite loss, say); names fold, epoch and step."""


class WorkerDiedError(PrognobenchError):
    """Processes ended without a word while they computed a cell: killed, or out of memory.

    Parameters
    ----------
    times
        How many did, one after the other.
    """

    def __init__(self, times: int) -> None:
        self.times = times
        super().__init__(
            f"{times} workers died while they computed this cell; the machine may have too little "
            "memory for it. Try it by itself, with a smaller train.batch_size"
        )

    def __reduce__(self) -> tuple[type[WorkerDiedError], tuple[int]]:
        return type(self), (self.times,)


class StoreError(PrognobenchError):
    """A run folder cannot be read or written."""


class DamagedError(StoreError):
    """A stored file is not as it was written."""


REFUSALS = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EMFILE", "ENFILE", "EFBIG")
    if hasattr(errno, name)
)
"""What the system answers when a disk is full or read-only, or when a permission is missing."""


def refusal(error: BaseException) -> OSError | None:
    """Return the system's refusal behind an error: a full disk, a missing permission.

    An image or a config that must not be read is a fault of the data or config instead.
    """
    if isinstance(error, StoreError):
        error = error.__cause__ or error
    return error if isinstance(error, OSError) and error.errno in REFUSALS else None


def listed(items: Iterable[object], limit: int = 10, between: str = ", ") -> str:
    """Join items for a message, the rest of a long list as a count."""
    texts = [shorten(str(item)) for item in items]
    rest = len(texts) - limit
    return between.join(texts[:limit]) + (f" and {rest} more" if rest > 0 else "")


def shorten(text: str) -> str:
    """Return text without its middle where it is longer than a message can hold."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"


_ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of Unicode that a terminal acts on: controls, directions, halves, separators."""


def printable(text: str) -> str:
    """Return text without what makes a terminal act, which names of files and tables may hold.

    Control characters, and those that reverse the direction of writing, become escapes; line
    breaks and tabs stay.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in _ACTING:
        return character
    return character.encode("unicode_escape").decode("ascii")
