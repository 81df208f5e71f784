"""Optimiser, schedule, averaged weights, and which epoch was the best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prognobench.errors import TrainingError
from prognobench.records import ParameterGroup, Train

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PLATEAU_FACTOR = 0.1
"""By which a plateau lowers the learning rate."""


def rate(recipe: Train, time: float, epochs: int, steps_per_epoch: int) -> float:
    """Return the factor on every learning rate after ``time`` of ``epochs`` epochs, in [0, 1].

    It grows linearly over the warm-up and then stays (``constant``, ``plateau``) or falls along
    half a cosine to 0 (Loshchilov and Hutter 2017). A single step in all has the full rate: at the
    end of its schedule it would train nothing.
    """
    if epochs * steps_per_epoch == 1:
        return 1.0
    warmup = min(recipe.warmup_epochs, epochs / 2)
    if time < warmup:
        return time / warmup
    if recipe.schedule != "cosine":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (time - warmup) / (epochs - warmup))))


class Optimiser:
    """AdamW (Loshchilov and Hutter 2019) with the recipe's schedule, clipping and averaging.

    Parameters
    ----------
    model
        Names in ``groups`` are its parameters'.
    epochs, steps_per_epoch
        How long it will run, for the schedule.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[ParameterGroup],
        recipe: Train,
        epochs: int,
        steps_per_epoch: int,
    ) -> None:
        named = dict(model.named_parameters())
        self.recipe = recipe
        self.parameters: list[Tensor] = [
            named[name] for group in groups for name in group.parameters
        ]
        self._epochs, self._steps_per_epoch, self._step = epochs, steps_per_epoch, 0
        self._lrs = [recipe.head_lr if group.lr is None else group.lr for group in groups]
        self._plateau, self._lowered = 1.0, 0
        self._adamw = torch.optim.AdamW(
            [
                {
                    "params": [named[name] for name in group.parameters],
                    "weight_decay": (
                        recipe.weight_decay if group.weight_decay is None else group.weight_decay
                    ),
                }
                for group in groups
            ],
            fused=self.parameters[0].device.type in ("cpu", "cuda"),
        )
        self._averages = [p.detach().clone() for p in self.parameters] if recipe.ema else []

    @property
    def lr(self) -> float:
        """The first group's present learning rate."""
        return float(self._adamw.param_groups[0]["lr"])

    def step(self) -> None:
        """Apply the gradients, and clear them."""
        self._step += 1
        time = self._step / self._steps_per_epoch
        factor = rate(self.recipe, time, self._epochs, self._steps_per_epoch)
        for group, lr in zip(self._adamw.param_groups, self._lrs, strict=True):
            floor = min(self.recipe.min_lr, lr)
            group["lr"] = floor + (lr - floor) * factor * self._plateau
        nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip, foreach=True)
        self._adamw.step()
        self._adamw.zero_grad()
        if self._averages:
            # Early averages must forget the start, hence a decay that grows.
            decay = min(self.recipe.ema, (1 + self._step) / (10 + self._step))
            with torch.no_grad():
                torch._foreach_lerp_(self._averages, self.parameters, 1 - decay)

    def lower_on_plateau(self, epoch: int, improved: int) -> None:
        """Lower the learning rates if nothing improved since epoch ``improved`` for too long."""
        since = epoch - max(improved, self._lowered)
        if self.recipe.schedule == "plateau" and since >= self.recipe.plateau_patience:
            self._plateau *= PLATEAU_FACTOR
            self._lowered = epoch

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights, if there are any, in the place of the present ones."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for i, average in enumerate(self._averages):
            self.parameters[i].data, self._averages[i] = average, self.parameters[i].data


class Best:
    """The best epoch so far, and a copy of what training changes as it was then."""

    def __init__(self, model: nn.Module) -> None:
        self.epoch = 0
        self._value: tuple[float, ...] = (-math.inf,)
        parameters = [p for p in model.parameters() if p.requires_grad]
        self._live = [*parameters, *model.buffers()]
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def offer(self, epoch: int, *value: float) -> bool:
        """Keep the present weights if ``value`` (the more, the better) is a new best.

        The first number decides, the next one where it is equal.
        """
        if not value > self._value:
            return False
        self.epoch, self._value = epoch, value
        if not self._kept:
            self._kept = [tensor.detach().clone() for tensor in self._live]
        for kept, tensor in zip(self._kept, self._live, strict=True):
            kept.copy_(tensor)
        return True

    @torch.no_grad()
    def restore(self) -> None:
        """Put the weights of the best epoch back into the model.

        Raises
        ------
        TrainingError
            If no epoch had a value that is a number.
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
    """
    if monitor == "loss":
        return -losses
    # Imported here since the usual monitor needs none of it.
    import numpy as np

    from prognobench.metrics.metric import find_metric
    from prognobench.metrics.sample import Sample, decide

    ones = np.ones((1, len(labels)))
    decisions = decide(probabilities, 0.5)
    sample = Sample(labels[None].astype(np.intp), probabilities, decisions, ones, ones / 2)
    return np.nan_to_num(find_metric(monitor)(sample))
