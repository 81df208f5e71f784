"""Two small backbones for images of 64 pixels, whose pretrained weights ship with the package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge

from prognobench.errors import ConfigError
from prognobench.models.image_sizes import check_image_size
from prognobench.models.source import backbone_source
from prognobench.models.weights import locate
from prognobench.records import BackboneSource, Preprocessing
from prognobench.registry import MODELS, Location

if TYPE_CHECKING:
    from torch import nn

ASSETS = Path(__file__).with_name("assets")
"""Folder of the shipped weights and their model card."""

NETWORKS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "vit": (
        "vit_tiny_patch16_224",
        {"patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4},
    ),
    "cnn": ("resnet18", {"layers": (2, 2, 2, 1), "channels": (24, 48, 96, 128)}),
}
"""Name -> timm's architecture and what differs from it."""

IMAGE_SIZE, MEAN, STD = 64, (0.45,), (0.25,)
"""What the shipped weights were trained on; the images' own mean and standard deviation."""


@MODELS.register("embedded")
def embedded(
    *,
    network: Literal["vit", "cnn"],
    weights: Annotated[str, Location()] = "embedded",
    image_size: Annotated[int, Ge(32)] = IMAGE_SIZE,
    seed: Annotated[int, Ge(0)] = 0,
) -> BackboneSource:
    """A small backbone pretrained without labels on synthetic chest X-rays, or untrained.

    Parameters
    ----------
    network
        ``vit``: 1.2 million parameters, patches of 8 pixels; ``cnn``: a narrow ResNet.
    weights
        ``embedded`` (shipped), ``random``, or the path of a safetensors file or state dict.
    image_size
        Of the square input in pixels; the ViT's position embeddings are resampled.
    seed
        Of random weights.
    """
    if weights == "hub":
        raise ConfigError(
            "model.weights=hub: these weights are not on a hub; set model.weights=embedded"
        )
    if network == "vit":
        check_image_size(network, image_size, patch=NETWORKS[network][1]["patch_size"])
    file = str(ASSETS / f"{network}.safetensors") if weights == "embedded" else weights
    return backbone_source(
        partial(create, network, image_size),
        locate(file, seed=seed),
        Preprocessing(image_size, MEAN, STD, interpolation="area"),
        ("embedded", network, image_size, *NETWORKS[network]),
    )


def create(network: str, image_size: int = IMAGE_SIZE) -> nn.Module:
    """Build one of :data:`NETWORKS` with random weights, without a classifier."""
    import timm

    architecture, changes = NETWORKS[network]
    sized: dict[str, Any] = {"img_size": image_size} if network == "vit" else {}
    module: nn.Module = timm.create_model(
        architecture, num_classes=0, in_chans=len(MEAN), **sized, **changes
    )
    return module
