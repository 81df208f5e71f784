"""The audit of a cohort and its folds: what was found, and what of it stops a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.audit.copies import first_of_content
from prognobench.audit.counts import (
    count_by_centre,
    count_by_part,
    count_exclusions,
    describe_folds,
)
from prognobench.audit.inspection import Inspection, group_copies, inspect_images
from prognobench.audit.leaks import describe_copies, find_shared_patients, find_shared_pictures
from prognobench.audit.metadata import read_image_metadata, score_metadata
from prognobench.imaging.cache import Recipe
from prognobench.imaging.content import content_digests
from prognobench.records import Checks, Cohort, Files, Fold, Progress

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

STANDARD = Recipe(224)
"""How images are decoded to be looked at, whatever model will see them."""


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes
    ----------
    tables
        Title -> table: patients and images by centre and by part of each fold, what was left out,
        faulty images, groups of images that show the same picture, what metadata alone tell.
    leaks
        One sentence for each way in which a test part is known from a training part.
    broken
        One sentence for each image that cannot be decoded.
    duplicates
        One sentence for each kind of repeated image.
    notes
        What a reader of the results should know.
    """

    cohort: str
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    leaks: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def refusals(self, checks: Checks) -> list[str]:
        """Return why a run must not start, in sentences; nothing where the config allows it."""
        refused = list(self.broken)
        listing = f"{self.cohort}: 'prognobench data check' lists all of these"
        if self.leaks and checks.leaks != "allow":
            refused += self.leaks
            refused.append(
                f"{listing} leaks; set checks.leaks=drop to leave such patients out of training, "
                "or checks.leaks=allow to run anyway (both are recorded)"
            )
        if self.duplicates and checks.duplicates != "allow":
            refused += self.duplicates
            refused.append(
                f"{listing} duplicates; set checks.duplicates=allow to run anyway (it is recorded)"
            )
        return refused

    def sections(self) -> list[tuple[str, pd.DataFrame]]:
        """The tables that have rows, with their titles."""
        return [(title, table) for title, table in self.tables.items() if len(table)]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values; blank cells are null."""
        return {
            "cohort": self.cohort,
            "leaks": list(self.leaks),
            "broken": list(self.broken),
            "duplicates": list(self.duplicates),
            "notes": list(self.notes),
            "tables": {
                title: table.astype(object).where(table.notna(), None).to_dict("records")
                for title, table in self.tables.items()
            },
        }


@dataclass(frozen=True)
class Seen:
    """What was seen of a cohort's images, whatever its folds: see :func:`look_at_images`.

    Attributes
    ----------
    images
        What decoding them showed, if they were decoded.
    same
        The rows of the cohort's table whose picture comes several times.
    faulty
        The images that show little or nothing.
    duplicates, notes
        Of the :class:`Audit`: what does not depend on folds.
    """

    images: Inspection | None
    same: pd.DataFrame
    faulty: pd.DataFrame
    duplicates: tuple[str, ...]
    notes: tuple[str, ...]


def look_at_images(
    cohort: Cohort, folder: Path | None, recipe: Recipe | None, progress: Progress | None = None
) -> Seen:
    """Compare a cohort's images; see :func:`audit` for the parameters."""
    digests = None if folder is None else content_digests(cohort, folder)
    images = None
    if digests is not None and folder is not None and recipe is not None:
        images = inspect_images(cohort, recipe, folder, _comparable(cohort, digests), progress)
    same, faulty = _same_pictures(cohort, digests, images), _faulty(cohort, images)
    copies = tuple(describe_copies(cohort, same))
    return Seen(images, same, faulty, copies, tuple(_notes(cohort, faulty)))


def audit_folds(cohort: Cohort, folds: Sequence[Fold], seen: Seen) -> Audit:
    """Return what :func:`audit` says in sentences, without its tables: a sweep needs no more."""
    return Audit(
        cohort.name,
        tables={},
        leaks=(
            *find_shared_patients(cohort, folds),
            *find_shared_pictures(cohort, seen.same, folds),
        ),
        broken=() if seen.images is None else tuple(dict.fromkeys(seen.images.broken.values())),
        duplicates=seen.duplicates,
        notes=(*describe_folds(cohort, folds), *seen.notes),
    )


