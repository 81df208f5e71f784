"""The cells of runs whose backbone stays frozen: all cells of all runs that share a cohort and a
backbone are fitted together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from prognobench.errors import ConfigError, NotApplicableError, refusal
from prognobench.frozen.bank import Features, backbone_facts
from prognobench.frozen.estimators import EstimatorTask, ProbeResult, fit_estimator
from prognobench.frozen.probes import ProbeTask, fit_groups, fit_probes
from prognobench.losses.correction import (
    REASON,
    SHIFT,
    describe_inverse_shift,
    describe_shift,
)
from prognobench.records import Fold, Probe
from prognobench.runs.prepare import Prepared, name_axes
from prognobench.runs.recording import tabulate_predictions
from prognobench.runs.shared_features import Embedded, embed_group, share_features
from prognobench.runs.workspace import Workspace
from prognobench.seeds import derive

Task = ProbeTask | EstimatorTask
Made = TypeVar("Made")

WRITERS = 8
"""Cells that are stored at once: each waits for the disk, and they can wait together."""


def check_layers(run: Prepared) -> None:
    """Look up what the classifier reads.

    Raises
    ------
    ConfigError
        If the backbone has no such layer, or the recipe makes no augmented views.
    """
    spec = run.classifier
    if isinstance(spec, Probe):
        wanted = spec.layers
        if spec.views and run.config.train.augmentation == "none":
            raise ConfigError(
                f"strategy.views={spec.views} are augmented images, but train.augmentation=none "
                "makes none; set train.augmentation=light or strong"
            )
    else:
        wanted = (spec.layer,) if "image" in spec.reads and spec.layer else ()
    if not wanted:
        return
    known = backbone_facts(run.source, run.config.paths.cache).layers
    if not set(wanted) & set(known):
        raise ConfigError(
            f"no feature {' or '.join(wanted)} in this backbone; it has {', '.join(known)}"
        )


def fit_cells(
    runs: Sequence[Prepared], workspace: Workspace, devices: Mapping[str, torch.device]
) -> None:
    """Compute the unfinished cells of runs, those that share features together."""
    for group in share_features(runs):
        _fit_group(group, workspace, devices[group[0].config.device])


def _fit_group(runs: Sequence[Prepared], workspace: Workspace, device: torch.device) -> None:
    """Compute all unfinished cells of runs that share a cohort and a frozen backbone.

    The images pass through the backbone once; a cell that fails costs no other cell.
    """
    cells = [(run, fold) for run in runs for fold in _applicable(run)]
    embedded = Embedded()
    if reading := [(run, fold) for run, fold in cells if "image" in run.reads]:
        try:
            embedded = embed_group(runs, workspace, device)
        except Exception as error:
            if refusal(error):  # the disk is full, say
                raise
            for run, fold in reading:
                run.folder.write_failure(fold.name, error)
            cells = [(run, fold) for run, fold in cells if "image" not in run.reads]
    tasks = [_task(run, fold, embedded.features) for run, fold in cells]
    with ThreadPoolExecutor(WRITERS) as writers:
        for fitted in _fit(tasks):
            stores = [partial(_store, *cells[i], result, embedded) for i, result in fitted.items()]
            for i, fault in zip(fitted, writers.map(_attempt, stores), strict=True):
                if fault is not None:
                    _record(*cells[i], fault)


def _applicable(run: Prepared) -> Sequence[Fold]:
    """Return the folds to do; none where the loss asks for what the classifier cannot do."""
    folds = run.list_unfinished()
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
    exact = bool(spec.strengths) if isinstance(spec, Probe) else "image" in spec.reads
    if folds and exact and run.make_loss(folds[0]).balanced_sampling:
        strategy, loss = run.config.strategy.name, run.config.loss.name
        raise NotApplicableError(
            f"{strategy} draws no batches, but loss={loss} draws them evenly from all classes; "
            "use class weights instead (loss=cross_entropy)"
        )


def _record(run: Prepared, fold: Fold, error: Exception) -> None:
    if isinstance(error, NotApplicableError):
        run.folder.mark_not_applicable(error)
    elif refusal(error):  # the disk is full, say: no other cell could be stored either
        raise error
    else:
        run.folder.write_failure(fold.name, error)


def _store(
    run: Prepared,
    fold: Fold,
    result: ProbeResult | Exception,
    embedded: Embedded,
) -> None:
    if isinstance(result, Exception):
        raise result
    rows = np.concatenate([fold.validation, fold.test])
    predictions = tabulate_predictions(run, fold, result.probabilities[rows])
    fitted = result.fitted
    classifier = result.classifier()
    cost = {
        **fitted.cost,
        **embedded.cost,
        **({} if classifier.layer is None else _parameters(fitted.cost, embedded.parameters)),
        "storage_bytes": classifier.stored_bytes,
        "best_epoch": fitted.best_epoch,
        **_describe_shift(run, fold),
        "chosen": dict(result.chosen),
    }
    save = None
    if run.config.train.save != "none":
        save = partial(classifier.save, backbone=run.source.fingerprint)
    run.folder.write_cell(fold.name, predictions, fitted.history, cost, save)


def _describe_shift(run: Prepared, fold: Fold) -> dict[str, Any]:
    """Return by how much the classifier's probabilities are shifted by its class weights."""
    spec, images = run.classifier, run.count_images(fold)
    if isinstance(spec, Probe):
        return describe_shift(run.make_loss(fold), images)
    if spec.weights == "exact":
        return describe_inverse_shift(images)
    if spec.weights == "inexact":
        reason = f"{run.config.strategy.name} weights classes in a way that no shift undoes exactly"
        return {SHIFT: None, REASON: reason}
    return {SHIFT: [0.0] * len(run.classes)}


def _parameters(cost: Mapping[str, Any], backbone: int) -> dict[str, Any]:
    """Count parameters under the names that :func:`.costs.parameter_counts` gives them."""
    head = cost.get("parameters_trainable")
    if head is None:  # a classical classifier is no set of parameters
        return {"parameters_total": backbone}
    total = backbone + head
    return {
        "parameters_total": total,
        "parameters_share": head / total,
        "parameters_by_role": {"head": head},
    }


def _task(run: Prepared, fold: Fold, features: Sequence[Features]) -> Task:
    spec = run.classifier
    labels = run.cohort.table["label"].to_numpy(copy=True)
    seed = derive("probe", *name_axes(run.config.training_seed, fold))
    if isinstance(spec, Probe):
        return ProbeTask(
            features=features[0],
            labels=labels,
            fold=fold,
            loss=run.make_loss(fold),
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
        loss=run.make_loss(fold),
        estimator=spec,
        seed=seed,
    )


def _fit(tasks: Sequence[Task]) -> Iterator[Mapping[int, ProbeResult | Exception]]:
    """Fit the probes in groups; fit all other tasks, and groups that fail, one by one.

    Yields the results of tasks, by their numbers, as soon as they are there.
    """
    probes = [(i, task) for i, task in enumerate(tasks) if isinstance(task, ProbeTask)]
    alone = dict(enumerate(tasks))
    # A task that cannot even be grouped fails again below, and there costs no other task.
    with suppress(Exception):
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
