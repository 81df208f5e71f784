"""The backward pass of attention in bf16 on the processor, in batched matrix products.

torch's own works in small tiles, and takes twice as long.

Gain: without it a step of 16 images takes 26 % longer for LoRA on the embedded ViT, and on ViT-S/16
5 to 8 % longer for LoRA, BitFit and full training (processor time of one AVX512-BF16 core). A
network of convolutions gains nothing.
Holds: in bf16 on the processor, where every token attends to every other and there is no dropout;
elsewhere torch's own runs, which is at least as fast there.
Error: these gradients are off by up to twice what torch's are in bf16, and for large scores by as
much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from prognobench.training.hardware import Precision

LARGEST_BYTES, BYTES_OF_A_SCORE = 2**26, 4
"""Of one layer's scores, which are written out, and take twice as much for a moment; beyond that
there is little to gain (a fifth) for much memory, and the backward pass stays torch's.
"""


OPAQUE = ("Attention", "Checkpoint", "Compiled")
"""In the names of steps of a backward pass that are attention, or may contain it."""


def attention_for(loss: Tensor, precision: Precision) -> AbstractContextManager[Any]:
    """Return the context in which to run the backward pass from a loss."""
    if precision == "bf16" and loss.device.type == "cpu" and _attends(loss):
        return _Products()  # type: ignore[no-untyped-call]
    return nullcontext()


def _attends(loss: Tensor) -> bool:
    """Return whether there may be attention: the context costs a network without it 2 %."""
    waiting, seen = [loss.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if any(name in node.name() for name in OPAQUE):
            return True
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
    return False


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Replaces the one operation, whichever way a model came to its attention."""

    def __torch_dispatch__(
        self,
        operation: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if operation is _BACKWARD and _is_plain(args, given):
            gradient, query, key, value, *_ = args
            return _backward(gradient, query, key, value, given.get("scale"))
        return operation(*args, **given)


_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def _is_plain(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether every token attends to every token, and what is written out is not too large."""
    _gradient, query, key, _value, _out, _logsumexp, dropout, is_causal = args
    return (
        query.dtype == torch.bfloat16
        and not (dropout or is_causal)
        and kwargs.get("attn_mask") is None
        and query.shape[:-2] == key.shape[:-2]
        and query[..., 0].numel() * key.shape[-2] * BYTES_OF_A_SCORE <= LARGEST_BYTES
    )


def _backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, scale: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``q``, ``k`` and ``v`` in ``softmax(scale q k') v``."""
    # Views into one tensor of queries, keys and values: products of these take twice as long.
    query, key, value, gradient = (x.contiguous() for x in (query, key, value, gradient))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    # Rounded to bf16 before the softmax, large scores would change shares by their own error.
    shares = (query.float() * scale @ key.float().mT).softmax(-1).to(query.dtype)
    # With P the shares and dP = dO v', the gradient of the scores is P * (dP - rowsum(dP * P)),
    # which torch has as one operation.
    of_scores = torch._softmax_backward_data(gradient @ value.mT, shares, -1, shares.dtype)
    found = (
        (of_scores @ key).mul_(scale),
        (of_scores.mT @ query).mul_(scale),
        shares.mT @ gradient,
    )
    of_query, of_key, of_value = map(_heads_inside, found)
    return of_query, of_key, of_value


def _heads_inside(gradient: Tensor) -> Tensor:
    """Lay a gradient out as torch does, heads within tokens: compiled models count on it."""
    return gradient.transpose(1, 2).contiguous().transpose(1, 2)
