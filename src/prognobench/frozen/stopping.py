"""Early stopping and plateaus of many heads at once, each for itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prognobench.records import Train
from prognobench.training.optimiser import PLATEAU_FACTOR


class Stopping:
    """Which heads still train, and when each was best.

    Tensors have one value per head.

    Attributes
    ----------
    running
        Whether a head still trains: false after ``patience`` epochs without improvement.
    quality, loss, best_epoch
        Monitored value (the more, the better) and validation loss at the best epoch.
    plateau
        Factor on the learning rate.
    history
        Of each evaluation the epoch and training loss, validation loss and learning rate of each
        head; NaN once it had stopped.
    """

    def __init__(self, like: Tensor, recipe: Train) -> None:
        self.recipe = recipe
        self.running = torch.ones_like(like, dtype=torch.bool)
        self.quality = torch.full_like(like, -math.inf)
        self.loss = torch.full_like(like, math.inf)
        self.best_epoch = torch.zeros_like(like, dtype=torch.long)
        self.plateau = torch.ones_like(like)
        self.history: list[tuple[int, Tensor]] = []
        self._lowered = torch.zeros_like(self.best_epoch)

    def watch(
        self, epoch: int, train_loss: Tensor, loss: Tensor, quality: Tensor, lr: Tensor
    ) -> Tensor:
        """Take in an evaluation, and return which heads are better than ever."""
        row = torch.stack([train_loss, loss, lr])
        self.history.append((epoch, row.masked_fill(~self.running, math.nan)))
        tie = (quality == self.quality) & (loss < self.loss)
        better = self.running & ((quality > self.quality) | tie)
        self.quality = torch.where(better, quality, self.quality)
        self.loss = torch.where(better, loss, self.loss)
        self.best_epoch = torch.where(better, epoch, self.best_epoch)
        self.running &= epoch - self.best_epoch < self.recipe.patience
        if self.recipe.schedule == "plateau":
            since = epoch - torch.maximum(self.best_epoch, self._lowered)
            lower = since >= self.recipe.plateau_patience
            self.plateau = torch.where(lower, self.plateau * PLATEAU_FACTOR, self.plateau)
            self._lowered = torch.where(lower, epoch, self._lowered)
        return better
