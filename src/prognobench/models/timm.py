"""Any network of timm, with weights from the hub, a local file or a seed."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from prognobench.errors import ConfigError
from prognobench.models.image_sizes import check_image_size
from prognobench.models.source import backbone_source
from prognobench.models.weights import locate
from prognobench.records import BackboneSource, Preprocessing
from prognobench.registry import MODELS, Location, near

if TYPE_CHECKING:
    from torch import nn

Interpolation = Literal["nearest", "bilinear", "bicubic", "area", "lanczos"]


@MODELS.register("timm")
def timm(
    *,
    architecture: str,
    weights: Annotated[str, Location()] = "hub",
    hub: Annotated[str, Location()] = "",
    package: Annotated[str, Location()] = "",
    obtain: Annotated[str, Location()] = "",
    image_size: Annotated[int, Ge(32)] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    interpolation: Interpolation | None = None,
    channels: Literal["repeat", "sum"] = "repeat",
    pooling: Literal["auto", "own"] = "auto",
    qkv: Literal["fused", "separate"] = "fused",
    activation: Literal["auto", "gelu", "gelu_tanh", "quick_gelu"] = "auto",
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
        ``owner/repository[:file]`` on the Hugging Face hub; by default where timm has them.
    package
        ``package:file`` of an installed package that has the weights too.
    obtain
        How a user gets weights that are not on the hub; error messages quote it.
    image_size
        Of the square input in pixels; position embeddings are resampled. By default, and for
        ``mean``, ``std`` and ``interpolation`` too, what timm says of the weights.
    channels
        How a grayscale image enters: ``repeat`` it to three channels, or ``sum`` the first
        convolution over its input channels (mean and standard deviation are then averaged).
    pooling
        ``auto`` is the class token where there is one; ``own`` is what the network pools.
    qkv
        ``separate`` gives queries, keys and values a matrix each, as transformers has them, so
        that each gets an adapter of its own.
    activation
        Of the feed-forward layers. ``auto`` is that of timm's architecture; weights that were
        trained with another one need it named.
    seed
        Of random weights.
    """
    if weights == "hub" and not (hub or package or obtain):
        hub, obtain = _published(architecture)
    usual = None
    if image_size is None or mean is None or std is None or interpolation is None:
        declared = _declared(architecture)
        usual = int(declared.input_size[-1])
        image_size, interpolation = image_size or usual, interpolation or declared.interpolation
        mean, std = mean or declared.mean, std or declared.std
    build = partial(_build, architecture, activation)
    check_image_size(architecture, image_size, usual=usual, build=build)
    if channels == "sum":
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    return backbone_source(
        partial(build, image_size, len(mean)),
        locate(weights, hub=hub, package=package, obtain=obtain, seed=seed),
        Preprocessing(image_size, tuple(mean), tuple(std), interpolation),
        (
            "timm",
            architecture,
            image_size,
            channels,
            # Left out where it changes nothing, so that fingerprints stay as they were before.
            *([] if activation == "auto" else [activation]),
        ),
        pooling=pooling,
        qkv=qkv,
    )


def _declared(architecture: str) -> Any:
    """Return timm's record of an architecture and its weights.

    Raises
    ------
    ConfigError
        With the near names, if timm has no such architecture or weights.
    """
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
    return timm.get_pretrained_cfg(architecture)


def _published(architecture: str) -> tuple[str, str]:
    """Return the hub tag of timm's weights, or else how a user gets them."""
    declared = _declared(architecture)
    if declared.hf_hub_id:
        return declared.hf_hub_id, ""
    return "", f"download {declared.url}" if declared.url else ""


def _build(architecture: str, activation: str, image_size: int, channels: int = 3) -> nn.Module:
    import timm

    changes: dict[str, Any] = {}
    # Networks of any input size do not know the argument.
    if _declared(architecture).fixed_input_size:
        changes["img_size"] = image_size
    if activation != "auto":
        changes["act_layer"] = activation
    return timm.create_model(architecture, num_classes=0, in_chans=channels, **changes)
