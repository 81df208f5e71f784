"""IA3: vectors that scale activations."""

from __future__ import annotations

from prognobench.errors import ConfigError
from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.peft_adapted import adapt_with_peft
from prognobench.strategies.settings import Fraction, Rate, Target
from prognobench.strategies.targets import choose_layers, members, pattern


@STRATEGIES.register("ia3")
def ia3(
    backbone: Backbone,
    num_classes: int,
    *,
    scale_outputs: tuple[Target, ...] = ("attention_key_value", "convolution"),
    scale_inputs: tuple[Target, ...] = ("feed_forward_out",),
    separate_qkv: bool = False,
    lr: Rate = 3e-3,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Train vectors that scale keys, values and inner feed-forward activations (Liu et al. 2022).

    Parameters
    ----------
    scale_outputs, scale_inputs
        Layers whose outputs, or inputs, are scaled. A layer in both has its inputs scaled.
    separate_qkv
        Scale keys and values alone, as in the paper. Without it, a fused matrix is scaled whole,
        queries included.
    """
    from peft import IA3Config

    targets = (*scale_outputs, *scale_inputs)
    if not targets:
        raise ConfigError("strategy: IA3 has nothing to scale; set scale_outputs or scale_inputs")
    # A vector per channel suits grouped convolutions too.
    chosen = choose_layers(backbone, targets, "IA3", separate_qkv=separate_qkv, convolutions="all")
    inputs = members(chosen.backbone, scale_inputs) & set(chosen.names)
    return adapt_with_peft(
        chosen.backbone,
        num_classes,
        IA3Config(target_modules=pattern(chosen.names), feedforward_modules=pattern(inputs)),
        lr=lr,
        head_dropout=head_dropout,
        head_norm=head_norm,
        notes=chosen.notes,
    )
