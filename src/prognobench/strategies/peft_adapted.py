"""Strategies that the peft library implements: its adapters under our classifier, in its files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.errors import NotApplicableError, listed
from prognobench.records import Adapted, Backbone
from prognobench.strategies.adapted import (
    BUILD_ERRORS,
    find_stopped,
    group_parameters,
    unreached,
)
from prognobench.strategies.adapted_files import (
    check_identity,
    load_tensors,
    read_tensors,
    save_tensors,
    write_identity,
)
from prognobench.strategies.reach import SHOWN

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prognobench.strategies.layers.classifier import Classifier

SHAPE = ("kernel_size", "stride", "padding", "dilation", "groups")
"""Of a convolution."""

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
    _answer_for_layers(peft_model)
    if prepare is not None:
        prepare(peft_model.get_base_model())
    model = Classifier(
        peft_model.get_base_model(),
        backbone,
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
    if stopped := find_stopped(model, backbone):
        notes = (
            *notes,
            f"{len(stopped)} adapter tensors are never trained: frozen scales of zero, as random "
            "weights have, cut them off; use pretrained weights, or train the norms too",
        )
    merges = True
    if unmergeable := _find_unmergeable(model):
        merges = False
        notes = (
            *notes,
            f"{method}: {len(unmergeable)} adapters cannot be merged, since their layers change "
            f"their weights before use ({listed(unmergeable, SHOWN)})",
        )
    return Adapted(
        model=model,
        groups=group_parameters(model, lr, "adapter"),
        save=_save(backbone, peft_model, model),
        load=_load(backbone, peft_model, model),
        merge=(lambda: merge_adapters(model)) if merges else None,
        notes=notes,
    )


def _answer_for_layers(model: nn.Module) -> None:
    """Give adapters what a network may ask of the convolution within: DaViT pads by its stride."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for adapter in model.modules():
        if isinstance(adapter, BaseTunerLayer):
            layer = adapter.get_base_layer()
            for name in SHAPE:
                if hasattr(layer, name) and not hasattr(adapter, name):
                    setattr(adapter, name, getattr(layer, name))


def _find_unmergeable(model: nn.Module) -> list[str]:
    """Return the adapted layers whose output is not linear in their weight.

    Standardised convolutions (of NFNet and BiT) normalise it: what is added to it is no adapter.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    linear: dict[type, bool] = {nn.Linear: True, nn.Conv2d: True}
    found = []
    for name, adapter in model.named_modules():
        if isinstance(adapter, BaseTunerLayer):
            layer = adapter.get_base_layer()
            if type(layer) not in linear:
                linear[type(layer)] = _is_linear_in_weight(layer)
            if not linear[type(layer)]:
                found.append(name)
    return found


def _is_linear_in_weight(layer: nn.Module) -> bool:
    import torch

    probe = deepcopy(layer).double().eval()
    weight = probe.get_parameter("weight")
    if weight.dim() < 2:  # a norm's
        return True
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    # Inputs of a convolution have its channels, whatever its groups, and some room for its kernel.
    channels = getattr(layer, "in_channels", weight.shape[1])
    x = draw(2, channels, *(length + 4 for length in weight.shape[2:]))
    step = draw(*weight.shape)
    with torch.no_grad():
        outputs = []
        for _ in range(3):
            outputs.append(probe(x))
            weight.add_(step)
    return torch.allclose(outputs[0] + outputs[2], 2 * outputs[1])


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
