"""Several cohorts as one, for training on several sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from prognobench.datasets.readers.overlap import separate_patients
from prognobench.datasets.readers.rules import collecting
from prognobench.errors import ConfigError, DataError, PrognobenchError
from prognobench.records import UNKNOWN_CENTRE, Cohort
from prognobench.registry import DATASETS, Part, near

if TYPE_CHECKING:
    import pandas as pd


OF_THE_CONFIG = ("name", "builder", "pixels", "folder", "cv")
"""Keys of a dataset's YAML that are not settings of its builder."""


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

    whole = _build_parts(parts)
    names = _common_classes(whole, classes)
    cohorts = separate_patients(whole, on_overlap)
    shared = set.intersection(*(set(cohort.covariates) for cohort in cohorts.values()))
    _require_one_kind(cohorts, shared)
    tables = [
        _prefix(part, cohort, nameless=not _has_centre(whole[part].table).any())
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
            _source_name(part, cohort, key): source
            for part, cohort in cohorts.items()
            for key, source in cohort.sources.items()
        },
        covariates=tuple(name for name in first.covariates if name in shared),
        exclusions=pd.concat(left_out, ignore_index=True) if left_out else None,
        risk=np.concatenate(known) if len(known) == len(cohorts) else None,
        synthetic=any(cohort.synthetic for cohort in cohorts.values()),
        notes=tuple(f"{part}: {note}" for part, each in cohorts.items() for note in each.notes),
    )


def _build_parts(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Cohort]:
    """Check the settings of all parts, then read all of them; faults come together."""
    faults: list[str] = []
    if len(parts) < 2:
        faults.append(
            f"dataset.parts: a union has two parts or more, found {len(parts)}; add a part"
        )
    ready: dict[str, tuple[Part, dict[str, Any]]] = {}
    for name, given in parts.items():
        with collecting(faults):
            ready[name] = _check_settings(f"dataset.parts.{name}", given)
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


def _check_settings(where: str, given: Mapping[str, Any]) -> tuple[Part, dict[str, Any]]:
    """Return the builder of a part and its settings, converted to their types."""
    from pydantic import TypeAdapter, ValidationError

    try:
        part = DATASETS[str(given.get("builder"))]
    except ConfigError as error:
        raise ConfigError(f"{where}.builder: {error}") from error
    faults: list[str] = []
    checked: dict[str, Any] = {}
    for key, value in given.items():
        if key in OF_THE_CONFIG:
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
    described = "; ".join(f"{name}: {', '.join(classes)}" for name, classes in found.items())
    if renamed is not None:
        if any(len(classes) != len(renamed) for classes in found.values()):
            raise DataError(f"dataset.classes has {len(renamed)} names, the parts have {described}")
        return renamed
    if len(set(found.values())) > 1:
        raise DataError(
            f"the parts have different classes ({described}); if they mean the same, name them "
            "with dataset.classes=[NEGATIVE,POSITIVE]"
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
            described = ", ".join(f"{kind} in {part}" for part, kind in kinds.items())
            faults.append(
                f"covariate {name!r} is {described}; name it in the setting codes of parts that "
                "read a table, or leave it out of one part's covariates"
            )
    if faults:
        raise DataError(faults)


def _source_name(part: str, cohort: Cohort, key: str) -> str:
    """A part's only source goes by the part's name: what ``cv=external`` asks for."""
    return part if len(cohort.sources) == 1 else f"{part}/{key}"


def _has_centre(table: pd.DataFrame) -> pd.Series[bool]:
    return ~table["centre"].isin(("", UNKNOWN_CENTRE))


def _prefix(part: str, cohort: Cohort, *, nameless: bool) -> pd.DataFrame:
    """Put the part's name before its own; it stands for the centre if the part is ``nameless``.

    Beside patients whose centre is known, those without one do not make another centre.
    """
    table = cohort.table
    centre = part + ":" + table["centre"]
    if "where" in table:  # the tables of two parts may have one name
        table = table.assign(where=(part + ": " + table["where"]).where(table["where"] != "", ""))
    return table.assign(
        patient_id=part + ":" + table["patient_id"],
        source=table["source"].map(
            {key: _source_name(part, cohort, key) for key in cohort.sources}
        ),
        centre=part if nameless else centre.where(_has_centre(table), UNKNOWN_CENTRE),
        cohort=part,
    )
