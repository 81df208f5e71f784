"""The scores of a results folder, read from its tables or made anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prognobench.analysis.decisions import Scaling
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.scoring import COLUMNS, score
from prognobench.files import read_table
from prognobench.metrics.metric import all_metrics
from prognobench.store import RunFolder, iter_runs

if TYPE_CHECKING:
    import pandas as pd

TEXT = (
    *("dataset", "model", "strategy", "regime", "cv", "key", "cohort", "folds", "path", "version"),
    *("level", "subgroup", "threshold", "metric", "reason", "failure", "not_applicable"),
)
"""Columns that are text whatever they look like; blank is empty text."""


@dataclass(frozen=True)
class Scored:
    """``runs.csv`` and ``scores.csv`` of a results folder, and the folder of each row of runs."""

    runs: pd.DataFrame
    scores: pd.DataFrame
    folders: tuple[RunFolder, ...]

    @property
    def versions(self) -> list[str]:
        """The versions of prognobench that made the runs."""
        return sorted(set(self.runs["version"]) - {""})

    @property
    def scaling(self) -> Scaling:
        """How probabilities were calibrated before they were scored."""
        found: list[Scaling] = list(self.scores["scaling"].unique())
        return found[0] if found else "none"


def read_scores(results: Path) -> Scored:
    """Read the scores of a results folder; scored anew if anything was computed since.

    Raises
    ------
    StoreError
        If there are no runs.
    """
    scored = _read(results) if (results / "scores.csv").exists() else None
    if scored is None or not _up_to_date(results, scored):
        score(results)
        scored = _read(results)
    return scored


def _read(results: Path) -> Scored:
    tables = [read_table(results / name, TEXT) for name in ("runs.csv", "scores.csv")]
    # A regime without k has 0 here: blanks do not group.
    runs, scores = (table.fillna({"k": 0}).astype({"k": int}) for table in tables)
    return Scored(runs, scores, tuple(RunFolder(results / path) for path in runs["path"]))


def _up_to_date(results: Path, scored: Scored) -> bool:
    """Whether the runs, their complete and failed cells, and the metrics are those scored."""
    folders = list(iter_runs(results))
    marks = [mark for folder in folders for mark in folder.path.glob("cells/*/done.json")]
    failures = [note for folder in folders for note in folder.path.glob("cells/*/failure.json")]
    runs = scored.runs[scored.runs["model"] != ORACLE]
    metrics = {metric.name for metric in all_metrics()}
    if (len(folders), len(marks)) != (len(runs), runs["done"].sum()):
        return False
    if not set(COLUMNS).issubset(scored.scores):
        return False
    if not metrics.issubset(scored.scores["metric"].unique()):
        return False
    written = (results / "scores.csv").stat().st_mtime_ns
    files = [*(folder.path / "run.json" for folder in folders), *marks, *failures]
    return all(file.stat().st_mtime_ns < written for file in files)
