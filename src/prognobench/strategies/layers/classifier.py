"""An encoder with a linear head, or with a grid of them; frozen parts stay in evaluation mode."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import cast

from torch import Tensor, nn

from prognobench.records import Backbone, Encoder
from prognobench.strategies.layers.head_grid import HeadGrid, list_grid
from prognobench.strategies.layers.wrappers import is_wrapper


class Classifier(nn.Module):
    """Normalised images ``(batch, channels, size, size)`` -> logits ``(batch, classes)``.

    With a grid of heads it gives ``(batch, heads, classes)`` until validation has chosen one.

    Parameters
    ----------
    encoder
        Gives the pooled feature ``(batch, width)``, and for a grid the other feature layers.
    backbone
        Says the width of the pooled feature, or the heads of the grid that the recipe asks for.
    num_classes
        Of the head.
    dropout
        On the feature.
    norm
        Put a layer normalisation before the head.
    """

    def __init__(
        self,
        encoder: nn.Module,
        backbone: Backbone,
        num_classes: int,
        *,
        dropout: float = 0.0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        make = partial(make_head, num_classes=num_classes, dropout=dropout, norm=norm)
        self.head: nn.Module = (
            HeadGrid(list_grid(backbone), backbone.layers, make)
            if backbone.head_grid
            else make(backbone.width)
        )

    def forward(self, images: Tensor) -> Tensor:
        if isinstance(self.head, HeadGrid):
            encoder = cast("Encoder", self.encoder)
            grid: Tensor = self.head(encoder.features(images, self.head.layers))
            return grid
        logits: Tensor = self.head(self.encoder(images))
        return logits

    def train(self, mode: bool = True) -> Classifier:
        """Set the mode; frozen parts of the encoder stay in evaluation mode.

        So a frozen BatchNorm keeps its statistics, and a frozen block has no dropout.
        """
        super().train(mode)
        if mode:
            _set_mode(self.encoder, training=True)
        return self


def make_head(width: int, *, num_classes: int, dropout: float, norm: bool) -> nn.Sequential:
    """Return a linear head on a feature, with what the strategy puts before it."""
    linear = nn.Linear(width, num_classes)
    # Small and not zero: through a head of zeros no gradient would reach the encoder.
    nn.init.trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if norm:
        layers["norm"] = nn.LayerNorm(width)
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    layers["linear"] = linear
    return nn.Sequential(layers)


def _set_mode(module: nn.Module, *, training: bool) -> None:
    """Put a module in training mode if all its parameters train; one without follows its parent.

    An adapter that wraps a frozen layer is in training mode beside that layer.
    """
    parameters = list(module.parameters())
    if parameters:
        training = all(parameter.requires_grad for parameter in parameters)
    wraps = is_wrapper(module)
    module.training = training or wraps
    for name, child in module.named_children():
        _set_mode(child, training=(training or wraps) and not (wraps and name == "base_layer"))
