"""AdamW of many heads at once, each with its own rate and its own clipped gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prognobench.records import Train

BETAS, EPSILON = (0.9, 0.999), 1e-8


class HeadsAdamW:
    """As ``torch.optim.AdamW`` would move each head by itself; the bias is not decayed.

    Parameters
    ----------
    weights
        Of each tap ``(parts, width + 1, heads * classes)``, changed in place; the last row of the
        second axis is the bias.
    decays
        Weight decay ``(heads,)``.
    """

    def __init__(
        self, weights: Sequence[Tensor], decays: Tensor, classes: int, recipe: Train
    ) -> None:
        self.weights, self.decays, self.classes, self.recipe = weights, decays, classes, recipe
        self._first, self._second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
        self._averages = [torch.zeros_like(w) for w in weights] if recipe.ema else weights
        self._steps = 0

    @property
    def averages(self) -> Sequence[Tensor]:
        """The averaged weights, or the present ones where nothing is averaged."""
        return self._averages

    def step(self, slopes: Sequence[Tensor], rates: Tensor) -> None:
        """Apply gradients, which it may change, at rates ``(parts, taps, heads)``."""
        self._steps += 1
        self._clip(slopes)
        first, second = (1 - beta**self._steps for beta in BETAS)
        for tap, (w, g) in enumerate(zip(self.weights, slopes, strict=True)):
            lr = self.columns(rates[:, tap])
            if self.decays.any():
                w[:, :-1] *= 1 - lr * self.columns(self.decays.expand_as(rates[:, tap]))
            m, v = self._first[tap].lerp_(g, 1 - BETAS[0]), self._second[tap]
            v.mul_(BETAS[1]).addcmul_(g, g, value=1 - BETAS[1])
            w.addcdiv_(m * (-lr / first), (v / second).sqrt_().add_(EPSILON))
            if self.recipe.ema:
                decay = min(self.recipe.ema, (1 + self._steps) / (10 + self._steps))
                self._averages[tap].lerp_(w, 1 - decay)

    def _clip(self, slopes: Sequence[Tensor]) -> None:
        squares = [g.square().sum(1).view(len(g), -1, self.classes).sum(-1) for g in slopes]
        norms = torch.stack(squares, 1).sqrt()
        if (norms > self.recipe.clip).any():
            shrink = (self.recipe.clip / (norms + 1e-6)).clamp(max=1)
            for tap, slope in enumerate(slopes):
                slope.mul_(self.columns(shrink[:, tap]))

    def columns(self, of_heads: Tensor) -> Tensor:
        """Spread ``(parts, heads)`` over the columns of a weight."""
        return of_heads.repeat_interleave(self.classes, -1).unsqueeze(1)
