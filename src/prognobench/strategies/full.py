"""Full fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt, Le

from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.adapting import adapt
from prognobench.strategies.settings import Count, Fraction, Rate

if TYPE_CHECKING:
    from torch import nn


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

    With ``layer_decay`` below 1 each block learns more slowly than the one after it, as in ELECTRA
    (Clark et al. 2020) and BEiT (Bao et al. 2022). With ``head_first_epochs`` the head is trained
    alone first: LP-FT (Kumar et al. 2022).
    """
    from prognobench.strategies.modules.classifier import Classifier

    backbone.module.requires_grad_(True)
    model = Classifier(
        backbone.module, backbone.width, num_classes, dropout=head_dropout, norm=head_norm
    )
    return adapt(
        backbone,
        model,
        lr=lr,
        role="body",
        scale=layer_scale(model.encoder, backbone.blocks, layer_decay),
        head_first_epochs=head_first_epochs,
    )


def layer_scale(encoder: nn.Module, blocks: Sequence[str], decay: float) -> Callable[[str], float]:
    """Return the factor on the learning rate of each parameter ``encoder.*``.

    It is 1 for what follows the last block, ``decay`` for the last block, and so on down to the
    stem, whose factor is ``decay ** (blocks + 1)``.
    """
    depths: dict[str, int] = {}
    depth = 0
    for name, _ in encoder.named_parameters():
        inside = [i for i, block in enumerate(blocks) if name.startswith(f"{block}.")]
        if inside:
            depth = inside[0] + 1
        elif depth == len(blocks):
            depth += 1
        depths[f"encoder.{name}"] = depth
    return lambda name: decay ** (len(blocks) + 1 - depths[name])
