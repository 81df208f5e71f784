"""Linear heads trained together: every training part x learning rate x weight decay x layer at
once.

Each head is trained exactly as it would be alone, by mini-batch AdamW after the recipe: the same
batches, schedule, clipping and early stopping. Together they are a few batched matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prognobench.frozen.adamw import HeadsAdamW
from prognobench.frozen.head_inputs import Inputs, filled, looked_at_together
from prognobench.frozen.stopping import Stopping
from prognobench.losses.objective import Terms, objective, stacked_terms
from prognobench.records import Loss, Train
from prognobench.seeds import generator
from prognobench.training.loader import draw_order
from prognobench.training.optimiser import quality, rate

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Part:
    """What one group of heads is trained and stopped on: rows of the features, and the loss."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    loss: Loss
    seed: int


@dataclass(frozen=True)
class Grid:
    """The heads of each part: every layer x learning rate x weight decay.

    Attributes
    ----------
    inputs
        Feature layer -> views, each ``(images, width)`` in fp32, the images themselves first. Epoch
        ``n`` trains on view ``n`` modulo their number.
    standardise
        Bring each feature to mean 0 and deviation 1 over the training part.
    dropout
        On features, while training.
    """

    inputs: Mapping[str, Sequence[Tensor]]
    learning_rates: Sequence[float]
    weight_decays: Sequence[float]
    standardise: bool = False
    dropout: float = 0.0

    @property
    def size(self) -> int:
        """Heads of one layer."""
        return len(self.learning_rates) * len(self.weight_decays)

    def names(self) -> list[tuple[float, float]]:
        """Learning rate and weight decay of each head of a feature layer, in order."""
        return [(lr, decay) for lr in self.learning_rates for decay in self.weight_decays]


def vectors(classes: int) -> int:
    """Return how many vectors of weights a head has.

    Two classes share one, with opposite signs: both start at zero, and since a softmax knows logits
    but for a constant, their gradients are opposite, too.
    """
    return 1 if classes == 2 else classes


@dataclass(frozen=True)
class Trained:
    """Every head as it was at its best epoch.

    Attributes
    ----------
    weights
        Of each layer ``(parts, heads, classes, width + 1)``, for the features as they are; the last
        is the bias.
    best_epoch, quality, loss
        Of each head ``(parts, layers, heads)``: when it was best, the monitored value (the more,
        the better), and the validation loss.
    history
        Of each evaluation the epoch and ``(3, parts, layers, heads)``: training loss, validation
        loss, learning rate; NaN once a head had stopped.
    """

    weights: Sequence[Tensor]
    best_epoch: Tensor
    quality: Tensor
    loss: Tensor
    history: Sequence[tuple[int, Tensor]]


def train_heads(grid: Grid, parts: Sequence[Part], labels: Tensor, recipe: Train) -> Trained:
    """Train all heads of all parts.

    Parameters
    ----------
    parts
        With equally many batches of one size in an epoch (:func:`batches_per_epoch`); either all
        or none have a validation part. Without one every epoch is trained, and the last is best.
    labels
        Class indices ``(images,)``.
    """
    heads = Heads(grid, parts, labels, recipe)
    for epoch in range(1, recipe.epochs + 1):
        losses = []
        for step, batch in enumerate(heads.batches(epoch), start=1):
            losses.append(heads.gradients(batch))
            time = epoch - 1 + step / heads.steps
            heads.update(rate(recipe, time, recipe.epochs, heads.steps))
        if epoch % recipe.evaluate_every == 0 or epoch == recipe.epochs:
            heads.evaluate(epoch, torch.stack(losses).mean(0))
            if not heads.stopping.running.any():
                break
    return heads.trained()


def batches_per_epoch(images: int, recipe: Train) -> tuple[int, int]:
    """Return how many optimiser steps an epoch has, and to how many images each is filled up."""
    most = recipe.batch_size * recipe.accumulate
    steps = math.ceil(images / most)
    return steps, min(most, filled(math.ceil(images / steps)))


class Batch(NamedTuple):
    """What every part sees in one step.

    Attributes
    ----------
    inputs
        Of each layer ``(parts, batch, width)``.
    rows, mask
        ``(parts, batch)``; 0 in ``mask`` fills up a part's smaller batch.
    """

    inputs: Sequence[Tensor]
    rows: Tensor
    mask: Tensor


