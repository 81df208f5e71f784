"""Fused attention projections taken apart, for models whose adapters go on each matrix."""

from __future__ import annotations

from torch import nn

from prognobench.errors import ConfigError
from prognobench.projections import SeparateProjections


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
