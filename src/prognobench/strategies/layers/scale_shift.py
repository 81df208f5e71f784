"""The scale and shift that SSF puts behind a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prognobench.strategies.layers.wrapper import Wrapper


class ScaledShifted(Wrapper):
    """``scale * base_layer(x) + shift``, per channel.

    Parameters
    ----------
    base_layer
        A linear layer, a convolution, or a normalisation.
    channels
        Of its output.
    std
        Scales start at 1 and shifts at 0, both with this much normal noise.
    channels_first
        Whether the output is ``(batch, channels, height, width)``.
    """

    def __init__(
        self, base_layer: nn.Module, channels: int, *, std: float, channels_first: bool
    ) -> None:
        super().__init__(base_layer)
        self.scale = nn.Parameter(1 + std * torch.randn(channels))
        self.shift = nn.Parameter(std * torch.randn(channels))
        self.channels_first = channels_first

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = self.base_layer(x, *args, **kwargs)
        shape = (-1, 1, 1) if self.channels_first else (-1,)
        return out * self.scale.view(shape) + self.shift.view(shape)

    def merged(self) -> nn.Module:
        """Return the layer with scale and shift in its own weight and bias, changed in place.

        Exact for layers whose output is linear in both; see :mod:`prognobench.strategies.ssf`.
        """
        layer: Any = self.base_layer
        rows = (-1,) + (1,) * (layer.weight.dim() - 1)
        with torch.no_grad():
            layer.weight.mul_(self.scale.view(rows))
            bias = self.shift if layer.bias is None else layer.bias * self.scale + self.shift
            layer.bias = nn.Parameter(bias.detach().clone())
        base: nn.Module = layer
        return base
