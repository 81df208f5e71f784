"""Strategies on networks that are built otherwise than a plain transformer or ResNet."""

from __future__ import annotations

from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from made_backbones import IMAGE_SIZE, cnn, images, vit, wrap
from timm.layers import GatedMlp, StdConv2d
from timm.models.mlp_mixer import MlpMixer, SpatialGatingBlock
from torch import nn

from prognobench.errors import ConfigError, NotApplicableError
from prognobench.records import Adapted, Backbone
from prognobench.registry import MODELS, STRATEGIES
from prognobench.strategies.layers.wrappers import ScaledShifted

ROOT = Path(__file__).parents[1]


def made(architecture: str, **changes: Any) -> Backbone:
    torch.manual_seed(1)
    return wrap(timm.create_model(architecture, num_classes=0, **changes))


def mixer(**changes: Any) -> Backbone:
    torch.manual_seed(1)
    settings = {"num_classes": 0, "patch_size": 8, "embed_dim": 16, "num_blocks": 2}
    return wrap(MlpMixer(img_size=IMAGE_SIZE, **settings, **changes))


def adapt(name: str, backbone: Backbone, **settings: Any) -> Adapted:
    torch.manual_seed(0)
    adapted: Adapted = STRATEGIES[name](backbone, 2, **settings)
    return adapted


def adapted_layers(adapted: Adapted) -> set[str]:
    return {n for n, module in adapted.model.named_modules() if hasattr(module, "lora_A")}


# ------------------------------------------------------------------ roles


@pytest.mark.parametrize(
    ("architecture", "role", "ending", "count"),
    [
        ("mixer_s32_224", "feed_forward_in", "mlp_tokens.fc1", 8),
        ("resmlp_12_224", "feed_forward_out", "mlp_channels.fc2", 12),
        ("levit_128s", "attention_mixed", "attn.qkv.linear", 9),
        ("levit_128s", "feed_forward_out", "mlp.ln2.linear", 11),
        ("convit_tiny", "attention_query_key", "attn.qk", 10),
        ("tnt_s_legacy_patch16_224", "attention_query_key", "attn_out.qk", 12),
        ("coat_tiny", "attention_qkv", "factoratt_crpe.qkv", 8),
        ("pvt_v2_b0", "attention_key_value", "attn.kv", 8),
        ("twins_svt_small", "attention_query", "attn.q", 9),
        ("gcvit_xxtiny", "attention_key_value", "attn.qkv", 6),
        ("tiny_vit_5m_224", "attention_mixed", "attn.qkv", 10),
        ("maxvit_pico_rw_256", "attention_mixed", "attn.qkv", 22),
        ("crossvit_tiny_240", "attention_value", "attn.wv", 6),
        ("cait_xxs24_224", "attention_query", "attn.q", 2),
        ("vitamin_small_224", "feed_forward_out", "mlp.w2", 14),
    ],
)
def test_matrices_of_other_families_have_their_roles(
    architecture: str, role: str, ending: str, count: int
) -> None:
    with torch.device("meta"):
        roles = made(architecture).roles
    assert len([name for name in roles[role] if name.endswith(ending)]) == count


@pytest.mark.parametrize(
    ("architecture", "first", "last"),
    [
        ("densenet121", "features.denseblock1", "features.denseblock4"),
        ("pit_xs_224", "transformers.0", "transformers.2"),
        ("nest_tiny", "levels.0", "levels.2"),
        ("tresnet_m", "body.conv1", "body.layer4"),
        ("volo_d1_224", "network.0", "network.4"),
        ("resnet18", "layer1", "layer4"),
    ],
)
def test_blocks_are_what_holds_matrices(architecture: str, first: str, last: str) -> None:
    with torch.device("meta"):
        blocks = made(architecture).blocks
    assert (blocks[0], blocks[-1]) == (f"network.{first}", f"network.{last}")


def test_a_matrix_sorted_by_head_is_not_separated() -> None:
    backbone = made("levit_128s", img_size=IMAGE_SIZE)
    assert "attention_qkv" not in backbone.roles
    notes = adapt("lora", backbone, separate_qkv=True).notes
    assert "LoRA: one adapter on each fused query-key-value matrix" in notes


# ------------------------------------------------------------------ what is adapted


def test_adapters_reach_the_blocks_of_a_mixer() -> None:
    names = adapted_layers(adapt("lora", mixer()))
    assert {name.rpartition("blocks.")[2] for name in names if "blocks" in name} == {
        f"{block}.{part}.{layer}"
        for block in range(2)
        for part in ("mlp_tokens", "mlp_channels")
        for layer in ("fc1", "fc2")
    }


