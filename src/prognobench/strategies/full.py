"""Full fine-tuning."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt, Le

from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.adapted import adapt
from prognobench.strategies.settings import Count, Fraction, Rate


@STRATEGIES.register("full")
def full(
    backbone: Backbone,
    num_classes: int,
    *,
    lr: Rate = 1e-4,
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0,
    head_first_epochs: Count = 0,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Train every weight of the backbone.

    Parameters
    ----------
    layer_decay
        Each block learns this much more slowly than the one after it, the stem slowest, as in
        ELECTRA (Clark et al. 2020) and BEiT (Bao et al. 2022); 1 trains all at ``lr``.
    head_first_epochs
        Train the head alone for so many epochs first: LP-FT (Kumar et al. 2022).
    """
    backbone.module.requires_grad_(True)
    depths = block_depths(backbone)
    top = len(backbone.blocks) + 1
    return adapt(
        backbone,
        num_classes,
        method="full fine-tuning",
        lr=lr,
        role="body",
        scale=lambda name: layer_decay ** (top - depths[name]),
        head_first_epochs=head_first_epochs,
        head_dropout=head_dropout,
        head_norm=head_norm,
    )


def block_depths(backbone: Backbone) -> dict[str, int]:
    """Return parameter -> the number of its block, from 1; 0 for the stem.

    What follows the last block has the number after it.
    """
    depths: dict[str, int] = {}
    depth = 0
    for name, _ in backbone.module.named_parameters():
        inside = [i for i, block in enumerate(backbone.blocks) if name.startswith(f"{block}.")]
        if inside:
            depth = inside[0] + 1
        elif depth == len(backbone.blocks):
            depth += 1
        depths[name] = depth
    return depths
