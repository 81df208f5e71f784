"""What a reader may leave out of a cohort, and the record of what was left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from prognobench.errors import FaultsError
from prognobench.registry import Private

if TYPE_CHECKING:
    import pandas as pd

OnMissing = Literal["error", "drop"]
OnUnknownLabel = Literal["error", "drop"]
OnConflict = Literal["error", "drop", "highest"]
Selection = Literal["first", "last", "all"]
Excluded = Annotated[tuple[str | int, ...], Private()]


@dataclass(frozen=True)
class Rules:
    """What a reader does with images and labels that are not as they should be.

    Attributes
    ----------
    select
        Which images of a patient are taken; ``order`` says which is first (images without a
        position come after those with one, in the order of the table).
    on_missing
        ``drop`` leaves out images whose file is missing or not a whole image.
    on_unknown_label
        ``drop`` leaves out rows whose label is blank or not among the classes.
    on_conflict
        Patients whose rows have different labels: ``drop`` leaves them out, ``highest`` gives
        them the last of their classes (in a binary task: positive once, positive always).
    exclude
        Patients and images to be left out, by name.
    distinct_spellings
        Whether names that differ only in how they are written belong to different patients and
        centres. ``None`` for a reader without this setting: its user has no way out, so fewer
        names are taken for one.
    """

    select: Selection = "all"
    on_missing: OnMissing = "error"
    on_unknown_label: OnUnknownLabel = "error"
    on_conflict: OnConflict = "error"
    exclude: tuple[str | int, ...] = ()
    distinct_spellings: bool | None = None


@dataclass
class Exclusions:
    """Everything left out of a cohort, with its reason; ``patients`` had rows among it."""

    items: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    patients: set[str] = field(default_factory=set)

    def add(self, item: str, reason: str) -> None:
        """Record one image, folder or patient."""
        self.items.append(item)
        self.reasons.append(reason)

    def add_rows(self, rows: pd.DataFrame, reason: str) -> None:
        """Record rows of a reader's table: ``patient_id``, ``image``, ``where``."""
        for patient, image, where in zip(
            rows["patient_id"], rows["image"], rows["where"], strict=True
        ):
            self.add(image or f"patient {patient}", f"{reason} ({where})" if where else reason)
        self.patients.update(rows["patient_id"])

    def summary(self) -> str:
        """The most common reasons, and how often each."""
        counts = Counter(map(strip_row, self.reasons))
        return ", ".join(f"{reason} ({n})" for reason, n in counts.most_common(5))

    def table(self) -> pd.DataFrame:
        """The record that a cohort carries: columns ``item`` and ``reason``."""
        import pandas as pd

        return pd.DataFrame({"item": self.items, "reason": self.reasons}, dtype=str)


def strip_row(reason: str) -> str:
    """Take off the row of the table that readers name behind a reason, so that equal ones count."""
    return re.sub(r" \([^()]* row \d+\)$", "", reason)


def name_lost_image(select: Selection) -> str:
    """What a reader of the exclusions should know where another image may stand for this one."""
    return f"it would have been the {select} image of the patient"


@contextmanager
def collecting(faults: list[str]) -> Iterator[None]:
    """Keep the faults of an error, so that what follows is looked at as well."""
    try:
        yield
    except FaultsError as error:
        faults += error.faults
