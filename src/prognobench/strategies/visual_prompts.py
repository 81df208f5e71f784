"""Visual prompt tuning: trainable tokens beside the image's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prognobench.errors import NotApplicableError
from prognobench.records import Adapted, Backbone
from prognobench.registry import STRATEGIES
from prognobench.strategies.adapted import adapt, black_image
from prognobench.strategies.settings import Fraction, Positive, Rate
from prognobench.strategies.targets import ATTENTION

if TYPE_CHECKING:
    from torch import Tensor, nn


@STRATEGIES.register("visual_prompts")
def visual_prompts(
    backbone: Backbone,
    num_classes: int,
    *,
    prompts: Positive = 10,
    deep: bool = True,
    dropout: Fraction = 0.1,
    lr: Rate = 5e-3,
    head_dropout: Fraction = 0.0,
    head_norm: bool = False,
) -> Adapted:
    """Train tokens beside the image's: VPT (Jia et al. 2022).

    Parameters
    ----------
    prompts
        Tokens per block that has its own.
    deep
        Give each block its own prompts, whose outputs are dropped after it (VPT-deep); else those
        of the first block go through all (VPT-shallow).

    Raises
    ------
    NotApplicableError
        If the blocks are not those of a plain transformer on one sequence of tokens.
    """
    from prognobench.strategies.layers.wrappers import PromptedBlock

    if not any(role in backbone.roles for role in ATTENTION):
        raise NotApplicableError(
            "visual prompts are tokens that attention reads, and this backbone has no attention"
        )
    backbone.module.requires_grad_(False)
    width = _token_width(backbone)
    last = len(backbone.blocks) - 1
    for i, name in enumerate(backbone.blocks):
        block = PromptedBlock(
            backbone.module.get_submodule(name),
            prompts=_initial(backbone.module, prompts, width) if deep or i == 0 else None,
            remove=prompts if deep or i == last else 0,
            dropout=dropout,
        )
        backbone.module.set_submodule(name, block)
    try:
        return adapt(
            backbone,
            num_classes,
            method="visual prompts",
            lr=lr,
            role="prompts",
            head_dropout=head_dropout,
            head_norm=head_norm,
            merge=None,
        )
    except NotApplicableError as error:
        raise NotApplicableError(
            "visual prompts are more tokens than the image has, and this backbone takes so many as "
            "it has positions for, relative ones or a grid"
        ) from error


def _token_width(backbone: Backbone) -> int:
    """Return the width of the tokens, read off what the blocks take and give for a black image.

    Raises
    ------
    NotApplicableError
        If a block takes or gives anything else than one sequence of tokens of that width.
    """
    import torch

    shapes: list[object] = []

    def note(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        shapes.extend(getattr(value, "shape", None) for value in (*inputs[:1], output))

    blocks = [backbone.module.get_submodule(name) for name in backbone.blocks]
    hooks = [block.register_forward_hook(note) for block in blocks]
    with torch.no_grad():
        backbone.module(black_image(backbone))
    for hook in hooks:
        hook.remove()
    first = shapes[0] if shapes else None
    # CrossViT's blocks take two sequences, TNT's return two, Swin's work on maps.
    one_sequence = len(shapes) == 2 * len(blocks) and all(shape == first for shape in shapes)
    if not isinstance(first, torch.Size) or len(first) != 3 or not one_sequence:
        raise NotApplicableError(
            "visual prompts need blocks that take and return one sequence of tokens; these do not"
        )
    return int(first[-1])


def _initial(encoder: nn.Module, prompts: int, width: int) -> Tensor:
    """Draw prompts as the paper does, uniformly within Xavier's bound for a patch embedding."""
    import torch
    from torch import nn

    convolutions = (m for m in encoder.modules() if isinstance(m, nn.Conv2d))
    embedding = next(convolutions, None)
    fan_in = width if embedding is None else embedding.weight[0].numel()
    bound = math.sqrt(6 / (fan_in + width))
    return torch.empty(prompts, width).uniform_(-bound, bound)
