"""Training and prediction of one model: the loop, from batch to best weights."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from prognobench.errors import TrainingError
from prognobench.losses.objective import Terms, loss_terms, objective
from prognobench.records import Adapted, Fitted, Loss, ParameterGroup, Progress, Train
from prognobench.seeds import derive
from prognobench.strategies.layers.head_grid import (
    NONE_CHOSEN,
    choose_head,
    chosen_head,
    describe_choice,
)
from prognobench.training.hardware import (
    PeakMemory,
    Precision,
    autocast,
    in_parts,
    memory_format,
    more_parts,
    resolve_precision,
)
from prognobench.training.loader import Batch, Loader
from prognobench.training.optimiser import Optimiser
from prognobench.training.speedups.attention import attention_for
from prognobench.training.speedups.low_rank import use_fused_updates
from prognobench.training.stopping import BestWeights, Stopping, quality

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class FittedModel(Fitted):
    """What came out of training a model, which has the weights of its best epoch.

    Attributes
    ----------
    validation
        Class probabilities ``(validation images, classes)`` by which that epoch was chosen.
    """

    validation: NDArray[np.float64]


def fit(
    adapted: Adapted,
    train: Loader,
    validation: Loader,
    loss: Loss,
    recipe: Train,
    *,
    device: torch.device | str,
    where: str,
    progress: Progress | None = None,
    keep: Callable[[int], None] = lambda epoch: None,
) -> FittedModel:
    """Train an adapted model, and leave it with the weights of its best epoch.

    AdamW with the recipe's schedule, clipped gradients, and early stopping on the validation part.
    Random numbers come from ``train.seed`` and the epoch, whatever was drawn before. Without a
    validation part every epoch of the recipe is trained, and the last one is kept.

    Parameters
    ----------
    where
        Names the cell, in errors and progress.
    keep
        Called with the epoch after each evaluation, the model as it was evaluated.

    Raises
    ------
    TrainingError
        If a loss is not finite; names cell, epoch and step.
    """
    device = torch.device(device)
    memory, start = PeakMemory(device), time.perf_counter()
    model, layout = adapted.model, memory_format(adapted.model)
    model.to(device).to(memory_format=layout)
    if recipe.checkpoint_activations:
        checkpoint_activations(model)
    if recipe.compile:
        model.compile()
    if recipe.speedups:
        use_fused_updates(model)
    precision = resolve_precision(recipe.precision, device)
    step = Step(model, loss_terms(loss, device), precision, recipe.speedups, loss.image_weights)
    stopping, best = Stopping(torch.zeros((), dtype=torch.float64), recipe), BestWeights(model)
    history, epoch = list[dict[str, float]](), 0
    chosen = np.empty((0, len(loss.class_weights)))
    for groups, epochs in _phases(adapted, recipe):
        _train_only(model, groups)
        optimiser = Optimiser(model, groups, recipe, epochs, -(-len(train) // recipe.accumulate))
        stopping.begin(epoch)
        end = epoch + epochs
        while epoch < end and stopping.running:
            epoch += 1
            model.train()
            # Dropout is then the same whatever ran before, also after a resumed sweep.
            torch.manual_seed(derive(*train.seed, "epoch", epoch))
            losses = []
            for batches in _grouped(train.epoch(epoch, layout), recipe.accumulate):
                losses.append(step(batches))
                optimiser.step(stopping.plateau)
            row = {"epoch": epoch, "train_loss": _finite_mean(losses, where, epoch)}
            if progress:
                progress(where, epoch, adapted.head_first_epochs + recipe.epochs)
            if epoch % recipe.evaluate_every and epoch != end:
                continue  # the last epoch of a phase is always evaluated
            with optimiser.averaged():
                found, probabilities = _validate(step, validation, recipe.monitor, layout)
                row |= found
                if stopping.watch(epoch, *_judged(row)):
                    best.keep()
                    chosen = probabilities
                keep(epoch)
            history.append(row | {"lr": optimiser.lr, "seconds": time.perf_counter() - start})
    best.restore()
    seconds = time.perf_counter() - start
    cost = {
        "seconds_train": seconds,
        "seconds_per_epoch": seconds / epoch,
        "epochs": epoch,
        "peak_memory_bytes": memory.bytes,
        "precision": step.precision,
        "micro_batches": step.parts,
        "stopped": "validation" if len(validation.rows) else "fixed number of epochs",
        **describe_choice(model),
    }
    return FittedModel(
        history=history, best_epoch=int(stopping.best_epoch), cost=cost, validation=chosen
    )


def predict(
    model: nn.Module,
    loader: Loader,
    *,
    device: torch.device | str,
    precision: Precision,
    speedups: bool = True,
) -> NDArray[np.float64]:
    """Return class probabilities ``(rows, classes)``, in the order of the loader's rows."""
    device = torch.device(device)
    if speedups:
        use_fused_updates(model)
    model.to(device).eval()
    resolved = resolve_precision(precision, device)
    return _probabilities(infer(model, loader, resolved, memory_format(model)))


