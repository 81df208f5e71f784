"""Modules that strategies put in the place of a frozen layer: AdaptFormer, prompts, SSF."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class Wrapper(nn.Module):
    """Takes the place of ``base_layer``, and calls it.

    In training mode the wrapper trains beside a base layer that stays in evaluation mode.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer


def is_wrapper(module: nn.Module) -> bool:
    """Return whether a module wraps its ``base_layer``: one of ours, or of peft's.

    The name alone does not tell: timm's DLA calls its stem ``base_layer``.
    """
    from_peft = any(base.__module__.startswith("peft.") for base in type(module).__mro__)
    return isinstance(module, Wrapper) or (from_peft and hasattr(module, "base_layer"))


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


class PromptedBlock(Wrapper):
    """A block that sees prompt tokens beside the image's tokens ``(batch, tokens, width)``.

    The prompts come last: a plain transformer ignores their place, and the class token stays
    first.

    Parameters
    ----------
    base_layer
        The block.
    prompts
        ``(prompts, width)`` to append, or ``None`` where an earlier block did.
    remove
        How many tokens to take off the end of the block's output.
    dropout
        On the appended prompts.
    """

    def __init__(
        self, base_layer: nn.Module, prompts: Tensor | None, remove: int, dropout: float
    ) -> None:
        super().__init__(base_layer)
        self.prompts = None if prompts is None else nn.Parameter(prompts)
        self.dropout = nn.Dropout(dropout)
        self.remove = remove

    def forward(self, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.prompts is not None:
            prompts = self.dropout(self.prompts).expand(len(tokens), -1, -1)
            tokens = torch.cat([tokens, prompts.to(tokens.dtype)], dim=1)
        tokens = self.base_layer(tokens, *args, **kwargs)
        return tokens[:, : tokens.shape[1] - self.remove]


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

    def __getattr__(self, name: str) -> Any:
        """Answer for the layer: networks ask where its weight lies (XCiT), how large its kernel is
        (DaViT).
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            # A layer's own scale (of NFNet, say) must not pass for this one's.
            if name in ("base_layer", "scale", "shift"):
                raise
            return getattr(self.base_layer, name)

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
