"""FourierFT: updates whose spectrum is sparse."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import MinLen

from prognobench.errors import ConfigError
from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.peft_adapted import adapt_with_peft
from prognobench.strategies.settings import Count, Fraction, Positive, PositiveNumber, Rate, Target
from prognobench.strategies.targets import choose_layers, pattern


@STRATEGIES.register("fourierft")
def fourierft(
    backbone: Backbone,
    num_classes: int,
    *,
    frequencies: Positive = 1000,
    scaling: PositiveNumber = 150.0,
    targets: Annotated[tuple[Target, ...], MinLen(1)] = ("attention", "feed_forward"),
    separate_qkv: bool = False,
    location_seed: Count = 777,
    zero_init: bool = True,
    lr: Rate = 1e-2,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Add the inverse Fourier transform of a sparse trainable spectrum (Gao et al. 2024).

    Parameters
    ----------
    frequencies
        Coefficients per layer, at places drawn from ``location_seed``.
    zero_init
        Start from the pretrained model. The paper draws the coefficients from a normal
        distribution, which in layers of few inputs drowns the weights.

    Raises
    ------
    NotApplicableError
        If the targets are convolutions.
    """
    from peft import FourierFTConfig

    chosen = choose_layers(
        backbone, targets, "FourierFT", separate_qkv=separate_qkv, convolutions="none"
    )
    module = chosen.backbone.module
    sizes = {n: module.get_parameter(f"{n}.weight").numel() for n in chosen.names}
    smallest = min(sizes, key=lambda name: sizes[name])
    if frequencies > sizes[smallest]:
        raise ConfigError(
            f"strategy.frequencies={frequencies} is more than the {sizes[smallest]} weights of "
            f"{smallest}; choose at most {sizes[smallest]}"
        )
    options: dict[str, Any] = {
        "n_frequency": frequencies,
        "scaling": scaling,
        "random_loc_seed": location_seed,
        "init_weights": zero_init,
        "target_modules": pattern(chosen.names),
    }
    return adapt_with_peft(
        chosen.backbone,
        num_classes,
        FourierFTConfig(**options),
        lr=lr,
        head_dropout=head_dropout,
        head_norm=head_norm,
        notes=chosen.notes,
    )
