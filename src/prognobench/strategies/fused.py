"""Taking fused attention projections apart and putting them together again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from prognobench.errors import NotApplicableError
from prognobench.records import Backbone

if TYPE_CHECKING:
    from torch import nn

PARTS = ("query", "key", "value")


def split_qkv(backbone: Backbone) -> Backbone:
    """Replace every fused projection of the backbone's module by three layers, in place.

    Returns the same backbone with roles that name queries, keys and values. The outputs stay
    equal.

    Raises
    ------
    NotApplicableError
        If there is no fused projection, or one cannot be taken apart.
    """
    from torch import nn

    from prognobench.models.encoders.projections import SeparateProjections

    names = backbone.roles.get("attention_qkv", ())
    if not names:
        raise NotApplicableError(
            "separate_qkv takes fused attention projections apart; this backbone has none"
        )
    for name in names:
        layer = backbone.module.get_submodule(name)
        # A subclass may compute something else than a matrix product.
        if type(layer) is not nn.Linear:
            raise NotApplicableError(f"separate_qkv cannot take {name} apart")
        backbone.module.set_submodule(name, SeparateProjections(layer))
    roles = {role: parts for role, parts in backbone.roles.items() if role != "attention_qkv"}
    roles |= {f"attention_{part}": tuple(f"{name}.{part}" for name in names) for part in PARTS}
    return replace(backbone, roles=roles)


def fuse_qkv(module: nn.Module) -> nn.Module:
    """Undo :func:`split_qkv` in place, so that the state dict has the backbone's own names."""
    from prognobench.models.encoders.projections import SeparateProjections

    split = {n: m for n, m in module.named_modules() if isinstance(m, SeparateProjections)}
    for name, layer in split.items():
        module.set_submodule(name, layer.fused())
    return module
