"""IA3."""

from __future__ import annotations

from prognobench.errors import ConfigError
from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.peft_adapting import adapt_with_peft, pattern, prepare
from prognobench.strategies.settings import Fraction, Rate, Target
from prognobench.strategies.targets import members


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
        raise ConfigError("strategy: IA3 needs scale_outputs or scale_inputs")
    backbone, names, notes = prepare(
        backbone, targets, "IA3", separate_qkv=separate_qkv, grouped=True
    )
    inputs = members(backbone, scale_inputs) & set(names)
    return adapt_with_peft(
        backbone,
        num_classes,
        IA3Config(target_modules=pattern(names), feedforward_modules=pattern(inputs)),
        lr=lr,
        head_dropout=head_dropout,
        head_norm=head_norm,
        notes=notes,
    )
