"""What a run or sweep would do and cost, from a short measurement on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from prognobench.errors import NotApplicableError
from prognobench.frozen.bank import not_embedded, view_of
from prognobench.frozen.estimators import EstimatorTask, fit_estimator, reads_features
from prognobench.frozen.probes import ProbeTask, fit_probes
from prognobench.imaging.augment import Augmentation
from prognobench.imaging.cache import pixel_digests
from prognobench.records import Adapted, Backbone, Estimator, Fold, RunConfig
from prognobench.registry import STRATEGIES
from prognobench.runs.feasibility import check_strategies
from prognobench.runs.frozen_cells import require_batches
from prognobench.runs.prepare import Prepared, Progress, Workspace, prepare
from prognobench.training.hardware import (
    PeakMemory,
    Precision,
    autocast,
    resolve_device,
    resolve_precision,
)
from prognobench.training.loader import Loader
from prognobench.training.loop import fit, predict
from prognobench.workers import keep_freed_memory

if TYPE_CHECKING:
    from numpy.typing import NDArray

ASSUMPTIONS = (
    "seconds: every cell trains all epochs of the recipe; early stopping makes it less",
    "images are decoded already; features of frozen backbones that are not there yet are computed "
    "once for all runs that share images and weights, and count for the first of them",
    "seconds_usual: every cell passes its images through the backbone in every epoch, in fp32",
)


@dataclass(frozen=True)
class Plan:
    """What is left to do.

    Attributes
    ----------
    table
        One row per run: ``dataset``, ``model``, ``strategy``, ``regime``, ``cv``, ``cells``,
        ``done``, ``left``, ``parameters_trainable``, ``parameters_total``, ``seconds`` (of what is
        left), ``seconds_usual`` (the same work by a script that trains cell by cell),
        ``memory_bytes`` (peak of the process or device), ``remark``.
    assumptions
        What the numbers rest on, one sentence each.
    """

    table: pd.DataFrame
    assumptions: tuple[str, ...] = ASSUMPTIONS

    @property
    def seconds(self) -> float:
        """Of everything that is left."""
        return float(self.table["seconds"].sum())


@dataclass(frozen=True)
class Rates:
    """What one image, and what one cell costs beside its images, in seconds.

    ``usual_train`` and ``usual_infer`` are those of an image in fp32.
    """

    train: float
    infer: float
    cell: float
    usual_train: float
    usual_infer: float
    parameters_trainable: int
    parameters_total: int
    memory_bytes: int


def plan(configs: Sequence[RunConfig], progress: Progress | None = None) -> Plan:
    """Say what these runs would do and cost; nothing is computed for good, no result written.

    Each pair of backbone and strategy that has cells left is measured for a few batches.

    Raises
    ------
    ConfigError
        With every fault of every run.
    """
    workspace = Workspace(progress)
    runs = prepare(configs, workspace)
    check_strategies([run for run in runs if run.unfinished()], workspace)
    measured: dict[str, Rates | str] = {}
    embedded: set[tuple[str, str]] = set()
    rows = []
    for number, run in enumerate(runs, start=1):
        left = run.unfinished()
        row: dict[str, Any] = {
            **{g: getattr(run.config, g).name for g in ("dataset", "model", "strategy")},
            **{g: getattr(run.config, g).name for g in ("regime", "cv")},
            **{"cells": len(run.folds), "done": len(run.folds) - len(left), "left": len(left)},
            **{"parameters_trainable": None, "parameters_total": None, "memory_bytes": None},
            **{"seconds": 0.0, "seconds_usual": 0.0, "remark": ""},
        }
        if reason := run.folder.not_applicable:
            row |= {"done": 0, "remark": f"not applicable: {reason}"}
        if left:
            rates = _measured(run, left, measured)
            if isinstance(rates, str):
                row["remark"] = rates
            else:
                unknown = _not_embedded(run, workspace) - embedded
                embedded |= unknown
                row |= _cost(run, left, rates, len(unknown))
        rows.append(row)
        if progress:
            progress("planning", number, len(runs))
    return Plan(pd.DataFrame(rows))


def _measured(run: Prepared, left: Sequence[Fold], measured: dict[str, Rates | str]) -> Rates | str:
    """Measure a run, or find what a run like it gave; a string says why it cannot be."""
    config = run.config
    adapted = run.produces == "Adapted"
    # What a step costs does not depend on how many epochs there will be.
    train = replace(config.train, epochs=1) if adapted else config.train
    classes = len(run.cohort.classes)
    strategy = (asdict(config.strategy), classes)
    key = repr((run.source.fingerprint, strategy, asdict(train), config.device))
    # Heads cost by the size of their parts, so other folds are measured anew.
    if not adapted:
        key += repr((run.fingerprints["cohort"], run.fingerprints["folds"], config.loss))
    if key not in measured:
        try:
            if not adapted:
                require_batches(run, left)
            keep_freed_memory()  # as a run does
            measure = _measure_adapted if adapted else _measure_frozen
            measured[key] = measure(run, left)
        except NotApplicableError as reason:
            measured[key] = f"not applicable: {reason}"
    return measured[key]


def _not_embedded(run: Prepared, workspace: Workspace) -> set[tuple[str, str]]:
    """Return the images, in each view, whose features a frozen backbone must still compute."""
    if run.produces == "Adapted" or not reads_features(run.classifier):
        return set()
    config, recipe = run.config, run.config.train
    digests = pixel_digests(run.cohort, workspace.recipe(config), config.paths.cache)
    found = (
        not_embedded(
            run.source,
            digests,
            folder=config.paths.cache,
            device=resolve_device(config.device),
            precision=recipe.precision,
            view=view_of(number, recipe),
        )
        for number in range(1 + getattr(run.classifier, "views", 0))
    )
    return set().union(*found)


def _cost(run: Prepared, left: Sequence[Fold], rates: Rates, passes: int) -> dict[str, Any]:
    """Return what is left of a run, of which ``passes`` images through a frozen backbone."""
    recipe = run.config.train
    train = recipe.epochs * sum(len(fold.train) for fold in left)
    evaluated = -(-recipe.epochs // recipe.evaluate_every) * sum(len(f.validation) for f in left)
    test = sum(len(fold.validation) + len(fold.test) for fold in left)
    usual = train * rates.usual_train + (evaluated + test) * rates.usual_infer
    if run.produces == "Adapted":
        seconds = train * rates.train + (evaluated + test) * rates.infer
    else:
        seconds = passes * rates.infer
    return {
        **{"parameters_trainable": rates.parameters_trainable},
        **{"parameters_total": rates.parameters_total, "memory_bytes": rates.memory_bytes},
        **{"seconds": seconds + len(left) * rates.cell, "seconds_usual": usual},
    }


# ------------------------------------------------------------------ measurements


def _blank(images: int, backbone: Backbone) -> NDArray[np.uint8]:
    image_size = backbone.preprocessing.image_size
    return np.zeros((images, image_size, image_size, 1), dtype=np.uint8)


def _measure_adapted(run: Prepared, left: Sequence[Fold]) -> Rates:
    """Train two batches as a cell would, and predict them."""
    device, recipe = resolve_device(run.config.device), run.config.train
    start = time.perf_counter()
    backbone = run.source.load()
    classes = len(run.cohort.classes)
    made: Adapted = STRATEGIES[run.config.strategy.builder](
        backbone, classes, **run.config.strategy.settings
    )
    cell = time.perf_counter() - start
    size = 2 * recipe.batch_size
    pixels, labels = _blank(size, backbone), np.arange(size) % classes

    def loader(rows: int, augmentation: Augmentation | None = None) -> Loader:
        return Loader(
            pixels,
            labels,
            np.arange(rows),
            backbone.preprocessing,
            batch_size=recipe.batch_size,
            augmentation=augmentation,
            device=device,
        )

    def an_image(precision: Precision) -> tuple[float, float, int]:
        """Seconds to train and to predict one, and the memory that takes."""
        once = replace(recipe, epochs=1, precision=precision, ema=0.0)
        shown = loader(size, Augmentation(recipe.augmentation, recipe.horizontal_flip))
        loss = run.loss(left[0])
        # The first epoch also warms up.
        for _ in range(2):
            fitted = fit(made, shown, loader(0), loss, once, device=device, where="plan")
        peak = fitted.cost["peak_memory_bytes"]
        start = time.perf_counter()
        predict(made.model, loader(size), device=device, precision=precision)
        spent = time.perf_counter() - start
        return fitted.cost["seconds_per_epoch"] / size, spent / size, int(peak)

    train, infer, peak = an_image(recipe.precision)
    usual = (train, infer)
    if resolve_precision(recipe.precision, device) != "fp32":
        usual = an_image("fp32")[:2]
    sizes = {name: p.numel() for name, p in made.model.named_parameters()}
    trainable = sum(sizes[name] for group in made.groups for name in group.parameters)
    return Rates(train, infer, cell, *usual, trainable, sum(sizes.values()), peak)


def _measure_frozen(run: Prepared, left: Sequence[Fold]) -> Rates:
    """Embed two batches, and fit heads or classifier on random features of the true size."""
    device = resolve_device(run.config.device)
    memory = PeakMemory(device)
    infer = usual = 0.0
    total, widths, embedding = 0, {"": 1}, 0
    if reads_features(run.classifier):
        backbone = run.source.load()
        total = sum(p.numel() for p in backbone.module.parameters())
        widths = {"": next(iter(backbone.layers.values())), **backbone.layers}
        infer = _seconds_to_embed(backbone, run.config.train.precision, device)
        embedding = memory.bytes  # what heads take is measured from anew
        usual = _seconds_to_embed(backbone, "fp32", device)
    random = np.random.default_rng(0)
    features = {
        layer: random.normal(size=(len(run.cohort), width)).astype(np.float32)
        for layer, width in widths.items()
    }
    cell, trainable = _fit_sample(run, left[:8], features)
    peak = max(embedding, memory.bytes)
    return Rates(usual, infer, cell, usual, usual, trainable, total, peak)


def _seconds_to_embed(backbone: Backbone, precision: Precision, device: torch.device) -> float:
    encoder: Any = backbone.module.to(device)
    resolved = resolve_precision(precision, device)
    shape = (8, backbone.preprocessing.channels, *2 * (backbone.preprocessing.image_size,))
    images = torch.zeros(shape, device=device)
    with torch.inference_mode(), autocast(resolved, device):
        for _ in range(2):
            start = time.perf_counter()
            encoder.features(images, tuple(backbone.layers))
            spent = time.perf_counter() - start
    return spent / len(images)


def _fit_sample(
    run: Prepared,
    folds: Sequence[Fold],
    features: Mapping[str, NDArray[np.float32]],
) -> tuple[float, int]:
    """Return the seconds that a cell takes on features, and how many parameters train."""
    labels = run.cohort.table["label"].to_numpy()
    recipe, spec = run.config.train, run.classifier
    start = time.perf_counter()
    if isinstance(spec, Estimator):
        covariates = run.cohort.table[list(run.cohort.covariates)]
        fold = folds[0]
        task = EstimatorTask(features, covariates, labels, fold, run.loss(fold), spec, seed=0)
        fit_estimator(task)  # imports, once for all cells
        start = time.perf_counter()
        fit_estimator(task)
        return time.perf_counter() - start, 0
    short = replace(recipe, epochs=min(3, recipe.epochs), evaluate_every=1)
    results = fit_probes(
        [ProbeTask(features, labels, fold, run.loss(fold), spec, short, seed=0) for fold in folds]
    )
    spent = (time.perf_counter() - start) * recipe.epochs / short.epochs
    return spent / len(folds), int(results[0].fitted.cost["parameters_trainable"])
