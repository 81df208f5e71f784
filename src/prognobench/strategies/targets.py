"""Which layers a strategy adapts, chosen by the roles that the backbone names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from prognobench.errors import ConfigError, NotApplicableError, listed
from prognobench.records import Backbone
from prognobench.strategies.adapted import BUILD_ERRORS, black_image

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

SHOWN = 3
"""How many names of layers a note or message lists."""


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
    names = _called(backbone, adaptable)
    if idle := [name for name in adaptable if name not in names]:
        notes.append(
            f"{method}: {len(idle)} layers are not adapted, since the network does not call them "
            f"({listed(idle, SHOWN)})"
        )
    if not any(map(_block_test(backbone), names)):
        raise NotApplicableError(
            f"{method} adapts {', '.join(targets)}, and the blocks of this backbone have none "
            f"that is called; only its stem or head does ({listed(list(names), SHOWN) or 'none'})"
        )
    if rank is not None:
        large = _large_enough(backbone, names, rank, method)
        if small := [name for name in names if name not in large]:
            notes.append(
                f"{method}: {len(small)} matrices of a rank below {rank} are not adapted "
                f"({listed(small, SHOWN)})"
            )
        names = large
    reached = [block for block in backbone.blocks if any(map(_inside(block), names))]
    if passed_over := [block for block in backbone.blocks if block not in reached]:
        notes.append(
            f"{method} reaches {len(reached)} of {len(backbone.blocks)} blocks "
            f"(not {listed(passed_over, SHOWN)})"
        )
    if unknown := _without_role(backbone):
        notes.append(
            f"{method}: {len(unknown)} matrices in the blocks have no known role and are not "
            f"adapted ({listed(unknown, SHOWN)})"
        )
    return Chosen(backbone, names, tuple(notes))


def _called(backbone: Backbone, names: Sequence[str]) -> tuple[str, ...]:
    """Leave out layers whose weights the network reads without calling them, if it does.

    An adapter on one would train nothing.
    """
    import torch

    called: set[str] = set()
    module = backbone.module
    was_training = module.training
    hooks = [
        module.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.add(name))
        for name in names
    ]
    try:
        with torch.no_grad():
            module.eval()(black_image(backbone))
    except BUILD_ERRORS:  # who builds the classifier says what is wrong
        return tuple(names)
    finally:
        for hook in hooks:
            hook.remove()
        module.train().train(was_training)  # LeViT keeps attention biases until train()
    return tuple(name for name in names if name in called)


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


def _large_enough(
    backbone: Backbone, names: Sequence[str], rank: int, method: str
) -> tuple[str, ...]:
    """Leave out matrices whose rank is below that of the factors that are to approximate them."""
    shapes = {
        # A convolution counts as the matrix (outputs, inputs x kernel).
        name: backbone.module.get_parameter(f"{name}.weight").flatten(1).shape
        for name in names
    }
    # A rank that suits the stem alone would leave every block as it was.
    in_blocks = filter(_block_test(backbone), names)
    name, shape = max(((n, shapes[n]) for n in in_blocks), key=lambda item: min(item[1]))
    if rank > min(shape):
        raise ConfigError(
            f"strategy.rank={rank} is larger than the rank of every target in the blocks; the "
            f"largest is that of {name} ({shape[0]} x {shape[1]}): set {min(shape)} at most "
            f"for {method} here"
        )
    return tuple(name for name in names if rank <= min(shapes[name]))


def _block_test(backbone: Backbone) -> Callable[[str], bool]:
    """Return what says whether a layer lies in one of the backbone's blocks."""
    if not backbone.blocks:  # a user's own backbone need not name any
        return lambda name: True
    tests = [_inside(block) for block in backbone.blocks]
    return lambda name: any(test(name) for test in tests)


def _inside(block: str) -> Callable[[str], bool]:
    """Return what says whether a layer lies in this block; in VGG, a block is a layer itself."""
    return lambda name: name == block or name.startswith(f"{block}.")


def _without_role(backbone: Backbone) -> list[str]:
    """Return the matrices in the blocks that no target can name."""
    from torch import nn

    known = {name for names in backbone.roles.values() for name in names}
    matrices = (nn.Linear, nn.Conv1d, nn.ConvTranspose2d, nn.RNNBase)
    is_inside = _block_test(backbone)
    return [
        name
        for name, module in backbone.module.named_modules()
        if isinstance(module, matrices) and name not in known and is_inside(name)
    ]


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