def infer(
    model: nn.Module, loader: Loader, precision: Precision, layout: torch.memory_format
) -> Tensor:
    """Return logits ``(rows, classes)`` in fp32 on the CPU."""
    logits: list[Tensor] = []
    parts = 1
    with torch.inference_mode(), autocast(precision, loader.device):
        for batch in loader.epoch(0, layout):
            compute = partial(_forward_in_parts, model, batch)
            chunks, parts = in_parts(compute, parts, len(batch.rows), loader.device)
            logits += [chunk.float().cpu() for chunk in chunks]
    return torch.cat(logits)


def _forward_in_parts(model: nn.Module, batch: Batch, parts: int) -> list[Tensor]:
    return [model(images) for images in batch.images.tensor_split(parts)]


class Step:
    """Forward and backward through one batch, in as many parts as memory needs.

    Attributes
    ----------
    parts
        Number of parts of each batch; doubled whenever the device runs out of memory.
    image_weights
        As in :class:`~prognobench.records.Loss`.
    """

    def __init__(
        self,
        model: nn.Module,
        terms: Terms,
        precision: Precision,
        speedups: bool,
        image_weights: NDArray[np.float64] | None = None,
    ) -> None:
        self.model, self.terms, self.precision = model, terms, precision
        self.image_weights = image_weights
        self.speedups = speedups
        self.parts = 1

    def __call__(self, batches: Sequence[Batch]) -> Tensor:
        """Add the gradients of the batches' common mean loss, and return that loss."""
        while True:
            try:
                return self._backward(batches)
            except torch.OutOfMemoryError:
                self.model.zero_grad()
                images = batches[0].images
                if self.parts == 1 and any(map(_sees_the_batch, self.model.modules())):
                    warnings.warn(
                        "batches are split because memory is short, and batch normalisation sees "
                        "one part at a time: numbers differ from those with more memory. A smaller "
                        "train.batch_size with train.accumulate gives the same everywhere",
                        stacklevel=2,
                    )
                self.parts = more_parts(self.parts, len(images), images.device)

    def _backward(self, batches: Sequence[Batch]) -> Tensor:
        # Known before the forward pass, so that the parts' gradients add up to the whole's.
        of_images = [self.weigh(batch.rows, batch.labels.device) for batch in batches]
        pairs = zip(batches, of_images, strict=True)
        weight = sum((self.terms.class_weights[b.labels] * counts).sum() for b, counts in pairs)
        total = torch.zeros((), device=batches[0].images.device)
        for batch, counts in zip(batches, of_images, strict=True):
            parts = min(self.parts, len(batch.rows))
            shares = (each.tensor_split(parts) for each in (batch.images, batch.labels, counts))
            for images, labels, factors in zip(*shares, strict=True):
                with autocast(self.precision, images.device):
                    logits = self.model(images)
                losses = self.losses_of_images(logits, labels)
                loss = (losses * factors).sum() / weight
                with attention_for(loss, self.precision) if self.speedups else nullcontext():
                    torch.autograd.backward(loss)
                total += loss.detach()
        return total

    def losses_of_images(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weighted loss of each image, the mean of its heads' where there are several.

        The mean, and not the sum, so that clipping cuts the backbone's gradient at the same length.
        """
        if logits.ndim == 2:
            return objective(logits, labels, self.terms)[0]
        return objective(logits, labels[:, None].expand(logits.shape[:-1]), self.terms)[0].mean(1)

    def weigh(self, rows: NDArray[np.intp], device: torch.device) -> Tensor:
        """Return how much each of some images counts, ``(rows,)``."""
        if self.image_weights is None:
            return torch.ones(len(rows), device=device)
        return torch.tensor(self.image_weights[rows], dtype=torch.float32, device=device)


def _sees_the_batch(module: nn.Module) -> bool:
    return module.training and "BatchNorm" in type(module).__name__


def _phases(adapted: Adapted, recipe: Train) -> Iterator[tuple[Sequence[ParameterGroup], int]]:
    """Yield which groups train together, and for how many epochs."""
    if adapted.head_first_epochs:
        head = [group for group in adapted.groups if group.role == "head"]
        yield head, adapted.head_first_epochs
    if recipe.epochs:
        yield adapted.groups, recipe.epochs


def _train_only(model: nn.Module, groups: Sequence[ParameterGroup]) -> None:
    trained = {name for group in groups for name in group.parameters}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def _grouped(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    while group := list(islice(batches, size)):
        yield group


def _finite_mean(losses: Sequence[Tensor], where: str, epoch: int) -> float:
    """Return the mean of an epoch's losses; read once, so that the device is not waited for."""
    values = torch.stack(list(losses)).cpu()
    if not values.isfinite().all():
        step = int((~values.isfinite()).nonzero()[0]) + 1
        raise TrainingError(
            f"{where}: the loss is {values[step - 1].item()} in epoch {epoch}, step {step} of "
            f"{len(values)}; lower the learning rate, or try train.precision=fp32"
        )
    return values.mean().item()


def _validate(
    step: Step, validation: Loader, monitor: str, layout: torch.memory_format
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Return loss and monitored value of the validation part, and its class probabilities.

    Of a grid of heads: those of the best, which is the chosen one from now on.
    """
    if not len(validation.rows):
        choose_head(step.model, max(chosen_head(step.model), 0))
        return {}, np.empty((0, len(step.terms.class_weights)))
    step.model.eval()
    choose_head(step.model, NONE_CHOSEN)
    logits = infer(step.model, validation, step.precision, layout)
    heads = logits.transpose(0, 1).contiguous() if logits.ndim == 3 else logits[None]
    labels = torch.from_numpy(validation.labels[validation.rows])
    terms = step.terms.each(lambda term: term.cpu())
    losses, weights = objective(heads, labels.expand(heads.shape[:-1]), terms)
    counts = step.weigh(validation.rows, losses.device)
    means = ((losses * counts).sum(-1) / (weights * counts).sum(-1)).double().numpy()
    probabilities = _probabilities(heads)
    values = quality(monitor, means, probabilities, labels.numpy(), counts.numpy())
    best = int(np.lexsort((means, -values))[0])
    choose_head(step.model, best)
    row = {"validation_loss": float(means[best]), "monitor": float(values[best])}
    return row, probabilities[best]


def _judged(row: Mapping[str, float]) -> tuple[Tensor, Tensor]:
    """Return quality and loss of an evaluation; without a validation part the latest is best."""
    judged = (row.get("monitor", row["epoch"]), row.get("validation_loss", 0.0))
    quality, loss = torch.tensor(judged, dtype=torch.float64)
    return quality, loss


def _probabilities(logits: Tensor) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = logits.double().softmax(-1).numpy()
    return probabilities


def checkpoint_activations(model: nn.Module) -> None:
    """Let every part that can do so recompute its activations in the backward pass."""
    for module in model.modules():
        if callable(enable := getattr(module, "set_grad_checkpointing", None)):
            enable(True)
