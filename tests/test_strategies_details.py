"""Single strategies against the formulas of their papers, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_backbones import IMAGE_SIZE, cnn, images, vit
from torch import nn

from prognobench.cli.compose import compose
from prognobench.errors import ConfigError, NotApplicableError, StoreError
from prognobench.records import Adapted, Backbone, Preprocessing
from prognobench.registry import MODELS, STRATEGIES
from prognobench.strategies.costs import parameter_counts, step_flops, stored_bytes

WIDTH, BLOCKS = 32, 2


def adapt(name: str, backbone: Backbone, **settings: Any) -> Adapted:
    torch.manual_seed(0)
    adapted: Adapted = STRATEGIES[name](backbone, 2, **settings)
    return adapted


def count(adapted: Adapted, role: str = "adapter") -> int:
    counted: int = parameter_counts(adapted)["parameters_by_role"][role]
    return counted


def shift(adapted: Adapted) -> None:
    """Move every trainable parameter away from its start."""
    random = torch.Generator().manual_seed(7)
    for parameter in adapted.model.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=random)
            parameter.data.add_(noise, alpha=0.1)


# ------------------------------------------------------------------ parameters


def test_lora_trains_rank_times_sides() -> None:
    adapted = adapt("lora", vit(), rank=4)
    shapes = [(3 * WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)]
    assert count(adapted) == BLOCKS * sum(4 * (d + k) for d, k in shapes)


def test_lora_on_convolutions_counts_the_kernel_on_one_side() -> None:
    backbone = cnn()
    kernels = [backbone.module.get_parameter(f"{n}.weight") for n in backbone.roles["convolution"]]
    expected = sum(4 * (k[0].numel() + len(k)) for k in kernels)
    assert count(adapt("lora", backbone, rank=4)) == expected


def test_dora_adds_one_magnitude_per_output() -> None:
    plain = adapt("lora", vit(), rank=4)
    dora = adapt("lora", vit(), rank=4, magnitude=True)
    assert count(dora) - count(plain) == BLOCKS * (3 + 4 + 1) * WIDTH


def test_vera_trains_rank_plus_outputs() -> None:
    adapted = adapt("vera", vit(), rank=16)
    assert count(adapted) == BLOCKS * (3 * 16 + (3 + 4 + 1) * WIDTH)


def test_ia3_trains_keys_values_and_inner_activations() -> None:
    adapted = adapt("ia3", vit(), separate_qkv=True)
    assert count(adapted) == BLOCKS * (WIDTH + WIDTH + 4 * WIDTH)


def test_bitfit_trains_all_biases_and_nothing_else() -> None:
    # Patch embedding and last norm; in each block two norms, qkv, projection, two feed-forward.
    per_block = (1 + 1 + 3 + 1 + 4 + 1) * WIDTH
    assert count(adapt("bitfit", vit()), "bias") == 2 * WIDTH + BLOCKS * per_block


def test_prompts_are_tokens() -> None:
    assert count(adapt("visual_prompts", vit(), prompts=5), "prompts") == BLOCKS * 5 * WIDTH
    shallow = adapt("visual_prompts", vit(), prompts=5, deep=False)
    assert count(shallow, "prompts") == 5 * WIDTH


def test_last_blocks_train_what_follows_them_too() -> None:
    adapted = adapt("last_blocks", vit(), blocks=1)
    trained = {name for group in adapted.groups for name in group.parameters}
    assert any(name.startswith("encoder.network.blocks.1.") for name in trained)
    assert "encoder.network.norm.weight" in trained
    assert not any("blocks.0" in name or "embed" in name for name in trained)


# ------------------------------------------------------------------ groups, modes, heads


def test_layer_decay_slows_earlier_blocks() -> None:
    adapted = adapt("full", vit(), lr=1e-3, layer_decay=0.5)
    rates = {name: group.lr for group in adapted.groups for name in group.parameters}
    assert rates["encoder.network.norm.weight"] == pytest.approx(1e-3)
    assert rates["encoder.network.blocks.1.attn.qkv.weight"] == pytest.approx(5e-4)
    assert rates["encoder.network.blocks.0.attn.qkv.weight"] == pytest.approx(2.5e-4)
    assert rates["encoder.network.patch_embed.proj.weight"] == pytest.approx(1.25e-4)
    assert rates["head.linear.weight"] is None


@pytest.mark.parametrize("name", ["full", "ia3", "vera", "bitfit", "norm_only", "ssf"])
def test_vectors_have_no_weight_decay(name: str) -> None:
    adapted = adapt(name, vit())
    for group in adapted.groups:
        for parameter in map(adapted.model.get_parameter, group.parameters):
            is_vector = parameter.numel() == max(parameter.shape)
            assert group.weight_decay == (0.0 if is_vector else None)


def test_dropout_of_frozen_parts_is_off() -> None:
    def varies(adapted: Adapted) -> bool:
        adapted.model.train()
        return not torch.equal(adapted.model(images()), adapted.model(images()))

    assert not varies(adapt("lora", vit(proj_drop_rate=0.5), dropout=0.0))
    assert not varies(adapt("bitfit", vit(proj_drop_rate=0.5)))
    assert varies(adapt("full", vit(proj_drop_rate=0.5)))
    assert varies(adapt("lora", vit(), dropout=0.5, init="pissa"))
    assert varies(adapt("bitfit", vit(), head_dropout=0.5))


def test_frozen_batch_norm_keeps_its_mode_after_train_and_eval() -> None:
    model = adapt("bitfit", cnn()).model
    model.eval()
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    assert model.training
    assert model.head.training


def test_head_options_and_classes() -> None:
    adapted: Adapted = STRATEGIES["bitfit"](vit(), 5, head_norm=True, head_dropout=0.1)
    assert [type(layer).__name__ for layer in adapted.model.head] == [
        "LayerNorm",
        "Dropout",
        "Linear",
    ]
    assert adapted.model(images()).shape == (4, 5)


def test_lp_ft_says_how_long_the_head_goes_first() -> None:
    (config,) = compose(["strategy=lp_ft"])
    adapted = adapt(config.strategy.builder, vit(), **config.strategy.settings)
    assert adapted.head_first_epochs == 5


def test_parameters_without_influence_are_frozen_and_named() -> None:
    backbone = vit()
    backbone.module.network.idle = nn.Parameter(torch.zeros(3))
    adapted = adapt("full", backbone)
    assert not adapted.model.encoder.network.idle.requires_grad
    assert "network.idle" in adapted.notes[0]


# ------------------------------------------------------------------ fused projections


def test_separate_adapters_agree_with_one_of_the_same_update() -> None:
    fused = adapt("lora", vit(), rank=2, targets=("attention",))
    separate = adapt("lora", vit(), rank=2, targets=("attention",), separate_qkv=True)
    shift(fused)
    source, target = fused.model.state_dict(), separate.model.state_dict()
    for block in range(BLOCKS):
        qkv = f"encoder.network.blocks.{block}.attn.qkv"
        rows = source[f"{qkv}.lora_B.default.weight"].chunk(3)
        for part, own_rows in zip(("query", "key", "value"), rows, strict=True):
            key = f"{qkv}.{part}.lora_{{}}.default.weight"
            target[key.format("A")].copy_(source[f"{qkv}.lora_A.default.weight"])
            target[key.format("B")].copy_(own_rows)
    fused.model.eval()
    separate.model.eval()
    torch.testing.assert_close(
        separate.model.encoder(images()), fused.model.encoder(images()), rtol=1e-4, atol=1e-5
    )


def test_ia3_leaves_separate_queries_alone_and_says_when_it_cannot() -> None:
    separate = adapt("ia3", vit(), separate_qkv=True)
    adapted = {name for group in separate.groups for name in group.parameters}
    assert not any("query" in name for name in adapted)
    assert any("key" in name for name in adapted)
    assert any("value" in name for name in adapted)
    assert "fused" in adapt("ia3", vit()).notes[0]


def test_merging_puts_separate_projections_together_again() -> None:
    adapted = adapt("lora", vit(), rank=2, separate_qkv=True)
    shift(adapted)
    assert adapted.merge is not None
    merged = adapted.merge().encoder
    assert merged.state_dict().keys() == vit().module.state_dict().keys()
    adapted.model.eval()
    torch.testing.assert_close(
        merged(images()), adapted.model.encoder(images()), rtol=1e-4, atol=1e-5
    )


# ------------------------------------------------------------------ methods


def test_ssf_without_noise_starts_at_the_frozen_model() -> None:
    adapted = adapt("ssf", cnn(), std=0.0)
    adapted.model.eval()
    torch.testing.assert_close(adapted.model.encoder(images()), cnn().module(images()))


def test_vera_shares_one_pair_that_only_its_key_decides() -> None:
    def pair(key: int, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        model = STRATEGIES["vera"](vit(), 2, rank=4, projection_key=key).model
        shared = {k: v for k, v in model.state_dict().items() if ".vera_A." in k}
        assert len({tensor.data_ptr() for tensor in shared.values()}) == 1
        return next(iter(shared.values()))

    assert torch.equal(pair(0, seed=1), pair(0, seed=2))
    assert not torch.equal(pair(0, seed=1), pair(1, seed=1))


def test_rslora_scales_by_the_root_of_the_rank() -> None:
    scales = [
        next(
            module.scaling["default"]
            for module in adapt("lora", vit(), rank=4, alpha=8, scaling=way).model.modules()
            if hasattr(module, "lora_A")
        )
        for way in ("linear", "sqrt")
    ]
    assert scales == [2.0, 4.0]


def test_first_convolutions_are_those_of_each_unit() -> None:
    adapted = adapt("lora", cnn(), rank=4, targets=("convolution_first",))
    names = {n.partition(".lora_")[0] for g in adapted.groups for n in g.parameters if "lora" in n}
    assert "encoder.network.conv1" in names
    assert "encoder.network.layer1.0.conv1" in names
    assert "encoder.network.layer1.0.conv2" not in names


def test_grouped_convolutions_are_left_alone_and_noted() -> None:
    backbone = cnn()
    backbone.module.network.layer1[0].conv2 = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    adapted = adapt("lora", backbone, rank=4)
    assert not any("layer1.0.conv2" in name for g in adapted.groups for name in g.parameters)
    assert "1 grouped or dilated" in adapted.notes[0]


# ------------------------------------------------------------------ costs


def test_operations_of_a_step_are_those_of_the_matrices() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3 * IMAGE_SIZE * IMAGE_SIZE, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.first(x.flatten(1))
            return out

    preprocessing = Preprocessing(IMAGE_SIZE, (0.5,) * 3, (0.5,) * 3)
    backbone = Backbone(Flat(), 8, preprocessing, {}, (), {"last1": 8}, "flat")
    pixels = 3 * IMAGE_SIZE * IMAGE_SIZE
    # Forward and weight gradients of both layers, input gradients of the head alone.
    per_image = 2 * (2 * pixels * 8) + 3 * (2 * 8 * 2)
    assert step_flops(adapt("full", backbone), preprocessing, 10) == 10 * per_image


def test_counting_leaves_no_trace_and_partial_training_is_cheaper() -> None:
    adapted = adapt("lora", vit(), rank=4)
    full = adapt("full", vit())
    preprocessing = vit().preprocessing
    assert 0 < step_flops(adapted, preprocessing, 4) < step_flops(full, preprocessing, 4)
    assert all(parameter.grad is None for parameter in adapted.model.parameters())
    assert stored_bytes(adapted) < stored_bytes(full) / 3
    counts = parameter_counts(full)
    assert counts["parameters_share"] == 1
    assert counts["parameters_total"] == sum(p.numel() for p in full.model.parameters())


# ------------------------------------------------------------------ what is refused


def test_a_rank_above_the_matrix_is_refused_with_its_name() -> None:
    with pytest.raises(ConfigError, match=r"rank=64 is larger than .*attn\.qkv \(96 x 32\)"):
        adapt("lora", vit(), rank=64)


def without_biases() -> Backbone:
    backbone = vit()
    for module in backbone.module.modules():
        if getattr(module, "bias", None) is not None:
            module.bias = None
    return backbone


@pytest.mark.parametrize(
    ("name", "backbone", "settings", "reason"),
    [
        ("bitfit", without_biases, {}, "BitFit trains biases, and this backbone has none"),
        ("vera", cnn, {}, "this backbone has only convolution"),
        ("vera", cnn, {"targets": ("convolution",)}, "linear layers"),
        ("lora", cnn, {"targets": ("attention",)}, "LoRA adapts attention"),
        ("lora", cnn, {"init": "pissa"}, "PiSSA adapts linear layers"),
        ("oft", cnn, {"targets": ("convolution",)}, "linear layers"),
        ("ln_tuning", cnn, {}, "norm_only"),
        ("visual_prompts", cnn, {}, "no attention"),
        ("adaptformer", cnn, {}, "feed-forward"),
    ],
)
def test_impossible_pairs_have_a_reason(
    name: str, backbone: Any, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(NotApplicableError, match=reason):
        adapt(name, backbone(), **settings)


def test_layers_that_the_backbone_goes_past_are_left_out() -> None:
    backbone = vit()
    attention = backbone.module.network.blocks[0].attn

    def past(x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        weight: torch.Tensor = attention.qkv.weight
        return (x @ weight.T)[..., :WIDTH]

    attention.forward = past
    adapted = adapt("lora", backbone, rank=2)
    (note,) = [note for note in adapted.notes if "does not call" in note]
    assert note.startswith("LoRA: 1 layers are not adapted")
    assert "blocks.0.attn.qkv" in note
    assert not hasattr(adapted.model.encoder.network.blocks[0].attn.qkv, "lora_A")
    assert hasattr(adapted.model.encoder.network.blocks[1].attn.qkv, "lora_A")


@pytest.mark.parametrize(
    "override", ["strategy.lr=0", "strategy.lr=-1", "strategy.rank=0", "strategy.dropout=1"]
)
def test_values_out_of_bounds_are_refused_before_anything_starts(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        compose(["strategy=lora", override])


def test_unknown_targets_are_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.targets"):
        compose(["strategy=lora", "strategy.targets=[qkv]"])


def test_too_many_blocks_and_frequencies_are_refused() -> None:
    with pytest.raises(ConfigError, match="only 2 blocks"):
        adapt("last_blocks", vit(), blocks=3)
    with pytest.raises(ConfigError, match="choose at most 3072"):
        adapt("fourierft", vit(), frequencies=100_000)
    with pytest.raises(ConfigError, match="scale_outputs or scale_inputs"):
        adapt("ia3", vit(), scale_outputs=(), scale_inputs=())


@pytest.mark.parametrize("name", ["lora", "bitfit"])
def test_adapted_parts_of_other_weights_or_versions_are_refused(name: str, tmp_path: Path) -> None:
    saved = adapt(name, vit())
    assert saved.save is not None
    saved.save(tmp_path)

    def load(backbone: Backbone, **settings: Any) -> None:
        adapted = adapt(name, backbone, **settings)
        assert adapted.load is not None
        adapted.load(tmp_path)

    load(vit())
    with pytest.raises(StoreError, match="trained on other weights"):
        load(vit("another"))
    with pytest.raises(StoreError, match="does not fit the model"):
        load(vit(), head_norm=True)
    identity = tmp_path / "adapted.json"
    identity.write_text(json.dumps({**json.loads(identity.read_text()), "format": 99}))
    with pytest.raises(StoreError, match="format 99"):
        load(vit())
    identity.unlink()
    with pytest.raises(StoreError, match="holds no adapted model"):
        load(vit())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    adapted = adapt("bitfit", vit())
    assert adapted.save is not None
    assert adapted.load is not None
    adapted.save(tmp_path)
    file = tmp_path / "adapted.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"adapted\.safetensors cannot be read"):
        adapted.load(tmp_path)


def test_attention_biases_that_a_network_keeps_between_passes_are_trained() -> None:
    source = MODELS["timm"](architecture="levit_128s", weights="random", image_size=64)
    lent = source.to_read()
    with torch.inference_mode():
        lent.module(torch.zeros(1, 3, 64, 64))  # keeps them

    adapted: Adapted = STRATEGIES["full"](source.load(), 2)

    trained = {name for group in adapted.groups for name in group.parameters}
    biases = {name for name, _ in adapted.model.named_parameters() if "attention_biases" in name}
    assert biases
    assert biases <= trained
    assert step_flops(adapted, lent.preprocessing, 4) > 0
    assert stored_bytes(adapted) > 4 * sum(adapted.model.get_parameter(n).numel() for n in trained)
