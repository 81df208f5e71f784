"""LoRA and its variants."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import MinLen

from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.peft_adapting import adapt_with_peft, check_rank, pattern, prepare
from prognobench.strategies.settings import Fraction, Positive, PositiveNumber, Rate, Target


@STRATEGIES.register("lora", shorthand=True)
def lora(
    backbone: Backbone,
    num_classes: int,
    *,
    rank: Positive = 8,
    alpha: PositiveNumber = 16.0,
    dropout: Fraction = 0.0,
    targets: Annotated[tuple[Target, ...], MinLen(1)] = (
        "attention",
        "feed_forward",
        "convolution",
    ),
    separate_qkv: bool = False,
    scaling: Literal["linear", "sqrt"] = "linear",
    init: Literal["lora", "pissa"] = "lora",
    magnitude: bool = False,
    lr: Rate = 5e-4,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Add a trainable product of two low-rank matrices to frozen ones (Hu et al. 2022).

    Parameters
    ----------
    rank, alpha
        The update is ``alpha / rank * B A``.
    dropout
        On the adapters' input.
    separate_qkv
        Adapt queries, keys and values by themselves instead of one fused matrix.
    scaling
        ``sqrt`` divides alpha by the square root of the rank: rsLoRA (Kalajdzievski 2023).
    init
        ``pissa`` starts from the principal singular vectors (Meng et al. 2024), else B is zero.
    magnitude
        Train each output's magnitude apart from its direction: DoRA (Liu et al. 2024).
    """
    from peft import LoraConfig
    from torch.nn import Linear

    from prognobench.strategies.layers.low_rank import LowRankLinear

    backbone, names, notes = prepare(
        backbone,
        targets,
        "LoRA" if init == "lora" else "PiSSA",
        separate_qkv=separate_qkv,
        convolutions=init == "lora",
    )
    check_rank(backbone, names, rank, "LoRA")
    options: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": pattern(names),
        "use_rslora": scaling == "sqrt",
        "use_dora": magnitude,
        "init_lora_weights": True if init == "lora" else init,
    }
    config = LoraConfig(**options)
    if not magnitude:
        config._register_custom_module({Linear: LowRankLinear})
    adapted = adapt_with_peft(
        backbone,
        num_classes,
        config,
        lr=lr,
        head_dropout=head_dropout,
        head_norm=head_norm,
        notes=notes,
    )
    if magnitude:
        for layer in adapted.model.modules():
            if hasattr(layer, "lora_A"):
                layer.register_forward_pre_hook(_make_contiguous)
    return adapted


def _make_contiguous(layer: Any, inputs: Any) -> None:
    """Undo channels-last: peft's DoRA views the factors of convolutions as matrices."""
    for factor in (*layer.lora_A.values(), *layer.lora_B.values()):
        if not factor.weight.is_contiguous():
            factor.weight.data = factor.weight.data.contiguous()
