"""LoKr."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import MinLen

from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.peft_adapting import adapt_with_peft, check_rank, pattern, prepare
from prognobench.strategies.settings import Fraction, Positive, PositiveNumber, Rate, Target


@STRATEGIES.register("lokr")
def lokr(
    backbone: Backbone,
    num_classes: int,
    *,
    rank: Positive = 8,
    alpha: PositiveNumber = 16.0,
    targets: Annotated[tuple[Target, ...], MinLen(1)] = (
        "attention",
        "feed_forward",
        "convolution",
    ),
    separate_qkv: bool = False,
    lr: Rate = 5e-4,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Add the Kronecker product of a small matrix and a low-rank one (Yeh et al. 2024).

    Near the square root of the layer's sizes for both factors; scaled by ``alpha / rank``.
    """
    from peft import LoKrConfig

    backbone, names, notes = prepare(backbone, targets, "LoKr", separate_qkv=separate_qkv)
    check_rank(backbone, names, rank, "LoKr")
    options: dict[str, Any] = {"r": rank, "alpha": alpha, "target_modules": pattern(names)}
    return adapt_with_peft(
        backbone,
        num_classes,
        LoKrConfig(**options),
        lr=lr,
        head_dropout=head_dropout,
        head_norm=head_norm,
        notes=notes,
    )
