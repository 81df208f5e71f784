"""Differences between groups of patients, and scores of centres pooled with random effects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from prognobench.analysis.evaluation import Measure
from prognobench.analysis.report.closeups import Closeup
from prognobench.analysis.statistics.random_effects import pool_centres
from prognobench.analysis.statistics.resampling import (
    Resampling,
    bootstrap,
    draw_weights,
    interval_ends,
    within,
)
from prognobench.analysis.subgroups import find_subgroups, groupable_columns
from prognobench.analysis.tables import Entry, Row, Table, make_interval, make_number
from prognobench.errors import StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Groups = Mapping[str, "NDArray[np.float64]"]
"""``column=group`` -> which patients of the best choice's panel belong to it, 1 or 0."""

BY_CENTRE = "leave_one_centre_out"

RESAMPLES = 1000

MOST_COLUMNS = 6
"""Columns of a cohort that make groups: its covariates come before what else it keeps."""


def find_groups(closeup: Closeup) -> dict[str, NDArray[np.float64]]:
    """Return ``column=group`` -> which patients of the best choice belong to it, 1 or 0."""
    row, panel = closeup.series[0].rows[0], closeup.panels[closeup.best]
    folders = closeup.scored.folders
    try:
        columns = groupable_columns(folders[row].cohort())[:MOST_COLUMNS]
    except StoreError:
        return {}
    runs = closeup.scored.runs.loc[[row for one in closeup.series for row in one.rows]]
    masks = find_subgroups(
        closeup.predictions, runs, folders, "patient", {name: () for name in columns}
    )
    test = closeup.cells.test
    own = closeup.predictions.cells["run"].to_numpy()[test.cell] == row
    groups = {
        name: np.isin(panel.patients, test.ids[mask & own]).astype(np.float64)
        for name, mask in masks.items()
    }
    return {name: inside for name, inside in groups.items() if inside.any()}


def compare_groups(closeup: Closeup, groups: Groups) -> Table | None:
    """Return each group's score beside that of all other patients, and the difference.

    Both are computed in the same resamples of all patients, so the interval of the difference takes
    the sizes of both into account. Patients whose group is not known are in neither.
    """
    panel, metric = closeup.panels[closeup.best], closeup.metric
    statistic = panel.statistic([Measure.of(metric)])
    columns = {name.partition("=")[0] for name in groups}
    known = {c: sum_groups(groups, c) for c in columns}
    rows: list[Row] = []
    for name, inside in groups.items():
        others = known[name.partition("=")[0]] - inside
        if not inside.sum() or not others.sum():
            continue

        def both(
            weights: NDArray[np.float64],
            inside: NDArray[np.float64] = inside,
            others: NDArray[np.float64] = others,
        ) -> NDArray[np.float64]:
            own, rest = within(statistic, inside)(weights), within(statistic, others)(weights)
            return np.concatenate([own, rest, own - rest], axis=1)

        axes = ("report", len(panel.strata))
        found = bootstrap(both, panel.strata, Resampling(resamples=RESAMPLES), axes=axes)
        scores = map(make_interval, found.value, found.low, found.high)
        rows.append(((name,), (*count_patients(closeup, inside), *scores)))
    if not rows:
        return None
    return Table(
        f"{metric.title} of {closeup.best} in groups of patients, and differences",
        ("group",),
        (*_name_counts(closeup), "score", "all others", "difference"),
        tuple(rows),
        notes=(
            "difference: group minus all other patients whose group is known, with a 95 % "
            "bootstrap interval; group and others are drawn together",
            f"{len(rows)} differences are looked at, and none is corrected for that: one in twenty "
            "intervals leaves out 0 by chance",
        ),
    )


def _name_counts(closeup: Closeup) -> tuple[str, str]:
    """Return the headings of :func:`count_patients`."""
    return "patients", closeup.positive if closeup.is_binary else "events"


def sum_groups(groups: Groups, column: str) -> NDArray[np.float64]:
    """Return who has a known value of a column, 1 or 0."""
    own = [inside for name, inside in groups.items() if name.partition("=")[0] == column]
    return np.asarray(np.minimum(np.sum(own, axis=0), 1.0), np.float64)


def count_patients(closeup: Closeup, inside: NDArray[np.float64]) -> tuple[Entry, Entry]:
    """Return the entries of a group's patients, and of events where there are two classes."""
    events = inside[closeup.panels[closeup.best].strata == 1].sum() if closeup.is_binary else None
    return make_number(inside.sum(), "{:.0f}".format), make_number(events, "{:.0f}".format)


def pool_by_centre(closeup: Closeup) -> Table | None:
    """Return the score of each left-out centre, and their random-effects summary.

    ``None`` where the folds are no centres.
    """
    row = closeup.series[0].rows[0]
    folder = closeup.scored.folders[row]
    if folder.meta.get("cv") != BY_CENTRE:
        return None
    try:
        centre_of = folder.cohort().groupby("patient_id")["centre"].first()
    except StoreError:
        return None
    panel, metric = closeup.panels[closeup.best], closeup.metric
    statistic = panel.statistic([Measure.of(metric)])
    weights = draw_weights(panel.strata, RESAMPLES, ("centres", len(panel.strata)))
    centres = centre_of.reindex(panel.patients).to_numpy().astype(str)
    rows: list[Row] = []
    values, errors = [], []
    for name in sorted(set(centres)):
        inside = (centres == name).astype(np.float64)
        of_centre = within(statistic, inside)
        value, drawn = of_centre(np.ones((1, len(inside))))[0], of_centre(weights)
        (low,), (high,) = interval_ends(value, drawn)
        known = drawn[~np.isnan(drawn)]
        error = known.std(ddof=1) if len(known) > 1 else np.nan
        if np.isfinite([*value, error]).all() and error > 0:
            values.append(value[0])
            errors.append(error)
        score = make_interval(value[0], low, high)
        rows.append(((name,), (*count_patients(closeup, inside), score)))
    notes = []
    if left := len(rows) - len(values):
        notes.append(
            f"{left} of {len(rows)} centres have no value or no spread, and are not pooled"
        )
    summary = pool_centres(np.array(values), np.array(errors))
    if summary is None:
        notes.append("fewer than three centres can be pooled, so there is no summary")
        below: list[Row] = []
    else:
        blank = Entry(""), Entry("")
        mean = make_interval(summary.mean, summary.low, summary.high)
        expected = f"{summary.predicted_low:.3f} to {summary.predicted_high:.3f}"
        below = [
            (("mean over centres",), (*blank, mean)),
            (("another centre",), (*blank, Entry(expected))),
        ]
        notes += [
            "mean: random effects (Paule and Mandel), interval of Hartung and Knapp; another "
            "centre: 95 % prediction interval (Higgins, Thompson and Spiegelhalter)",
            f"standard deviation between centres {summary.tau:.3f}, I² "
            f"{100 * summary.heterogeneity:.0f} %; errors of centres are those of a bootstrap over "
            "their patients, and training parts of centres overlap",
        ]
    return Table(
        f"{metric.title} of {closeup.best} by left-out centre",
        ("centre",),
        (*_name_counts(closeup), "score"),
        (*rows, *below),
        references=len(below),
        notes=tuple(notes),
    )
