"""Linear probes of cells, fitted together: validation chooses head or penalty; kept on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prognobench.errors import StoreError, TrainingError
from prognobench.frozen.estimators import (
    FILE,
    Column,
    FeaturesByLayer,
    FittedRows,
    FrozenClassifier,
    ProbeResult,
)
from prognobench.frozen.heads import Grid, Trained, train_heads, vectors
from prognobench.frozen.inputs import Part, batches_per_epoch
from prognobench.frozen.logistic_solver import Solved, solve_logistic
from prognobench.records import Estimator, Fitted, Fold, Loss, Probe, Train
from prognobench.strategies.adapted_files import (
    check_identity,
    read_arrays,
    save_arrays,
    write_identity,
)
from prognobench.training.hardware import PeakMemory

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

DEFAULT_RATE = 1e-3
"""Learning rate where no validation part can choose; the nearest of the grid is taken."""

LARGEST = 2**21
"""So many weights are trained together at most: more would not stay in the processor's cache."""


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier on one layer.

    Attributes
    ----------
    weights
        ``(width + 1, classes)``, the bias last, for features as the backbone gives them: whatever
        standardised them in training is in the weights.
    """

    layer: str
    weights: NDArray[np.float64]
    columns: tuple[Column, ...] = ()

    def probabilities(
        self, features: FeaturesByLayer, covariates: pd.DataFrame | None = None
    ) -> NDArray[np.float64]:
        """Return ``(images, classes)``."""
        logits = features[self.layer].astype(np.float64) @ self.weights[:-1] + self.weights[-1]
        # Less the largest, which changes no share and keeps the exponentials finite.
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        probabilities: NDArray[np.float64] = exponentials / exponentials.sum(1, keepdims=True)
        return probabilities

    @property
    def stored_bytes(self) -> int:
        return self.weights.nbytes

    def save(self, folder: Path, backbone: str) -> None:
        """Write it, and the fingerprint of the weights that it belongs to."""
        write_identity(folder, backbone, layer=self.layer)
        weight, bias = self.weights[:-1].T, self.weights[-1]
        save_arrays({"weight": weight, "bias": bias}, folder / FILE)

    @classmethod
    def load(cls, folder: Path, about: Mapping[str, Any]) -> LinearHead:
        """Read what :meth:`save` wrote; ``about`` is its identity."""
        arrays = read_arrays(folder / FILE)
        return cls(str(about["layer"]), np.vstack([arrays["weight"].T, arrays["bias"]]))


def load_classifier(folder: Path, spec: Probe | Estimator, backbone: str) -> FrozenClassifier:
    """Read what :meth:`LinearHead.save` or :meth:`.FittedRows.save` wrote.

    Parameters
    ----------
    spec
        Of the run that it was written for.
    backbone
        Fingerprint of the present weights.

    Raises
    ------
    StoreError
        If it was fitted on features of other weights, or is damaged.
    """
    about = check_identity(folder, backbone)
    try:
        if isinstance(spec, Probe):
            return LinearHead.load(folder, about)
        return FittedRows.load(folder, about, spec)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{folder}: the stored classifier does not belong to this run ({error!r})"
        ) from error


# ------------------------------------------------------------------ fitting


@dataclass(frozen=True)
class ProbeTask:
    """The linear heads of one cell.

    Attributes
    ----------
    features
        Feature layer -> ``(images of the cohort, width)``.
    labels
        ``(images of the cohort,)``.
    views
        Features of augmented views of the same images, each like ``features``.
    """

    features: FeaturesByLayer
    labels: NDArray[np.int64]
    fold: Fold
    loss: Loss
    probe: Probe
    recipe: Train
    seed: int
    views: Sequence[FeaturesByLayer] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that are both asked for and there."""
        return tuple(layer for layer in self.probe.layers or ("",) if layer in self.features)


