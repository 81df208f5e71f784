"""Strategies that the peft library implements: its adapters under our classifier, in its files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.errors import NotApplicableError
from prognobench.records import Adapted, Backbone
from prognobench.strategies.adapted import BUILD_ERRORS, group_parameters, unreached
from prognobench.strategies.adapted_files import (
    check_identity,
    load_tensors,
    read_tensors,
    save_tensors,
    write_identity,
)

if TYPE_CHECKING:
    from torch import nn

    from prognobench.strategies.layers.classifier import Classifier

HEAD = "head.safetensors"
ADAPTER = "adapter_model.safetensors"


def adapt_with_peft(
    backbone: Backbone,
    num_classes: int,
    config: Any,
    *,
    lr: float,
    head_dropout: float,
    head_norm: bool,
    notes: tuple[str, ...] = (),
    prepare: Callable[[nn.Module], None] | None = None,
) -> Adapted:
    """Return the classifier whose encoder carries the adapters of a peft config.

    Parameters
    ----------
    prepare
        Called with the adapted encoder before it is run for the first time.

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
    except BUILD_ERRORS as error:
        raise NotApplicableError(f"{method} does not work with this backbone: {error}") from error
    if prepare is not None:
        prepare(peft_model.get_base_model())
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
            f"{method}: the backbone does not call {len(idle)} of the adapters "
            f"({', '.join(idle[:3])}); leave these layers out of strategy.targets"
        )
    return Adapted(
        model=model,
        groups=group_parameters(model, lr, "adapter"),
        save=_save(backbone, peft_model, model),
        load=_load(backbone, peft_model, model),
        merge=lambda: merge_adapters(model),
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


def merge_adapters(model: Classifier) -> nn.Module:
    """Return a copy whose own weights hold what the adapters added.

    peft's ``merge_and_unload`` does the same, but takes everything that has a ``base_layer`` for an
    adapter, such as timm's DLA.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    from prognobench.models.encoders.projections import fuse_projections

    merged = deepcopy(model)
    layers: dict[str, Any] = {
        name: layer for name, layer in merged.named_modules() if isinstance(layer, BaseTunerLayer)
    }
    for name, layer in layers.items():
        layer.merge()
        merged.set_submodule(name, layer.get_base_layer())
    return fuse_projections(merged)
