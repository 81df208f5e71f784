"""Partial fine-tuning: a subset of the backbone's own weights trains, nothing is added to it."""

from __future__ import annotations

from prognobench.errors import ConfigError, NotApplicableError
from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.adapted import adapt
from prognobench.strategies.full import block_depths
from prognobench.strategies.peft_adapted import adapt_with_peft
from prognobench.strategies.settings import Fraction, Positive, Rate
from prognobench.strategies.targets import pattern


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
        # Not only "bias": BEiT calls them q_bias and v_bias.
        if name.rpartition(".")[2].endswith("bias")
    ]
    if not biases:
        raise NotApplicableError("BitFit trains biases, and this backbone has none")
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

    A batch normalisation that trains uses and updates batch statistics, as in the paper.

    Raises
    ------
    NotApplicableError
        If the backbone has no normalisation layer with weights.
    """
    names = backbone.roles.get("norm", ())
    if not names:
        raise NotApplicableError(
            "norm-only tuning trains normalisation layers, and this backbone has none"
        )
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

    peft keeps the copies beside the originals, in its own file format.

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
            "LN tuning trains layer normalisations, and this backbone has none; "
            "norm_only trains other kinds"
        )
    return adapt_with_peft(
        backbone,
        num_classes,
        LNTuningConfig(target_modules=pattern(names)),
        lr=lr,
        head_dropout=head_dropout,
        head_norm=head_norm,
    )


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
    """Train the last blocks (of a CNN: stages) and what follows them (Yosinski et al. 2014).

    Parameters
    ----------
    blocks
        How many, counted from the output.

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
        # Depth 0 is the stem, present + 1 is what follows the last block.
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
