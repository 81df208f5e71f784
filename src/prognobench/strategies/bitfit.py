"""BitFit."""

from __future__ import annotations

from prognobench.errors import NotApplicableError
from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.adapting import adapt
from prognobench.strategies.settings import Fraction, Rate


@STRATEGIES.register("bitfit")
def bitfit(
    backbone: Backbone,
    num_classes: int,
    *,
    lr: Rate = 1e-3,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Train the bias terms alone (Ben Zaken et al. 2022), those of normalisation layers included.

    Raises
    ------
    NotApplicableError
        If the backbone has no biases.
    """
    backbone.module.requires_grad_(False)
    biases = [
        parameter
        for name, parameter in backbone.module.named_parameters()
        if name.rpartition(".")[2].endswith("bias")
    ]
    if not biases:
        raise NotApplicableError("BitFit trains biases; this backbone has none")
    for bias in biases:
        bias.requires_grad_(True)
    return adapt(
        backbone,
        num_classes,
        method="BitFit",
        lr=lr,
        role="bias",
        head_dropout=head_dropout,
        head_norm=head_norm,
    )
