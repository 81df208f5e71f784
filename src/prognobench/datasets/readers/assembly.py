"""From rows that name images to a cohort: the rules that all readers share.

A reader collects one row per image as text; here labels become classes, images are looked up, and
what must not or need not stand in the cohort leaves it with its reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from prognobench.datasets.readers.image_folder import ImageFolder
from prognobench.datasets.readers.spelling import composed, lookalikes
from prognobench.errors import DataError, FaultsError, listed
from prognobench.records import Cohort, Files

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

OnMissing = Literal["error", "drop"]
OnUnknownLabel = Literal["error", "drop"]
OnConflict = Literal["error", "drop", "highest"]
Selection = Literal["first", "last", "all"]

COLUMNS = ("patient_id", "image", "source", "label", "centre", "order")
UNKNOWN_CENTRE = "unknown"
SHOWN = 20
"""So many files or patients are listed in one message, the others counted."""


@dataclass(frozen=True)
class Rules:
    """What a reader does with images and labels that are not as they should be.

    Attributes
    ----------
    images
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
        Names that differ only in how they are written are those of different patients and centres;
        none for a reader that has no such setting: it takes fewer of them for one.
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
        self.items.append(item)
        self.reasons.append(reason)

    def add_rows(self, rows: pd.DataFrame, reason: str) -> None:
        for patient, image, where in zip(
            rows["patient_id"], rows["image"], rows["where"], strict=True
        ):
            self.add(image or f"patient {patient}", f"{reason} ({where})" if where else reason)
        self.patients.update(rows["patient_id"])

    def summary(self) -> str:
        """The most common reasons, and how often each."""
        counts = Counter(map(without_row, self.reasons))
        return ", ".join(f"{reason} ({n})" for reason, n in counts.most_common(5))

    def table(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame({"item": self.items, "reason": self.reasons}, dtype=str)


def without_row(reason: str) -> str:
    """Take off the row of the table that readers name behind a reason, so that equal ones count."""
    return re.sub(r" \([^()]* row \d+\)$", "", reason)


@contextmanager
def collecting(faults: list[str]) -> Iterator[None]:
    """Keep the faults of an error, so that what follows is looked at as well."""
    try:
        yield
    except FaultsError as error:
        faults += error.faults


def assemble(
    images: pd.DataFrame,
    folder: ImageFolder,
    classes: Sequence[str],
    rules: Rules,
    exclusions: Exclusions,
    *,
    name: str,
    covariates: Sequence[str] = (),
) -> Cohort:
    """Apply the rules to the images of a reader and return the cohort.

    Parameters
    ----------
    images
        One row per image: ``patient_id``, ``image`` (as the table names it), ``label`` (as text),
        ``centre``, ``order`` (float), ``where`` (for messages: "metadata.csv row 12"), and
        whatever else the cohort's table shall have.
    exclusions
        What the reader has left out already; it is added to.

    Raises
    ------
    DataError
        With all faults at once: labels outside the classes, contradicting labels, missing files,
        rows without a patient, paths out of the folder, fewer than two classes.
    """
    blank = list(images.loc[images["patient_id"] == "", "where"])
    faults = []
    if blank:
        faults.append(
            f"no patient in {listed(blank)}; name one, or delete these rows (of merged cells only "
            "the first has a value, of formulas only what was saved with them)"
        )
        images = images[images["patient_id"] != ""]
    exclude = {composed(str(name)) for name in rules.exclude}
    unused = exclude - {*images["patient_id"], *images["image"]}
    unused -= {*exclusions.patients, *exclusions.items}
    images = _without(images, exclude, exclusions)
    images = _with_known_label(images, classes, rules, exclusions, faults)
    images = _without_conflicts(images, classes, rules, exclusions, faults)
    images = _with_files(images, folder, rules, exclusions, faults)
    if not rules.distinct_spellings:
        faults += _two_spellings(images, rules)
    unused -= set(images["image"].map(composed))
    if unused:
        numbers = any(str(name) in unused for name in rules.exclude if not isinstance(name, str))
        quotes = "; in a name that looks like a number the quotes count: ['1_0']" if numbers else ""
        told = listed(sorted(unused))
        faults.append(f"dataset.exclude names no patient and no image: {told}{quotes}")
    images = _without(images, exclude, exclusions)
    images = _without_repeats(images, exclusions, faults)
    images = _chosen(images, rules.select, exclusions)
    if faults:
        raise DataError(faults)
    present = sorted(set(images["label"]))
    if len(present) < 2:
        only = f"only {classes[present[0]]!r}" if present else "no patient at all"
        raise DataError(
            f"{name}: {only} is left of the classes {', '.join(classes)}; "
            f"{len(exclusions.items)} rows and files were left out"
            + (f": {exclusions.summary()}" if exclusions.items else "")
        )
    extra = [column for column in images.columns if column not in (*COLUMNS, "where")]
    return Cohort(
        name=name,
        table=images.assign(source="images")[[*COLUMNS, *extra, "where"]].reset_index(drop=True),
        classes=tuple(classes),
        sources={"images": Files(folder.root)},
        covariates=tuple(covariates),
        exclusions=exclusions.table(),
    )


def _two_spellings(images: pd.DataFrame, rules: Rules) -> list[str]:
    strict = rules.distinct_spellings is not None
    found = [
        *lookalikes(images["patient_id"], images["where"], "patients", strict=strict)[:SHOWN],
        *lookalikes(images["centre"], images["where"], "centres", strict=strict)[:SHOWN],
    ]
    if not strict:
        return found
    way_out = "; if they are different ones, set dataset.distinct_spellings=true"
    return [fault + way_out for fault in found]


def _without(images: pd.DataFrame, exclude: set[str], exclusions: Exclusions) -> pd.DataFrame:
    """Leave out by patient or image, as the table names it or as its file is called."""
    named = images["patient_id"].isin(exclude) | images["image"].map(composed).isin(exclude)
    exclusions.add_rows(images[named], "left out by the setting exclude")
    return images[~named]


def _with_known_label(
    images: pd.DataFrame,
    classes: Sequence[str],
    rules: Rules,
    exclusions: Exclusions,
    faults: list[str],
) -> pd.DataFrame:
    number = {text: at for at, text in enumerate(classes)}
    known = images["label"].isin(number)
    unknown = images[~known]
    if len(unknown) and rules.on_unknown_label == "error":
        counts = unknown["label"].replace("", "(blank)").value_counts()
        values = [f"{value!r} ({count} rows)" for value, count in counts.items()]
        faults.append(
            f"labels outside {', '.join(map(repr, classes))}: {listed(values)}, the first in "
            f"{unknown['where'].iloc[0]}; correct them, declare them with dataset.classes, or "
            "leave the rows out with dataset.on_unknown_label=drop"
        )
    for value, rows in unknown.groupby("label"):
        exclusions.add_rows(rows, f"outcome is {value!r}" if value else "outcome is blank")
    images = images[known]
    return images.assign(label=images["label"].map(number).astype(int))


def _without_conflicts(
    images: pd.DataFrame,
    classes: Sequence[str],
    rules: Rules,
    exclusions: Exclusions,
    faults: list[str],
) -> pd.DataFrame:
    by_patient = images.groupby("patient_id")["label"]
    conflicting = by_patient.transform("nunique") > 1
    if not conflicting.any():
        return images
    if rules.on_conflict == "highest":
        return images.assign(label=by_patient.transform("max"))
    if rules.on_conflict == "error":
        told = [
            f"{patient} ({_label_places(rows, classes)})"
            for patient, rows in images[conflicting].groupby("patient_id", sort=False)
        ]
        faults.append(
            f"patients with contradicting labels: {listed(told)}; correct them, or set "
            "dataset.on_conflict=drop (leave them out) or highest (take the last of their classes)"
        )
    exclusions.add_rows(images[conflicting], "the patient's labels contradict each other")
    return images[~conflicting]


def _label_places(rows: pd.DataFrame, classes: Sequence[str]) -> str:
    firsts = rows.drop_duplicates("label")
    pairs = zip(firsts["label"], firsts["where"], strict=True)
    return ", ".join(f"{classes[label]!r} in {where}" for label, where in pairs)


def _with_files(
    images: pd.DataFrame,
    folder: ImageFolder,
    rules: Rules,
    exclusions: Exclusions,
    faults: list[str],
) -> pd.DataFrame:
    """Replace each name by the path of its file; a name of a folder becomes several rows."""
    problems, refused = [], []
    taken = _taken(images, rules.select)
    positions: list[int] = []
    paths: list[str] = []
    for at, (cell, where) in enumerate(zip(images["image"], images["where"], strict=True)):
        found = folder.find(cell)
        if found.refused:
            refused.append(f"{where}: {found.refused}")
        elif found.problem:
            problems.append(f"{where}: {found.problem}")
            lost = f"; {lost_image(rules.select)}" if taken[at] and rules.select != "all" else ""
            exclusions.add(cell or where, f"{found.reason}{lost} ({where})")
        positions += [at] * len(found.images)
        paths += found.images
    faults += refused[:SHOWN]
    if problems and rules.on_missing == "error":
        faults.append(
            f"{len(problems)} of {len(images)} images are missing from {folder.root} or cannot be "
            f"read: {listed(problems, SHOWN)}; put the files in place, or leave these out with "
            "dataset.on_missing=drop"
        )
    return images.iloc[positions].assign(image=paths).reset_index(drop=True)


def _without_repeats(
    images: pd.DataFrame, exclusions: Exclusions, faults: list[str]
) -> pd.DataFrame:
    """A file listed twice counts once; listed for two patients it would leak between folds."""
    owners = images.groupby("image")["patient_id"].transform("nunique")
    told = [
        f"{file} for {', '.join(dict.fromkeys(rows['patient_id']))} ({', '.join(rows['where'])})"
        for file, rows in images[owners > 1].groupby("image", sort=False)
    ]
    if told:
        faults.append(
            f"images listed for several patients: {listed(told, SHOWN)}; give these rows the same "
            "patient, or leave one patient out with dataset.exclude"
        )
    repeated = images["image"].duplicated()
    exclusions.add_rows(images[repeated], "the same file stands in an earlier row")
    return images[~repeated]


def _chosen(images: pd.DataFrame, which: Selection, exclusions: Exclusions) -> pd.DataFrame:
    """Take the images that the setting asks for, in the order of the table."""
    if which == "all":
        return images
    taken = _taken(images, which)
    how = "" if images["order"].notna().any() else " (in the order of the table: none is given)"
    exclusions.add_rows(images[~taken], f"not the {which} image of the patient{how}")
    return images[taken]


def _taken(images: pd.DataFrame, which: Selection) -> NDArray[np.bool_]:
    """Whether each image is the first or last of its patient."""
    ordered = images.sort_values("order", kind="stable", na_position="last")
    if which == "last":
        ordered = images.sort_values("order", kind="stable", na_position="first")[::-1]
    taken: NDArray[np.bool_] = images.index.isin(ordered.drop_duplicates("patient_id").index)
    return taken


def lost_image(which: Selection) -> str:
    """What a reader of the exclusions should know where another image may stand for this one."""
    return f"it would have been the {which} image of the patient"
