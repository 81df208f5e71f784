"""The shortcut baseline: what files tell of the outcome without their pixels, in a run's folds."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from prognobench.audit.metadata import predict_from_metadata, read_image_metadata
from prognobench.losses.correction import describe_inverse_shift
from prognobench.records import Component, Files
from prognobench.runs.recording import (
    describe_environment,
    describe_run,
    tabulate_predictions,
    tabulate_run,
)
from prognobench.store import RunFolder, describe, run_folder

if TYPE_CHECKING:
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
    seen: set[str] = set()
    for run in runs:
        if "image" not in run.reads or not _has_files(run):
            continue
        folder = _locate(run)
        if str(folder.path) in seen:
            continue
        seen.add(str(folder.path))
        todo = [fold for fold in run.folds if not folder.is_done(fold.name)]
        if not todo:
            continue
        _describe(run, folder)
        for fold in todo:
            try:
                _store(run, fold, folder, workspace)
            except Exception as error:
                folder.write_failure(fold.name, error)


def _has_files(run: Prepared) -> bool:
    return any(isinstance(source, Files) for source in run.cohort.sources.values())


def _locate(run: Prepared) -> RunFolder:
    parts = (VERSION, run.fingerprints["cohort"], run.fingerprints["folds"])
    key = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]
    named = Component(SHORTCUT, SHORTCUT)
    return run_folder(replace(run.config, model=named, strategy=named), key)


def _describe(run: Prepared, folder: RunFolder) -> None:
    named = Component(SHORTCUT, SHORTCUT)
    meta = {
        **describe_run(run),
        "key": folder.path.name,
        "model": SHORTCUT,
        "strategy": SHORTCUT,
        "reads": ["files"],
        "weights": "",
        "config": describe(replace(run.config, model=named, strategy=named)),
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
