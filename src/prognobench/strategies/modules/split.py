"""A fused attention projection as three layers, so that queries can be left alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SplitProjection(nn.Module):
    """The layers ``query``, ``key`` and ``value`` of a fused projection (rows q, k, v in order)."""

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        self.query, self.key, self.value = (_rows(fused, part) for part in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.query(tokens), self.key(tokens), self.value(tokens)], dim=-1)

    def fused(self) -> nn.Linear:
        """Return the three layers as one again."""
        parts = (self.query, self.key, self.value)
        bias: Tensor | None = self.query.bias
        return _linear(
            torch.cat([part.weight for part in parts]),
            None if bias is None else torch.cat([part.bias for part in parts]),
        )


def _rows(fused: nn.Linear, part: int) -> nn.Linear:
    """Return a copy of one third of the rows."""
    bias: Tensor | None = fused.bias
    weight = fused.weight.chunk(3)[part]
    return _linear(weight, None if bias is None else bias.chunk(3)[part])


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer
