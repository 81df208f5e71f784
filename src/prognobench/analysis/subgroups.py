"""Groups of patients or images by a column of the cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.predictions import Level, Predictions
from prognobench.errors import ConfigError
from prognobench.registry import near
from prognobench.store import RunFolder

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Bands = Sequence[float]
"""Edges between the bands of a number; none: chosen from the data."""

NAMES = ("patient_id", "image", "label", "order", "where")
"""Columns of every cohort that name rows, or say what is predicted: they make no groups."""

MOST_GROUPS = 12
"""A column with more different words than this makes no groups worth a row each."""

FEWEST_PATIENTS = 5
"""For each value, on average: fewer say little, and values of few patients may name them."""

MOST_VALUES = 5
"""A number with more different values is cut into bands."""

SEVERAL = "several"
"""The group of a patient whose images have different values."""


def find_subgroups(
    predictions: Predictions,
    runs: pd.DataFrame,
    folders: Sequence[RunFolder],
    level: Level,
    by: Mapping[str, Bands],
) -> dict[str, NDArray[np.bool_]]:
    """Return ``column=group`` -> which test units belong to it.

    A patient takes the value that all images of the patient share. Runs whose cohort lacks a
    column have no units in its groups.

    Raises
    ------
    ConfigError
        If the groups of a column are too many.
    """
    if not by:
        return {}
    test = predictions.units[level, "test"]
    run_of_unit = predictions.cells["run"].to_numpy()[test.cell]
    masks: dict[str, NDArray[np.bool_]] = {}
    for _, rows in runs.groupby(["dataset", "cohort"]).groups.items():
        chosen = np.isin(run_of_unit, rows)
        if not chosen.any():
            continue
        cohort = folders[rows[0]].cohort()
        for column, edges in by.items():
            if not _has_values(cohort, column):
                continue
            values, names = _values(cohort, column, edges, level)
            groups = values.reindex(test.ids[chosen]).to_numpy()
            for group in (name for name in names if (groups == name).any()):
                mask = masks.setdefault(f"{column}={group}", np.zeros(len(chosen), dtype=bool))
                mask[chosen] |= groups == group
    return masks


def check_columns(runs: pd.DataFrame, folders: Sequence[RunFolder], by: Mapping[str, Any]) -> None:
    """Refuse a column that no cohort has; a cohort without it has no such subgroups.

    Raises
    ------
    ConfigError
        With the columns that there are.
    """
    if not by:
        return
    rows = runs.drop_duplicates(["dataset", "cohort"]).index
    cohorts = [folders[row].cohort() for row in rows]
    known = sorted({str(column) for cohort in cohorts for column in cohort})
    faults = [
        f"no column {column!r} in the cohorts{near(column, known)} (known: {', '.join(known)})"
        for column in by
        if not any(_has_values(cohort, column) for cohort in cohorts)
    ]
    if faults:
        raise ConfigError(faults)


def _has_values(cohort: pd.DataFrame, column: str) -> bool:
    return column in cohort and not cohort[column].isna().all()


def groupable_columns(cohort: pd.DataFrame) -> list[str]:
    """Return the columns of a cohort that make at least two groups, none of single patients."""
    patients = cohort["patient_id"].nunique()

    def fits(column: str) -> bool:
        different = cohort[column].nunique()
        shared = different <= min(MOST_GROUPS, patients / FEWEST_PATIENTS)
        return different > 1 and (has_bands(cohort[column]) or shared)

    named = [c for c in map(str, cohort) if c not in NAMES and not c.startswith("risk_")]
    return [column for column in named if fits(column)]


def _values(
    cohort: pd.DataFrame, column: str, edges: Bands, level: Level
) -> tuple[pd.Series[Any], list[str]]:
    """The group of each patient or image, indexed by its name; and the groups in their order."""
    values = cohort[column]
    if has_bands(values):
        groups, names = _bands(values, edges or _edges(values))
    else:
        groups = values.astype(object).where(values.notna())
        groups = groups.map(lambda value: f"{value:g}" if isinstance(value, float) else str(value))
        groups = groups.where(values.notna() & (groups != ""))
        names = sorted(groups.dropna().unique())
    if len(names) > MOST_GROUPS:
        raise ConfigError(
            f"cannot group by {column!r}: it has {len(names)} different values, the most is "
            f"{MOST_GROUPS}"
        )
    if level == "image":
        return groups.set_axis(cohort["image"]), names
    by_patient = groups.groupby(cohort["patient_id"])
    return by_patient.first().where(by_patient.nunique() <= 1, SEVERAL), [*names, SEVERAL]


def has_bands(values: pd.Series[Any]) -> bool:
    """Whether a column is a number with so many values that it is cut into bands."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    number = is_numeric_dtype(values) and not is_bool_dtype(values)
    return bool(number and values.nunique() > MOST_VALUES)


def _edges(values: pd.Series[Any]) -> Bands:
    """Return edges of three groups of about equal size, at numbers that can be read."""
    return tuple(dict.fromkeys(float(f"{edge:.3g}") for edge in values.quantile([1 / 3, 2 / 3])))


def _bands(values: pd.Series[Any], edges: Bands) -> tuple[pd.Series[Any], list[str]]:
    import pandas as pd

    ordered = sorted(edges)
    names = [f"under {ordered[0]:g}"]
    names += [f"{low:g} to {high:g}" for low, high in pairwise(ordered)]
    names.append(f"{ordered[-1]:g} and over")
    inner = [-np.inf, *ordered, np.inf]
    return pd.cut(values, inner, right=False, labels=names).astype(object), names
