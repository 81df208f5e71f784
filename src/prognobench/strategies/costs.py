"""What an adapted model costs: parameters, floating-point operations, bytes on disk."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from prognobench.records import Adapted, Preprocessing


def parameter_counts(adapted: Adapted) -> dict[str, Any]:
    """Return how many parameters there are, how many train, and by role."""
    sizes = {name: p.numel() for name, p in adapted.model.named_parameters()}
    by_role: dict[str, int] = {}
    for group in adapted.groups:
        count = sum(sizes[name] for name in group.parameters)
        by_role[group.role] = by_role.get(group.role, 0) + count
    trainable, total = sum(by_role.values()), sum(sizes.values())
    return {
        "parameters_trainable": trainable,
        "parameters_total": total,
        "parameters_share": trainable / total,
        "parameters_by_role": by_role,
    }


def stored_bytes(adapted: Adapted) -> int:
    """Return the size of the files that the adapted part is saved in."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    if adapted.save is None:
        return 0
    with TemporaryDirectory() as folder:
        adapted.save(Path(folder))
        return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def step_flops(adapted: Adapted, preprocessing: Preprocessing, batch_size: int) -> int:
    """Return the floating-point operations of one training step: forward and backward.

    Counted by torch's own counter on one and on two images, since some adapters compute a matrix
    once per step; a multiplication with an addition counts as two. Fourier transforms, elementwise
    operations and the optimiser's step are left out.
    """
    image = (preprocessing.channels, preprocessing.image_size, preprocessing.image_size)
    # A copy for each, since some networks keep a part of their graph between passes.
    one, two = (_flops(_without_content(adapted.model).eval(), (n, *image)) for n in (1, 2))
    return one + (batch_size - 1) * (two - one)


def _without_content(model: nn.Module) -> nn.Module:
    """Copy a model to the meta device: counting needs shapes, not values."""
    import torch

    meta: dict[int, torch.Tensor] = {
        id(buffer): torch.empty_like(buffer, device="meta") for buffer in model.buffers()
    }
    for parameter in model.parameters():
        shape = torch.empty_like(parameter, device="meta")
        meta[id(parameter)] = torch.nn.Parameter(shape, parameter.requires_grad)
    return copy.deepcopy(model, meta)


def _flops(model: nn.Module, shape: tuple[int, ...]) -> int:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    batch = torch.zeros(shape, device="meta")
    # Fused attention kernels are one operation, which the counter does not know on this device.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(batch).sum().backward()
    return int(counter.get_total_flops())
