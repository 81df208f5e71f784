"""Linear heads trained together: training parts x learning rates x weight decays x layers at once.

Each head is trained exactly as it would be alone, by mini-batch AdamW after the recipe: the same
batches, schedule, clipping and early stopping. Together they are a few batched matrix products,
where one head after the other would be thousands of small ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vector_norm

from prognobench.frozen.inputs import (
    Batch,
    Inputs,
    Part,
    TrainingBatches,
    group_parts,
    stack_image_weights,
)
from prognobench.losses.objective import Terms, objective, stacked_terms
from prognobench.training.optimiser import BatchedAdamW, learning_rates, schedule_factor
from prognobench.training.stopping import Stopping, quality

if TYPE_CHECKING:
    from prognobench.records import Train


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
        """Learning rate and weight decay of each head of a layer, in order."""
        return [(lr, decay) for lr in self.learning_rates for decay in self.weight_decays]


def vectors(classes: int) -> int:
    """Return how many vectors of weights a head has.

    Two classes share one, with opposite signs: both start at zero, and since a softmax ignores a
    constant added to all logits, their gradients are opposite as well.
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
        With equally many batches of one size in an epoch (:func:`.batches_per_epoch`); either all
        or none have a validation part. Without one every epoch is trained, and the last is best.
    labels
        Class indices ``(images,)``.
    """
    heads = Heads(grid, parts, labels, recipe)
    steps = heads.batches.steps
    # A head that has stopped is computed with the others until all have stopped, so that tensors
    # keep their shapes; its best weights no longer change.
    for epoch in range(1, recipe.epochs + 1):
        losses = []
        for step, batch in enumerate(heads.batches.epoch(epoch), start=1):
            losses.append(heads.compute_gradients(batch))
            heads.update(schedule_factor(recipe, epoch - 1 + step / steps, recipe.epochs, steps))
        if epoch % recipe.evaluate_every == 0 or epoch == recipe.epochs:
            heads.evaluate(epoch, torch.stack(losses).mean(0))
            if not heads.stopping.running.any():
                break
    return heads.trained()


class Heads:
    """The state of training.

    Weights are one tensor ``(parts, heads * vectors, inputs)``: the inputs of one layer after the
    other, the last of each being its bias. Inputs come last since products along them are several
    times faster; one tensor for all layers makes each step of the optimiser one operation.
    """

    def __init__(self, grid: Grid, parts: Sequence[Part], labels: Tensor, recipe: Train) -> None:
        self.grid, self.parts, self.labels, self.recipe = grid, parts, labels, recipe
        self.terms = stacked_terms([part.loss for part in parts], labels.device)
        self.image_weights = stack_image_weights(parts, labels)
        self.classes = self.terms.class_weights.shape[-1]
        self.inputs = Inputs(list(grid.inputs.values()))
        trained_on = [part.train for part in parts]
        self.scaling = self.inputs.scaling(trained_on) if grid.standardise else None
        self.batches = TrainingBatches(
            self.inputs, parts, labels, recipe, scaling=self.scaling, dropout=grid.dropout
        )
        self.sizes = [width + 1 for width in self.inputs.widths]
        rows = grid.size * vectors(self.classes)
        weights = self.inputs.views[0].new_zeros(len(parts), rows, sum(self.sizes))
        self.best = self.gradients = torch.zeros_like(weights)
        # Of every head: (parts, layers, heads of a layer).
        self.shape = (len(parts), len(self.sizes), grid.size)
        rates, decays = labels.new_tensor(grid.names(), dtype=torch.float32).unbind(-1)
        self.base = self.rates = rates.expand(self.shape)
        self.adamw = BatchedAdamW(weights, self._decays(decays), recipe)
        self.stopping = Stopping(self.base, recipe)
        self.history: list[tuple[int, Tensor]] = []
        validated = [part.validation for part in parts]
        self.validations = [
            (members, Batch(self.inputs.of_layers(self.inputs.gather(rows)), rows, mask))
            for members, rows, mask in group_parts(validated, self.inputs.columns, labels.device)
        ]

    def _decays(self, decays: Tensor) -> Tensor | None:
        """Give each weight its head's decay ``(heads,)``; the bias is not decayed."""
        if not decays.any():
            return None
        spread = self._spread(decays.expand(1, len(self.sizes), -1))
        spread[..., np.cumsum(self.sizes) - 1] = 0  # the last input of each layer is its bias
        return spread

    # -------------------------------------------------------------- one step

    def compute_gradients(self, batch: Batch) -> Tensor:
        """Compute every head's gradient on one batch, and return the losses."""
        products = self._products(batch.inputs, self.adamw.weights).requires_grad_()
        mean = self._losses(self._logits(products), batch, self.terms)
        # Autograd goes back to the products only: they are few, and what lies before them is linear
        # and written out below. Heads share no weights, so the gradient of their sum is each one's.
        (slope,) = torch.autograd.grad(mean.sum(), products)
        if vectors(self.classes) < self.classes:
            # The shared vector w gives the logits (-w x, w x), so its slope adds up those of both
            # classes' vectors. Halved, it is what the vector of one class would have.
            slope /= self.classes
        # Every layer has as many columns of products, one for each vector of its heads.
        gradients: list[Tensor] = []
        # The products are x w + bias: the gradient of w sums slope times x over the images, that
        # of the bias sums the slope.
        for of_layer, x_layer in zip(slope.chunk(len(self.sizes), -1), batch.inputs, strict=True):
            gradients += [of_layer.mT @ x_layer, of_layer.sum(1).unsqueeze(-1)]
        self.gradients = torch.cat(gradients, -1)
        return mean.detach().view(self.shape)

    def _count(self, batch: Batch, members: Any = slice(None)) -> Tensor:
        """Return how much each image of a batch counts ``(parts, images)``; padding counts 0."""
        if self.image_weights is None:
            return batch.mask
        weights = self.image_weights[members]
        return batch.mask * weights.gather(1, batch.rows.expand(len(weights), -1))

    def _losses(
        self, logits: Tensor, batch: Batch, terms: Terms, members: Any = slice(None)
    ) -> Tensor:
        """Return the mean loss over a batch of each part's heads ``(parts, heads)``."""
        # Heads of a part see the same images, so their targets are one column, repeated as a view.
        targets = self.labels[batch.rows].unsqueeze(-1).expand(logits.shape[:-1])
        losses, weights = objective(logits.flatten(1, 2), targets.flatten(1, 2), terms)
        # Padding counts 0, which takes it out of the sums above and below.
        shown = self._count(batch, members).unsqueeze(-1)
        return (losses.view_as(targets) * shown).sum(1) / (weights.view_as(targets) * shown).sum(1)

    def _products(self, x: Sequence[Tensor], weights: Tensor) -> Tensor:
        """Return inputs times weights ``(parts, images, layers * heads * vectors)``."""
        products = []
        for x_layer, of_layer in zip(x, self._of_layers(weights), strict=True):
            w, bias = of_layer[..., :-1], of_layer[..., -1].unsqueeze(1)
            # One product per part over all its heads. Parts that share their validation rows hold
            # them once; expand repeats them as a view, without a copy.
            products.append(torch.baddbmm(bias, x_layer.expand(len(w), -1, -1), w.mT))
        return torch.cat(products, -1)

    def _logits(self, products: Tensor) -> Tensor:
        """Return logits ``(parts, images, layers * heads, classes)``."""
        of_heads = products.view(*products.shape[:-1], -1, vectors(self.classes))
        return _of_classes(of_heads, self.classes, -1)

    def _of_layers(self, weights: Tensor) -> Sequence[Tensor]:
        """Return views of the weights of each layer."""
        return torch.split(weights, self.sizes, -1)

    def update(self, factor: float) -> None:
        """Let every head make a step, ``factor`` on its rate being the schedule's."""
        self.rates = learning_rates(self.recipe, self.base, factor, self.stopping.plateau)
        self._clip()
        self.adamw.step(self.gradients, self._spread(self.rates))

    def _clip(self) -> None:
        """Shorten the gradients of heads whose norm is above the recipe's."""
        of_layers = self._of_layers(self.gradients)
        of_rows = torch.stack([vector_norm(gradient, dim=-1) for gradient in of_layers], 1)
        count = vectors(self.classes)
        of_heads = vector_norm(of_rows.view(*of_rows.shape[:2], -1, count), dim=-1)
        # A shared vector stands for that of each class, and all of them count in the norm.
        norms = of_heads * (self.classes / count) ** 0.5
        if (norms > self.recipe.clip).any():
            # The small number is that of torch's clip_grad_norm_.
            self.gradients.mul_(self._spread((self.recipe.clip / (norms + 1e-6)).clamp(max=1)))

    def _spread(self, of_heads: Tensor) -> Tensor:
        """Give each weight its head's value of ``(parts, layers, heads)``."""
        # A head has one row for each of its vectors, and one column for each input of its layer.
        rows = of_heads.repeat_interleave(vectors(self.classes), -1).unsqueeze(-1)
        of_layers = zip(rows.unbind(1), self.sizes, strict=True)
        return torch.cat([of_layer.expand(-1, -1, size) for of_layer, size in of_layers], -1)

    # -------------------------------------------------------------- epochs

    def evaluate(self, epoch: int, train_loss: Tensor) -> None:
        """Keep the heads that are at their best; stop those that have not improved for long."""
        # Best weights are kept as they act on plain features: whoever applies a head then needs no
        # mean and deviation beside it.
        present = self._unscaled()
        if len(self.parts[0].validation):
            loss, value = self._validate(present)
            told = loss
        else:
            loss, value = torch.zeros_like(train_loss), torch.full_like(train_loss, epoch)
            told = torch.full_like(train_loss, torch.nan)
        # A head that has stopped has no entry, although it is still computed.
        row = torch.stack([train_loss, told, self.rates])
        self.history.append((epoch, row.masked_fill(~self.stopping.running, torch.nan)))
        better = self.stopping.watch(epoch, value, loss)
        self.best = torch.where(self._spread(better), present, self.best)

    def _unscaled(self) -> Tensor:
        """Return the present weights as they act on features that are not standardised.

        ``w (x - mean) / deviation + b`` is ``(w / deviation) x + (b - mean w / deviation)``.
        """
        if not self.scaling:
            return self.adamw.averages
        unscaled: list[Tensor] = []
        scaling = zip(*map(self.inputs.of_layers, self.scaling), strict=True)
        for of_layer, (mean, deviation) in zip(
            self._of_layers(self.adamw.averages), scaling, strict=True
        ):
            w = of_layer[..., :-1] / deviation
            unscaled += [w, of_layer[..., -1:] - (w * mean).sum(-1, keepdim=True)]
        return torch.cat(unscaled, -1)

    def _validate(self, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss and monitored quality of every head on its validation part."""
        losses, values = (self.labels.new_zeros(self.shape, dtype=torch.float32) for _ in range(2))
        for members, batch in self.validations:
            logits = self._logits(self._products(batch.inputs, present[members]))
            loss = self._losses(logits, batch, self.terms.each(itemgetter(members)), members)
            losses[members] = loss.view(-1, *self.shape[1:])
            values[members] = self._quality(loss, logits, batch, self._count(batch, members)).view(
                -1, *self.shape[1:]
            )
        return losses, values

    def _quality(self, loss: Tensor, logits: Tensor, batch: Batch, counts: Tensor) -> Tensor:
        """Return the monitored value ``(parts, heads)``; ``counts`` is that of :meth:`_count`."""
        if self.recipe.monitor == "loss":
            return -loss
        probabilities = logits.double().softmax(-1).transpose(1, 2).cpu().numpy()
        labels = self.labels[batch.rows].expand(len(loss), -1).cpu().numpy()
        sizes = batch.mask.sum(1).long().expand(len(loss)).tolist()
        weights = counts.expand(len(loss), -1).cpu().numpy()
        of_parts = zip(
            loss.double().cpu().numpy(), probabilities, labels, weights, sizes, strict=True
        )
        # A part's own images come first, its padding after them.
        found = [
            quality(self.recipe.monitor, losses, p[:, :size], y[:size], w[:size])
            for losses, p, y, w, size in of_parts
        ]
        return torch.from_numpy(np.stack(found)).to(loss)

    def trained(self) -> Trained:
        """Return every head as it was at its best epoch."""
        shape = (len(self.parts), -1, vectors(self.classes))
        return Trained(
            weights=[
                _of_classes(best.reshape(*shape, best.shape[-1]), self.classes, 2)
                for best in self._of_layers(self.best)
            ],
            best_epoch=self.stopping.best_epoch,
            quality=self.stopping.quality,
            loss=self.stopping.loss,
            history=self.history,
        )


def _of_classes(of_vectors: Tensor, classes: int, dim: int) -> Tensor:
    """Give each class its values, from those of the vectors in ``dim``."""
    if of_vectors.shape[dim] == classes:
        return of_vectors
    return torch.cat([-of_vectors, of_vectors], dim)
