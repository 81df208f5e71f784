"""The cells of runs whose backbone stays frozen, trained together over all runs of a sweep that
share a cohort and a backbone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from prognobench.errors import NotApplicableError, TrainingError
from prognobench.frozen.bank import Features, backbone_facts, embed, view_of
from prognobench.frozen.estimators import (
    EstimatorTask,
    ProbeResult,
    fit_estimator,
    reads_features,
)
from prognobench.frozen.probes import ProbeTask, fit_groups, fit_probes
from prognobench.records import Estimator, Fold, Probe
from prognobench.runs.cells import cell_axes, prediction_table
from prognobench.runs.prepare import Prepared, Workspace
from prognobench.seeds import derive
from prognobench.training.hardware import resolve_precision

Task = ProbeTask | EstimatorTask
Made = TypeVar("Made")

WRITERS = 8
"""Cells that are stored at once: what is written waits for the disk, and can wait together."""


def feature_cells(runs: Sequence[Prepared], workspace: Workspace, device: torch.device) -> None:
    """Compute all unfinished cells of runs that share a cohort and a frozen backbone.

    The images pass through the backbone once; a cell that fails costs no other cell.
    """
    specs = {run.key: run.classifier for run in runs}
    cells = [(run, fold) for run in runs for fold in _applicable(run)]
    images = {key for key, spec in specs.items() if reads_features(spec)}
    features, backbone = [Features()], 0
    shared: dict[str, Any] = {}
    try:
        if any(run.key in images for run, _ in cells):
            start = time.perf_counter()
            features = _features(runs[0], specs.values(), workspace, device)
            _require_finite(features)
            shared["seconds_embedding_shared"] = time.perf_counter() - start
            shared["precision_features"] = resolve_precision(runs[0].config.train.precision, device)
            backbone = backbone_facts(runs[0].source, runs[0].config.paths.cache).parameters
    except Exception as error:
        for run, fold in cells:
            if run.key in images:
                run.folder.write_failure(fold.name, error)
        features, cells = [Features()], [cell for cell in cells if cell[0].key not in images]
    tasks = [_task(run, fold, specs[run.key], features) for run, fold in cells]
    with ThreadPoolExecutor(WRITERS) as writers:
        for fitted in _fit(tasks):
            stores = [
                partial(_store, *cells[i], result, backbone, shared) for i, result in fitted.items()
            ]
            for i, fault in zip(fitted, writers.map(_attempt, stores), strict=True):
                if fault is not None:
                    _record(*cells[i], fault)


def _applicable(run: Prepared) -> Sequence[Fold]:
    """Return the folds to do; none where the loss asks for what the classifier cannot do."""
    folds = run.unfinished()
    try:
        require_batches(run, folds)
    except NotApplicableError as reason:
        run.folder.mark_not_applicable(reason)
        return ()
    return folds


def require_batches(run: Prepared, folds: Sequence[Fold]) -> None:
    """Check that a loss that draws batches evenly from all classes meets one that has batches.

    Raises
    ------
    NotApplicableError
        If the classifier sees the whole training part at once.
    """
    spec = run.classifier
    exact = bool(spec.strengths) if isinstance(spec, Probe) else reads_features(spec)
    if folds and exact and run.loss(folds[0]).balanced_sampling:
        strategy, loss = run.config.strategy.name, run.config.loss.name
        raise NotApplicableError(
            f"{strategy} draws no batches, which loss={loss} would draw evenly from all classes; "
            "class weights do the same (loss=cross_entropy)"
        )


def _require_finite(features: Iterable[Features]) -> None:
    """Raise an error if the backbone gives any image a feature that is no number."""
    wrong = {
        int(row)
        for view in features
        for of_images in view.values()
        for row in np.flatnonzero(~np.isfinite(of_images).all(axis=1))
    }
    if wrong:
        raise TrainingError(
            f"the backbone gives {len(wrong)} images features that are not finite (the first in "
            f"row {min(wrong) + 1} of the cohort); are its weights, and is train.precision wide "
            "enough?"
        )


def _record(run: Prepared, fold: Fold, error: Exception) -> None:
    if isinstance(error, NotApplicableError):
        run.folder.mark_not_applicable(error)
    else:
        run.folder.write_failure(fold.name, error)


def _store(
    run: Prepared,
    fold: Fold,
    result: ProbeResult | Exception,
    backbone: int,
    shared: dict[str, Any],
) -> None:
    if isinstance(result, Exception):
        raise result
    rows = np.concatenate([fold.validation, fold.test])
    predictions = prediction_table(run, fold, result.probabilities[rows])
    fitted = result.fitted
    classifier = result.classifier()
    cost = {
        **fitted.cost,
        **shared,
        **({} if classifier.layer is None else _parameters(fitted.cost, backbone)),
        "storage_bytes": classifier.stored_bytes,
        "best_epoch": fitted.best_epoch,
        "chosen": dict(result.chosen),
    }
    save = None
    if run.config.train.save != "none":
        save = partial(classifier.save, backbone=run.source.fingerprint)
    run.folder.write_cell(fold.name, predictions, fitted.history, cost, save)


def _parameters(cost: Mapping[str, Any], backbone: int) -> dict[str, Any]:
    """Count as :func:`.costs.parameter_counts` does."""
    head = cost.get("parameters_trainable")
    if head is None:  # a classical classifier is no set of parameters
        return {"parameters_total": backbone}
    total = backbone + head
    return {
        "parameters_total": total,
        "parameters_share": head / total,
        "parameters_by_role": {"head": head},
    }


def _features(
    run: Prepared,
    specs: Iterable[Probe | Estimator],
    workspace: Workspace,
    device: torch.device,
) -> list[Features]:
    """The layers that any of the runs reads, of every image: plain, and in each augmented view."""
    wanted: dict[str, None] = {}
    views = 0
    for spec in specs:
        if isinstance(spec, Probe):
            wanted.update(dict.fromkeys(spec.layers or ("",)))
            views = max(views, spec.views)
        elif reads_features(spec):
            wanted[spec.layer] = None
    if not wanted:
        return [{}]
    recipe = run.config.train
    return [
        embed(
            run.source,
            workspace.pixels(run.config),
            tuple(wanted),
            folder=run.config.paths.cache,
            device=device,
            precision=recipe.precision,
            view=view_of(number, recipe),
            progress=workspace.progress,
        )
        for number in range(1 + views)
    ]


def _task(
    run: Prepared,
    fold: Fold,
    spec: Probe | Estimator,
    features: Sequence[Features],
) -> Task:
    labels = run.cohort.table["label"].to_numpy(copy=True)
    seed = derive("probe", *cell_axes(run.config.seed, fold))
    if isinstance(spec, Probe):
        return ProbeTask(
            features=features[0],
            labels=labels,
            fold=fold,
            loss=run.loss(fold),
            probe=spec,
            recipe=run.config.train,
            seed=seed,
            views=features[1 : 1 + spec.views],
        )
    return EstimatorTask(
        features=features[0],
        covariates=run.cohort.table[list(run.cohort.covariates)],
        labels=labels,
        fold=fold,
        loss=run.loss(fold),
        estimator=spec,
        seed=seed,
    )


def _fit(tasks: Sequence[Task]) -> Iterator[Mapping[int, ProbeResult | Exception]]:
    """Fit the probes together, and those where that fails and the others each for itself.

    Yields the results of tasks, by their numbers, as soon as they are there.
    """
    probes = [(i, task) for i, task in enumerate(tasks) if isinstance(task, ProbeTask)]
    alone = dict(enumerate(tasks))
    with suppress(Exception):  # of a task that cannot even be grouped: told when it is alone
        for numbers, fitted in fit_groups([task for _, task in probes]):
            if not isinstance(fitted, Exception):
                results = {probes[n][0]: one for n, one in zip(numbers, fitted, strict=True)}
                for i in results:
                    del alone[i]
                yield results
    for i, task in alone.items():
        yield {i: _attempt(partial(_fit_one, task))}


def _fit_one(task: Task) -> ProbeResult:
    return fit_probes([task])[0] if isinstance(task, ProbeTask) else fit_estimator(task)


def _attempt(compute: Callable[[], Made]) -> Made | Exception:
    try:
        return compute()
    except Exception as error:
        return error
