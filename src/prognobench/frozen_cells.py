"""The cells of runs whose backbone stays frozen, trained together over all runs of a sweep that
share a cohort and a backbone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from prognobench.cells import cell_axes, prediction_table
from prognobench.classifiers import reads_features
from prognobench.errors import NotApplicableError
from prognobench.features import PLAIN, Features, View, backbone_facts, embed
from prognobench.hardware import resolve_precision
from prognobench.preparation import Prepared, Workspace
from prognobench.probes import EstimatorTask, ProbeResult, ProbeTask, fit_estimator, fit_probes
from prognobench.records import Estimator, Fold, Probe
from prognobench.registry import STRATEGIES
from prognobench.seeds import derive

Task = ProbeTask | EstimatorTask
Made = TypeVar("Made")


def feature_cells(runs: Sequence[Prepared], workspace: Workspace, device: torch.device) -> None:
    """Compute all unfinished cells of runs that share a cohort and a frozen backbone.

    The images pass through the backbone once; a cell that fails costs no other cell.
    """
    specs: dict[str, Probe | Estimator] = {
        run.key: STRATEGIES[run.config.strategy.builder](**run.config.strategy.settings)
        for run in runs
    }
    cells = [(run, fold) for run in runs for fold in run.unfinished()]
    try:
        start = time.perf_counter()
        features = _features(runs[0], specs.values(), workspace, device)
        shared: dict[str, Any] = {"seconds_embedding_shared": time.perf_counter() - start}
        images = any(isinstance(s, Probe) or reads_features(s) for s in specs.values())
        if images:
            shared["precision_features"] = resolve_precision(runs[0].config.train.precision, device)
        cache = runs[0].config.paths.cache
        backbone = backbone_facts(runs[0].source, cache).parameters if images else 0
    except Exception as error:
        for run, fold in cells:
            run.folder.write_failure(fold.name, error)
        return
    tasks = [_task(run, fold, specs[run.key], features) for run, fold in cells]
    for (run, fold), result in zip(cells, _fit(tasks), strict=True):
        if isinstance(result, NotApplicableError):
            run.folder.mark_not_applicable(result)
            continue
        if isinstance(result, Exception):
            run.folder.write_failure(fold.name, result)
            continue
        _store(run, fold, result, backbone, shared)


def _store(
    run: Prepared, fold: Fold, result: ProbeResult, backbone: int, shared: dict[str, Any]
) -> None:
    rows = np.concatenate([fold.validation, fold.test])
    predictions = prediction_table(run, fold, result.probabilities[rows])
    fitted = result.fitted
    classifier = result.classifier()
    cost = {
        **fitted.cost,
        **shared,
        **({} if classifier.tap is None else _parameters(fitted.cost, backbone)),
        "storage_bytes": classifier.stored_bytes,
        "best_epoch": fitted.best_epoch,
        "chosen": dict(result.chosen),
    }
    save = None
    if run.config.train.save != "none":
        save = partial(classifier.save, backbone=run.source.fingerprint)
    run.folder.write_cell(fold.name, predictions, fitted.history, cost, save)


def _parameters(cost: Mapping[str, Any], backbone: int) -> dict[str, Any]:
    """Count as :func:`.accounting.parameter_counts` does."""
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
    """The taps that any of the runs reads, of every image: plain, and in each augmented view."""
    wanted: dict[str, None] = {}
    views = 0
    for spec in specs:
        if isinstance(spec, Probe):
            wanted.update(dict.fromkeys(spec.taps or ("",)))
            views = max(views, spec.views)
        elif reads_features(spec):
            wanted[spec.tap] = None
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
            view=View(number, recipe.augmentation, recipe.horizontal_flip) if number else PLAIN,
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


def _fit(tasks: Sequence[Task]) -> list[ProbeResult | Exception]:
    """Fit all tasks, the probes together; where that fails, each for itself."""
    results: dict[int, ProbeResult | Exception] = {}
    probes = {i: task for i, task in enumerate(tasks) if isinstance(task, ProbeTask)}
    together = _attempt(partial(fit_probes, list(probes.values())))
    if not isinstance(together, Exception):
        results.update(zip(probes, together, strict=True))
    for i, task in enumerate(tasks):
        if i not in results:
            results[i] = _attempt(partial(_fit_one, task))
    return [results[i] for i in range(len(tasks))]


def _fit_one(task: Task) -> ProbeResult:
    return fit_probes([task])[0] if isinstance(task, ProbeTask) else fit_estimator(task)


def _attempt(compute: Callable[[], Made]) -> Made | Exception:
    try:
        return compute()
    except Exception as error:
        return error
