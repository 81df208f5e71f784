"""AdamW of many heads at once, each with its own rate and its own clipped gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.optim.adamw import adamw

from prognobench.records import Train

BETAS, EPSILON = (0.9, 0.999), 1e-8


class HeadsAdamW:
    """As ``torch.optim.AdamW`` would move each head by itself; the bias is not decayed.

    Parameters
    ----------
    weights
        ``(parts, heads * vectors, inputs)``, changed in place: the layers' inputs one after the
        other, the last of each layer being its bias.
    sizes
        How many inputs each layer has.
    decays
        Weight decay ``(heads,)``.
    classes
        Of which a head has a vector each, or one that they share.
    """

    def __init__(
        self, weights: Tensor, sizes: Sequence[int], decays: Tensor, classes: int, recipe: Train
    ) -> None:
        self.weights, self.classes, self.recipe = weights, classes, recipe
        self._vectors = weights.shape[1] // len(decays)
        self._sizes = sizes
        self._decays = self.spread(decays.expand(1, len(sizes), -1)) if decays.any() else None
        if self._decays is not None:
            self._decays[..., np.cumsum(sizes) - 1] = 0
        self._first, self._second, self._move = (torch.zeros_like(weights) for _ in range(3))
        self._count = torch.zeros((), device=weights.device)
        self.averages = torch.zeros_like(weights) if recipe.ema else weights

    @torch.no_grad()
    def step(self, slopes: Tensor, rates: Tensor) -> None:
        """Apply gradients, which it may change, at rates ``(parts, layers, heads)``."""
        self._clip(slopes)
        # From zero and at a rate of 1, what AdamW makes of its parameters is the move itself. (By
        # its function: the class imports torch's compiler, a second of a short command.)
        adamw(
            [self._move],
            [slopes],
            [self._first],
            [self._second],
            [],
            [self._count],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=1.0,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )
        spread = self.spread(rates)
        if self._decays is not None:
            self.weights *= 1 - spread * self._decays
        self.weights.addcmul_(self._move, spread)
        self._move.zero_()
        if self.recipe.ema:
            steps = int(self._count)
            decay = min(self.recipe.ema, (1 + steps) / (10 + steps))
            self.averages.lerp_(self.weights, 1 - decay)

    def _clip(self, slopes: Tensor) -> None:
        of_layers = torch.split(slopes, list(self._sizes), -1)
        of_columns = torch.stack([vector_norm(slope, dim=-1) for slope in of_layers], 1)
        of_heads = vector_norm(of_columns.view(*of_columns.shape[:2], -1, self._vectors), dim=-1)
        norms = of_heads * (self.classes / self._vectors) ** 0.5
        if (norms > self.recipe.clip).any():
            slopes.mul_(self.spread((self.recipe.clip / (norms + 1e-6)).clamp(max=1)))

    def spread(self, of_heads: Tensor) -> Tensor:
        """Give each weight its head's value of ``(parts, layers, heads)``."""
        columns = of_heads.repeat_interleave(self._vectors, -1).unsqueeze(-1)
        of_layers = zip(columns.unbind(1), self._sizes, strict=True)
        return torch.cat([of_layer.expand(-1, -1, size) for of_layer, size in of_layers], -1)
