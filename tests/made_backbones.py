"""Backbones of a few thousand parameters, with the encoders and roles of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from prognobench.models.encoders.network import encoder
from prognobench.records import Backbone, Preprocessing

IMAGE_SIZE = 32


def wrap(network: nn.Module, fingerprint: str = "made") -> Backbone:
    module = encoder(network).eval()
    return Backbone(
        module,
        next(iter(module.layers.values())),
        Preprocessing(IMAGE_SIZE, (0.5,) * 3, (0.5,) * 3),
        module.roles,
        module.blocks,
        module.layers,
        fingerprint,
    )


def vit(fingerprint: str = "made", **changes: Any) -> Backbone:
    """A transformer of two blocks, width 32, on 4 x 4 patches."""
    torch.manual_seed(1)
    settings = {
        "img_size": IMAGE_SIZE,
        "patch_size": 8,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 2,
    }
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **{**settings, **changes})
    for name, parameter in network.named_parameters():
        # Untrained biases are zero, which would hide what becomes of them, and untrained weights
        # so small that the class token hardly sees the image.
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
        elif parameter.dim() == 2:
            nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
    return wrap(network, fingerprint)


def cnn(fingerprint: str = "made") -> Backbone:
    """A ResNet of four blocks, 16 channels wide, with batch normalisation."""
    torch.manual_seed(1)
    network = ResNet(
        BasicBlock, (1, 1, 1, 1), num_classes=0, channels=(16, 16, 16, 32), stem_width=16
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.normal_(module.bias, std=0.1)
            # timm starts residual branches at zero, through which nothing could be learnt.
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return wrap(network, fingerprint)


BACKBONES: dict[str, Callable[..., Backbone]] = {"cnn": cnn, "vit": vit}


def images(count: int = 4, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, IMAGE_SIZE, IMAGE_SIZE, generator=random)
