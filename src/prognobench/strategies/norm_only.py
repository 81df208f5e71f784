"""Training normalisation layers alone."""

from __future__ import annotations

from prognobench.errors import NotApplicableError
from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.adapting import adapt
from prognobench.strategies.settings import Fraction, Rate


@STRATEGIES.register("norm_only")
def norm_only(
    backbone: Backbone,
    num_classes: int,
    *,
    lr: Rate = 1e-3,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Train scale and shift of every normalisation layer (Frankle et al. 2021).

    A batch normalisation that is trained uses and updates batch statistics, as in the paper.

    Raises
    ------
    NotApplicableError
        If the backbone has no normalisation layer with weights.
    """
    names = backbone.roles.get("norm", ())
    if not names:
        raise NotApplicableError("norm-only tuning: this backbone has no normalisation layers")
    backbone.module.requires_grad_(False)
    for name in names:
        backbone.module.get_submodule(name).requires_grad_(True)
    return adapt(
        backbone,
        num_classes,
        method="norm-only tuning",
        lr=lr,
        role="norm",
        head_dropout=head_dropout,
        head_norm=head_norm,
    )
