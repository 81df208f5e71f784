"""The training objective, one function for a single model and for many batched heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from prognobench.records import Loss


class Terms(NamedTuple):
    """A :class:`~prognobench.records.Loss` as tensors that broadcast against the logits.

    ``class_weights``, ``offset`` and ``margin`` are ``(classes,)``, or ``(heads, 1, classes)``
    beside logits ``(heads, batch, classes)``; the others are ``()`` or ``(heads, 1)``. A term that
    no head uses is ``None``, since computing it would take half the time of a small batch.
    """

    class_weights: Tensor
    offset: Tensor | None
    margin: Tensor | None
    focal_gamma: Tensor | None
    label_smoothing: Tensor | None

    def each(self, change: Callable[[Tensor], Tensor]) -> Terms:
        """Return the terms with a change applied to each, such as a move to a device."""
        weights, *others = self
        return Terms(change(weights), *(term if term is None else change(term) for term in others))


def loss_terms(loss: Loss, device: torch.device | str = "cpu") -> Terms:
    """Return the tensors of one loss, in single precision."""
    import torch

    def tensor(values: object) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=device)

    return _used(
        tensor(loss.class_weights),
        tensor(loss.offset),
        tensor(loss.margin),
        tensor(loss.focal_gamma),
        tensor(loss.label_smoothing),
    )


def _used(class_weights: Tensor, *others: Tensor) -> Terms:
    return Terms(class_weights, *(term if term.any() else None for term in others))


def stacked_terms(losses: Sequence[Loss], device: torch.device | str = "cpu") -> Terms:
    """Return the tensors of one loss per head, for logits ``(heads, batch, classes)``."""
    import torch

    def stacked(values: Sequence[object]) -> Tensor:
        return torch.as_tensor(np.array(values), dtype=torch.float32, device=device).unsqueeze(1)

    return _used(
        stacked([loss.class_weights for loss in losses]),
        stacked([loss.offset for loss in losses]),
        stacked([loss.margin for loss in losses]),
        stacked([loss.focal_gamma for loss in losses]),
        stacked([loss.label_smoothing for loss in losses]),
    )


def objective(logits: Tensor, targets: Tensor, terms: Terms) -> tuple[Tensor, Tensor]:
    """Return each sample's weighted loss and its weight, both of the targets' shape.

    The loss of any set of samples is the sum of the first over the sum of the second: so batches,
    accumulated parts of a batch and whole epochs all have the same mean.

    Parameters
    ----------
    logits
        ``(..., classes)``, any floating type; half precision is raised to single.
    targets
        Class indices ``(...)``, of the same leading shape.
    terms
        Broadcast against the logits.

    Notes
    -----
    With adjusted logits ``a = logits + offset - margin[y] * onehot(y)`` and ``p`` their
    softmax, a sample's loss is ``class_weights[y] * (1 - p[y])**gamma`` times the label-smoothed
    cross-entropy ``-(1 - eps) * log p[y] - eps * mean(log p)``. Margins are those of LDAM (Cao et
    al. 2019), offsets those of logit adjustment (Menon et al. 2021), ``gamma`` is the focal
    exponent (Lin et al. 2017). Unlike ``torch.nn.CrossEntropyLoss``, a sample's weight also
    multiplies its smoothed part, so that it is the sample that is weighted.
    """
    import torch

    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    index = targets.unsqueeze(-1)
    if terms.offset is not None:
        logits = logits + terms.offset
    if terms.margin is not None:
        margin = terms.margin.expand(logits.shape).gather(-1, index).to(logits.dtype)
        logits = logits.scatter_add(-1, index, -margin)
    log_p = torch.log_softmax(logits, dim=-1)
    surprise = -log_p.gather(-1, index).squeeze(-1)
    cross_entropy = surprise
    if (smoothing := terms.label_smoothing) is not None:
        cross_entropy = (1 - smoothing) * surprise - smoothing * log_p.mean(-1)
    weights = terms.class_weights.expand(logits.shape).gather(-1, index).squeeze(-1)
    scale = weights
    if terms.focal_gamma is not None:
        # 1 - p[y]; the floor keeps the derivative of a fractional power finite at p[y] = 1.
        miss = (-torch.expm1(-surprise)).clamp_min(1e-12)
        scale = weights * miss**terms.focal_gamma
    return scale * cross_entropy, weights
