"""What every gradient strategy ends with: a classifier, its parameter groups, its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from prognobench.errors import StoreError
from prognobench.records import Adapted, Backbone, ParameterGroup

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "adapted.safetensors"


def freeze(module: nn.Module) -> None:
    """Let no parameter of the module require gradients."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def group_parameters(
    model: nn.Module,
    lr: float,
    role: str,
    scale: Callable[[str], float] = lambda name: 1.0,
) -> tuple[ParameterGroup, ...]:
    """Group what requires gradients: the head apart, vectors without weight decay.

    Biases, normalisation layers and the scales of adapters are vectors, which weight decay would
    draw towards values that mean nothing.

    Parameters
    ----------
    model
        A classifier: its head's parameters are named ``head.*``.
    lr
        Learning rate of all but the head, whose rate is the recipe's.
    role
        What the parameters outside the head are called.
    scale
        Parameter name -> factor on ``lr``.
    """
    groups: dict[tuple[str, float | None, float | None], list[str]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.numel() == max(parameter.shape, default=1) else None
        is_head = name.startswith("head.")
        key = ("head", None, decay) if is_head else (role, lr * scale(name), decay)
        groups.setdefault(key, []).append(name)
    return tuple(
        ParameterGroup(role, tuple(names), lr, decay) for (role, lr, decay), names in groups.items()
    )


def adapt(
    backbone: Backbone,
    model: nn.Module,
    *,
    lr: float,
    role: str,
    scale: Callable[[str], float] = lambda name: 1.0,
    merge: Callable[[], nn.Module] | None = None,
    head_first_epochs: int = 0,
    notes: tuple[str, ...] = (),
) -> Adapted:
    """Return the record of a classifier whose trainable tensors are saved by name."""
    return Adapted(
        model=model,
        groups=group_parameters(model, lr, role, scale),
        save=lambda folder: save_tensors(adapted_tensors(model), folder / WEIGHTS),
        load=lambda folder: load_tensors(model, folder / WEIGHTS, adapted_tensors(model)),
        merge=merge,
        head_first_epochs=head_first_epochs,
        notes=notes,
    )


def adapted_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what training changes: trainable parameters, and statistics of trained norms."""
    tensors = {name: p.data for name, p in model.named_parameters() if p.requires_grad}
    for prefix, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own and all(parameter.requires_grad for parameter in own):
            persistent = module.state_dict(prefix=f"{prefix}." if prefix else "")
            tensors.update(persistent)
    return tensors


def save_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Write tensors by name as safetensors."""
    from safetensors.torch import save_file

    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, file)


def load_tensors(model: nn.Module, file: Path, expected: dict[str, Tensor]) -> None:
    """Load tensors by name into the model.

    Raises
    ------
    StoreError
        If the file lacks an expected tensor, has another one, or a shape differs.
    """
    from safetensors.torch import load_file

    if not file.is_file():
        raise StoreError(f"no {file}: was the run stored with train.save=best or all?")
    tensors = load_file(file)
    faults = [f"{name} is missing" for name in expected if name not in tensors]
    faults += [f"{name} is not part of this model" for name in tensors if name not in expected]
    faults += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    if faults:
        raise StoreError(f"{file} does not fit the model: {'; '.join(faults[:5])}")
    model.load_state_dict(tensors, strict=False)