@pytest.mark.parametrize("strategy", ["lora", "ia3", "low_rank_product"])
def test_a_strategy_that_reaches_only_the_stem_is_not_applicable(strategy: str) -> None:
    settings: dict[str, Any] = {"targets": ("convolution",)}
    if strategy == "ia3":
        settings = {"scale_outputs": ("convolution",), "scale_inputs": ()}
    with pytest.raises(NotApplicableError, match=r"only its stem or head does \(network.stem"):
        adapt(strategy, mixer(), **settings)


@pytest.mark.parametrize("strategy", ["lora", "ia3", "ssf"])
def test_networks_may_ask_an_adapted_convolution_for_its_shape(strategy: str) -> None:
    """timm's DaViT pads by the kernel of its downsampling."""
    small = {"depths": (1, 1), "embed_dims": (16, 32), "num_heads": (2, 2), "window_size": 2}
    adapted = adapt(strategy, made("davit_tiny", **small))
    x = images()
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if parameter.requires_grad and "head" not in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        expected = adapted.model.eval()(x)
        assert adapted.merge is not None
        torch.testing.assert_close(adapted.merge().eval()(x), expected, rtol=1e-3, atol=1e-3)


def test_matrices_without_a_role_are_noted() -> None:
    gated = {"block_layer": SpatialGatingBlock, "mlp_layer": GatedMlp, "mlp_ratio": 4}
    notes = " ".join(adapt("lora", mixer(**gated)).notes)
    assert "2 matrices in the blocks have no known role" in notes
    assert "mlp_channels.gate.proj" in notes
    assert "role" not in " ".join(adapt("lora", vit()).notes + adapt("lora", cnn()).notes)


def test_blocks_without_an_adapter_are_counted() -> None:
    backbone = vit()
    feed_forward = [name for name in backbone.roles["feed_forward_in"] if "blocks.0" in name]
    roles = {"feed_forward_in": tuple(feed_forward)}
    some = Backbone(**{**vars(backbone), "roles": roles})
    (reach, _) = adapt("lora", some, targets=("feed_forward",)).notes
    count = len(backbone.blocks)
    assert reach.startswith(f"LoRA reaches 1 of {count} blocks (not {backbone.blocks[1]}")
    assert "reaches" not in " ".join(adapt("lora", vit()).notes)


@pytest.mark.parametrize("strategy", ["lora", "low_rank_product"])
def test_a_matrix_below_the_rank_is_left_out_with_a_note(strategy: str) -> None:
    backbone = cnn()
    rank = 17  # the convolutions of the last stage have 32 channels, the others 16
    large = [
        name
        for name in backbone.roles["convolution"]
        if min(backbone.module.get_parameter(f"{name}.weight").flatten(1).shape) >= rank
    ]
    assert 0 < len(large) < len(backbone.roles["convolution"])
    adapted = adapt(strategy, backbone, rank=rank)
    wrapped = {n for n, m in adapted.model.encoder.named_modules() if hasattr(m, "base_layer")}
    assert wrapped == set(large)
    assert f"of a rank below {rank} are not adapted (network." in " ".join(adapted.notes)
    with pytest.raises(ConfigError, match=r"rank=33 is larger .*: set 32 at most"):
        adapt(strategy, cnn(), rank=33)


def test_prompts_need_room_beside_the_positions() -> None:
    small = {"img_size": IMAGE_SIZE, "embed_dim": 32, "num_heads": 2, "depth": 2}
    with pytest.raises(NotApplicableError, match="so many as it has positions for"):
        adapt("visual_prompts", made("beit_base_patch16_224", **small))


def test_prompts_need_one_sequence_of_tokens() -> None:
    two_branches = made("crossvit_tiny_240")
    preprocessing = MODELS["timm"](architecture="crossvit_tiny_240", weights="random").preprocessing
    two_branches = Backbone(**{**vars(two_branches), "preprocessing": preprocessing})
    with pytest.raises(NotApplicableError, match="one sequence of tokens"):
        adapt("visual_prompts", two_branches)


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("beit_base_patch16_224", {}),
        ("eva02_tiny_patch14_224", {"qkv_fused": True}),
    ],
)
def test_attention_that_only_reads_its_matrix_is_made_to_call_it(
    architecture: str, changes: dict[str, Any], separate: bool
) -> None:
    small = {"img_size": IMAGE_SIZE, "embed_dim": 32, "num_heads": 2, "depth": 2, **changes}
    backbone = made(architecture, patch_size=16, **small)
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        before = backbone.module(images())
        adapted = adapt("lora", backbone, separate_qkv=separate)
        after = adapted.model.encoder.eval()(images())
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    names = adapted_layers(adapted)
    endings = ("qkv.query", "qkv.value") if separate else ("attn.qkv",)
    assert all(any(name.endswith(end) for name in names) for end in endings)
    assert "does not call" not in " ".join(adapted.notes)