def fit_probes(tasks: Sequence[ProbeTask], device: torch.device | str = "cpu") -> list[ProbeResult]:
    """Train the heads of all tasks together; of each task the best on validation is the result.

    A task without a validation part trains one head for all epochs of the recipe: on its first
    layer, with the rate of the grid that is nearest to 1e-3 and the first weight decay, or the
    middle one of the penalties.

    Raises
    ------
    TrainingError
        If a task has no layer that the backbone has, or none of its heads has a finite loss.
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
        arrays = [id(view[layer]) for view in (task.features, *task.views) for layer in task.layers]
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
        width = sum(task.features[layer].shape[1] + 1 for layer in task.layers)
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
    if not task.layers:
        raise TrainingError(
            f"cell {task.fold.name}: the backbone has none of the feature layers "
            f"{', '.join(task.probe.layers)}"
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
    """Solve the logistic regressions of tasks, and choose layer and penalty of each."""
    probe, layers, strengths = tasks[0].probe, tasks[0].layers, tasks[0].probe.strengths
    if not len(parts[0].validation):
        layers, strengths = layers[:1], (sorted(strengths)[len(strengths) // 2],)
    solved = []
    for layer in layers:
        features = torch.as_tensor(tasks[0].features[layer], device=labels.device)
        solved.append(solve_logistic(features, parts, labels, strengths, probe.standardise))
    return [_choose_solved(task, i, solved, layers, strengths) for i, task in enumerate(tasks)]


def _choose_solved(
    task: ProbeTask,
    i: int,
    solved: Sequence[Solved],
    layers: Sequence[str],
    strengths: Sequence[float],
) -> ProbeResult:
    losses = [loss for of_layer in solved for loss in of_layer.validation_loss[i].tolist()]
    best = min(range(len(losses)), key=losses.__getitem__)
    layer, head = divmod(best, len(strengths))
    linear = LinearHead(layers[layer], solved[layer].weights[i, head].cpu().numpy())
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
        {"layer": linear.layer or "pooled", "C": strengths[head]},
        lambda: linear,
    )


def _grid(task: ProbeTask, device: torch.device) -> Grid:
    layers, probe = task.layers, task.probe
    rates, decays = probe.learning_rates, probe.weight_decays
    if not len(task.fold.validation):
        nearest = min(rates, key=lambda lr: abs(np.log(lr / DEFAULT_RATE)))
        layers, rates, decays = layers[:1], (nearest,), decays[:1]
    views = (task.features, *task.views)
    inputs = {
        layer: [torch.as_tensor(view[layer], device=device) for view in views] for layer in layers
    }
    return Grid(inputs, rates, decays, probe.standardise, probe.dropout)


def _result(task: ProbeTask, i: int, trained: Trained, grid: Grid) -> ProbeResult:
    layer, head = _best_head(trained, i, task.fold.name)
    name = list(grid.inputs)[layer]
    linear = LinearHead(name, trained.weights[layer][i, head].mT.double().cpu().numpy())
    lr, decay = grid.names()[head]
    curves = ((epoch, rows[:, i, layer, head].tolist()) for epoch, rows in trained.history)
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
        Fitted(history, int(trained.best_epoch[i, layer, head]), cost),
        {"layer": name or "pooled", "lr": lr, "weight_decay": decay},
        lambda: linear,
    )


def _best_head(trained: Trained, i: int, cell: str) -> tuple[int, int]:
    """Return layer and head with the best monitored value; a tie goes to the lower loss."""
    quality, loss = trained.quality[i].flatten().tolist(), trained.loss[i].flatten().tolist()
    best = max(range(len(quality)), key=lambda n: (quality[n], -loss[n]))
    if not np.isfinite(quality[best]):
        raise TrainingError(
            f"cell {cell}: no head of the probe has a finite validation loss; "
            "check that the features are finite, or lower strategy.learning_rates"
        )
    layer, head = divmod(best, trained.quality.shape[-1])
    return layer, head
