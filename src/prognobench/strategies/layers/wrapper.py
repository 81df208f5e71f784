"""What modules of strategies that stand in the place of a frozen layer have in common."""

from __future__ import annotations

from torch import nn


class Wrapper(nn.Module):
    """Stands where ``base_layer`` stood, and calls it.

    In training mode the wrapper trains beside a base layer that stays in evaluation mode.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer


def is_wrapper(module: nn.Module) -> bool:
    """Return whether a module wraps its ``base_layer``: one of ours, or of peft's.

    The name alone does not tell: timm's DLA calls its stem ``base_layer``.
    """
    from_peft = any(base.__module__.startswith("peft.") for base in type(module).__mro__)
    return isinstance(module, Wrapper) or (from_peft and hasattr(module, "base_layer"))
