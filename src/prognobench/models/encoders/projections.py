"""Fused attention projections taken apart and put together again, for adapters on each matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prognobench.errors import ConfigError


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


def separate_projections(network: nn.Module) -> None:
    """Replace, in place, every fused projection; outputs stay equal.

    Raises
    ------
    ConfigError
        If there is none, or the network reads a fused matrix otherwise than by calling it.
    """
    fused = [name for name, _ in network.named_modules() if name.endswith("attn.qkv")]
    if not fused:
        raise ConfigError("model.qkv: this network has no fused projections; take 'fused'")
    for name in fused:
        layer, parent = (network.get_submodule(part) for part in (name, name.rpartition(".")[0]))
        if not isinstance(layer, nn.Linear) or getattr(parent, "q_bias", None) is not None:
            raise ConfigError(f"model.qkv: {name} cannot be taken apart; take 'fused'")
        network.set_submodule(name, SeparateProjections(layer))
