"""LoHa and LoKr."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import MinLen

from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.peft_adapting import adapt_with_peft, check_rank, pattern, prepare
from prognobench.strategies.settings import Fraction, Positive, PositiveNumber, Rate, Target


@STRATEGIES.register("low_rank_product")
def low_rank_product(
    backbone: Backbone,
    num_classes: int,
    *,
    product: Literal["hadamard", "kronecker"] = "hadamard",
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
    """Add a trainable product of low-rank matrices that reaches a higher rank than LoRA's.

    Parameters
    ----------
    product
        ``hadamard``: elementwise, of two low-rank matrices, of rank up to ``rank ** 2``: LoHa, from
        FedPara (Hyeon-Woo et al. 2022). ``kronecker``: of a small matrix and a low-rank one, each
        near the square root of the layer's size: LoKr (Yeh et al. 2024).
    rank, alpha
        The update is scaled by ``alpha / rank``.
    """
    from peft import LoHaConfig, LoKrConfig

    method, config = {
        "hadamard": ("LoHa", LoHaConfig),
        "kronecker": ("LoKr", LoKrConfig),
    }[product]
    backbone, names, notes = prepare(backbone, targets, method, separate_qkv=separate_qkv)
    check_rank(backbone, names, rank, method)
    options: dict[str, Any] = {"r": rank, "alpha": alpha, "target_modules": pattern(names)}
    return adapt_with_peft(
        backbone,
        num_classes,
        config(**options),
        lr=lr,
        head_dropout=head_dropout,
        head_norm=head_norm,
        notes=notes,
    )
