"""Types of the settings that strategies share."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

Rate = Annotated[float, Gt(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]
PositiveNumber = Annotated[float, Gt(0)]
Positive = Annotated[int, Gt(0)]
Count = Annotated[int, Ge(0)]

ClassWeight = Literal["balanced", "none"]
"""Of classical classifiers: ``balanced`` weights a class by the inverse of its frequency."""

Target = Literal[
    "attention",
    "attention_key_value",
    "attention_output",
    "feed_forward",
    "feed_forward_in",
    "feed_forward_out",
    "all_linear",
    "convolution",
    "convolution_first",
]
"""Layers to adapt; :data:`prognobench.strategies.targets.ROLES` says which ones they are."""
