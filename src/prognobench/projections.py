"""A fused attention projection as three layers, and back again."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SeparateProjections(nn.Module):
    """Stands where a fused ``qkv`` stood and gives the same output from three layers.

    Parameters
    ----------
    fused
        Rows of its weight: queries, keys, values.
    """

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        bias: Tensor | None = fused.bias
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        parts = zip(fused.weight.chunk(3), biases, strict=True)
        self.query, self.key, self.value = (_linear(weight, bias) for weight, bias in parts)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat((self.query(tokens), self.key(tokens), self.value(tokens)), -1)

    def fused(self) -> nn.Linear:
        """Return the three layers as one."""
        parts = (self.query, self.key, self.value)
        bias: Tensor | None = self.query.bias
        return _linear(
            torch.cat([part.weight for part in parts]),
            None if bias is None else torch.cat([part.bias for part in parts]),
        )


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer
