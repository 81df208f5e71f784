"""VeRA."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import MinLen

from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.peft_adapting import adapt_with_peft, pattern, prepare
from prognobench.strategies.settings import Count, Fraction, Positive, PositiveNumber, Rate, Target


@STRATEGIES.register("vera")
def vera(
    backbone: Backbone,
    num_classes: int,
    *,
    rank: Positive = 256,
    d_initial: PositiveNumber = 0.1,
    dropout: Fraction = 0.0,
    targets: Annotated[tuple[Target, ...], MinLen(1)] = ("attention", "feed_forward"),
    separate_qkv: bool = False,
    projection_key: Count = 0,
    lr: Rate = 5e-3,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Train vectors that scale one pair of frozen random matrices (Kopiczko et al. 2024).

    All layers share the pair; a layer trains ``rank`` + its outputs many numbers. The rank may
    exceed that of the layers, since the matrices are random and cost nothing to train.

    Parameters
    ----------
    d_initial
        Start of the inner vector; the outer one starts at zero.
    projection_key
        Seed of the random pair, which is saved with the adapter.

    Raises
    ------
    NotApplicableError
        If the targets are convolutions: the shared pair fits linear layers only.
    """
    from peft import VeraConfig

    backbone, names, notes = prepare(
        backbone, targets, "VeRA", separate_qkv=separate_qkv, convolutions=False
    )
    options: dict[str, Any] = {
        "r": rank,
        "d_initial": d_initial,
        "vera_dropout": dropout,
        "projection_prng_key": projection_key,
        "save_projection": True,
        "target_modules": pattern(names),
    }
    return adapt_with_peft(
        backbone,
        num_classes,
        VeraConfig(**options),
        lr=lr,
        head_dropout=head_dropout,
        head_norm=head_norm,
        notes=notes,
    )
