"""What a cell costs on this machine, measured on a few batches and without real images."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prognobench.frozen.estimators import EstimatorTask, fit_estimator
from prognobench.frozen.probes import ProbeTask, fit_probes
from prognobench.imaging.augment import Augmentation
from prognobench.records import Backbone, Estimator, Fold
from prognobench.runs.cells.frozen_cells import require_batches
from prognobench.runs.prepare import Prepared
from prognobench.training.hardware import (
    PeakMemory,
    Precision,
    autocast,
    resolve_device,
    resolve_precision,
)
from prognobench.training.loader import Loader
from prognobench.training.loop import fit, predict

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Passes:
    """How many images pass through a backbone, in training and otherwise."""

    train: int
    infer: int


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


def _make_blank(images: int, backbone: Backbone) -> NDArray[np.uint8]:
    image_size = backbone.preprocessing.image_size
    return np.zeros((images, image_size, image_size, 1), dtype=np.uint8)


def measure_training(run: Prepared, left: Sequence[Fold]) -> Rates:
    """Train two batches as a cell would, and predict them."""
    device, recipe = resolve_device(run.config.device), run.config.train
    start = time.perf_counter()
    backbone = run.source.load()
    adapted = run.adapt(backbone)
    cell = time.perf_counter() - start
    size = 2 * recipe.batch_size
    pixels, labels = _make_blank(size, backbone), np.arange(size) % len(run.classes)

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

    def measure_image(precision: Precision) -> tuple[float, float, int]:
        """Return the seconds to train and to predict one image, and the peak memory."""
        once = replace(recipe, epochs=1, precision=precision, ema=0.0)
        shown = loader(size, Augmentation(recipe.augmentation, recipe.horizontal_flip))
        loss = replace(run.make_loss(left[0]), image_weights=None)  # the images are blank
        # The first epoch also warms up.
        for _ in range(2):
            fitted = fit(adapted, shown, loader(0), loss, once, device=device, where="plan")
        peak = fitted.cost["peak_memory_bytes"]
        start = time.perf_counter()
        predict(
            adapted.model,
            loader(size),
            device=device,
            precision=precision,
            speedups=recipe.speedups,
        )
        spent = time.perf_counter() - start
        return fitted.cost["seconds_per_epoch"] / size, spent / size, int(peak)

    train, infer, peak = measure_image(recipe.precision)
    usual = (train, infer)
    if resolve_precision(recipe.precision, device) != "fp32":
        usual = measure_image("fp32")[:2]
    sizes = {name: p.numel() for name, p in adapted.model.named_parameters()}
    trainable = sum(sizes[name] for group in adapted.groups for name in group.parameters)
    return Rates(train, infer, cell, *usual, trainable, sum(sizes.values()), peak)


def measure_frozen(run: Prepared, left: Sequence[Fold]) -> Rates:
    """Embed two batches, and fit heads or classifier on random features of the true size.

    Raises
    ------
    NotApplicableError
        If the loss asks for batches that the classifier does not draw.
    """
    require_batches(run, left)
    device = resolve_device(run.config.device)
    memory = PeakMemory(device)
    infer = usual = 0.0
    total, widths, embedding = 0, {"": 1}, 0
    if "image" in run.reads:
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
        task = EstimatorTask(features, covariates, labels, fold, run.make_loss(fold), spec, seed=0)
        fit_estimator(task)  # imports, once for all cells
        start = time.perf_counter()
        fit_estimator(task)
        return time.perf_counter() - start, 0
    short = replace(recipe, epochs=min(3, recipe.epochs), evaluate_every=1)
    results = fit_probes(
        [
            ProbeTask(features, labels, fold, run.make_loss(fold), spec, short, seed=0)
            for fold in folds
        ]
    )
    spent = (time.perf_counter() - start) * recipe.epochs / short.epochs
    return spent / len(folds), int(results[0].fitted.cost["parameters_trainable"])
