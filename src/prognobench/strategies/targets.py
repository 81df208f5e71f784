"""Which layers a strategy adapts, chosen by the roles that the backbone names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from prognobench.errors import NotApplicableError, listed
from prognobench.records import Backbone
from prognobench.strategies.reach import (
    SHOWN,
    describe_reach,
    make_block_test,
    select_called,
    select_large,
)

if TYPE_CHECKING:
    from torch import nn

FUSED = ("attention_qkv", "attention_mixed", "attention_query_key", "attention_key_value")
ATTENTION = (*FUSED, "attention_query", "attention_key", "attention_value")
FEED_FORWARD = ("feed_forward_in", "feed_forward_out")
ROLES: Mapping[str, tuple[str, ...]] = {
    "attention": ATTENTION,
    # A fused matrix holds keys and values too; separate_qkv splits attention_qkv first.
    "attention_key_value": (*FUSED, "attention_key", "attention_value"),
    "attention_output": ("attention_output",),
    "feed_forward": FEED_FORWARD,
    "feed_forward_in": ("feed_forward_in",),
    "feed_forward_out": ("feed_forward_out",),
    "all_linear": (*ATTENTION, "attention_output", *FEED_FORWARD),
    "convolution": ("convolution",),
    "convolution_first": ("convolution",),
}
"""Target, as a config names it -> the roles of :class:`prognobench.records.Backbone`."""


class Chosen(NamedTuple):
    """Layers to adapt, in a backbone whose fused projections may have been separated.

    ``notes`` say, for the run's record, what a reader would not expect of the method.
    """

    backbone: Backbone
    names: tuple[str, ...]
    notes: tuple[str, ...]


def choose_layers(
    backbone: Backbone,
    targets: Sequence[str],
    method: str,
    *,
    separate_qkv: bool = False,
    convolutions: Literal["none", "plain", "all"] = "plain",
    rank: int | None = None,
) -> Chosen:
    """Choose the layers that a method adapts.

    Parameters
    ----------
    separate_qkv
        Separate fused attention projections first, in place, where there are any.
    convolutions
        Which ones the method can adapt: none, those without groups and dilation (which peft's
        factors do not follow), or all.
    rank
        Of the factors: matrices of a smaller rank are left out.

    Raises
    ------
    NotApplicableError
        If no layer is left in the backbone's blocks.
    ConfigError
        If the rank is larger than that of every matrix in the blocks.
    """
    from prognobench.models.encoders.projections import call_projections

    names = select(backbone, targets, method)
    call_projections(backbone.module, names)
    if separate_qkv and backbone.roles.get("attention_qkv"):
        backbone = separate_fused(backbone)
        names = select(backbone, targets, method)
    notes = []
    if set(names) & {name for role in FUSED for name in backbone.roles.get(role, ())}:
        notes.append(f"{method}: one adapter on each fused query-key-value matrix")
    adaptable = _adaptable(backbone, names, method, convolutions)
    if convolutions == "plain" and (left := len(names) - len(adaptable)):
        notes.append(f"{method}: {left} grouped or dilated convolutions are not adapted")
    names = select_called(backbone, adaptable)
    if idle := [name for name in adaptable if name not in names]:
        notes.append(
            f"{method}: {len(idle)} layers are not adapted, since the network does not call them "
            f"({listed(idle, SHOWN)})"
        )
    if not any(map(make_block_test(backbone), names)):
        raise NotApplicableError(
            f"{method} adapts {', '.join(targets)}, and the blocks of this backbone have none "
            f"that is called; only its stem or head does ({listed(list(names), SHOWN) or 'none'})"
        )
    if rank is not None:
        large = select_large(backbone, names, rank, method)
        if small := [name for name in names if name not in large]:
            notes.append(
                f"{method}: {len(small)} matrices of a rank below {rank} are not adapted "
                f"({listed(small, SHOWN)})"
            )
        names = large
    notes += describe_reach(backbone, names, method)
    return Chosen(backbone, names, tuple(notes))


def _adaptable(
    backbone: Backbone, names: Sequence[str], method: str, convolutions: str
) -> tuple[str, ...]:
    """Leave out the convolutions that a method cannot adapt."""
    layers = {name: backbone.module.get_submodule(name) for name in names}
    if convolutions == "none":
        layers = {name: layer for name, layer in layers.items() if not _is_convolution(layer)}
        if not layers:
            raise NotApplicableError(
                f"{method} adapts linear layers, and the targets here are convolutions"
            )
    elif convolutions == "plain":
        layers = {name: layer for name, layer in layers.items() if not _is_grouped(layer)}
        if not layers:
            raise NotApplicableError(
                f"{method} cannot adapt grouped or dilated convolutions, and the targets here "
                "are all such"
            )
    return tuple(layers)


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
            f"{method} adapts {', '.join(targets)}, and this backbone has only "
            f"{', '.join(sorted(backbone.roles)) or 'parts without a known role'}"
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


def _is_convolution(layer: nn.Module) -> bool:
    return hasattr(layer, "kernel_size")


def _is_grouped(layer: nn.Module) -> bool:
    return getattr(layer, "groups", 1) != 1 or getattr(layer, "dilation", (1, 1)) != (1, 1)


def separate_fused(backbone: Backbone) -> Backbone:
    """Replace every fused projection of the backbone's module by three layers, in place.

    Returns the same backbone with roles that name queries, keys and values. The outputs stay
    equal.

    Raises
    ------
    NotApplicableError
        If one cannot be separated.
    """
    from prognobench.models.encoders.projections import PARTS, separate_projections

    names = backbone.roles["attention_qkv"]
    separate_projections(backbone.module, names)
    roles = {role: parts for role, parts in backbone.roles.items() if role != "attention_qkv"}
    roles |= {f"attention_{part}": tuple(f"{name}.{part}" for name in names) for part in PARTS}
    return replace(backbone, roles=roles)


def pattern(names: Collection[str]) -> str:
    """Return the regular expression that matches exactly these layers, or no layer.

    peft would match the members of a list by suffix, and so adapt layers of the same ending.
    """
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"
