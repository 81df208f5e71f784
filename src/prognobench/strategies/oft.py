"""OFT: orthogonal rotations of inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, MinLen

from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.peft_adapted import adapt_with_peft
from prognobench.strategies.settings import Fraction, Rate, Target
from prognobench.strategies.targets import choose_layers, pattern

if TYPE_CHECKING:
    from torch import Tensor, nn


@STRATEGIES.register("oft")
def oft(
    backbone: Backbone,
    num_classes: int,
    *,
    block_size: Annotated[int, Ge(2)] = 32,
    targets: Annotated[tuple[Target, ...], MinLen(1)] = ("attention", "feed_forward"),
    separate_qkv: bool = False,
    lr: Rate = 5e-4,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Rotate the inputs of layers by trainable block-diagonal matrices (Qiu et al. 2023).

    The blocks come from skew-symmetric matrices by Cayley's transform. Where ``block_size`` does
    not divide a layer's inputs, peft takes the nearest size that does.

    Raises
    ------
    NotApplicableError
        If the targets are convolutions: peft's rotation of overlapping patches adds them up, so
        that even the identity changes the output.
    """
    from peft import OFTConfig

    chosen = choose_layers(backbone, targets, "OFT", separate_qkv=separate_qkv, convolutions="none")
    module = chosen.backbone.module
    names = [n for n in chosen.names if module.get_parameter(f"{n}.weight").shape[1] > 1]
    notes = chosen.notes
    if single := len(chosen.names) - len(names):
        notes = (*notes, f"OFT: {single} layers of one input are not adapted: nothing can turn")
    options: dict[str, Any] = {
        "oft_block_size": block_size,
        # The exact transform, as in the paper, instead of a truncated series.
        "use_cayley_neumann": False,
        "target_modules": pattern(names),
    }
    return adapt_with_peft(
        chosen.backbone,
        num_classes,
        OFTConfig(**options),
        lr=lr,
        head_dropout=head_dropout,
        head_norm=head_norm,
        notes=notes,
        prepare=_rotate_rows,
    )


def _rotate_rows(model: nn.Module) -> None:
    """Give peft's rotations rows of features.

    peft takes any input of four dimensions for the image before a convolution, and Swin,
    EdgeNeXt and ConvNeXt call linear layers on maps whose channels come last.
    """
    for layer in model.modules():
        for rotation in getattr(layer, "oft_R", {}).values():
            rotation.register_forward_pre_hook(_flatten)
            rotation.register_forward_hook(_restore)


def _flatten(rotation: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
    (x,) = inputs
    rotation.shape_of_maps = x.shape
    return (x.flatten(0, 2) if x.dim() == 4 else x,)


def _restore(rotation: Any, inputs: tuple[Tensor], rows: Tensor) -> Tensor:
    return rows.reshape(rotation.shape_of_maps)
