"""The bottleneck that AdaptFormer puts beside a feed-forward part."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from prognobench.strategies.layers.wrapper import Wrapper


class ParallelAdapter(Wrapper):
    """``base_layer(x) + scale * up(dropout(relu(down(x))))``, of which the second is 0 at first.

    Parameters
    ----------
    base_layer
        From ``width_in`` to ``width_out``, on the last dimension.
    bottleneck
        Width between ``down`` and ``up``.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        width_in: int,
        width_out: int,
        *,
        bottleneck: int,
        scale: float,
        dropout: float,
    ) -> None:
        super().__init__(base_layer)
        self.down = nn.Linear(width_in, bottleneck)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(bottleneck, width_out)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)
        self.scale = scale

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        beside = self.up(self.dropout(torch.relu(self.down(x))))
        out: Tensor = self.base_layer(x, *args, **kwargs) + self.scale * beside
        return out
