"""Which epoch is best, and when to stop: for one model, and for many heads each for itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from prognobench.errors import TrainingError
from prognobench.metrics.metric import find_metric
from prognobench.metrics.sample import Sample, decide
from prognobench.records import Train

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLATEAU_FACTOR = 0.1
"""By which a plateau lowers the learning rate."""


class Stopping:
    """Early stopping, the best epoch, and the factor on the learning rate after plateaus.

    The attributes are tensors of one shape: ``()`` for a model, one value for each of many heads.

    Attributes
    ----------
    running
        Whether training goes on: false after ``patience`` epochs without improvement.
    quality, loss, best_epoch
        Monitored value (the more, the better) and validation loss at the best epoch; epoch 0
        stands for none.
    plateau
        Factor on the learning rate, lowered after ``plateau_patience`` epochs without improvement.
    """

    def __init__(self, like: Tensor, recipe: Train) -> None:
        self.recipe = recipe
        self.quality = torch.full_like(like, -math.inf)
        self.loss = torch.full_like(like, math.inf)
        self.best_epoch = torch.zeros_like(like, dtype=torch.long)
        self.begin(0)

    def begin(self, epoch: int) -> None:
        """Begin a phase of training after an epoch: patience counts from there, the best stays."""
        self.running = torch.ones_like(self.quality, dtype=torch.bool)
        self.plateau = torch.ones_like(self.quality)
        self._improved = self._lowered = torch.full_like(self.best_epoch, epoch)

    def watch(self, epoch: int, quality: Tensor, loss: Tensor) -> Tensor:
        """Take in an evaluation, and return what is better than ever.

        The quality decides, the loss where qualities are equal. Where the loss is not finite,
        nothing is better; without a validation part the loss is 0, and the quality the epoch.
        """
        quality = quality.masked_fill(~loss.isfinite(), -math.inf)
        tie = (quality == self.quality) & (loss < self.loss)
        # A head that has stopped stays as it is, although it is still computed beside the others.
        better = self.running & ((quality > self.quality) | tie)
        self.quality = torch.where(better, quality, self.quality)
        self.loss = torch.where(better, loss, self.loss)
        self.best_epoch = torch.where(better, epoch, self.best_epoch)
        self._improved = torch.where(better, epoch, self._improved)
        self.running &= epoch - self._improved < self.recipe.patience
        if self.recipe.schedule == "plateau":
            # Counted from the last lowering too, so that a lower rate gets its own chance.
            since = epoch - torch.maximum(self._improved, self._lowered)
            lower = since >= self.recipe.plateau_patience
            self.plateau = torch.where(lower, self.plateau * PLATEAU_FACTOR, self.plateau)
            self._lowered = torch.where(lower, epoch, self._lowered)
        return better


class BestWeights:
    """A copy of what training changes in a model, as it was at the best epoch."""

    def __init__(self, model: nn.Module) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
        # Statistics of batch normalisation are buffers, and train with the parameters.
        self._live = [*parameters, *model.buffers()]
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Keep the present weights."""
        if not self._kept:
            self._kept = [tensor.detach().clone() for tensor in self._live]
        for kept, tensor in zip(self._kept, self._live, strict=True):
            kept.copy_(tensor)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the kept weights back into the model.

        Raises
        ------
        TrainingError
            If none were kept.
        """
        if not self._kept:
            raise TrainingError(
                "the validation loss is not finite in any epoch; lower the learning rate, or try "
                "train.precision=fp32"
            )
        for kept, tensor in zip(self._kept, self._live, strict=True):
            tensor.copy_(kept)


def quality(
    monitor: str,
    losses: NDArray[np.float64],
    probabilities: NDArray[np.float64],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return what decides which epoch, or which head, is best: the more, the better.

    Parameters
    ----------
    monitor
        ``loss``, or a metric's name; where that is undefined (one class only) its value is 0.
    losses
        Mean loss of the validation part, one per model ``(models,)``.
    probabilities, labels
        ``(models, images, classes)`` and ``(images,)``.
    weights
        How much each image counts, ``(images,)``; by default 1.
    """
    if monitor == "loss":
        return -losses
    counts = np.ones((1, len(labels))) if weights is None else weights[None].astype(np.float64)
    decisions, half = decide(probabilities, 0.5), np.full((1, len(labels)), 0.5)
    sample = Sample(labels[None].astype(np.intp), probabilities, decisions, counts, half)
    return np.nan_to_num(find_metric(monitor)(sample))
