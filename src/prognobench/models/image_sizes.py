"""Which sides of the input a network takes, found out without its weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from prognobench.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

STEP = 32
"""What networks shrink an image by, most of them: a CNN takes any multiple of it."""


def check_side(
    name: str,
    side: int,
    *,
    usual: int | None = None,
    patch: int | None = None,
    build: Callable[[int], nn.Module] | None = None,
) -> None:
    """Raise if a network does not take images of this side.

    A transformer's patches must fill the image. A network whose name does not tell its patch and
    whose side is neither usual nor even is built without memory (on the meta device) and tried.

    Parameters
    ----------
    name
        The architecture, in which timm says ``patch16``.
    usual
        The side that the weights were made for, if it is known.
    patch
        Side of the patches, if the name does not tell it.
    build
        Makes the network for a side; without it nothing is tried.

    Raises
    ------
    ConfigError
        With the nearest sides that the network takes.
    """
    found = re.search(r"patch(\d+)", name)
    if patch := patch or (int(found[1]) if found else None):
        if side % patch:
            below = side - side % patch
            raise ConfigError(
                f"model.side: {side} is no multiple of {name}'s patch of {patch} pixels; "
                f"take {below or patch} or {below + patch}"
            )
        return
    even = side % STEP == 0 if usual is None else side == usual
    if even or build is None or _takes(build, side):
        return
    below = side - side % STEP
    near = {below, below + STEP} | ({usual} if usual else set())
    others = [str(near_by) for near_by in sorted(near - {0, side}) if _takes(build, near_by)]
    if others:  # a network that cannot be tried at all is not refused for its side
        raise ConfigError(
            f"model.side: {name} takes no images of {side} pixels; take {' or '.join(others)}"
        )


def _takes(build: Callable[[int], nn.Module], side: int) -> bool:
    """Pass one image without content through a network without weights."""
    import torch

    try:
        with torch.device("meta"), torch.inference_mode():
            build(side).eval()(torch.zeros(1, 3, side, side))
    except (RuntimeError, AssertionError, ValueError, ArithmeticError, LookupError, TypeError):
        return False
    return True
