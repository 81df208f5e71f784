"""SSF: scale and shift behind layers."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from prognobench.errors import NotApplicableError, listed
from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.adapted import adapt, wavy_image
from prognobench.strategies.reach import SHOWN
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

    Both can be merged into the layers afterwards. Layers into which they cannot be merged exactly
    are not scaled, and the run's notes name them.

    Parameters
    ----------
    std
        Normal noise around the identity at the start, as in the authors' code; 0 for none.

    Raises
    ------
    NotApplicableError
        If no layer can be scaled.
    """
    from prognobench.strategies.layers.wrappers import ScaledShifted

    backbone.module.requires_grad_(False)
    candidates = {n: m for n, m in backbone.module.named_modules() if _is_scalable(backbone, n, m)}
    layers = _mergeable(backbone, candidates)
    if not layers:
        raise NotApplicableError("SSF finds no layer here into which a scale can be merged")
    notes = []
    if left := [name for name in candidates if name not in layers]:
        notes.append(
            f"SSF: {len(left)} layers are not scaled, since a scale cannot be merged into them "
            f"({listed(left, SHOWN)})"
        )
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
        notes=tuple(notes),
        merge=_merge,
    )


def _mergeable(backbone: Backbone, layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Leave out layers that are never called, and kinds of layers that do not merge exactly.

    Global response normalisation adds its input to its output, standardised convolutions change
    their weights, and some norms have no bias: a scale in their weights is not one on their output.
    """
    import torch

    inputs: dict[str, tuple[Any, ...]] = {}

    def note(name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs.setdefault(name, args)

    hooks = [layer.register_forward_pre_hook(partial(note, n)) for n, layer in layers.items()]
    with torch.no_grad():
        backbone.module(wavy_image(backbone))
    for hook in hooks:
        hook.remove()
    merges: dict[tuple[type, bool], bool] = {}
    for name, args in inputs.items():
        kind = _kind(layers[name])
        if kind not in merges:
            merges[kind] = _merges_exactly(layers[name], args)
    return {n: layer for n, layer in layers.items() if n in inputs and merges[_kind(layer)]}


def _kind(layer: nn.Module) -> tuple[type, bool]:
    return type(layer), getattr(layer, "bias", None) is None


def _merges_exactly(layer: nn.Module, args: tuple[Any, ...]) -> bool:
    import torch

    from prognobench.strategies.layers.wrappers import ScaledShifted

    copied = deepcopy(layer)
    wide = tuple(arg.double() if isinstance(arg, torch.Tensor) else arg for arg in args)
    # The probe's random scales must not move the random numbers of those that are trained.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        wrapped = ScaledShifted(
            copied,
            copied.get_parameter("weight").shape[0],
            std=0.5,
            channels_first=_is_channels_first(layer),
        ).double()
        try:
            return torch.allclose(wrapped(*wide), wrapped.merged()(*wide))
        except (AttributeError, RuntimeError, TypeError):
            return False


def _is_scalable(backbone: Backbone, name: str, module: nn.Module) -> bool:
    from torch import nn

    if isinstance(module, nn.Linear):
        # Its subclass within nn.MultiheadAttention is never called.
        return type(module) is nn.Linear
    if isinstance(module, nn.Conv2d):
        return True
    return (
        name in backbone.roles.get("norm", ())
        and isinstance(getattr(module, "weight", None), nn.Parameter)
        and isinstance(getattr(module, "act", nn.Identity()), nn.Identity)
    )


def _is_channels_first(layer: nn.Module) -> bool:
    from torch import nn

    return isinstance(layer, nn.Conv2d | nn.GroupNorm) or type(layer).__name__.endswith("2d")


def _merge(model: Classifier) -> nn.Module:
    from prognobench.strategies.layers.wrappers import ScaledShifted

    merged = deepcopy(model)
    layers = {n: m for n, m in merged.named_modules() if isinstance(m, ScaledShifted)}
    for name, layer in layers.items():
        merged.set_submodule(name, layer.merged())
    return merged
