"""The cells of runs whose backbone stays frozen: all cells of all runs that share a cohort and a
backbone are fitted together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from prognobench.errors import ConfigError, NotApplicableError, refusal
from prognobench.frozen.bank import Features, backbone_facts
from prognobench.frozen.estimators import EstimatorTask, ProbeResult, fit_estimator
from prognobench.frozen.probes import ProbeTask, fit_groups, fit_probes
from prognobench.frozen.refit import ask_again, join_parts, join_results
from prognobench.losses.correction import (
    REASON,
    SHIFT,
    describe_inverse_shift,
    describe_shift,
)
from prognobench.records import Fold, Probe
from prognobench.runs.cells.recording import tabulate_predictions
from prognobench.runs.cells.shared_features import (
    Embedded,
    embed_group,
    images_to_embed,
    share_features,
)
from prognobench.runs.cells.turns import Turns
from prognobench.runs.prepare import Prepared, name_axes
from prognobench.runs.workspace import Workspace
from prognobench.seeds import derive
from prognobench.workers import Lease, hold

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
    runs: Sequence[Prepared],
    workspace: Workspace,
    devices: Mapping[str, torch.device],
    turns: Turns,
) -> None:
    """Compute the cells of runs that are free, those that share features together."""
    for group in share_features([run for run in runs if turns.list_open(run)]):
        with _embedding(group) as ours:
            if ours:
                _fit_group(group, workspace, devices[group[0].config.device], turns)


@contextmanager
def _embedding(runs: Sequence[Prepared]) -> Iterator[bool]:
    """Keep other processes from embedding the same images; gives false while one of them does.

    Meanwhile this process has something else to do. Nobody is kept from features that are there.
    """
    reading = [run for run in runs if "image" in run.reads]
    # The runs differ in nothing else that features depend on.
    most = max(reading, key=lambda run: getattr(run.classifier, "views", 0), default=None)
    if most is None or not images_to_embed(most):
        yield True
        return
    prints, cache = most.fingerprints, most.config.paths.cache
    name = f"embedding-{prints['cohort'][:8]}-{prints['weights'][:8]}"
    with ExitStack() as held:
        free = True
        with suppress(OSError):  # a cache that cannot be written is not shared
            free = held.enter_context(hold(cache, name, wait=False)) is not None
        yield free


def _fit_group(
    runs: Sequence[Prepared], workspace: Workspace, device: torch.device, turns: Turns
) -> None:
    """Compute the free cells of runs that share a cohort and a frozen backbone.

    The images pass through the backbone once; a cell that fails costs no other cell.
    """
    embedded: list[Embedded] = []

    def embed() -> Embedded:
        if not embedded:
            embedded.append(embed_group(runs, workspace, device))
        return embedded[0]

    probes = [run for run in runs if isinstance(run.classifier, Probe)]
    # Heads are fitted together, whatever their runs. Other classifiers are fitted one by one, so
    # that several processes can share them.
    for batch in filter(None, [probes, *([run] for run in runs if run not in probes)]):
        with ExitStack() as held:
            leases = {run.key: held.enter_context(turns.take_run(run)) for run in batch}
            ours = [run for run in batch if leases[run.key] is not None]
            _fit_runs(ours, embed, turns, leases)


def _fit_runs(
    runs: Sequence[Prepared],
    embed: Callable[[], Embedded],
    turns: Turns,
    leases: Mapping[str, Lease | None],
) -> None:
    """Compute the open cells of runs that this process has leased."""
    cells = [(run, fold) for run in runs for fold in _applicable(run, turns)]
    embedded = Embedded()
    if reading := [(run, fold) for run, fold in cells if "image" in run.reads]:
        try:
            embedded = embed()
        except Exception as error:
            if refusal(error):  # the disk is full, say
                raise
            for run, fold in reading:
                if _is_held(leases[run.key]):
                    run.record_failure(fold, error)
            cells = [(run, fold) for run, fold in cells if "image" not in run.reads]
    tasks = [_task(run, fold, embedded.features) for run, fold in cells]
    again = {i for i, (run, fold) in enumerate(cells) if must_refit(run, fold)}
    with ThreadPoolExecutor(WRITERS) as writers:
        for found in _refit(_fit(tasks), tasks, again):
            # A process that was stopped for so long that another fits a run stores none of it.
            kept = {key: _is_held(lease) for key, lease in leases.items()}
            fitted = {i: result for i, result in found.items() if kept[cells[i][0].key]}
            stores = [partial(_store, *cells[i], result, embedded) for i, result in fitted.items()]
            for i, fault in zip(fitted, writers.map(_attempt, stores), strict=True):
                if fault is not None:
                    _record(*cells[i], fault)


def _is_held(lease: Lease | None) -> bool:
    return lease is not None and lease.is_ours


def _applicable(run: Prepared, turns: Turns) -> Sequence[Fold]:
    """Return the folds to do; none where the loss asks for what the classifier cannot do."""
    folds = turns.list_open(run)
    try:
        require_batches(run, folds)
    except NotApplicableError as reason:
        run.record_not_applicable(reason)
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
        run.record_not_applicable(error)
    elif refusal(error):  # the disk is full, say: no other cell could be stored either
        raise error
    else:
        run.record_failure(fold, error)


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
    fitted_on = join_parts(fold) if must_refit(run, fold) else fold
    spec, images = run.classifier, run.count_images(fitted_on)
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


def must_refit(run: Prepared, fold: Fold) -> bool:
    """Whether a cell is fitted again; without a validation part nothing was held back."""
    return run.config.train.refit and len(fold.validation) > 0


def _refit(
    fitted: Iterator[Mapping[int, ProbeResult | Exception]], tasks: Sequence[Task], again: set[int]
) -> Iterator[Mapping[int, ProbeResult | Exception]]:
    """Fit the tasks whose numbers are in ``again`` a second time, as soon as the first is done."""
    for found in fitted:
        firsts = {
            i: one for i, one in found.items() if i in again and not isinstance(one, Exception)
        }
        joined = dict(found)
        for results in _fit([ask_again(tasks[i], one) for i, one in firsts.items()]):
            for at, second in results.items():
                i = list(firsts)[at]
                if not isinstance(second, Exception):
                    joined[i] = join_results(tasks[i], firsts[i], second)
                else:
                    joined[i] = second
        yield joined


def _fit_one(task: Task) -> ProbeResult:
    return fit_probes([task])[0] if isinstance(task, ProbeTask) else fit_estimator(task)


def _attempt(compute: Callable[[], Made]) -> Made | Exception:
    try:
        return compute()
    except Exception as error:
        return error
