"""Any network of timm, with weights from the hub, a local file or a seed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt

from prognobench.errors import ConfigError
from prognobench.models.source import backbone_source
from prognobench.models.weights import hub_of, locate
from prognobench.records import BackboneSource, Preprocessing
from prognobench.registry import MODELS, near

if TYPE_CHECKING:
    from torch import nn

Interpolation = Literal["nearest", "bilinear", "bicubic", "area", "lanczos"]


@MODELS.register("timm")
def timm(
    *,
    architecture: str,
    weights: str = "hub",
    hub: str = "",
    package: str = "",
    obtain: str = "",
    side: Annotated[int, Gt(0)] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    interpolation: Interpolation | None = None,
    channels: Literal["repeat", "sum"] = "repeat",
    pooling: Literal["auto", "own"] = "auto",
    qkv: Literal["fused", "separate"] = "fused",
    seed: int = 0,
) -> BackboneSource:
    """A network of timm by name, its weights from the hub, a local file or a seed.

    Parameters
    ----------
    architecture
        timm's name with its tag: ``resnet50.a1_in1k``.
    weights
        ``hub``, ``random``, or the path of a safetensors file or state dict.
    hub
        ``owner/repository[:file]`` on the Hugging Face hub; by default timm's own.
    package
        ``package:file`` of an installed package that has the weights too.
    obtain
        How a person gets weights that are not on the hub.
    side
        Of the square input in pixels; position embeddings are resampled. By default, and for
        ``mean``, ``std`` and ``interpolation`` too, what timm says of the weights.
    channels
        How a grayscale film enters: ``repeat`` it to three channels, or ``sum`` the first
        convolution over its input channels (mean and standard deviation are then averaged).
    pooling
        ``auto`` is the class token where there is one; ``own`` is what the network pools.
    qkv
        ``separate`` gives queries, keys and values a matrix each, as the models' first library
        has them, so that an adapter goes on each.
    seed
        Of random weights.
    """
    if side is None or mean is None or std is None or interpolation is None:
        declared = _declared(architecture)
        side, interpolation = side or declared.side, interpolation or declared.interpolation
        mean, std = mean or declared.mean, std or declared.std
    if channels == "sum":
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    tag = hub_of({"architecture": architecture, "hub": hub, "obtain": obtain})
    return backbone_source(
        partial(_build, architecture, side, len(mean)),
        locate(weights, hub=tag, package=package, obtain=obtain, seed=seed),
        Preprocessing(side, tuple(mean), tuple(std), interpolation),
        ("timm", architecture, side, channels),
        pooling=pooling,
        qkv=qkv,
    )


def _declared(architecture: str) -> Preprocessing:
    """Return what timm says that an architecture's weights expect."""
    import timm

    check_name(architecture)
    declared: Any = timm.get_pretrained_cfg(architecture)
    return Preprocessing(
        declared.input_size[-1], declared.mean, declared.std, declared.interpolation
    )


def check_name(architecture: str) -> None:
    """Raise a ``ConfigError`` with the near names if timm has no such architecture or tag."""
    import timm

    name, _, tag = architecture.partition(".")
    if not timm.is_model(name):
        raise ConfigError(
            f"model.architecture: timm has no {name!r}{near(name, timm.list_models())}"
        )
    tagged = timm.list_pretrained(f"{name}*") if tag else []
    if tag and architecture not in tagged:
        raise ConfigError(
            f"model.architecture: timm's {name} has no weights {tag!r}{near(architecture, tagged)}"
        )


def _build(architecture: str, side: int, channels: int) -> nn.Module:
    import timm

    check_name(architecture)
    declared: Any = timm.get_pretrained_cfg(architecture)
    size: dict[str, Any] = {"img_size": side} if declared.fixed_input_size else {}
    network = timm.create_model(architecture, num_classes=0, in_chans=channels, **size)
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", (1, 1))
    if side % patch[0]:
        below = side - side % patch[0]
        raise ConfigError(
            f"model.side: {side} is no multiple of {architecture}'s patch of {patch[0]} pixels; "
            f"take {below or patch[0]} or {below + patch[0]}"
        )
    return network
