"""Training the last blocks alone."""

from __future__ import annotations

from prognobench.errors import ConfigError
from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.adapting import adapt
from prognobench.strategies.full import block_depths
from prognobench.strategies.settings import Fraction, Positive, Rate


@STRATEGIES.register("last_blocks")
def last_blocks(
    backbone: Backbone,
    num_classes: int,
    *,
    blocks: Positive = 1,
    lr: Rate = 1e-4,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Train the last blocks (of a CNN: stages) and what follows them.

    Raises
    ------
    ConfigError
        If the backbone has fewer blocks.
    """
    present = len(backbone.blocks)
    if blocks > present:
        raise ConfigError(f"strategy.blocks={blocks}: this backbone has only {present} blocks")
    backbone.module.requires_grad_(False)
    depths = block_depths(backbone)
    for name, parameter in backbone.module.named_parameters():
        parameter.requires_grad_(depths[name] > present - blocks)
    return adapt(
        backbone,
        num_classes,
        method="training the last blocks",
        lr=lr,
        role="body",
        head_dropout=head_dropout,
        head_norm=head_norm,
    )
