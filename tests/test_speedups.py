from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from made_backbones import IMAGE_SIZE, vit
from peft.tuners.lora import Linear
from torch import Tensor
from torch.nn.functional import conv2d, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from prognobench.records import Adapted, Loss, Train
from prognobench.registry import STRATEGIES
from prognobench.training.hardware import Precision
from prognobench.training.loader import Loader
from prognobench.training.loop import FittedModel, fit
from prognobench.training.speedups import attention, low_rank
from prognobench.training.speedups.attention import attention_for
from prognobench.training.speedups.low_rank import use_fused_updates

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

    fitted, _ = train("full", checkpoint_activations=checkpointed)

    blocks, steps = 2, 4
    assert len(calls) == blocks * steps
    assert np.isfinite([row["train_loss"] for row in fitted.history]).all()


def test_one_setting_switches_all_of_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    fast, made = train("lora")
    assert any("forward" in vars(layer) for layer in made.model.modules())

    def fail(*_: Any) -> None:
        raise AssertionError("a speed-up is in use")

    monkeypatch.setattr(attention, "_backward", fail)
    monkeypatch.setattr(low_rank, "_forward", fail)
    plain, made = train("lora", speedups=False)

    assert not any("forward" in vars(layer) for layer in made.model.modules())
    for ours, theirs in zip(fast.history, plain.history, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-2)


def train(strategy: str, **changes: Any) -> tuple[FittedModel, Adapted]:
    """Two epochs of two steps of a small ViT in bf16."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    backbone = vit()
    pixels = random.integers(0, 256, (12, IMAGE_SIZE, IMAGE_SIZE, 1)).astype(np.uint8)
    labels = np.arange(12) % 2

    def loader(rows: range, shuffle: bool = False) -> Loader:
        given = (pixels, labels, np.array(rows), backbone.preprocessing)
        return Loader(*given, batch_size=4, shuffle=shuffle, seed=("batches", 1))

    made: Adapted = STRATEGIES[strategy](backbone, 2)
    recipe = Train(epochs=2, augmentation="none", precision="bf16", **changes)
    loss = Loss(np.ones(2), np.zeros(2), np.zeros(2))
    parts = (loader(range(8), True), loader(range(8, 12)))
    return fit(made, *parts, loss, recipe, device="cpu", where="cell"), made


# ------------------------------------------------------------------ low-rank updates


@pytest.mark.parametrize("case", ["plain", "dropout", "two dimensions"])
def test_lora_computes_what_peft_computes(case: str) -> None:
    layer, x = lora_layer(dropout=0.5 if case == "dropout" else 0.0)
    x = x[0] if case == "two dimensions" else x

    ours, theirs = (outputs(layer, x, fused, bf16=False) for fused in (True, False))

    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_lora_in_bf16_is_as_near_to_fp32_as_pefts(given: torch.dtype) -> None:
    layer, x = lora_layer()

    exact = outputs(layer, x, fused=False, bf16=False)
    ours, theirs = (outputs(layer, x.to(given), fused, bf16=True) for fused in (True, False))

    for value, a, b in zip(exact, ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert not torch.equal(a.float(), value)
        assert (a - value).norm() <= 1.1 * (b - value).norm()


def lora_layer(dropout: float = 0.0) -> tuple[Linear, Tensor]:
    adapted: Adapted = STRATEGIES["lora"](vit(), 2, rank=4, dropout=dropout)
    layer = [m for m in adapted.model.modules() if isinstance(m, Linear)][1]
    # B starts at zero, and would hide what A does.
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    use_fused_updates(adapted.model)
    assert "forward" in vars(layer)
    return layer, torch.randn(3, 5, layer.get_base_layer().in_features)


def outputs(layer: Linear, x: Tensor, fused: bool, *, bf16: bool) -> list[Tensor]:
    """The output, ours or peft's, and the gradients of inputs and factors."""
    torch.manual_seed(0)
    layer.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out = layer(x) if fused else Linear.forward(layer, x)
    (out.float() ** 2).sum().backward()
    factors = (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    return [out.detach(), *(tensor.grad.clone() for tensor in (x, *factors))]
