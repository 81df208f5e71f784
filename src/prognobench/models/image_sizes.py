"""Which image sizes a network takes, found out without its weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from prognobench.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

STEP = 32
"""How much most CNNs shrink an image, in pixels; they take any multiple of it."""


def check_image_size(
    name: str,
    image_size: int,
    *,
    usual: int | None = None,
    patch: int | None = None,
    build: Callable[[int], nn.Module] | None = None,
) -> None:
    """Raise if a network does not take images of this size.

    A transformer's patches must fill the image. A network whose name does not tell its patch is
    built on the meta device, without memory, and tried, unless the image size is the usual one (or
    a multiple of :data:`STEP`, where none is known).

    Parameters
    ----------
    name
        The architecture, in which timm says ``patch16``.
    usual
        The image size that the weights were made for, if it is known.
    patch
        Side of the patches, if the name does not tell it.
    build
        Makes the network for an image size; without it nothing is tried.

    Raises
    ------
    ConfigError
        With the nearest image sizes that the network takes.
    """
    found = re.search(r"patch(\d+)", name)
    if patch := patch or (int(found[1]) if found else None):
        if image_size % patch:
            below = image_size - image_size % patch
            raise ConfigError(
                f"model.image_size: {image_size} is not a multiple of {name}'s patch of {patch} "
                f"pixels; set {below or patch} or {below + patch}"
            )
        return
    sure = image_size % STEP == 0 if usual is None else image_size == usual
    if sure or build is None or _takes(build, image_size):
        return
    below = image_size - image_size % STEP
    near = {below, below + STEP} | ({usual} if usual else set())
    others = [str(size) for size in sorted(near - {0, image_size}) if _takes(build, size)]
    if others:  # a network that cannot be tried at all is not refused for its image size
        raise ConfigError(
            f"model.image_size: {name} does not take images of {image_size} pixels; "
            f"set {' or '.join(others)}"
        )


def _takes(build: Callable[[int], nn.Module], image_size: int) -> bool:
    """Pass one image without content through a network without weights; say whether it works."""
    import torch

    try:
        with torch.device("meta"), torch.inference_mode():
            build(image_size).eval()(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError, ArithmeticError, LookupError, TypeError):
        return False
    return True
