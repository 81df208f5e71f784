from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from made_backbones import IMAGE_SIZE, vit
from torch import Tensor
from torch.nn.functional import conv2d, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from prognobench.records import Adapted, Loss, Train
from prognobench.registry import STRATEGIES
from prognobench.training.hardware import Precision
from prognobench.training.loader import Loader
from prognobench.training.loop import fit
from prognobench.training.speedups import attention
from prognobench.training.speedups.attention import attention_for

SETTINGS = {
    "plain": {},
    "scale": {"scale": 0.5},
    "large": {"scale": 5.0},
    "causal": {"is_causal": True},
    "mask": {"attn_mask": torch.ones(20, 20, dtype=torch.bool).tril(5)},
}


def gradients(
    dtype: torch.dtype, settings: Mapping[str, Any], precision: Precision = "fp32"
) -> list[Tensor]:
    """Of queries, keys and values, which are views of one tensor, in fp32."""
    random = torch.Generator().manual_seed(0)
    together = torch.randn(2, 20, 3, 3, 8, generator=random).bfloat16().to(dtype).requires_grad_()
    given = together.permute(2, 0, 3, 1, 4).unbind()
    loss = (scaled_dot_product_attention(*given, **settings).float() ** 2).sum()
    with attention_for(loss, precision):
        loss.backward()
    assert together.grad is not None
    return list(together.grad.float().unbind(2))


@pytest.mark.parametrize("kind", ["plain", "scale", "large"])
def test_gradients_are_about_as_exact_as_torchs_own(kind: str) -> None:
    exact = gradients(torch.float32, SETTINGS[kind])
    fused = gradients(torch.bfloat16, SETTINGS[kind])
    found = gradients(torch.bfloat16, SETTINGS[kind], "bf16")

    for ours, theirs, best in zip(found, fused, exact, strict=True):
        assert not torch.equal(ours, theirs)
        assert (ours - best).norm() < 2 * (theirs - best).norm() < 0.02 * best.norm()


def test_gradients_lie_in_memory_as_compiled_models_expect() -> None:
    query, key, value = torch.randn(3, 2, 20, 3, 8, dtype=torch.bfloat16).transpose(2, 3)
    loss = scaled_dot_product_attention(query.clone().requires_grad_(), key, value).sum()
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out, logsumexp = forward(query, key, value)
    given = (torch.ones_like(out), query, key, value, out, logsumexp, 0.0, False)
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

    expected = backward(*given)
    with attention_for(loss, "bf16"):
        found = backward(*given)

    assert [x.stride() for x in found] == [x.stride() for x in expected]


@pytest.mark.parametrize("kind", ["causal", "mask"])
def test_other_kinds_of_attention_stay_as_they_are(kind: str) -> None:
    fused = gradients(torch.bfloat16, SETTINGS[kind])
    found = gradients(torch.bfloat16, SETTINGS[kind], "bf16")
    assert all(torch.equal(a, b) for a, b in zip(found, fused, strict=True))


def test_what_would_take_much_memory_stays_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "LARGEST_BYTES", 2 * 3 * 20 * 20 * 4 - 1)
    test_other_kinds_of_attention_stay_as_they_are("plain")


def test_in_fp32_on_a_gpu_and_without_attention_nothing_is_replaced() -> None:
    attended = attention_loss(torch.zeros(1, 3, 20, 8, requires_grad=True))
    convolved = conv2d(torch.zeros(1, 3, 8, 8), torch.zeros(3, 3, 3, 3, requires_grad=True)).sum()
    frozen = attention_loss(torch.zeros(1, 3, 20, 8)) * torch.ones((), requires_grad=True)

    assert not isinstance(attention_for(attended, "bf16"), nullcontext)
    assert isinstance(attention_for(attended, "fp32"), nullcontext)
    assert isinstance(attention_for(attended.to("meta"), "bf16"), nullcontext)
    assert isinstance(attention_for(convolved, "bf16"), nullcontext)
    assert isinstance(attention_for(frozen, "bf16"), nullcontext)


@pytest.mark.parametrize("reentrant", [False, True])
def test_attention_is_found_where_it_is_computed_again(reentrant: bool) -> None:
    tokens = torch.zeros(1, 3, 20, 8, requires_grad=True)
    loss = checkpoint(attention_loss, tokens, use_reentrant=reentrant)
    assert not isinstance(attention_for(loss, "bf16"), nullcontext)


def attention_loss(tokens: Tensor) -> Tensor:
    tokens = tokens.bfloat16()
    return scaled_dot_product_attention(tokens, tokens, tokens).float().sum()


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_transformer_is_trained_with_it(
    checkpointed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    backward = attention._backward
    monkeypatch.setattr(attention, "_backward", lambda *x: calls.append(1) or backward(*x))
    random = np.random.default_rng(0)
    backbone = vit()
    pixels = random.integers(0, 256, (12, IMAGE_SIZE, IMAGE_SIZE, 1)).astype(np.uint8)
    labels = np.arange(12) % 2

    def loader(rows: range, shuffle: bool = False) -> Loader:
        given = (pixels, labels, np.array(rows), backbone.preprocessing)
        return Loader(*given, batch_size=4, shuffle=shuffle, seed=("batches", 1))

    made: Adapted = STRATEGIES["full"](backbone, 2)
    recipe = Train(
        epochs=2, augmentation="none", precision="bf16", checkpoint_activations=checkpointed
    )

    fitted = fit(
        made,
        loader(range(8), True),
        loader(range(8, 12)),
        Loss(np.ones(2), np.zeros(2), np.zeros(2)),
        recipe,
        device="cpu",
        where="cell",
    )

    blocks, steps = 2, 4
    assert len(calls) == blocks * steps
    assert np.isfinite([row["train_loss"] for row in fitted.history]).all()
