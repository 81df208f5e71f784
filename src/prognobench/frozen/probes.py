"""Classifiers on frozen features: linear heads, trained all together, and classical estimators."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from prognobench.errors import TrainingError
from prognobench.frozen.classifiers import FeaturesByTap, LinearHead
from prognobench.frozen.estimators import EstimatorTask, ProbeResult, fit_estimator
from prognobench.frozen.heads import Grid, Part, Trained, batches_per_epoch, train_heads, vectors
from prognobench.frozen.logistic import Solved, solve_logistic
from prognobench.records import Fitted, Fold, Loss, Probe, Train
from prognobench.training.hardware import PeakMemory

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EstimatorTask", "ProbeResult", "ProbeTask", "fit_estimator", "fit_groups", "fit_probes"]

DEFAULT_RATE = 1e-3
"""Learning rate where no validation part can choose; the nearest of the grid is taken."""

LARGEST = 2**21
"""So many weights are trained together at most: more would not stay in the processor's cache."""


@dataclass(frozen=True)
class ProbeTask:
    """The linear heads of one cell.

    Attributes
    ----------
    features
        Tap -> ``(images of the cohort, width)``.
    labels
        ``(images of the cohort,)``.
    views
        Features of augmented views of the same images, each like ``features``.
    """

    features: FeaturesByTap
    labels: NDArray[np.int64]
    fold: Fold
    loss: Loss
    probe: Probe
    recipe: Train
    seed: int
    views: Sequence[FeaturesByTap] = ()

    @property
    def taps(self) -> tuple[str, ...]:
        """The taps that are both asked for and there."""
        return tuple(tap for tap in self.probe.taps or ("",) if tap in self.features)


def fit_probes(tasks: Sequence[ProbeTask], device: torch.device | str = "cpu") -> list[ProbeResult]:
    """Train the heads of all tasks together; of each task the best on validation is the result.

    A task without a validation part trains one head for all epochs of the recipe: on its first
    tap, with the rate of the grid that is nearest to 1e-3 and the first weight decay, or the
    middle one of the penalties.

    Raises
    ------
    TrainingError
        If a task has no tap that the backbone has, or none of its heads has a finite loss.
    """
    results: dict[int, ProbeResult] = {}
    for numbers, fitted in fit_groups(tasks, device):
        if isinstance(fitted, Exception):
            raise fitted
        results.update(zip(numbers, fitted, strict=True))
    return [results[i] for i in range(len(tasks))]


def fit_groups(
    tasks: Sequence[ProbeTask], device: torch.device | str = "cpu"
) -> Iterator[tuple[Sequence[int], Sequence[ProbeResult] | Exception]]:
    """As :func:`fit_probes`, but yield the numbers and results of tasks as they are done.

    An error is that of one or more of the tasks it is yielded with.
    """
    for numbers in _together(tasks):
        try:
            fitted = _fit_group([tasks[i] for i in numbers], torch.device(device))
        except Exception as error:
            yield numbers, error
        else:
            yield numbers, fitted


