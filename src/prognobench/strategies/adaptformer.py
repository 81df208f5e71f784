"""AdaptFormer: bottlenecks beside feed-forward parts."""

from __future__ import annotations

from prognobench.errors import NotApplicableError
from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.adapted import adapt
from prognobench.strategies.settings import Fraction, Positive, PositiveNumber, Rate


@STRATEGIES.register("adaptformer")
def adaptformer(
    backbone: Backbone,
    num_classes: int,
    *,
    bottleneck: Positive = 64,
    scale: PositiveNumber = 0.1,
    dropout: Fraction = 0.1,
    lr: Rate = 1e-3,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Train a small bottleneck beside each feed-forward part (Chen et al. 2022).

    It reads what the feed-forward part reads, the normalised tokens; the authors' code reads them
    before the normalisation.

    Parameters
    ----------
    bottleneck
        Width of the adapter.
    scale
        Factor on the adapter's output.
    dropout
        Within the adapter, between its two matrices.

    Raises
    ------
    NotApplicableError
        If the backbone has no feed-forward parts.
    """
    from prognobench.strategies.layers.wrappers import ParallelAdapter

    inner = backbone.roles.get("feed_forward_in", ())
    outer = backbone.roles.get("feed_forward_out", ())
    # The module that holds both matrices is what the adapter wraps; a block itself, or the whole
    # network, would take the adapter past attention.
    parts = {name.rpartition(".")[0]: name for name in inner}
    ends = {name.rpartition(".")[0]: name for name in outer}
    if not parts or parts.keys() != ends.keys() or parts.keys() & {"", *backbone.blocks}:
        raise NotApplicableError(
            "AdaptFormer trains adapters beside feed-forward parts, and this backbone has none "
            "with a module of their own"
        )
    backbone.module.requires_grad_(False)
    for name in parts:
        adapter = ParallelAdapter(
            backbone.module.get_submodule(name),
            backbone.module.get_parameter(f"{parts[name]}.weight").shape[1],
            backbone.module.get_parameter(f"{ends[name]}.weight").shape[0],
            bottleneck=bottleneck,
            scale=scale,
            dropout=dropout,
        )
        backbone.module.set_submodule(name, adapter)
    return adapt(
        backbone,
        num_classes,
        method="AdaptFormer",
        lr=lr,
        role="adapter",
        head_dropout=head_dropout,
        head_norm=head_norm,
        merge=None,
    )
