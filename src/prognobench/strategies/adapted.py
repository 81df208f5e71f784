"""The record of a strategy on gradients: a classifier, its parameter groups, its files."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from prognobench.errors import NotApplicableError
from prognobench.records import Adapted, Backbone, ParameterGroup
from prognobench.strategies.adapted_files import (
    check_identity,
    load_tensors,
    save_tensors,
    write_identity,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prognobench.strategies.layers.classifier import Classifier

WEIGHTS = "adapted.safetensors"

BUILD_ERRORS = (
    *(RuntimeError, TypeError, ValueError, AttributeError),
    *(AssertionError, LookupError, ArithmeticError),
)
"""What timm's networks and peft raise where they do not fit each other."""


def unscaled(name: str) -> float:
    """Every parameter at the strategy's own learning rate."""
    return 1.0


def adapt(
    backbone: Backbone,
    num_classes: int,
    *,
    method: str,
    lr: float,
    role: str,
    scale: Callable[[str], float] = unscaled,
    head_first_epochs: int = 0,
    head_dropout: float,
    head_norm: bool,
    notes: tuple[str, ...] = (),
    merge: Callable[[Classifier], nn.Module] | None = deepcopy,
) -> Adapted:
    """Return the record of a backbone whose trainable parameters require gradients already.

    Parameters that take no part in the pooled feature (a mask token, say) are frozen and noted.
    Trainable tensors are saved by name.

    Parameters
    ----------
    lr, role, scale
        See :func:`group_parameters`.
    notes
        For the run's record.
    merge
        Returns an equivalent model without adapters: a copy, where weights alone have changed;
        ``None`` where there can be none.

    Raises
    ------
    NotApplicableError
        If the changed backbone cannot be run.
    """
    from prognobench.strategies.layers.classifier import Classifier

    model = Classifier(backbone.module, backbone, num_classes, dropout=head_dropout, norm=head_norm)
    idle = unreached(model, backbone, method)
    for name in idle:
        model.get_parameter(name).requires_grad_(False)
    if idle:
        notes = (*notes, f"frozen, since the output does not depend on them: {', '.join(idle)}")

    # By name, since the body may be frozen for a while when it is saved.
    changing = tuple(adapted_tensors(model))

    def tensors() -> dict[str, Tensor]:
        state = model.state_dict()
        return {name: state[name] for name in changing}

    def save(folder: Path) -> None:
        write_identity(folder, backbone.fingerprint)
        save_tensors(tensors(), folder / WEIGHTS)

    def load(folder: Path) -> None:
        check_identity(folder, backbone.fingerprint)
        load_tensors(model, folder / WEIGHTS, tensors())

    return Adapted(
        model=model,
        groups=group_parameters(model, lr, role, scale),
        save=save,
        load=load,
        merge=None if merge is None else lambda: merge(model),
        head_first_epochs=head_first_epochs,
        notes=notes,
    )


def black_image(backbone: Backbone) -> Tensor:
    """Return a batch of one image of zeros, as large as the backbone expects."""
    import torch

    expects = backbone.preprocessing
    return torch.zeros(1, expects.channels, expects.image_size, expects.image_size)


def wavy_image(backbone: Backbone) -> Tensor:
    """Return a batch of one image of waves, so that no layer sees a constant."""
    import torch

    shape = black_image(backbone).shape
    return torch.sin(torch.arange(shape.numel(), dtype=torch.float32)).view(shape)


def unreached(model: nn.Module, backbone: Backbone, method: str) -> tuple[str, ...]:
    """Return the trainable parameters that the logits do not depend on.

    One forward and backward pass on a black image tells.

    Raises
    ------
    NotApplicableError
        If the model cannot be run, with the reason.
    """
    import torch

    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    model.eval()
    try:
        with torch.enable_grad():
            logits = model(black_image(backbone))
            gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
                logits.sum(), list(trainable.values()), allow_unused=True
            )
    except BUILD_ERRORS as error:
        raise NotApplicableError(f"{method} does not work with this backbone: {error}") from error
    model.train()  # LeViT and its like keep attention biases, and their graph, until then
    return tuple(name for name, g in zip(trainable, gradients, strict=True) if g is None)


def find_stopped(model: nn.Module, backbone: Backbone) -> tuple[str, ...]:
    """Return the trainable tensors outside the head that frozen zeros cut off from the output.

    Residual branches of random weights often end in a scale of zero. Where that stays frozen, what
    the branch adds is zero for ever, and nothing inside it is trained.
    """
    import torch

    if not any(_is_zero_scale(name, parameter) for name, parameter in model.named_parameters()):
        return ()
    trainable = {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad and not name.startswith("head.")
    }
    model.eval()
    with torch.enable_grad():
        logits = model(wavy_image(backbone))
        # A head of several classes may have equal and opposite slopes: the first class alone.
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            logits[..., 0].sum(), list(trainable.values()), allow_unused=True
        )
    model.train()
    moving = {
        name.rpartition(".lora_")[0] or name
        for name, gradient in zip(trainable, found, strict=True)
        if gradient is not None and bool(gradient.any())
    }
    # One factor of an update starts at zero, so the other has no gradient yet: both are judged.
    return tuple(name for name in trainable if (name.rpartition(".lora_")[0] or name) not in moving)


def _is_zero_scale(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a frozen vector of zeros, and no bias."""
    if parameter.requires_grad or parameter.is_meta or name.endswith("bias"):
        return False
    return parameter.ndim == 1 and parameter.numel() > 1 and not parameter.any().item()


def group_parameters(
    model: nn.Module,
    lr: float,
    role: str,
    scale: Callable[[str], float] = unscaled,
) -> tuple[ParameterGroup, ...]:
    """Group what requires gradients: the head apart, vectors without weight decay.

    Biases, normalisation layers and the scales of adapters are vectors, which weight decay would
    draw towards values that mean nothing.

    Parameters
    ----------
    model
        A classifier.
    lr
        Learning rate of all but the head, whose rate is the recipe's, or the grid's.
    role
        What the parameters outside the head are called.
    scale
        Name of a parameter within the encoder -> factor on ``lr``.
    """
    from prognobench.strategies.layers.head_grid import find_grid

    grid = find_grid(model)
    groups: dict[tuple[str, float | None, float | None], list[str]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.numel() == max(parameter.shape, default=1) else None
        part, _, inner = name.partition(".")
        of_head = grid.rate(inner) if grid and part == "head" else None
        key = ("head", of_head, decay) if part == "head" else (role, lr * scale(inner), decay)
        groups.setdefault(key, []).append(name)
    return tuple(
        ParameterGroup(role, tuple(names), rate, decay)
        for (role, rate, decay), names in groups.items()
    )


def adapted_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what training changes: parameters, statistics of norms, which head is chosen."""
    tensors = {name: p.data for name, p in model.named_parameters() if p.requires_grad}
    for prefix, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        trained = bool(own) and all(parameter.requires_grad for parameter in own)
        if trained or prefix == "head":
            tensors |= {f"{prefix}.{name}": b for name, b in module.named_buffers(recurse=False)}
    stored = model.state_dict()  # tables of constants are buffers that no file has
    return {name: tensor for name, tensor in tensors.items() if name in stored}
