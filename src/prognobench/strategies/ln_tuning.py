"""LN tuning."""

from __future__ import annotations

from prognobench.errors import NotApplicableError
from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.peft_adapting import adapt_with_peft, pattern
from prognobench.strategies.settings import Fraction, Rate


@STRATEGIES.register("ln_tuning")
def ln_tuning(
    backbone: Backbone,
    num_classes: int,
    *,
    lr: Rate = 1e-3,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Train scale and shift of copies of the layer normalisations (Zhao et al. 2024).

    Raises
    ------
    NotApplicableError
        If the backbone has no layer normalisation; ``norm_only`` trains any kind.
    """
    from peft import LNTuningConfig
    from torch import nn

    names = [
        name
        for name in backbone.roles.get("norm", ())
        if isinstance(backbone.module.get_submodule(name), nn.LayerNorm)
    ]
    if not names:
        raise NotApplicableError(
            "LN tuning trains layer normalisations; here are none (norm_only trains other kinds)"
        )
    return adapt_with_peft(
        backbone,
        num_classes,
        LNTuningConfig(target_modules=pattern(names)),
        lr=lr,
        head_dropout=head_dropout,
        head_norm=head_norm,
    )
