"""Predictions of many runs, loaded once, ready to be resampled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from prognobench.analysis.evaluation import Measure, make_cells
from prognobench.analysis.predictions import Level, load_predictions
from prognobench.analysis.scores import Scored
from prognobench.analysis.statistics.resampling import Panel, Statistic, make_panel
from prognobench.analysis.thresholds import HALF, NO_THRESHOLD

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


def load_panels(
    runs: pd.DataFrame, scored: Scored, level: Level, rules: Iterable[str] = ()
) -> dict[int, Panel]:
    """Return the panel of each run (its row) that has a complete cell."""
    wanted = tuple(dict.fromkeys([HALF, *(rule for rule in rules if rule != NO_THRESHOLD)]))
    panels: dict[int, Panel] = {}
    for predictions in load_predictions(runs, scored.folders):
        cells = make_cells(predictions, level, scored.scaling, wanted)
        for run in predictions.cells["run"].unique():
            panels[int(run)] = make_panel(predictions, cells, run)
    return panels


def share_patients(panels: Sequence[Panel]) -> bool:
    """Whether all panels are of the same patients, so that weights mean the same in each."""
    first = panels[0].patients
    return all(np.array_equal(panel.patients, first) for panel in panels)


def merge_panels(panels: Sequence[Panel]) -> Panel:
    """Return the repetitions of all runs of one choice (its seeds) as those of one.

    Runs that predict other patients than the first (unfinished ones) are left out.
    """
    same = [panel for panel in panels if share_patients([panels[0], panel])]
    repetitions = tuple(at for panel in same for at in panel.repetitions)
    return replace(panels[0], repetitions=repetitions)


def average_statistic(panels: Sequence[Panel], measures: Sequence[Measure]) -> Statistic:
    """Return the mean over the runs of one choice, one for each seed, on the same patients."""
    statistics = [panel.statistic(measures) for panel in panels]

    def values(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        drawn = [statistic(weights) for statistic in statistics]
        return np.asarray(np.mean(drawn, axis=0), np.float64)

    return values
