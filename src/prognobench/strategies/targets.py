"""Which layers a strategy adapts, chosen by the roles that the backbone names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from prognobench.errors import NotApplicableError

if TYPE_CHECKING:
    from prognobench.records import Backbone

ATTENTION = ("attention_qkv", "attention_query", "attention_key", "attention_value")
FEED_FORWARD = ("feed_forward_in", "feed_forward_out")
ROLES: Mapping[str, tuple[str, ...]] = {
    "attention": ATTENTION,
    # A fused matrix holds keys and values too; strategies can split it first.
    "attention_key_value": ("attention_qkv", "attention_key", "attention_value"),
    "attention_output": ("attention_output",),
    "feed_forward": FEED_FORWARD,
    "feed_forward_in": ("feed_forward_in",),
    "feed_forward_out": ("feed_forward_out",),
    "all_linear": (*ATTENTION, "attention_output", *FEED_FORWARD),
    "convolution": ("convolution",),
    "convolution_first": ("convolution",),
}
"""Target -> the roles it stands for."""


def select(backbone: Backbone, targets: Sequence[str], method: str) -> tuple[str, ...]:
    """Return the names of the target layers, in the backbone's order, each once.

    A target that the architecture lacks is left out, so that one list serves CNNs and
    transformers.

    Raises
    ------
    NotApplicableError
        If no target is left.
    """
    chosen = members(backbone, targets)
    if not chosen:
        raise NotApplicableError(
            f"{method} adapts {', '.join(targets)}; this backbone has only "
            f"{', '.join(sorted(backbone.roles)) or 'unnamed parts'}"
        )
    return tuple(name for name, _ in backbone.module.named_modules() if name in chosen)


def members(backbone: Backbone, targets: Sequence[str]) -> set[str]:
    """Return the names of all layers that the targets stand for.

    ``convolution_first`` is the first convolution of each unit, of those that share a parent
    module.
    """
    chosen: set[str] = set()
    for target in targets:
        for role in ROLES[target]:
            names = backbone.roles.get(role, ())
            chosen.update(_first_of_unit(names) if target == "convolution_first" else names)
    return chosen


def _first_of_unit(names: Sequence[str]) -> list[str]:
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(name.rpartition(".")[0], name)
    return list(first.values())
