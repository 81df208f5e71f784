"""The shortcut baseline: what files tell of the outcome without their pixels, in a run's folds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from prognobench.audit.metadata import predict_from_metadata, read_image_metadata
from prognobench.files import json_form
from prognobench.losses.correction import describe_inverse_shift
from prognobench.records import Component, Files
from prognobench.runs.cells.recording import (
    describe_environment,
    describe_run,
    tabulate_predictions,
    tabulate_run,
)
from prognobench.store import RunFolder, run_folder
from prognobench.workers import LEASE, hold

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from prognobench.records import Fold
    from prognobench.runs.prepare import Prepared
    from prognobench.runs.workspace import Workspace

SHORTCUT = "shortcut"
"""Model and strategy of the baseline."""

VERSION = "shortcut 1"
"""Part of its keys: to be raised when the same files would give other forecasts."""


def store_shortcuts(runs: Sequence[Prepared], workspace: Workspace) -> None:
    """Store the shortcut baseline of every cohort of files and its folds, once."""
    chosen: dict[tuple[str, str, Path], Prepared] = {}
    for run in runs:
        if "image" in run.reads:
            prints, results = run.fingerprints, run.config.paths.results
            chosen.setdefault((prints["cohort"], prints["folds"], results), run)
    for run in chosen.values():
        if any(isinstance(source, Files) for source in run.cohort.sources.values()):
            _complete(run, workspace)


def _complete(run: Prepared, workspace: Workspace) -> None:
    """Store the cells of a baseline that are missing or damaged."""
    folder = _locate(run)
    if _is_complete(run, folder):
        return
    with hold(folder.path, LEASE):
        # Looked at again: another process may have stored them meanwhile.
        if _is_complete(run, folder):
            return
        _describe(run, folder)
        for fold in _list_unfinished(run, folder):
            try:
                _store(run, fold, folder, workspace)
            except Exception as error:
                folder.write_failure(fold.name, run.hide_error(error))


def _is_complete(run: Prepared, folder: RunFolder) -> bool:
    return folder.is_described and not _list_unfinished(run, folder)


def _list_unfinished(run: Prepared, folder: RunFolder) -> list[Fold]:
    return [fold for fold in run.folds if not folder.is_done(fold.name)]


def _locate(run: Prepared) -> RunFolder:
    parts = (VERSION, run.fingerprints["cohort"], run.fingerprints["folds"])
    key = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]
    named = Component(SHORTCUT, SHORTCUT)
    return run_folder(replace(run.config, model=named, strategy=named), key)


def _describe(run: Prepared, folder: RunFolder) -> None:
    described = describe_run(run)
    named = json_form(asdict(Component(SHORTCUT, SHORTCUT)))
    meta = {
        **described,
        "key": folder.path.name,
        "model": SHORTCUT,
        "strategy": SHORTCUT,
        "reads": ["files"],
        "weights": "",
        "config": {**described["config"], "model": named, "strategy": named},
    }
    folder.create(meta, describe_environment("cpu"), tabulate_run(run))


def _store(run: Prepared, fold: Fold, folder: RunFolder, workspace: Workspace) -> None:
    import numpy as np

    metadata = workspace.once(
        partial(read_image_metadata, run.cohort), "file metadata", run.fingerprints["cohort"]
    )
    scores: NDArray[np.float64] = predict_from_metadata(run.cohort, metadata, fold.train)
    rows = np.concatenate([fold.validation, fold.test])
    predictions = tabulate_predictions(run, fold, scores[rows])
    cost = describe_inverse_shift(run.count_patients(fold))
    # A classifier fitted once has one evaluation; a history without columns could not be read.
    folder.write_cell(fold.name, predictions, [{"epoch": 1}], cost)
