"""Random numbers from named axes, so that any order of work gives the same numbers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Axis = str | int


def derive(*axes: Axis) -> int:
    """Return a seed in [0, 2**63) that depends on every axis and on their order.

    ``derive(42, "fold", 3)`` is the same number in any process, on any machine, whatever was
    drawn before; ``derive(42, "fold", 4)`` is unrelated to it.
    """
    text = "\x1f".join(f"{type(axis).__name__}:{axis}" for axis in axes)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*axes: Axis) -> np.random.Generator:
    """Return a NumPy generator seeded by :func:`derive` of the axes."""
    import numpy as np

    return np.random.default_rng(derive(*axes))
