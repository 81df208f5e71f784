"""Several cohorts as one, for training on several sites."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prognobench.datasets.readers.assembly import UNKNOWN_CENTRE, collecting
from prognobench.datasets.readers.spelling import bare
from prognobench.errors import ConfigError, DataError, PrognobenchError, listed
from prognobench.records import Cohort, Files, Rendered
from prognobench.registry import DATASETS, Part, near

if TYPE_CHECKING:
    import pandas as pd

Identity = tuple[str, str, str]
"""Kind of what is told, the file or folder that tells it, and the name in it."""


@DATASETS.register("union")
def union(
    *,
    parts: Mapping[str, Mapping[str, Any]],
    classes: tuple[str, ...] | None = None,
    on_overlap: Literal["error", "drop"] = "error",
) -> Cohort:
    """Several cohorts as one: every part's patients, centres and image sources under its name.

    The column ``cohort`` names the part, which also stands for the centre where a part knows none
    of its centres. Covariates are those that all parts have; the true risk is kept if all parts
    know it.

    Parameters
    ----------
    parts
        Name -> ``builder`` and its settings, as in the YAML of a dataset.
    classes
        New names of the classes, in the parts' order (the positive last), for parts that call
        the same outcome differently.
    on_overlap
        Patients who stand in two parts: under one id in one table or for images of one folder, or
        with a row or an image in both. ``drop`` leaves them to the first of the parts that have
        them.

    Raises
    ------
    ConfigError
        With every fault of every part's settings.
    DataError
        With every fault of the parts' data; if their classes differ, or a patient stands in two.
    """
    import numpy as np
    import pandas as pd

    whole = _build(parts)
    names = _common_classes(whole, classes)
    cohorts = _without_overlap(whole, parts, on_overlap)
    shared = set.intersection(*(set(cohort.covariates) for cohort in cohorts.values()))
    _require_one_kind(cohorts, shared)
    tables = [
        _under_name(part, cohort, nameless=not _has_centre(whole[part].table).any())
        for part, cohort in cohorts.items()
    ]
    known = [cohort.risk for cohort in cohorts.values() if cohort.risk is not None]
    left_out = [
        cohort.exclusions.assign(item=f"{part}: " + cohort.exclusions["item"])
        for part, cohort in cohorts.items()
        if cohort.exclusions is not None
    ]
    first = next(iter(cohorts.values()))
    return Cohort(
        name="union",
        table=pd.concat(tables, ignore_index=True),
        classes=names,
        sources={
            _source(part, cohort, key): source
            for part, cohort in cohorts.items()
            for key, source in cohort.sources.items()
        },
        covariates=tuple(name for name in first.covariates if name in shared),
        exclusions=pd.concat(left_out, ignore_index=True) if left_out else None,
        risk=np.concatenate(known) if len(known) == len(cohorts) else None,
        synthetic=any(cohort.synthetic for cohort in cohorts.values()),
    )


def _build(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Cohort]:
    """Check the settings of all parts, then read all of them; faults come together."""
    faults: list[str] = []
    if len(parts) < 2:
        faults.append(f"dataset.parts: a union has two parts or more, found {len(parts)}")
    ready: dict[str, tuple[Part, dict[str, Any]]] = {}
    for name, given in parts.items():
        with collecting(faults):
            ready[name] = _checked(f"dataset.parts.{name}", given)
    if faults:
        raise ConfigError(faults)
    cohorts: dict[str, Cohort] = {}
    for name, (part, settings) in ready.items():
        try:
            cohorts[name] = part(**settings)
        except PrognobenchError as error:
            faults += [f"{name}: {fault}" for fault in getattr(error, "faults", (str(error),))]
    if faults:
        raise DataError(faults)
    return cohorts


def _checked(where: str, given: Mapping[str, Any]) -> tuple[Part, dict[str, Any]]:
    """Return the builder of a part and its settings, converted to their types."""
    from pydantic import TypeAdapter, ValidationError

    try:
        part = DATASETS[str(given.get("builder"))]
    except ConfigError as error:
        raise ConfigError(f"{where}.builder: {error}") from error
    faults: list[str] = []
    checked: dict[str, Any] = {}
    for key, value in given.items():
        if key in ("name", "builder", "pixels"):
            continue
        if key not in part.settings:
            faults.append(f"unknown key '{where}.{key}'{near(key, list(part.settings))}")
            continue
        try:
            checked[key] = TypeAdapter(part.annotations[key]).validate_python(value)
        except ValidationError as error:
            faults.append(f"{where}.{key}={value!r}: {error.errors()[0]['msg'].lower()}")
    faults += [
        f"{where}.{key} is missing"
        for key, parameter in part.settings.items()
        if parameter.default is parameter.empty and key not in given
    ]
    if faults:
        raise ConfigError(faults)
    return part, checked


def _common_classes(
    cohorts: Mapping[str, Cohort], renamed: tuple[str, ...] | None
) -> tuple[str, ...]:
    found = {name: cohort.classes for name, cohort in cohorts.items()}
    told = "; ".join(f"{name}: {', '.join(classes)}" for name, classes in found.items())
    if renamed is not None:
        if any(len(classes) != len(renamed) for classes in found.values()):
            raise DataError(f"dataset.classes has {len(renamed)} names, the parts have {told}")
        return renamed
    if len(set(found.values())) > 1:
        raise DataError(
            f"the parts have different classes ({told}); if they mean the same, name them with "
            "dataset.classes=[NEGATIVE,POSITIVE]"
        )
    return next(iter(found.values()))


def _require_one_kind(cohorts: Mapping[str, Cohort], shared: set[str]) -> None:
    """Raise an error for covariates that are numbers in one part and names in another."""
    import pandas as pd

    faults = []
    for name in sorted(shared):
        of_parts = {part: cohort.table[name] for part, cohort in cohorts.items()}
        kinds = {
            part: "numbers" if pd.api.types.is_numeric_dtype(cells) else "names"
            for part, cells in of_parts.items()
            if (cells.notna() & (cells != "")).any()
        }
        if len(set(kinds.values())) > 1:
            told = ", ".join(f"{kind} in {part}" for part, kind in kinds.items())
            faults.append(
                f"covariate {name!r} is {told}; name it in the setting codes of parts that read "
                "a table, or leave it out of one part's covariates"
            )
    if faults:
        raise DataError(faults)


def _home(given: Mapping[str, Any]) -> Path | None:
    """The folder that holds the tables of a part."""
    if given.get("table"):
        return Path(str(given["table"])).expanduser().parent
    return Path(str(given["root"])).expanduser() if given.get("root") else None


def _without_overlap(
    cohorts: Mapping[str, Cohort], parts: Mapping[str, Mapping[str, Any]], on_overlap: str
) -> dict[str, Cohort]:
    """Leave every patient to one part; one under two names would leak between folds."""
    import numpy as np

    places = {_place(source) for cohort in cohorts.values() for source in cohort.sources.values()}
    owners: dict[Identity, str] = {}
    kept: dict[str, Cohort] = {}
    faults = []
    for part, whole in cohorts.items():
        known = list(_identities(whole, parts[part], places))
        common = np.array([any(key in owners for key in keys) for keys in known], dtype=bool)
        kept[part] = whole
        patients = set(whole.table["patient_id"][common])
        if common.any():
            others = {owners[key] for keys in known for key in keys if key in owners}
            told = whole.table["patient_id"][common].unique()
            faults.append(
                f"{len(patients)} patients of part {part} stand in {' and '.join(sorted(others))} "
                f"as well ({listed(told)}); leave them out of one part "
                f"(dataset.parts.{part}.exclude), or to the first with dataset.on_overlap=drop"
            )
            kept[part] = _without(whole, patients)
        for patient, keys in zip(whole.table["patient_id"], known, strict=True):
            if patient not in patients:
                owners.update(dict.fromkeys(keys, part))
    if faults and on_overlap == "error":
        raise DataError(faults)
    return kept


def _identities(
    cohort: Cohort, given: Mapping[str, Any], places: Set[str]
) -> Iterator[tuple[Identity, ...]]:
    """What tells each row's image and patient, wherever else they are read from.

    Equal ids are one patient's in one table, and for images in the folder of one part, also where
    another reads them from a folder around it; so are two spellings of one, unless the part has
    distinct ones. Elsewhere they prove nothing: sites count from 1.

    Parameters
    ----------
    given
        The part's settings.
    places
        What holds the images of all parts.
    """
    home = _home(given)
    own = {key: _place(source) for key, source in cohort.sources.items()}
    inner = {
        key: [place for place in places if place.startswith(around)] for key, around in own.items()
    }
    drawn = {key for key, source in cohort.sources.items() if isinstance(source, Rendered)}
    table = cohort.table
    names = table["where"] if "where" in table else [""] * len(table)
    rows = zip(table["source"], table["image"], table["patient_id"], names, strict=True)
    resolved, plain = cache(os.path.realpath), cache(bare)
    for source, image, patient, where in rows:
        path = os.path.join(own[source], image)
        path = path if source in drawn else os.path.realpath(path)
        holding = {own[source], *(place for place in inner[source] if path.startswith(place))}
        name, _, row = str(where).rpartition(" row ")
        keys = [("image", path, "")]
        if home and name:
            file = resolved(home / name)
            holding.add(file)
            keys.append(("row", file, row))
        keys += [("patient", place, patient) for place in holding]
        if not given.get("distinct_spellings"):
            keys += [("spelling", place, plain(patient)) for place in holding]
        yield tuple(keys)


def _place(source: Files | Rendered) -> str:
    """What holds the images of a source: all their paths begin with it."""
    place = source.recipe if isinstance(source, Rendered) else os.path.realpath(source.root)
    return os.path.join(place, "")


def _without(cohort: Cohort, patients: set[str]) -> Cohort:
    import pandas as pd

    out = cohort.table["patient_id"].isin(patients)
    told = cohort.table["image"][out].tolist()
    left = pd.DataFrame(
        {"item": told, "reason": "the patient stands in an earlier part"}, dtype=str
    )
    return replace(
        cohort,
        table=cohort.table[~out].reset_index(drop=True),
        exclusions=pd.concat([cohort.exclusions, left], ignore_index=True),
        risk=None if cohort.risk is None else cohort.risk[~out],
    )


def _source(part: str, cohort: Cohort, key: str) -> str:
    """A part's only source goes by the part's name: what ``cv=external`` asks for."""
    return part if len(cohort.sources) == 1 else f"{part}/{key}"


def _has_centre(table: pd.DataFrame) -> pd.Series[bool]:
    return ~table["centre"].isin(("", UNKNOWN_CENTRE))


def _under_name(part: str, cohort: Cohort, *, nameless: bool) -> pd.DataFrame:
    """Put the part's name before its own; it stands for the centre if the part is ``nameless``.

    Beside patients whose centre is known, those without one do not make another centre.
    """
    table = cohort.table
    centre = part + ":" + table["centre"]
    return table.assign(
        patient_id=part + ":" + table["patient_id"],
        source=table["source"].map({key: _source(part, cohort, key) for key in cohort.sources}),
        centre=part if nameless else centre.where(_has_centre(table), UNKNOWN_CENTRE),
        cohort=part,
    )
