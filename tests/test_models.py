"""What every model promises, whichever family it is of: walks the registry and the YAMLs."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from prognobench.errors import ConfigError
from prognobench.frozen.bank import embed
from prognobench.imaging.cache import Pixels
from prognobench.models.weights import weights_here
from prognobench.records import Backbone, BackboneSource
from prognobench.registry import MODELS

CONFIGS = Path(__file__).parents[1] / "configs" / "model"
STUDY = {
    *("resnet18", "resnet50", "densenet121", "dinov2_small", "dinov2_base", "dinov2_large"),
    *("clip_large", "medclip_cnn", "medclip_vit", "pubmedclip", "biomedclip"),
}
ROLES = {
    *(f"attention_{part}" for part in ("qkv", "mixed", "query_key", "key_value")),
    *(f"attention_{part}" for part in ("query", "key", "value", "output")),
    *("feed_forward_in", "feed_forward_out", "convolution", "norm"),
}
SAME_AS_SMALLER = {
    *(f"{family}_large" for family in ("dinov2", "dinov3", "siglip2", "eva02")),
    "convnextv2_base",
}
"""Deeper siblings of a model that is run, which would only cost time."""
CARD = {"source", "licence", "paper", "parameters"}


def settings_of(name: str) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    if name == "timm":  # which of timm's is the user's to say
        settings["architecture"] = "resnet18.a1_in1k"
    return settings


def names() -> list[str]:
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def source_of(name: str, **changes: Any) -> BackboneSource:
    settings = settings_of(name) | {"weights": "random"} | changes
    for key in ("name", "card"):
        settings.pop(key)
    source: BackboneSource = MODELS[settings.pop("builder")](**settings)
    return source


@cache
def on_meta(name: str) -> Backbone:
    """Load without memory; of a seed of its own, so that no other test meets the empty module."""
    with torch.device("meta"):
        return source_of(name, seed=314159).load()


def images_for(backbone: Backbone, device: str) -> torch.Tensor:
    image_size, channels = backbone.preprocessing.image_size, backbone.preprocessing.channels
    return torch.zeros(2, channels, image_size, image_size, device=device)


def test_there_are_models() -> None:
    assert set(names()) >= STUDY
    assert len(MODELS) >= 2
    assert {settings_of(name)["builder"] for name in names()} == set(MODELS)


@pytest.mark.parametrize("name", names())
def test_card_and_settings(name: str) -> None:
    settings = settings_of(name)
    assert settings.pop("name") in (name, "???")
    assert set(settings.pop("card")) == CARD
    builder = MODELS[settings.pop("builder")]
    assert set(settings) <= set(builder.settings)
    assert weights_here(settings) in (True, False, None)


@pytest.mark.parametrize("name", names())
def test_card_counts_parameters(name: str) -> None:
    declared = settings_of(name)["card"]["parameters"]
    if name != "timm":
        counted = sum(tensor.numel() for tensor in on_meta(name).module.parameters())
        assert counted / 1e6 == pytest.approx(declared, abs=0.06)


@pytest.mark.parametrize("name", names())
def test_names_resolve(name: str) -> None:
    backbone = on_meta(name)
    assert backbone.roles
    assert set(backbone.roles) <= ROLES
    for submodules in [*backbone.roles.values(), backbone.blocks]:
        assert submodules
        assert len(set(submodules)) == len(submodules)
        for submodule in submodules:
            backbone.module.get_submodule(submodule)
    order = [name for name, _ in backbone.module.named_modules()]
    for submodules in backbone.roles.values():
        assert [name for name in order if name in submodules] == list(submodules)
    assert "convolution" in backbone.roles or "attention_output" in backbone.roles


@pytest.mark.parametrize("name", [name for name in names() if name not in SAME_AS_SMALLER])
def test_shapes(name: str) -> None:
    backbone = on_meta(name)
    images = images_for(backbone, "meta")
    assert next(iter(backbone.layers)) == "last1"
    assert backbone.layers["last1"] == backbone.width
    with torch.inference_mode():
        layers = backbone.module.features(images, tuple(backbone.layers))
        assert {layer: tuple(x.shape) for layer, x in layers.items()} == {
            layer: (2, width) for layer, width in backbone.layers.items()
        }
        assert backbone.module(images).shape == (2, backbone.width)
        class_token, patches = backbone.module.tokens(images)
    assert patches.ndim == 3
    assert class_token is None or class_token.shape == (2, patches.shape[-1])


@pytest.mark.parametrize("name", names())
def test_preprocessing_is_declared_before_loading(name: str) -> None:
    source = source_of(name)
    preprocessing = source.preprocessing
    assert len(preprocessing.mean) == len(preprocessing.std) in (1, 3)
    assert all(0 < value < 1 for value in (*preprocessing.mean, *preprocessing.std))
    assert source.fingerprint == source_of(name).fingerprint
    assert source.fingerprint != source_of(name, seed=1).fingerprint
    assert "random" in source.origin


SMALL = {"resnet18": 64, "efficientnet_lite0": 64, "dinov3_small": 64, "vit": 64, "cnn": 64}


@pytest.mark.parametrize("name", SMALL)
def test_features_are_finite_and_the_pooled_one_comes_first(name: str) -> None:
    backbone = source_of(name, image_size=SMALL[name]).load()
    assert not backbone.module.training
    assert {tensor.dtype for tensor in backbone.module.parameters()} == {torch.float32}
    images = torch.randn(2, backbone.preprocessing.channels, SMALL[name], SMALL[name])
    with torch.inference_mode():
        pooled = backbone.module(images)
        layers = backbone.module.features(images, tuple(backbone.layers))
    assert all(torch.isfinite(layer).all() for layer in layers.values())
    torch.testing.assert_close(layers["last1"], pooled)
    assert not torch.allclose(pooled[0], pooled[1])


def test_separate_projections_change_nothing_but_the_names() -> None:
    tiny = {"architecture": "vit_tiny_patch16_224", "image_size": 64}
    fused, separate = source_of("timm", **tiny), source_of("timm", qkv="separate", **tiny)
    assert fused.fingerprint != separate.fingerprint
    one, other = fused.load(), separate.load()
    assert "attention_qkv" not in other.roles
    queries = other.roles["attention_query"]
    assert len(queries) == len(one.roles["attention_qkv"]) == len(one.blocks)
    assert other.module.get_submodule(queries[0]).weight.shape == (one.width, one.width)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(other.module(images), one.module(images))


@pytest.mark.parametrize("architecture", ["beit_base_patch16_224", "resnet18"])
def test_projections_that_cannot_be_taken_apart(architecture: str) -> None:
    source = source_of("timm", architecture=architecture, qkv="separate")
    with torch.device("meta"), pytest.raises(ConfigError, match="set 'fused'"):
        source.load()


def test_loads_are_equal_and_independent() -> None:
    source = source_of("resnet18")
    first, second = source.load(), source.load()
    with torch.no_grad():
        for parameter in first.module.parameters():
            parameter.zero_()
    third = source.load()
    for before, after in zip(second.module.parameters(), third.module.parameters(), strict=True):
        assert torch.equal(before, after)
    assert any(parameter.any() for parameter in third.module.parameters())


def test_reading_a_backbone_takes_no_copy_and_loads_are_not_it() -> None:
    source = source_of("resnet18")
    lent, loaded = source.to_read(), source.load()
    assert source.to_read().module is lent.module
    for one, other in zip(lent.module.parameters(), loaded.module.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()


def test_random_weights_leave_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    source_of("resnet18", seed=77).load()
    assert torch.rand(1) == expected


def test_no_siglip_class_token_is_made_up() -> None:
    backbone = on_meta("siglip2_base")
    assert list(backbone.layers) == ["last1", "last1+avg"]
    assert backbone.module.tokens(images_for(backbone, "meta")).class_token is None


def test_own_pooling_replaces_the_class_token() -> None:
    tiny = {"architecture": "vit_tiny_patch16_224", "image_size": 64, "seed": 1}
    with torch.device("meta"):
        backbone, own = (source_of("timm", pooling=p, **tiny).load() for p in ("auto", "own"))
    assert set(own.layers) < set(backbone.layers)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "dinov2_small", "image_size": 200},
            "not a multiple of .* 14 pixels; set 196 or 210",
        ),
        (
            {"name": "medsiglip", "image_size": 450},
            "not a multiple of .* 14 pixels; set 448 or 462",
        ),
        (
            {"name": "vit", "weights": "embedded", "image_size": 100},
            "not a multiple of .* 8 pixels; set 96 or 104",
        ),
        # Names that do not tell their patch.
        ({"name": "timm", "architecture": "levit_128", "image_size": 100}, "set 96 or 128 or 224"),
        ({"name": "timm", "architecture": "crossvit_9_240", "image_size": 224}, "set 240"),
    ],
)
def test_a_side_that_a_network_does_not_take(settings: dict[str, Any], message: str) -> None:
    """Weights that do not lie here are neither looked for nor loaded for that."""
    with pytest.raises(ConfigError, match=message):
        source_of(**{"weights": "hub"} | settings)


def test_a_cnn_takes_any_side() -> None:
    assert source_of("timm", image_size=100).preprocessing.image_size == 100


@pytest.mark.parametrize("name", ["medsiglip", "siglip2_base"])
def test_activation_is_the_one_that_the_weights_were_trained_with(name: str) -> None:
    network = on_meta(name).module.network
    pooling, blocks = network.attn_pool.mlp, network.blocks
    values = torch.linspace(-3, 3, 20)
    expected = torch.nn.functional.gelu(values, approximate="tanh")
    for feed_forward in (pooling, blocks[0].mlp):
        assert torch.equal(feed_forward.act(values), expected)


def test_a_frozen_pass_keeps_nothing_for_gradients(tmp_path: Path) -> None:
    source = source_of("timm", architecture="vit_tiny_patch16_224", image_size=32, seed=5)
    kept: list[torch.Size] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.shape)
        return tensor

    pixels = Pixels(np.zeros((3, 32, 32, 1), np.uint8), ("a", "b", "c"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = embed(source, pixels, ("",), folder=tmp_path, device="cpu", precision="fp32")
        assert features[""].shape == (3, 192)
        assert not kept
        source.load().module(torch.zeros(1, 3, 32, 32))
        assert kept  # as any pass does that is not frozen


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("resnet19", "timm has no 'resnet19'. Did you mean 'resnet18'"),
        ("resnet18.a7_in1k", "timm's resnet18 has no weights 'a7_in1k'. Did you mean"),
    ],
)
def test_an_unknown_architecture(architecture: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source_of("timm", architecture=architecture)


def test_remote_code_cannot_be_asked_for() -> None:
    assert not any("remote" in name or "trust" in name for name in MODELS["timm"].settings)


def test_a_source_needs_no_torch() -> None:
    """Listing and config checks must stay quick."""
    program = f"""
import json, sys, yaml
from pathlib import Path
from prognobench.registry import MODELS
from prognobench.models.weights import weights_here
for path in Path({str(CONFIGS)!r}).glob("*.yaml"):
    settings = yaml.safe_load(path.read_text())
    weights_here(settings)
    del settings["card"], settings["name"]
    if path.stem != "timm":
        MODELS[settings.pop("builder")](**settings | {{"weights": "random"}})
print(json.dumps([name for name in ("torch", "timm", "transformers") if name in sys.modules]))
"""
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(output.stdout) == []
