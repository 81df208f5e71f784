"""Strategies that the peft library implements: checks before it, files in its format after it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.errors import ConfigError, NotApplicableError
from prognobench.records import Adapted, Backbone
from prognobench.strategies.adapting import group_parameters, unreached
from prognobench.strategies.files import (
    check_identity,
    load_tensors,
    read_tensors,
    save_tensors,
    write_identity,
)
from prognobench.strategies.fused import fuse_qkv, split_qkv
from prognobench.strategies.targets import select

if TYPE_CHECKING:
    from torch import nn

HEAD = "head.safetensors"
ADAPTER = "adapter_model.safetensors"


def prepare(
    backbone: Backbone,
    targets: Sequence[str],
    method: str,
    *,
    separate_qkv: bool = False,
    convolutions: bool = True,
    grouped: bool = False,
) -> tuple[Backbone, tuple[str, ...], tuple[str, ...]]:
    """Return the backbone, the names of the layers to adapt, and notes for the run's record.

    Parameters
    ----------
    separate_qkv
        Take fused attention projections apart first, where there are any.
    convolutions
        Whether the method adapts convolutions at all.
    grouped
        Whether it adapts those with groups or dilation, which peft's factors do not follow.

    Raises
    ------
    NotApplicableError
        If no layer is left.
    """
    if separate_qkv and backbone.roles.get("attention_qkv"):
        backbone = split_qkv(backbone)
    names = select(backbone, targets, method)
    notes = []
    if set(names) & set(backbone.roles.get("attention_qkv", ())):
        notes.append(f"{method}: one adapter on each fused query-key-value matrix")
    if not convolutions:
        names = _keep(backbone, names, lambda layer: not hasattr(layer, "kernel_size"))
        if not names:
            raise NotApplicableError(f"{method} adapts linear layers; here it finds convolutions")
    elif not grouped:
        plain = _keep(backbone, names, lambda layer: not _is_grouped(layer))
        if not plain:
            raise NotApplicableError(f"{method} finds only grouped or dilated convolutions here")
        if len(plain) < len(names):
            left = len(names) - len(plain)
            notes.append(f"{method}: {left} grouped or dilated convolutions left alone")
        names = plain
    return backbone, names, tuple(notes)


def _keep(
    backbone: Backbone, names: Sequence[str], wanted: Callable[[nn.Module], bool]
) -> tuple[str, ...]:
    return tuple(name for name in names if wanted(backbone.module.get_submodule(name)))


def _is_grouped(layer: nn.Module) -> bool:
    return getattr(layer, "groups", 1) != 1 or getattr(layer, "dilation", (1, 1)) != (1, 1)


def check_rank(backbone: Backbone, names: Sequence[str], rank: int, method: str) -> None:
    """Refuse a rank above that of a matrix it is to approximate.

    Raises
    ------
    ConfigError
        Naming the smallest of the matrices.
    """
    shapes = {
        name: backbone.module.get_parameter(f"{name}.weight").flatten(1).shape for name in names
    }
    name, shape = min(shapes.items(), key=lambda item: min(item[1]))
    if rank > min(shape):
        raise ConfigError(
            f"strategy.rank={rank} is larger than the rank of {name} "
            f"({shape[0]} x {shape[1]}); {method} needs at most {min(shape)} here"
        )


def pattern(names: Collection[str]) -> str:
    """Return the expression that matches exactly these layers (peft matches lists by suffix)."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


def adapt_with_peft(
    backbone: Backbone,
    num_classes: int,
    config: Any,
    *,
    lr: float,
    head_dropout: float,
    head_norm: bool,
    notes: tuple[str, ...] = (),
) -> Adapted:
    """Return the classifier whose encoder carries the adapters of a peft config.

    Raises
    ------
    NotApplicableError
        If peft refuses the pair, with its reason.
    """
    from peft import get_peft_model

    from prognobench.strategies.layers.classifier import Classifier

    method = f"peft {config.peft_type.value}"
    try:
        with warnings.catch_warnings():
            # peft warns when it rounds a block size to one that fits.
            warnings.simplefilter("ignore", UserWarning)
            peft_model = get_peft_model(backbone.module, config)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise NotApplicableError(f"{method}: not with this backbone: {error}") from error
    model = Classifier(
        peft_model.get_base_model(),
        backbone.width,
        num_classes,
        dropout=head_dropout,
        norm=head_norm,
    )
    idle = unreached(model, backbone, method)
    if idle:
        raise NotApplicableError(
            f"{method}: the backbone goes past {len(idle)} of the adapters "
            f"({', '.join(idle[:3])}); leave these layers out of the targets"
        )
    return Adapted(
        model=model,
        groups=group_parameters(model, lr, "adapter"),
        save=_save(backbone, peft_model, model),
        load=_load(backbone, peft_model, model),
        merge=_merge(peft_model, model),
        notes=notes,
    )


def _save(backbone: Backbone, peft_model: Any, model: Any) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        write_identity(folder, backbone.fingerprint)
        peft_model.save_pretrained(str(folder), safe_serialization=True)
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card
        save_tensors(model.head.state_dict(), folder / HEAD)

    return save


def _load(backbone: Backbone, peft_model: Any, model: Any) -> Callable[[Path], None]:
    def load(folder: Path) -> None:
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        check_identity(folder, backbone.fingerprint)
        tensors = read_tensors(folder / ADAPTER, get_peft_model_state_dict(peft_model))
        set_peft_model_state_dict(peft_model, tensors)
        load_tensors(model.head, folder / HEAD, model.head.state_dict())

    return load


def _merge(peft_model: Any, model: Any) -> Callable[[], nn.Module]:
    def merge() -> nn.Module:
        # One copy of both, so that the peft model and the classifier share the copied encoder.
        peft_copy, merged = deepcopy((peft_model, model))
        merged.encoder = fuse_qkv(peft_copy.merge_and_unload())
        result: nn.Module = merged
        return result

    return merge