# ------------------------------------------------------------------ merging


def test_scales_are_merged_exactly_or_not_trained() -> None:
    settings = {
        "depths": (1, 1, 1, 1),
        "dims": (16, 16, 32, 32),
        "use_grn": True,
        "ls_init_value": None,
    }
    backbone = made("convnextv2_atto", **settings)
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    adapted = adapt("ssf", backbone, std=0.3)
    assert "4 layers are not scaled" in " ".join(adapted.notes)
    assert "grn" in " ".join(adapted.notes)
    model, x = adapted.model.double().eval(), images().double()
    assert adapted.merge is not None
    with torch.no_grad():
        torch.testing.assert_close(adapted.merge().eval()(x), model(x))


@pytest.mark.parametrize("backbone", [cnn, vit])
def test_usual_layers_are_all_scaled(backbone: Any) -> None:
    adapted = adapt("ssf", backbone())
    layers = [
        module
        for module in adapted.model.encoder.modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm | nn.BatchNorm2d)
    ]
    wrapped = [m for m in adapted.model.encoder.modules() if isinstance(m, ScaledShifted)]
    assert len(wrapped) == len(layers) > 0
    assert not adapted.notes


@pytest.mark.parametrize("strategy", ["lora", "ia3"])
def test_adapters_on_standardised_convolutions_are_not_merged(strategy: str) -> None:
    settings = {"layers": (1, 1), "channels": (16, 32), "stem_chs": 16}
    backbone = made("resnetv2_50", conv_layer=StdConv2d, **settings)
    adapted = adapt(strategy, backbone)
    assert adapted.merge is None
    assert "cannot be merged, since their layers change their weights" in " ".join(adapted.notes)
    assert adapt(strategy, made("resnetv2_50", **settings)).merge is not None


def test_a_stem_called_base_layer_is_no_adapter() -> None:
    """timm's DLA has one."""
    model = adapt("full", made("dla46x_c")).model.train()
    assert all(module.training for module in model.modules())
    adapted = adapt("lora", made("dla46x_c"), rank=2)
    adapted.model.train()
    assert not adapted.model.encoder.network.training
    x = images()
    with torch.no_grad():
        for name, parameter in adapted.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        expected = adapted.model.eval()(x)
        assert adapted.merge is not None
        merged = adapted.merge().eval()
        torch.testing.assert_close(merged(x), expected, rtol=1e-4, atol=1e-4)
    assert merged.state_dict().keys() == adapt("full", made("dla46x_c")).model.state_dict().keys()


# ------------------------------------------------------------------ timm's families


@cache
def walk() -> Any:
    """The script that tries every family with every strategy."""
    loader = SourceFileLoader("walk_families", str(ROOT / "scripts" / "walk-families"))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@cache
def trained_strategies() -> Any:
    return walk().trained_strategies()


def test_the_walk_knows_every_family() -> None:
    with_networks = {module for module in timm.list_modules() if timm.list_models(module=module)}
    assert set(walk().FAMILIES) == with_networks


@pytest.mark.parametrize(
    ("family", "strategy", "result"),
    [
        ("levit", "lora", "trained"),
        ("mlp_mixer", "ia3", "trained"),
        ("mobilevit", "lokr", "trained"),
        ("starnet", "dora", "trained"),
        ("edgenext", "oft", "trained"),
        ("xcit", "adaptformer", "trained"),
        ("dla", "ssf", "trained"),
        ("nfnet", "ssf", "trained"),
        ("pvt_v2", "ln_tuning", "trained"),
        ("coat", "vpt_deep", "refused"),
        ("ghostnet", "vera", "refused"),
    ],
)
def test_a_pair_trains_is_saved_loaded_and_merged_or_says_why_not(
    family: str, strategy: str, result: str
) -> None:
    found, reason, _ = walk().try_pair(family, trained_strategies()[strategy])
    assert found == result, reason
    assert bool(reason) == (result == "refused")


def test_adapters_behind_frozen_zeros_are_noted() -> None:
    torch.manual_seed(0)
    # Its residual branches end in a norm whose scale begins at zero.
    stopped = adapt("lora", made("resnet18", zero_init_last=True))
    (note,) = [note for note in stopped.notes if "never trained" in note]
    assert note.startswith("32 adapter tensors")
    moving = adapt("lora", made("resnet18", zero_init_last=False))
    assert not [note for note in moving.notes if "never trained" in note]
    assert all(p.requires_grad for n, p in stopped.model.named_parameters() if "lora_" in n)
