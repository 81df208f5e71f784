"""What of a backbone a method reaches, and what it passes over."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prognobench.errors import ConfigError, listed
from prognobench.records import Backbone
from prognobench.strategies.adapted import BUILD_ERRORS, black_image

SHOWN = 3
"""How many names of layers a note or message lists."""


def describe_reach(backbone: Backbone, names: Sequence[str], method: str) -> list[str]:
    """Say which blocks have none of the layers, and which matrices no target can name."""
    notes = []
    passed = [block for block in backbone.blocks if not any(map(_inside(block), names))]
    if passed:
        count = len(backbone.blocks)
        notes.append(
            f"{method} reaches {count - len(passed)} of {count} blocks (not "
            f"{listed(passed, SHOWN)})"
        )
    if unknown := _without_role(backbone):
        notes.append(
            f"{method}: {len(unknown)} matrices in the blocks have no known role and are not "
            f"adapted ({listed(unknown, SHOWN)})"
        )
    return notes


def select_called(backbone: Backbone, names: Sequence[str]) -> tuple[str, ...]:
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


def select_large(
    backbone: Backbone, names: Sequence[str], rank: int, method: str
) -> tuple[str, ...]:
    """Leave out matrices whose rank is below that of the factors that are to approximate them.

    Raises
    ------
    ConfigError
        If none in the blocks is left.
    """
    shapes = {
        # A convolution counts as the matrix (outputs, inputs x kernel).
        name: backbone.module.get_parameter(f"{name}.weight").flatten(1).shape
        for name in names
    }
    # A rank that suits the stem alone would leave every block as it was.
    in_blocks = filter(make_block_test(backbone), names)
    name, shape = max(((n, shapes[n]) for n in in_blocks), key=lambda item: min(item[1]))
    if rank > min(shape):
        raise ConfigError(
            f"strategy.rank={rank} is larger than the rank of every target in the blocks; the "
            f"largest is that of {name} ({shape[0]} x {shape[1]}): set {min(shape)} at most "
            f"for {method} here"
        )
    return tuple(name for name in names if rank <= min(shapes[name]))


def make_block_test(backbone: Backbone) -> Callable[[str], bool]:
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
    is_inside = make_block_test(backbone)
    return [
        name
        for name, module in backbone.module.named_modules()
        if isinstance(module, matrices) and name not in known and is_inside(name)
    ]