def _together(tasks: Sequence[ProbeTask]) -> Iterator[list[int]]:
    """Group tasks that one batched problem can hold."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, task in enumerate(tasks):
        arrays = [id(view[tap]) for view in (task.features, *task.views) for tap in task.taps]
        key = (
            *(
                task.probe,
                task.recipe,
                task.labels.tobytes(),
                len(task.loss.class_weights),
                *arrays,
            ),
            batches_per_epoch(len(task.fold.train), task.recipe),
            len(task.fold.validation) > 0,
        )
        groups.setdefault(key, []).append(i)
    for numbers in groups.values():
        task = tasks[numbers[0]]
        width = sum(task.features[tap].shape[1] + 1 for tap in task.taps)
        probe = task.probe
        grid = len(probe.strengths) or len(probe.learning_rates) * len(probe.weight_decays)
        most = LARGEST // max(1, width * grid * vectors(len(task.loss.class_weights)))
        parts = math.ceil(len(numbers) / max(1, most))
        size = math.ceil(len(numbers) / parts)  # of one size, rather than one small one at the end
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]


def _fit_group(tasks: Sequence[ProbeTask], device: torch.device) -> list[ProbeResult]:
    memory, start = PeakMemory(device), time.perf_counter()
    task = tasks[0]
    if not task.taps:
        raise TrainingError(
            f"cell {task.fold.name}: the backbone has none of the taps {', '.join(task.probe.taps)}"
        )
    parts = [Part(t.fold.train, t.fold.validation, t.loss, t.seed) for t in tasks]
    labels = torch.tensor(task.labels, dtype=torch.long, device=device)
    if task.probe.strengths:
        results = _solve(tasks, parts, labels)
    else:
        grid = _grid(task, device)
        trained = train_heads(grid, parts, labels, task.recipe)
        results = [_result(t, i, trained, grid) for i, t in enumerate(tasks)]
    seconds = time.perf_counter() - start
    shared = {
        "seconds_train": seconds / len(tasks),
        "seconds_train_together": seconds,
        "cells_together": len(tasks),
        "peak_memory_bytes": memory.bytes,
    }
    return [replace(r, fitted=replace(r.fitted, cost={**r.fitted.cost, **shared})) for r in results]


def _solve(
    tasks: Sequence[ProbeTask], parts: Sequence[Part], labels: torch.Tensor
) -> list[ProbeResult]:
    """Solve the logistic regressions of tasks, and choose tap and penalty of each."""
    probe, taps, strengths = tasks[0].probe, tasks[0].taps, tasks[0].probe.strengths
    if not len(parts[0].validation):
        taps, strengths = taps[:1], (sorted(strengths)[len(strengths) // 2],)
    solved = []
    for tap in taps:
        features = torch.as_tensor(tasks[0].features[tap], device=labels.device)
        solved.append(solve_logistic(features, parts, labels, strengths, probe.standardise))
    return [_choose_solved(task, i, solved, taps, strengths) for i, task in enumerate(tasks)]


def _choose_solved(
    task: ProbeTask,
    i: int,
    solved: Sequence[Solved],
    taps: Sequence[str],
    strengths: Sequence[float],
) -> ProbeResult:
    losses = [loss for of_tap in solved for loss in of_tap.validation_loss[i].tolist()]
    best = min(range(len(losses)), key=losses.__getitem__)
    tap, head = divmod(best, len(strengths))
    linear = LinearHead(taps[tap], solved[tap].weights[i, head].cpu().numpy())
    history = [{"epoch": n, "validation_loss": loss} for n, loss in enumerate(losses, start=1)]
    size, classes = linear.weights.size, linear.weights.shape[1]
    cost = {
        # Two classes share one vector of weights.
        "parameters_trainable": size if classes > 2 else size // 2,
        "heads": len(losses),
        "precision": "fp64",
    }
    return ProbeResult(
        linear.probabilities(task.features),
        Fitted(history, best + 1, cost),
        {"tap": linear.tap or "pooled", "C": strengths[head]},
        lambda: linear,
    )


def _grid(task: ProbeTask, device: torch.device) -> Grid:
    taps, probe = task.taps, task.probe
    rates, decays = probe.learning_rates, probe.weight_decays
    if not len(task.fold.validation):
        nearest = min(rates, key=lambda lr: abs(np.log(lr / DEFAULT_RATE)))
        taps, rates, decays = taps[:1], (nearest,), decays[:1]
    views = (task.features, *task.views)
    inputs = {tap: [torch.as_tensor(view[tap], device=device) for view in views] for tap in taps}
    return Grid(inputs, rates, decays, probe.standardise, probe.dropout)


def _result(task: ProbeTask, i: int, trained: Trained, grid: Grid) -> ProbeResult:
    tap, head = _best_head(trained, i, task.fold.name)
    name = list(grid.inputs)[tap]
    linear = LinearHead(name, trained.weights[tap][i, head].mT.double().cpu().numpy())
    lr, decay = grid.names()[head]
    curves = ((epoch, rows[:, i, tap, head].tolist()) for epoch, rows in trained.history)
    history = [
        {"epoch": epoch, **dict(zip(("train_loss", "validation_loss", "lr"), row, strict=True))}
        for epoch, row in curves
        if not np.isnan(row[0])
    ]
    cost = {
        "parameters_trainable": linear.weights.size,
        "heads": len(grid.inputs) * grid.size,
        "precision": "fp32",
    }
    return ProbeResult(
        linear.probabilities(task.features),
        Fitted(history, int(trained.best_epoch[i, tap, head]), cost),
        {"tap": name or "pooled", "lr": lr, "weight_decay": decay},
        lambda: linear,
    )


def _best_head(trained: Trained, i: int, cell: str) -> tuple[int, int]:
    """Return tap and head with the best monitored value; of equals the one with the lower loss."""
    quality, loss = trained.quality[i].flatten().tolist(), trained.loss[i].flatten().tolist()
    best = max(range(len(quality)), key=lambda n: (quality[n], -loss[n]))
    if not np.isfinite(quality[best]):
        raise TrainingError(
            f"cell {cell}: no head of the probe has a finite validation loss; "
            "are the features finite, and the learning rates small enough?"
        )
    tap, head = divmod(best, trained.quality.shape[-1])
    return tap, head