class Heads:
    """The state of training.

    Weights are ``(parts, heads * vectors, inputs)``: of one layer after the other, the last of each
    being the bias. (Inputs come last since products along them are several times faster.)
    """

    def __init__(self, grid: Grid, parts: Sequence[Part], labels: Tensor, recipe: Train) -> None:
        self.grid, self.parts, self.labels, self.recipe = grid, parts, labels, recipe
        self.steps, _ = batches_per_epoch(len(parts[0].train), recipe)
        self.terms = stacked_terms([part.loss for part in parts], labels.device)
        self.classes = self.terms.class_weights.shape[-1]
        self.inputs = Inputs(list(grid.inputs.values()))
        trained_on = [part.train for part in parts]
        self.scaling = self.inputs.scaling(trained_on) if grid.standardise else None
        self.sizes = [width + 1 for width in self.inputs.widths]
        of_layer = grid.size * vectors(self.classes)
        self.weights = self.inputs.views[0].new_zeros(len(parts), of_layer, sum(self.sizes))
        self.best = self.slopes = torch.zeros_like(self.weights)
        # Of every head: (parts, layers, heads of a feature layer).
        self.shape = (len(parts), len(self.sizes), grid.size)
        rates, decays = labels.new_tensor(grid.names(), dtype=torch.float32).unbind(-1)
        self.base = self.rates = rates.expand(self.shape)
        self.adamw = HeadsAdamW(self.weights, self.sizes, decays, self.classes, recipe)
        self.stopping = Stopping(self.base, recipe)
        self.only: Batch | None = None
        validated = [part.validation for part in parts]
        self.validations = [
            (members, Batch(self.inputs.of_layers(self.inputs.gather(rows)), rows, mask))
            for members, rows, mask in looked_at_together(
                validated, self.inputs.columns, labels.device
            )
        ]

    # -------------------------------------------------------------- one step

    def gradients(self, batch: Batch) -> Tensor:
        """Compute every head's gradient on one batch, and return the losses."""
        products = self._products(batch.inputs, self.weights).requires_grad_()
        mean = self._losses(self._logits(products), batch, self.terms)
        (slope,) = torch.autograd.grad(mean.sum(), products)
        if vectors(self.classes) < self.classes:
            slope /= self.classes  # of one class's weights, not of what moves both
        slopes: list[Tensor] = []
        for of_layer, x_layer in zip(slope.chunk(len(self.sizes), -1), batch.inputs, strict=True):
            slopes += [of_layer.mT @ x_layer, of_layer.sum(1).unsqueeze(-1)]
        self.slopes = torch.cat(slopes, -1)
        return mean.detach().view(self.shape)

    def _losses(self, logits: Tensor, batch: Batch, terms: Terms) -> Tensor:
        """Return the mean loss over a batch of each part's heads ``(parts, heads)``."""
        targets = self.labels[batch.rows].unsqueeze(-1).expand(logits.shape[:-1])
        losses, weights = objective(logits.flatten(1, 2), targets.flatten(1, 2), terms)
        shown = batch.mask.unsqueeze(-1)
        return (losses.view_as(targets) * shown).sum(1) / (weights.view_as(targets) * shown).sum(1)

    def _products(self, x: Sequence[Tensor], weights: Tensor) -> Tensor:
        """Return inputs times weights ``(parts, images, layers * heads * vectors)``."""
        products = []
        for x_layer, of_layer in zip(x, self._of_layers(weights), strict=True):
            w, bias = of_layer[..., :-1], of_layer[..., -1].unsqueeze(1)
            products.append(torch.baddbmm(bias, x_layer.expand(len(w), -1, -1), w.mT))
        return torch.cat(products, -1)

    def _logits(self, products: Tensor) -> Tensor:
        """Return logits ``(parts, images, layers * heads, classes)``."""
        of_heads = products.view(*products.shape[:-1], -1, vectors(self.classes))
        return _of_classes(of_heads, self.classes, -1)

    def _of_layers(self, weights: Tensor) -> Sequence[Tensor]:
        """Views of the weights of each layer."""
        return torch.split(weights, self.sizes, -1)

    def update(self, factor: float) -> None:
        """Let every head make a step, ``factor`` on its rate being the schedule's."""
        floor = self.base.clamp(max=self.recipe.min_lr)
        self.rates = floor + (self.base - floor) * factor * self.stopping.plateau
        self.adamw.step(self.slopes, self.rates)

    # -------------------------------------------------------------- what heads see

    def batches(self, epoch: int) -> Iterable[Batch]:
        """Return the batches of an epoch."""
        if not self.unchanging:
            return self._batches(epoch)
        if self.only is None:
            self.only = next(self._batches(epoch))
        return (self.only,)

    @property
    def unchanging(self) -> bool:
        """Whether every epoch is one and the same batch, for which an order means nothing."""
        drawn = any(part.loss.balanced_sampling for part in self.parts)
        return self.steps == len(self.inputs.views) == 1 and not self.grid.dropout and not drawn

    def _batches(self, epoch: int) -> Iterator[Batch]:
        _, size = batches_per_epoch(max(len(part.train) for part in self.parts), self.recipe)
        rows = np.zeros((self.steps, len(self.parts), size), dtype=np.int64)
        mask = np.zeros(rows.shape, dtype=np.float32)
        labels = self.labels.cpu().numpy()
        for i, part in enumerate(self.parts):
            of_part = labels[part.train] if part.loss.balanced_sampling else None
            order = draw_order(len(part.train), of_part, (part.seed, "order", epoch))
            for step, batch in enumerate(np.array_split(part.train[order], self.steps)):
                rows[step, i, : len(batch)], mask[step, i, : len(batch)] = batch, 1
        for step in range(self.steps):
            at = torch.from_numpy(rows[step]).to(self.labels.device)
            shown = torch.from_numpy(mask[step]).to(self.labels.device)
            yield Batch(self._inputs(at, shown, epoch, step), at, shown)

    def _inputs(self, rows: Tensor, mask: Tensor, epoch: int, step: int) -> Sequence[Tensor]:
        view = epoch % len(self.inputs.views)
        of_layers = self.inputs.of_layers(self.inputs.gather(rows, view, self.scaling))
        if not self.grid.dropout:
            return of_layers
        axes = ("dropout", epoch, step)
        return [self._dropped(x, mask, (*axes, layer)) for layer, x in enumerate(of_layers)]

    def _dropped(self, x: Tensor, mask: Tensor, axes: Sequence[str | int]) -> Tensor:
        """Drop features of a feature layer; what is drawn depends on the part alone."""
        kept = torch.zeros_like(x)
        for i, part in enumerate(self.parts):
            size = int(mask[i].sum())
            drawn = generator(part.seed, *axes).random((size, x.shape[-1]), dtype=np.float32)
            kept[i, :size] = torch.from_numpy(drawn >= self.grid.dropout)
        return x * kept.div_(1 - self.grid.dropout)

    # -------------------------------------------------------------- epochs

    def evaluate(self, epoch: int, train_loss: Tensor) -> None:
        """Keep the heads that are at their best; stop those that have not improved for long."""
        present = self._plain()
        if len(self.parts[0].validation):
            loss, value = self._validate(present)
            value = value.masked_fill(~loss.isfinite(), -math.inf)
        else:
            loss, value = torch.full_like(train_loss, math.nan), torch.full_like(train_loss, epoch)
        better = self.stopping.watch(epoch, train_loss, loss, value, self.rates)
        self.best = torch.where(self.adamw.spread(better), present, self.best)

    def _plain(self) -> Tensor:
        """Return the present weights as they act on features that are not standardised."""
        if not self.scaling:
            return self.adamw.averages
        plain: list[Tensor] = []
        scaling = zip(*map(self.inputs.of_layers, self.scaling), strict=True)
        for of_layer, (mean, deviation) in zip(
            self._of_layers(self.adamw.averages), scaling, strict=True
        ):
            w = of_layer[..., :-1] / deviation
            plain += [w, of_layer[..., -1:] - (w * mean).sum(-1, keepdim=True)]
        return torch.cat(plain, -1)

    def _validate(self, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and monitored quality of every head on its validation part."""
        losses, values = (self.labels.new_zeros(self.shape, dtype=torch.float32) for _ in range(2))
        for members, batch in self.validations:
            logits = self._logits(self._products(batch.inputs, present[members]))
            loss = self._losses(logits, batch, self.terms.each(itemgetter(members)))
            losses[members] = loss.view(-1, *self.shape[1:])
            values[members] = self._quality(loss, logits, batch).view(-1, *self.shape[1:])
        return losses, values

    def _quality(self, loss: Tensor, logits: Tensor, batch: Batch) -> Tensor:
        """Return the monitored value ``(parts, heads)``."""
        if self.recipe.monitor == "loss":
            return -loss
        probabilities = logits.double().softmax(-1).transpose(1, 2).cpu().numpy()
        labels = self.labels[batch.rows].expand(len(loss), -1).cpu().numpy()
        sizes = batch.mask.sum(1).long().expand(len(loss)).tolist()
        of_parts = zip(loss.double().cpu().numpy(), probabilities, labels, sizes, strict=True)
        found = [
            quality(self.recipe.monitor, losses, p[:, :size], y[:size])
            for losses, p, y, size in of_parts
        ]
        return torch.from_numpy(np.stack(found)).to(loss)

    def trained(self) -> Trained:
        shape = (len(self.parts), -1, vectors(self.classes))
        return Trained(
            weights=[
                _of_classes(best.reshape(*shape, best.shape[-1]), self.classes, 2)
                for best in self._of_layers(self.best)
            ],
            best_epoch=self.stopping.best_epoch,
            quality=self.stopping.quality,
            loss=self.stopping.loss,
            history=self.stopping.history,
        )


def _of_classes(of_vectors: Tensor, classes: int, dim: int) -> Tensor:
    """Give each class its values, from those of the vectors in ``dim``."""
    if of_vectors.shape[dim] == classes:
        return of_vectors
    return torch.cat([-of_vectors, of_vectors], dim)
