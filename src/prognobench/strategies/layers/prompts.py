"""Prompt tokens among the tokens of transformer blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prognobench.strategies.layers.wrapper import Wrapper


class PromptedBlock(Wrapper):
    """A block that sees prompt tokens beside the image's tokens ``(batch, tokens, width)``.

    The prompts stand last, where a plain transformer does not care about their place and the
    class token stays first.

    Parameters
    ----------
    base_layer
        The block.
    prompts
        ``(prompts, width)`` to append, or ``None`` where an earlier block did.
    remove
        How many tokens to take off the end of the block's output.
    dropout
        On the appended prompts.
    """

    def __init__(
        self, base_layer: nn.Module, prompts: Tensor | None, remove: int, dropout: float
    ) -> None:
        super().__init__(base_layer)
        self.prompts = None if prompts is None else nn.Parameter(prompts)
        self.dropout = nn.Dropout(dropout)
        self.remove = remove

    def forward(self, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.prompts is not None:
            prompts = self.dropout(self.prompts).expand(len(tokens), -1, -1)
            tokens = torch.cat([tokens, prompts.to(tokens.dtype)], dim=1)
        tokens = self.base_layer(tokens, *args, **kwargs)
        return tokens[:, : tokens.shape[1] - self.remove]
