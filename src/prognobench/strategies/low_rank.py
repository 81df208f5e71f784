"""Low-rank updates of frozen matrices: LoRA and its variants, LoHa, LoKr, VeRA."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import MinLen

from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.peft_adapted import adapt_with_peft
from prognobench.strategies.settings import Count, Fraction, Positive, PositiveNumber, Rate, Target
from prognobench.strategies.targets import choose_layers, pattern

Targets = Annotated[tuple[Target, ...], MinLen(1)]
EVERYWHERE: Targets = ("attention", "feed_forward", "convolution")
"""One default for transformers and CNNs: what an architecture lacks is left out."""


@STRATEGIES.register("lora", shorthand=True)
def lora(
    backbone: Backbone,
    num_classes: int,
    *,
    rank: Positive = 8,
    alpha: PositiveNumber = 16.0,
    dropout: Fraction = 0.0,
    targets: Targets = EVERYWHERE,
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

    chosen = choose_layers(
        backbone,
        targets,
        "LoRA" if init == "lora" else "PiSSA",
        separate_qkv=separate_qkv,
        # peft computes principal vectors of linear layers only.
        convolutions="plain" if init == "lora" else "none",
        rank=rank,
    )
    options: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": pattern(chosen.names),
        "use_rslora": scaling == "sqrt",
        "use_dora": magnitude,
        "init_lora_weights": True if init == "lora" else init,
    }
    adapted = adapt_with_peft(
        chosen.backbone,
        num_classes,
        LoraConfig(**options),
        lr=lr,
        head_dropout=head_dropout,
        head_norm=head_norm,
        notes=chosen.notes,
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


@STRATEGIES.register("low_rank_product")
def low_rank_product(
    backbone: Backbone,
    num_classes: int,
    *,
    product: Literal["hadamard", "kronecker"] = "hadamard",
    rank: Positive = 8,
    alpha: PositiveNumber = 16.0,
    targets: Targets = EVERYWHERE,
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
    separate_qkv
        Adapt queries, keys and values by themselves instead of one fused matrix.
    """
    from peft import LoHaConfig, LoKrConfig

    method, config = {
        "hadamard": ("LoHa", LoHaConfig),
        "kronecker": ("LoKr", LoKrConfig),
    }[product]
    chosen = choose_layers(backbone, targets, method, separate_qkv=separate_qkv, rank=rank)
    options: dict[str, Any] = {"r": rank, "alpha": alpha, "target_modules": pattern(chosen.names)}
    return adapt_with_peft(
        chosen.backbone,
        num_classes,
        config(**options),
        lr=lr,
        head_dropout=head_dropout,
        head_norm=head_norm,
        notes=chosen.notes,
    )


@STRATEGIES.register("vera")
def vera(
    backbone: Backbone,
    num_classes: int,
    *,
    rank: Positive = 256,
    d_initial: PositiveNumber = 0.1,
    dropout: Fraction = 0.0,
    targets: Targets = ("attention", "feed_forward"),
    separate_qkv: bool = False,
    projection_key: Count = 0,
    lr: Rate = 5e-3,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Train vectors that scale one pair of frozen random matrices (Kopiczko et al. 2024).

    All layers share the pair; a layer trains ``rank`` numbers and one per output. The rank may
    exceed that of the layers, since the matrices are random and cost nothing to train.

    Parameters
    ----------
    d_initial
        Start of the inner vector; the outer one starts at zero.
    dropout
        On the adapters' input.
    separate_qkv
        Adapt queries, keys and values by themselves instead of one fused matrix.
    projection_key
        Seed of the random pair, which is saved with the adapter: peft's pair does not follow
        torch's seed.

    Raises
    ------
    NotApplicableError
        If the targets are convolutions: the shared pair fits linear layers only.
    """
    from peft import VeraConfig

    chosen = choose_layers(
        backbone, targets, "VeRA", separate_qkv=separate_qkv, convolutions="none"
    )
    options: dict[str, Any] = {
        "r": rank,
        "d_initial": d_initial,
        "vera_dropout": dropout,
        "projection_prng_key": projection_key,
        "save_projection": True,
        "target_modules": pattern(chosen.names),
    }
    return adapt_with_peft(
        chosen.backbone,
        num_classes,
        VeraConfig(**options),
        lr=lr,
        head_dropout=head_dropout,
        head_norm=head_norm,
        notes=chosen.notes,
    )
