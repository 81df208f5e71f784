"""From rows that name images to a cohort: the steps that all readers share.

A reader collects one row per image as text; here labels become classes, images are looked up, and
what must not or need not stand in the cohort leaves it with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prognobench.datasets.readers.image_folder import ImageFolder
from prognobench.datasets.readers.rules import Exclusions, Rules, Selection, name_lost_image
from prognobench.datasets.readers.spelling import composed, lookalikes
from prognobench.errors import DataError, listed
from prognobench.records import Cohort, Files

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

COLUMNS = ("patient_id", "image", "source", "label", "centre", "order")

SHOWN = 20
"""So many files or patients are listed in one message, the others counted."""


def assemble(
    images: pd.DataFrame,
    folder: ImageFolder,
    classes: Sequence[str],
    rules: Rules,
    exclusions: Exclusions,
    *,
    name: str,
    tables: Path,
    covariates: Sequence[str] = (),
    notes: Sequence[str] = (),
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
    tables
        The folder of the tables that ``where`` names.
    notes
        How the reader took what may be read in several ways.

    Raises
    ------
    DataError
        With all faults at once: labels outside the classes, contradicting labels, missing files,
        rows without a patient, paths out of the folder, fewer than two classes.
    """
    steps = _Assembly(folder, tuple(classes), rules, exclusions)
    images = steps.apply(images)
    if steps.faults:
        raise DataError(steps.faults)
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
        tables=tables,
        distinct_spellings=bool(rules.distinct_spellings),
        notes=tuple(notes),
    )


