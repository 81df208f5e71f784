"""AdamW of many heads at once, each with its own rate and its own clipped gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prognobench.records import Train

BETAS, EPSILON = (0.9, 0.999), 1e-8


class HeadsAdamW:
    """As ``torch.optim.AdamW`` would move each head by itself; the bias is not decayed.

    Parameters
    ----------
    weights
        ``(parts, heads * vectors, inputs)``, changed in place: the taps' inputs one after the
        other, the last of each tap being its bias.
    sizes
        How many inputs each tap has.
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
        self._first, self._second = torch.zeros_like(weights), torch.zeros_like(weights)
        self.averages = torch.zeros_like(weights) if recipe.ema else weights
        self._steps = 0

    def step(self, slopes: Tensor, rates: Tensor) -> None:
        """Apply gradients, which it may change, at rates ``(parts, taps, heads)``."""
        self._steps += 1
        self._clip(slopes)
        first, second = (1 - beta**self._steps for beta in BETAS)
        w, m, v = self.weights, self._first, self._second
        if self._decays is not None:
            w *= 1 - self.spread(rates) * self._decays
        m.lerp_(slopes, 1 - BETAS[0])
        v.mul_(BETAS[1]).addcmul_(slopes, slopes, value=1 - BETAS[1])
        # The corrections of both moments stand with the rates: fewer passes over the weights.
        root = second**0.5
        move = self.spread(rates * (-root / first)).mul_(m)
        w.addcdiv_(move, v.sqrt().add_(EPSILON * root))
        if self.recipe.ema:
            decay = min(self.recipe.ema, (1 + self._steps) / (10 + self._steps))
            self.averages.lerp_(w, 1 - decay)

    def _clip(self, slopes: Tensor) -> None:
        squares = torch.split(slopes.square(), list(self._sizes), -1)
        of_columns = torch.stack([square.sum(-1) for square in squares], 1)
        of_heads = of_columns.view(*of_columns.shape[:2], -1, self._vectors).sum(-1)
        norms = (of_heads * (self.classes / self._vectors)).sqrt()
        if (norms > self.recipe.clip).any():
            slopes.mul_(self.spread((self.recipe.clip / (norms + 1e-6)).clamp(max=1)))

    def spread(self, of_heads: Tensor) -> Tensor:
        """Give each weight its head's value of ``(parts, taps, heads)``."""
        columns = of_heads.repeat_interleave(self._vectors, -1).unsqueeze(-1)
        of_taps = zip(columns.unbind(1), self._sizes, strict=True)
        return torch.cat([of_tap.expand(-1, -1, size) for of_tap, size in of_taps], -1)
