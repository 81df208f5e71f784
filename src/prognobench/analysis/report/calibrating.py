"""Calibration of a choice before and after class weights are undone, and after scaling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from prognobench.analysis.evaluation import Measure, make_cells
from prognobench.analysis.report.closeups import Closeup
from prognobench.analysis.report.drawing import REFERENCE, reliability
from prognobench.analysis.report.figures import Figure
from prognobench.analysis.statistics.curves import calibration_curve
from prognobench.analysis.statistics.panels import merge_panels
from prognobench.analysis.statistics.resampling import Panel, make_panel
from prognobench.analysis.tables import Entry, Row, Table, make_number
from prognobench.analysis.thresholds import HALF, Scaling
from prognobench.metrics.metric import find_metric

if TYPE_CHECKING:
    import pandas as pd

STORED, UNDONE = "as trained", "class weights undone"

STAGES: tuple[tuple[str, bool, Scaling], ...] = (
    (STORED, False, "none"),
    (UNDONE, True, "none"),
    ("and temperature", True, "temperature"),
    ("and Platt", True, "platt"),
)
"""Name, whether the shift of class weights is undone, and what is fitted on validation then."""

METRICS = ("brier", "log_loss", "ece", "calibration_intercept", "calibration_slope")

BENEFIT_AT = 0.2
"""The threshold probability at which the table gives the net benefit."""


def follow_calibration(closeup: Closeup) -> dict[str, Panel]:
    """Return the predictions of the best choice at each stage, of two classes."""
    predictions, rows = closeup.predictions, closeup.series[0].rows
    stages = {}
    for name, undone, scaling in STAGES:
        shifts = predictions.shifts if undone else np.zeros_like(predictions.shifts)
        cells = make_cells(replace(predictions, shifts=shifts), "patient", scaling)
        panels = [make_panel(predictions, cells, row) for row in rows]
        stages[name] = merge_panels(panels)
    return stages


def compare_calibration(closeup: Closeup, stages: dict[str, Panel]) -> Table:
    """Return mean forecast, scores of calibration, net benefit and cutoff of each stage."""
    measures = [Measure.of(find_metric(name)) for name in METRICS]
    rows = [_row(name, panel, measures) for name, panel in stages.items()]
    rows.append((("always the prevalence",), tuple(_describe_always(closeup.prevalence))))
    return Table(
        f"calibration of {closeup.best}, {closeup.prevalence:.3f} of patients {closeup.positive}",
        ("forecasts",),
        (
            "mean forecast",
            *(measure.metric.title for measure in measures),
            f"net benefit at {BENEFIT_AT:g}",
            "cutoff of decisions",
        ),
        tuple(rows),
        references=1,
        notes=(
            "all folds pooled; everything else on this page uses the class weights undone"
            + ("" if closeup.scored.scaling == "none" else f" and {closeup.scored.scaling}"),
            "temperature and Platt scaling are fitted on each fold's validation part; "
            "'prognobench score --scaling platt' uses one of them for all scores",
            "cutoff: decisions at the trained threshold 0.5 are decisions at this risk (mean over "
            "folds); Platt scaling decides at 0.5",
        ),
    )


def _row(name: str, panel: Panel, measures: Sequence[Measure]) -> Row:
    values = panel.statistic(measures)(np.ones((1, len(panel.strata))))[0]
    cutoff = float(np.mean([at.cutoffs[HALF].mean() for at in panel.repetitions]))
    numbers = [mean_forecast(panel), *values, measure_benefit(panel, BENEFIT_AT), cutoff]
    return (name,), tuple(make_number(number, "{:.3f}".format) for number in numbers)


def _describe_always(prevalence: float) -> list[Entry]:
    """Return the entries of who always forecasts the prevalence."""
    loss = -sum(p * np.log(p) for p in (prevalence, 1 - prevalence) if p > 0)
    all_treated = prevalence - (1 - prevalence) * BENEFIT_AT / (1 - BENEFIT_AT)
    benefit = all_treated if prevalence >= BENEFIT_AT else 0.0
    known = (prevalence, prevalence * (1 - prevalence), float(loss), 0.0, 0.0, None, benefit, None)
    return [make_number(number, "{:.3f}".format) for number in known]


def mean_forecast(panel: Panel) -> float:
    """Return the mean risk of all patients and repetitions."""
    return float(np.mean([at.scores[:, 1].mean() for at in panel.repetitions]))


def measure_benefit(panel: Panel, threshold: float) -> float:
    """Return the net benefit per patient of treating from a risk on (Vickers 2006)."""
    found = []
    for at in panel.repetitions:
        treated, positive = at.scores[:, 1] >= threshold, at.labels == 1
        worth = np.where(positive, 1.0, -threshold / (1 - threshold))
        found.append((treated * worth).mean())
    return float(np.mean(found))


def draw_calibration(closeup: Closeup, stages: dict[str, Panel]) -> Figure:
    """Draw the observed rate against the forecast as trained, and as the page's scores use it."""
    import pandas as pd

    used = {"none": UNDONE, "temperature": "and temperature", "platt": "and Platt"}
    names = list(dict.fromkeys([used[closeup.scored.scaling], UNDONE, STORED]))
    parts: list[pd.DataFrame] = []
    for name in names:
        line = calibration_curve(stages[name])
        kind = REFERENCE if name == STORED else "choice"
        parts.append(pd.DataFrame(line).assign(series=name, kind=kind))
    said = "; ".join(f"{name}: mean forecast {mean_forecast(stages[name]):.3f}" for name in names)
    return closeup.figure(
        "calibration-stages",
        f"Calibration of {closeup.best} before and after",
        f"Observed rate of {closeup.positive} against forecast, before and after class weights are "
        f"undone; prevalence {closeup.prevalence:.3f}; {said}.",
        pd.concat(parts, ignore_index=True)[["series", "kind", "x", "y", "low", "high", "n"]],
        reliability,
    )
