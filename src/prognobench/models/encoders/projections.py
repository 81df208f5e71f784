"""Fused attention projections separated and fused again, for adapters on each matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prognobench.errors import NotApplicableError

PARTS = ("query", "key", "value")
"""Submodules of :class:`SeparateProjections`, in the order of the fused matrix's rows."""


class SeparateProjections(nn.Module):
    """Takes the place of a fused ``qkv`` and gives the same output from three layers.

    Parameters
    ----------
    fused
        Rows of its weight: queries, keys, values, a third each.
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
    # On the meta device, since drawing weights would cost time and move the random state.
    layer = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def separate_projections(module: nn.Module, names: Sequence[str]) -> None:
    """Replace, in place, the named fused projections; outputs stay equal.

    Raises
    ------
    NotApplicableError
        If one is not a plain linear layer, or the network reads its weights without calling it.
    """
    for name in names:
        layer, parent = (module.get_submodule(part) for part in (name, name.rpartition(".")[0]))
        # A subclass may compute something else than a matrix product.
        if type(layer) is not nn.Linear or not _calls_projection(parent):
            raise NotApplicableError(
                f"{name} cannot be separated into queries, keys and values: "
                "it is not a plain linear layer"
            )
        module.set_submodule(name, SeparateProjections(layer))


def call_projections(module: nn.Module, names: Sequence[str]) -> None:
    """Let attention call its fused projections, in place, where it only reads their weights.

    BEiT, EVA and Swin V2 keep the biases of queries and values beside the matrix, and add them to
    its output if they are asked to; outputs are equal but for rounding.
    """
    for name in names:
        parent: Any = module.get_submodule(name.rpartition(".")[0])
        if getattr(parent, "qkv_bias_separate", None) is False:
            parent.qkv_bias_separate = True


def _calls_projection(attention: nn.Module) -> bool:
    beside = getattr(attention, "q_bias", None) is not None
    return not beside or bool(getattr(attention, "qkv_bias_separate", False))


def fuse_projections(module: nn.Module) -> nn.Module:
    """Undo :func:`separate_projections` in place, so that weights have the network's own names."""
    separate = {n: m for n, m in module.named_modules() if isinstance(m, SeparateProjections)}
    for name, layer in separate.items():
        module.set_submodule(name, layer.fused())
    return module
