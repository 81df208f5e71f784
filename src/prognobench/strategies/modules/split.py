"""A fused attention projection as three layers, so that queries can be left alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SplitProjection(nn.Module):
    """The layers ``query``, ``key`` and ``value`` of a fused projection (rows q, k, v in order)."""

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        weights = fused.weight.detach().chunk(3)
        biases = [None] * 3 if fused.bias is None else fused.bias.detach().chunk(3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            layer = nn.Linear(fused.in_features, weight.shape[0], bias=bias is not None)
            layer.weight = nn.Parameter(weight.clone(), requires_grad=fused.weight.requires_grad)
            if bias is not None:
                layer.bias = nn.Parameter(bias.clone(), requires_grad=fused.weight.requires_grad)
            setattr(self, name, layer)

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.query(tokens), self.key(tokens), self.value(tokens)], dim=-1)

    def fused(self) -> nn.Linear:
        """Return the three layers as one again."""
        parts = [self.query, self.key, self.value]
        weight = torch.cat([part.weight.detach() for part in parts])
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=self.query.bias is not None)
        layer.weight = nn.Parameter(weight)
        if self.query.bias is not None:
            layer.bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts]))
        return layer
