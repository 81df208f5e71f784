"""Several cohorts as one, for training on several sites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.datasets.assembly import UNKNOWN_CENTRE, collecting
from prognobench.errors import ConfigError, DataError, PrognobenchError
from prognobench.records import Cohort, Files, Rendered
from prognobench.registry import DATASETS, Part, near

if TYPE_CHECKING:
    import pandas as pd


@DATASETS.register("union")
def union(
    *, parts: Mapping[str, Mapping[str, Any]], classes: tuple[str, ...] | None = None
) -> Cohort:
    """Several cohorts as one: every part's patients, centres and image sources under its name.

    The column ``cohort`` names the part. Covariates are those that all parts have; the true risk
    is kept if all parts know it.

    Parameters
    ----------
    parts
        Name -> ``builder`` and its settings, as in the YAML of a dataset. A part's ``pixels`` is
        left aside: the union's own says how all its images are prepared.
    classes
        New names of the classes, in the parts' order (the positive last), for parts that call
        the same outcome differently.

    Raises
    ------
    ConfigError
        With every fault of every part's settings.
    DataError
        With every fault of the parts' data; if their classes differ, or two have a file in common.
    """
    import numpy as np
    import pandas as pd

    cohorts = _build(parts)
    names = _common_classes(cohorts, classes)
    _refuse_common_images(cohorts)
    tables = [_under_name(part, cohort) for part, cohort in cohorts.items()]
    known = [cohort.risk for cohort in cohorts.values() if cohort.risk is not None]
    left_out = [
        cohort.exclusions.assign(item=f"{part}: " + cohort.exclusions["item"])
        for part, cohort in cohorts.items()
        if cohort.exclusions is not None
    ]
    shared = set.intersection(*(set(cohort.covariates) for cohort in cohorts.values()))
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


def _refuse_common_images(cohorts: Mapping[str, Cohort]) -> None:
    """A film in two parts would be one patient under two names, and leak between folds."""
    owners: dict[tuple[str, str], list[str]] = defaultdict(list)
    for part, cohort in cohorts.items():
        rows = cohort.table[["source", "image"]].drop_duplicates()
        for source, image in zip(rows["source"], rows["image"], strict=True):
            owners[_identity(cohort.sources[source], image)].append(part)
    common = [(image, parts) for (_, image), parts in owners.items() if len(parts) > 1]
    if common:
        raise DataError(
            f"{len(common)} images stand in two parts, the first {common[0][0]} in "
            f"{' and '.join(common[0][1])}; the parts of a union must have different patients"
        )


def _identity(source: Files | Rendered, image: str) -> tuple[str, str]:
    if isinstance(source, Rendered):
        return source.recipe, image
    path = Path(source.root, image).resolve()
    return "", str(path)


def _source(part: str, cohort: Cohort, key: str) -> str:
    """A part's only source goes by the part's name: what ``cv=external`` asks for."""
    return part if len(cohort.sources) == 1 else f"{part}/{key}"


def _under_name(part: str, cohort: Cohort) -> pd.DataFrame:
    table = cohort.table
    centre = (part + ":" + table["centre"]).where(table["centre"] != UNKNOWN_CENTRE, part)
    return table.assign(
        patient_id=part + ":" + table["patient_id"],
        source=table["source"].map({key: _source(part, cohort, key) for key in cohort.sources}),
        centre=centre,
        cohort=part,
    )
