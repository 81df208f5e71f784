"""SSF: scale and shift behind layers."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.adapted import adapt
from prognobench.strategies.settings import Fraction, Rate

if TYPE_CHECKING:
    from torch import nn

    from prognobench.strategies.layers.classifier import Classifier


@STRATEGIES.register("ssf")
def ssf(
    backbone: Backbone,
    num_classes: int,
    *,
    std: Annotated[float, Ge(0)] = 0.02,
    lr: Rate = 5e-3,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Scale and shift the output of every linear layer, convolution and norm (Lian et al. 2022).

    Both can be merged into the layers afterwards. A norm that includes an activation is left
    alone: scaling behind it would not be.

    Parameters
    ----------
    std
        Normal noise around the identity at the start, as in the authors' code; 0 for none.
    """
    from prognobench.strategies.layers.scale_shift import ScaledShifted

    backbone.module.requires_grad_(False)
    layers = {n: m for n, m in backbone.module.named_modules() if _is_scalable(backbone, n, m)}
    for name, layer in layers.items():
        wrapped = ScaledShifted(
            layer,
            # All of them have one row of weights per output channel.
            backbone.module.get_parameter(f"{name}.weight").shape[0],
            std=std,
            channels_first=_is_channels_first(layer),
        )
        backbone.module.set_submodule(name, wrapped)
    return adapt(
        backbone,
        num_classes,
        method="SSF",
        lr=lr,
        role="scales",
        head_dropout=head_dropout,
        head_norm=head_norm,
        merge=_merge,
    )


def _is_scalable(backbone: Backbone, name: str, module: nn.Module) -> bool:
    from torch import nn

    if isinstance(module, nn.Linear):
        # Its subclass within nn.MultiheadAttention is never called.
        return type(module) is nn.Linear
    if isinstance(module, nn.Conv2d):
        return True
    return name in backbone.roles.get("norm", ()) and isinstance(
        getattr(module, "act", nn.Identity()), nn.Identity
    )


def _is_channels_first(layer: nn.Module) -> bool:
    from torch import nn

    return isinstance(layer, nn.Conv2d | nn.GroupNorm) or type(layer).__name__.endswith("2d")


def _merge(model: Classifier) -> nn.Module:
    from prognobench.strategies.layers.scale_shift import ScaledShifted

    merged = deepcopy(model)
    layers = {n: m for n, m in merged.named_modules() if isinstance(m, ScaledShifted)}
    for name, layer in layers.items():
        merged.set_submodule(name, layer.merged())
    return merged
