"""Patients who stand in several cohorts, told by their rows, images and ids."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from functools import cache
from typing import Literal

from prognobench.datasets.readers.spelling import bare
from prognobench.errors import DataError, listed
from prognobench.records import Cohort, Files, Rendered

Identity = tuple[str, str, str]
"""Kind of evidence, the file or folder that gives it, and the name in it."""


def separate_patients(
    cohorts: Mapping[str, Cohort], on_overlap: Literal["error", "drop"]
) -> dict[str, Cohort]:
    """Leave every patient to the first cohort that has it; in two, one would leak between folds.

    Raises
    ------
    DataError
        With ``error``, if cohorts have patients in common.
    """
    import numpy as np

    places = {_place(source) for cohort in cohorts.values() for source in cohort.sources.values()}
    owners: dict[Identity, str] = {}
    kept: dict[str, Cohort] = {}
    faults = []
    for part, cohort in cohorts.items():
        ids = cohort.table["patient_id"]
        identities = list(_identify(cohort, places))
        common = np.array([any(key in owners for key in keys) for keys in identities], dtype=bool)
        shared = set(ids[common])
        kept[part] = _drop_patients(cohort, shared) if shared else cohort
        if shared:
            others = {owners[key] for keys in identities for key in keys if key in owners}
            faults.append(
                f"{len(shared)} patients of part {part} stand in {' and '.join(sorted(others))} "
                f"as well ({listed(ids[common].unique())}); leave them out of one part "
                f"(dataset.parts.{part}.exclude), or to the first with dataset.on_overlap=drop"
            )
        for patient, keys in zip(ids, identities, strict=True):
            if patient not in shared:
                owners.update(dict.fromkeys(keys, part))
    if faults and on_overlap == "error":
        raise DataError(faults)
    return kept


def _identify(cohort: Cohort, places: Set[str]) -> Iterator[tuple[Identity, ...]]:
    """Yield what identifies each row's image and patient, wherever else they are read from.

    Equal ids are one patient's in one table, and for images in the folder of one part, also where
    another reads them from a folder around it; so are two spellings of one, unless the part has
    distinct ones. Elsewhere equal ids prove nothing: sites count from 1.

    Parameters
    ----------
    places
        What holds the images of all parts.
    """
    own = {key: _place(source) for key, source in cohort.sources.items()}
    # A folder of another part may lie inside this one's: its images are known there, too.
    inner = {
        key: [place for place in places if place.startswith(around)] for key, around in own.items()
    }
    drawn = {key for key, source in cohort.sources.items() if isinstance(source, Rendered)}
    table = cohort.table
    names = table["where"] if "where" in table else [""] * len(table)
    rows = zip(table["source"], table["image"], table["patient_id"], names, strict=True)
    resolve, plain = cache(os.path.realpath), cache(bare)
    for source, image, patient, where in rows:
        path = os.path.join(own[source], image)
        path = path if source in drawn else os.path.realpath(path)
        holding = {own[source], *(place for place in inner[source] if path.startswith(place))}
        identities = [("image", path, "")]
        name, _, row = str(where).rpartition(" row ")
        if cohort.tables and name:
            file = resolve(cohort.tables / name)
            holding.add(file)
            identities.append(("row", file, row))
        identities += [("patient", place, patient) for place in holding]
        if not cohort.distinct_spellings:
            identities += [("spelling", place, plain(patient)) for place in holding]
        yield tuple(identities)


def _place(source: Files | Rendered) -> str:
    """What holds the images of a source: all their paths begin with it."""
    place = source.recipe if isinstance(source, Rendered) else os.path.realpath(source.root)
    return os.path.join(place, "")


def _drop_patients(cohort: Cohort, patients: set[str]) -> Cohort:
    import pandas as pd

    out = cohort.table["patient_id"].isin(patients)
    reason = "the patient stands in an earlier part"
    dropped = pd.DataFrame(
        {"item": cohort.table["image"][out].tolist(), "reason": reason}, dtype=str
    )
    return replace(
        cohort,
        table=cohort.table[~out].reset_index(drop=True),
        exclusions=pd.concat([cohort.exclusions, dropped], ignore_index=True),
        risk=None if cohort.risk is None else cohort.risk[~out],
    )