@dataclass
class _Assembly:
    """The steps on the way to a cohort; ``faults`` collects what makes an error in the end."""

    folder: ImageFolder
    classes: tuple[str, ...]
    rules: Rules
    exclusions: Exclusions
    faults: list[str] = field(default_factory=list)

    def apply(self, images: pd.DataFrame) -> pd.DataFrame:
        """Take the steps in their order."""
        images = self._require_patients(images)
        exclude = {composed(str(name)) for name in self.rules.exclude}
        unused = exclude - {*images["patient_id"], *images["image"]}
        unused -= {*self.exclusions.patients, *self.exclusions.items}
        images = self._drop_excluded(images, exclude)
        images = self._drop_unknown_labels(images)
        images = self._settle_conflicts(images)
        images = self._find_files(images)
        if not self.rules.distinct_spellings:
            self._refuse_two_spellings(images)
        unused -= set(images["image"].map(composed))
        self._refuse_unused(unused)
        # Once more, now that images go by the names of their files.
        images = self._drop_excluded(images, exclude)
        images = self._drop_repeats(images)
        return self._select(images)

    def _require_patients(self, images: pd.DataFrame) -> pd.DataFrame:
        blank = images["patient_id"] == ""
        if blank.any():
            self.faults.append(
                f"no patient in {listed(images.loc[blank, 'where'])}; name one, or delete these "
                "rows (of merged cells only the first has a value, of formulas only what was "
                "saved with them)"
            )
        return images[~blank]

    def _drop_excluded(self, images: pd.DataFrame, exclude: set[str]) -> pd.DataFrame:
        """Leave out by patient or image, as the table names it or as its file is called."""
        named = images["patient_id"].isin(exclude) | images["image"].map(composed).isin(exclude)
        self.exclusions.add_rows(images[named], "left out by the setting exclude")
        return images[~named]

    def _drop_unknown_labels(self, images: pd.DataFrame) -> pd.DataFrame:
        """Turn labels into numbers of classes; rows without one leave, or are a fault."""
        number = {text: at for at, text in enumerate(self.classes)}
        known = images["label"].isin(number)
        unknown = images[~known]
        if len(unknown) and self.rules.on_unknown_label == "error":
            counts = unknown["label"].replace("", "(blank)").value_counts()
            values = [f"{value!r} ({count} rows)" for value, count in counts.items()]
            self.faults.append(
                f"labels outside {', '.join(map(repr, self.classes))}: {listed(values)}, the first "
                f"in {unknown['where'].iloc[0]}; correct them, declare them with dataset.classes, "
                "or leave the rows out with dataset.on_unknown_label=drop"
            )
        for value, rows in unknown.groupby("label"):
            reason = f"outcome is {value!r}" if value else "outcome is blank"
            self.exclusions.add_rows(rows, reason)
        images = images[known]
        return images.assign(label=images["label"].map(number).astype(int))

    def _settle_conflicts(self, images: pd.DataFrame) -> pd.DataFrame:
        """Give each patient one label: an outcome belongs to a patient, not to an image."""
        by_patient = images.groupby("patient_id")["label"]
        conflicting = by_patient.transform("nunique") > 1
        if not conflicting.any():
            return images
        if self.rules.on_conflict == "highest":
            return images.assign(label=by_patient.transform("max"))
        if self.rules.on_conflict == "error":
            found = [
                f"{patient} ({_place_labels(rows, self.classes)})"
                for patient, rows in images[conflicting].groupby("patient_id", sort=False)
            ]
            self.faults.append(
                f"patients with contradicting labels: {listed(found)}; correct them, or set "
                "dataset.on_conflict=drop (leave them out) or highest (take the last of their "
                "classes)"
            )
        self.exclusions.add_rows(images[conflicting], "the patient's labels contradict each other")
        return images[~conflicting]

    def _find_files(self, images: pd.DataFrame) -> pd.DataFrame:
        """Replace each name by the path of its file; a name of a folder becomes several rows."""
        missing, refused = [], []
        # Before any file is missing: which image a patient would have had.
        wanted = _mark_selected(images, self.rules.select)
        rows: list[int] = []
        paths: list[str] = []
        for at, (cell, where) in enumerate(zip(images["image"], images["where"], strict=True)):
            found = self.folder.find(cell)
            if found.refused:
                refused.append(f"{where}: {found.refused}")
            elif found.problem:
                missing.append(f"{where}: {found.problem}")
                select = self.rules.select
                lost = f"; {name_lost_image(select)}" if wanted[at] and select != "all" else ""
                self.exclusions.add(cell or where, f"{found.reason}{lost} ({where})")
            rows += [at] * len(found.images)
            paths += found.images
        self.faults += refused[:SHOWN]
        if missing and self.rules.on_missing == "error":
            self.faults.append(
                f"{len(missing)} of {len(images)} images are missing from {self.folder.root} or "
                f"cannot be read: {listed(missing, SHOWN)}; put the files in place, or leave these "
                "out with dataset.on_missing=drop"
            )
        return images.iloc[rows].assign(image=paths).reset_index(drop=True)

    def _refuse_two_spellings(self, images: pd.DataFrame) -> None:
        """A patient under two spellings would stand in two parts of a fold."""
        has_setting = self.rules.distinct_spellings is not None
        way_out = "; if they are different ones, set dataset.distinct_spellings=true"
        for column, what in (("patient_id", "patients"), ("centre", "centres")):
            found = lookalikes(images[column], images["where"], what, strict=has_setting)
            self.faults += [fault + way_out * has_setting for fault in found[:SHOWN]]

    def _refuse_unused(self, unused: set[str]) -> None:
        """What ``exclude`` names in vain may be a typing error that leaves a patient in."""
        if not unused:
            return
        numbers = any(
            str(name) in unused for name in self.rules.exclude if not isinstance(name, str)
        )
        quotes = "; in a name that looks like a number the quotes count: ['1_0']" if numbers else ""
        self.faults.append(
            f"dataset.exclude names no patient and no image: {listed(sorted(unused))}{quotes}"
        )

    def _drop_repeats(self, images: pd.DataFrame) -> pd.DataFrame:
        """A file listed twice counts once; listed for two patients it would leak between folds."""
        owners = images.groupby("image")["patient_id"].transform("nunique")
        found = [
            f"{file} for {', '.join(dict.fromkeys(rows['patient_id']))} "
            f"({', '.join(rows['where'])})"
            for file, rows in images[owners > 1].groupby("image", sort=False)
        ]
        if found:
            self.faults.append(
                f"images listed for several patients: {listed(found, SHOWN)}; give these rows the "
                "same patient, or leave one patient out with dataset.exclude"
            )
        repeated = images["image"].duplicated()
        self.exclusions.add_rows(images[repeated], "the same file stands in an earlier row")
        return images[~repeated]

    def _select(self, images: pd.DataFrame) -> pd.DataFrame:
        """Take the images that the setting asks for, in the order of the table."""
        which = self.rules.select
        if which == "all":
            return images
        if which == "last" and images["order"].isna().all():
            self._refuse_last(images)
        taken = _mark_selected(images, which)
        how = "" if images["order"].notna().any() else " (in the order of the table: none is given)"
        self.exclusions.add_rows(images[~taken], f"not the {which} image of the patient{how}")
        return images[taken]

    def _refuse_last(self, images: pd.DataFrame) -> None:
        """The last row of a table is no later image than the first, unless an order says so."""
        several = images.loc[images["patient_id"].duplicated(), "patient_id"].unique()
        if len(several):
            self.faults.append(
                f"dataset.select=last needs an order, and no image has one: {len(several)} "
                f"patients have several images ({listed(several)}); name the column of dates or "
                "numbers with dataset.order=COLUMN, or take dataset.select=first or all"
            )


def _place_labels(rows: pd.DataFrame, classes: Sequence[str]) -> str:
    """Where each of a patient's labels stands first."""
    firsts = rows.drop_duplicates("label")
    pairs = zip(firsts["label"], firsts["where"], strict=True)
    return ", ".join(f"{classes[label]!r} in {where}" for label, where in pairs)


def _mark_selected(images: pd.DataFrame, which: Selection) -> NDArray[np.bool_]:
    """Whether each image is the first or last of its patient."""
    ordered = images.sort_values("order", kind="stable", na_position="last")
    if which == "last":
        # Undated images come first here, so that after the turn a dated one is the last.
        ordered = images.sort_values("order", kind="stable", na_position="first")[::-1]
    taken: NDArray[np.bool_] = images.index.isin(ordered.drop_duplicates("patient_id").index)
    return taken