def audit(
    cohort: Cohort,
    folds: Sequence[Fold] = (),
    *,
    folder: Path | None = None,
    recipe: Recipe | None = None,
    thorough: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Look for leaks, faulty and repeated images, and shortcuts.

    Parameters
    ----------
    folder
        The cache folder. Without it the table and the folds alone are read; with it, the content
        of the files is compared.
    recipe
        Also decode the images so, look at them and compare them as pictures: what a run does with
        the pixels that it is about to read. Needs ``folder``.
    thorough
        Do that (with ``STANDARD`` unless told otherwise, so that what is found does not depend on
        the model), and try to predict the outcome from metadata alone. Needs ``folder``.
    seed
        Of that prediction's folds.

    Raises
    ------
    DataError
        If files are missing; those that are broken are part of what is found.
    """
    seen = look_at_images(cohort, folder, recipe or (STANDARD if thorough else None), progress)
    found = audit_folds(cohort, folds, seen)
    tables = {
        "patients and images": count_by_centre(cohort),
        "patients by part": count_by_part(cohort, folds),
        "left out": count_exclusions(cohort),
        "faulty images": seen.faulty,
        "same picture": _shown(cohort, seen.same),
    }
    if not thorough:
        return replace(found, tables=tables)
    baseline = score_metadata(cohort, read_image_metadata(cohort), seed)
    return replace(
        found,
        tables={**tables, "metadata-only baseline": baseline},
        notes=(*found.notes, *_describe_metadata(cohort, baseline)),
    )


def find_same_pictures(
    cohort: Cohort, folder: Path, recipe: Recipe | None, progress: Progress | None = None
) -> pd.DataFrame:
    """Return the rows of the cohort's table whose picture comes several times, with ``group``.

    Parameters
    ----------
    recipe
        How images are decoded to be compared; None compares the content of files alone.
    """
    return look_at_images(cohort, folder, recipe, progress).same


def _comparable(cohort: Cohort, digests: Sequence[str]) -> NDArray[np.bool_]:
    """Which images are compared as pictures: one of each content, and no generator's.

    What a generator draws is known from its recipe.
    """
    files = [name for name, source in cohort.sources.items() if isinstance(source, Files)]
    first = first_of_content(digests) == np.arange(len(digests))
    comparable: NDArray[np.bool_] = first & cohort.table["source"].isin(files).to_numpy()
    return comparable


def _same_pictures(
    cohort: Cohort, digests: Sequence[str] | None, seen: Inspection | None
) -> pd.DataFrame:
    """The rows of the cohort's table whose picture comes several times: ``group``, ``match``."""
    group, match = group_copies(digests, seen, len(cohort))
    table = cohort.table.assign(group=group, match=match)
    return table[group >= 0].sort_values("group", kind="stable")


def _shown(cohort: Cohort, same: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "group": pd.factorize(same["group"])[0] + 1,
            "match": same["match"].to_numpy(),
            **{name: same[name].to_numpy() for name in ("patient_id", "image", "source")},
            "outcome": [cohort.classes[label] for label in same["label"]],
        }
    )


def _faulty(cohort: Cohort, seen: Inspection | None) -> pd.DataFrame:
    """Images that show little or nothing; the reason follows where an image is broken."""
    import pandas as pd

    faults = np.empty(0, dtype="U1") if seen is None else seen.faults
    rows = np.flatnonzero(faults != "")
    broken = {} if seen is None else seen.broken
    return pd.DataFrame(
        {
            "image": cohort.table["image"].to_numpy(dtype=object)[rows],
            "fault": faults[rows],
            "why": [broken.get(row, "") for row in rows.tolist()],
        },
        dtype=str,
    )


def _notes(cohort: Cohort, faulty: pd.DataFrame) -> Iterator[str]:
    yield from (f"{cohort.name}: {note}" for note in cohort.notes)
    if cohort.synthetic:
        yield f"{cohort.name}: synthetic images, no clinical data"
    if shared := _ids_of_several_parts(cohort):
        yield (
            f"{cohort.name}: {shared} patient ids occur in several parts of the union and "
            "count as different patients; if they are the same, leave them out of one part"
        )
    faults = faulty["fault"]
    if broken := int((faults == "broken").sum()):
        yield (
            f"{cohort.name}: {broken} of {len(cohort)} images are broken; replace them, or leave "
            "them out with dataset.exclude"
        )
    if bad := len(faults) - broken:
        yield f"{cohort.name}: {bad} of {len(cohort)} images are blank or badly exposed"


def _describe_metadata(cohort: Cohort, baseline: pd.DataFrame) -> Iterator[str]:
    """Yield what metadata alone predict; nothing of a cohort without metadata."""
    if not len(baseline):
        return
    together = baseline.iloc[-1]
    yield (
        f"{cohort.name}: metadata-only baseline, to be beaten by any model: "
        f"MCC {together['mcc']:.2f}, PR-AUC {together['pr_auc']:.2f} "
        f"(chance {together['chance_pr_auc']:.2f})"
    )
    if telling := baseline["metadata"][baseline["follows"]].tolist():
        yield (
            f"{cohort.name}: {', '.join(telling)} predict the outcome beyond chance; a model may "
            "learn them instead of disease"
        )


def _ids_of_several_parts(cohort: Cohort) -> int:
    """Count the ids that patients of several parts of a union have within these."""
    if "cohort" not in cohort.table:
        return 0
    patients = cohort.table[["cohort", "patient_id"]].drop_duplicates()
    pairs = zip(patients["cohort"], patients["patient_id"], strict=True)
    times = Counter(
        patient.removeprefix(f"{part}:")
        for part, patient in pairs
        if patient.startswith(f"{part}:")
    )
    return sum(parts > 1 for parts in times.values())
