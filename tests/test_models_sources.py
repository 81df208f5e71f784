"""Each source of weights in its own file format, against its own library's forward pass."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from prognobench.models.source import backbone_source
from prognobench.models.weights import locate
from prognobench.records import Backbone, Preprocessing
from prognobench.registry import MODELS

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TINY: dict[str, Any] = {"num_classes": 0, "embed_dim": 32, "depth": 2, "num_heads": 2}


def load(path: Path, make: Callable[[], nn.Module]) -> Backbone:
    """Load a file into a network that the test makes, the way every builder does."""
    weights = locate(str(path))
    preprocessing = Preprocessing(64, (0.5,) * 3, (0.5,) * 3)
    return backbone_source(make, weights, preprocessing, (path.name,)).load()


def scramble(module: nn.Module) -> nn.Module:
    """Give every tensor values of its own, so that a swap of two would show."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(0.5 + noise if name.endswith("var") else 0.3 * (noise - 0.5) + tensor)
    return module.eval()


def pooled(backbone: Backbone, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return backbone.module(images)


def check(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape
    assert theirs.std() > 1e-3
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_torchvision(name: str, tmp_path: Path) -> None:
    theirs = scramble(getattr(torchvision.models, name)(weights=None))
    # torchvision's published DenseNet file has the older names.
    old = {
        k.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2.") if "dense" in k else k: v
        for k, v in theirs.state_dict().items()
    }
    torch.save(old, tmp_path / "published.pth")
    backbone = MODELS["timm"](
        architecture=f"{name}.tv_in1k", weights=str(tmp_path / "published.pth"), image_size=64
    ).load()
    for head in ("fc", "classifier"):
        if hasattr(theirs, head):
            setattr(theirs, head, nn.Identity())
    check(pooled(backbone), theirs(IMAGES))


def test_torchxrayvision(tmp_path: Path) -> None:
    xrv = importlib.import_module("torchxrayvision")
    theirs = scramble(xrv.models.DenseNet(num_classes=18))
    torch.save(theirs.state_dict(), tmp_path / "xrv.pt")
    source = MODELS["timm"](
        architecture="densenet121",
        weights=str(tmp_path / "xrv.pt"),
        image_size=224,
        mean=(0.5,),
        std=(1 / 2048,),
        channels="sum",
    )
    images = torch.rand(2, 1, 224, 224)
    expected = theirs.features2(images * 2048 - 1024)  # its range of input
    normalised = (images - source.preprocessing.mean[0]) / source.preprocessing.std[0]
    check(pooled(source.load(), normalised), expected)


def clip_config() -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 32,
    }


def test_transformers_clip(tmp_path: Path) -> None:
    transformers = importlib.import_module("transformers")
    text = clip_config() | {"vocab_size": 16, "num_hidden_layers": 1}
    config = transformers.CLIPConfig(vision_config=clip_config(), text_config=text)
    theirs = scramble(transformers.CLIPModel(config))
    theirs.save_pretrained(tmp_path)
    backbone = load(
        tmp_path / "model.safetensors",
        lambda: timm.create_model("vit_base_patch32_clip_quickgelu_224", img_size=64, **TINY),
    )
    output = theirs.vision_model(IMAGES)
    check(pooled(backbone), output.pooler_output)


def test_transformers_dinov2(tmp_path: Path) -> None:
    transformers = importlib.import_module("transformers")
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=5, num_attention_heads=2, image_size=70, patch_size=14
    )
    theirs = scramble(transformers.Dinov2Model(config))
    theirs.save_pretrained(tmp_path)
    tiny = TINY | {"depth": 5}
    backbone = load(
        tmp_path / "model.safetensors",
        lambda: timm.create_model("vit_base_patch14_dinov2", img_size=70, **tiny),
    )
    images = torch.randn(2, 3, 70, 70)
    output = theirs(images, output_hidden_states=True)
    check(pooled(backbone, images), output.last_hidden_state[:, 0])
    layers = backbone.module.features(images, tuple(backbone.layers))
    last = [theirs.layernorm(state)[:, 0] for state in output.hidden_states[-4:]]
    mean = output.last_hidden_state[:, 1:].mean(1)
    check(layers["last4"], torch.cat(last, -1))
    check(layers["last1+avg"], torch.cat((last[-1], mean), -1))
    check(layers["last4+avg"], torch.cat((*last, mean), -1))


@pytest.mark.parametrize("library", ["transformers", "original"])
def test_dinov2_with_registers(library: str, tmp_path: Path) -> None:
    transformers = importlib.import_module("transformers")
    tiny = TINY | {"img_size": 70, "depth": 2}
    ours = timm.create_model("vit_small_patch14_reg4_dinov2", **tiny)
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14
    )
    theirs = scramble(transformers.Dinov2WithRegistersModel(config))
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    images = torch.randn(2, 3, 70, 70)
    expected = theirs(images).last_hidden_state[:, 0]
    if library == "original":  # the authors' own file, in the names of their repository
        state = scramble(ours).state_dict()
        position = torch.cat((torch.zeros(1, 1, 32), state["pos_embed"]), 1)
        state |= {"mask_token": torch.zeros(1, 32), "pos_embed": position}
        state["register_tokens"] = state.pop("reg_token")
        file = tmp_path / "dinov2_reg4_pretrain.pth"
        torch.save(state, file)
        expected = ours(images)
    backbone = load(file, lambda: timm.create_model("vit_small_patch14_reg4_dinov2", **tiny))
    check(pooled(backbone, images), expected)


def test_transformers_siglip(tmp_path: Path) -> None:
    transformers = importlib.import_module("transformers")
    config = transformers.SiglipVisionConfig(**clip_config())
    theirs = scramble(transformers.SiglipVisionModel(config))
    theirs.save_pretrained(tmp_path)
    backbone = load(
        tmp_path / "model.safetensors",
        lambda: timm.create_model("vit_base_patch32_siglip_256", img_size=64, **TINY),
    )
    check(pooled(backbone), theirs(IMAGES).pooler_output)


SWIN = {"embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}


def swin() -> nn.Module:
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, img_size=64, **SWIN)


def test_medclip_vit(tmp_path: Path) -> None:
    transformers = importlib.import_module("transformers")
    theirs = scramble(transformers.SwinModel(transformers.SwinConfig(image_size=64, **SWIN)))
    theirs.save_pretrained(tmp_path)
    state = torch_state(tmp_path / "model.safetensors", "vision_model.model.")
    state["vision_model.projection_head.weight"] = torch.zeros(512, 32)
    torch.save(state, tmp_path / "pytorch_model.bin")
    backbone = load(tmp_path / "pytorch_model.bin", swin)
    check(pooled(backbone), theirs(IMAGES).pooler_output)
    assert backbone.roles["attention_qkv"][0] == "network.layers.0.blocks.0.attn.qkv"


def torch_state(path: Path, prefix: str) -> dict[str, Tensor]:
    """Put a safetensors file as a part into a two-tower model's state dict."""
    from safetensors.torch import load_file

    state = {prefix + key: value for key, value in load_file(path).items()}
    state["text_model.model.embeddings.word_embeddings.weight"] = torch.zeros(5, 4)
    state["text_model.model.encoder.layer.0.attention.self.query.weight"] = torch.zeros(4, 4)
    state["logit_scale"] = torch.zeros(())
    return state


def test_medclip_cnn(tmp_path: Path) -> None:
    theirs = scramble(torchvision.models.resnet50(weights=None))
    save_file(theirs.state_dict(), tmp_path / "tower.safetensors")
    state = torch_state(tmp_path / "tower.safetensors", "vision_model.model.")
    torch.save(state, tmp_path / "pytorch_model.bin")
    backbone = MODELS["timm"](
        architecture="resnet50", weights=str(tmp_path / "pytorch_model.bin"), image_size=64
    ).load()
    theirs.fc = nn.Identity()
    check(pooled(backbone), theirs(IMAGES))


TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 1, "layers": 1}


def test_open_clip_around_timm(tmp_path: Path) -> None:
    """A two-tower model whose image tower is timm's, as in BioMedCLIP."""
    open_clip = importlib.import_module("open_clip")
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear"}
    theirs = scramble(open_clip.model.CustomTextCLIP(16, {"image_size": 224} | vision, TEXT))
    torch.save(theirs.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    backbone = MODELS["timm"](
        architecture="vit_tiny_patch16_224",
        weights=str(tmp_path / "open_clip_pytorch_model.bin"),
        image_size=224,
    ).load()
    images = torch.randn(1, 3, 224, 224)
    check(theirs.visual.head(pooled(backbone, images)), theirs.visual(images))


def test_open_clip(tmp_path: Path) -> None:
    """OpenCLIP's own transformer, in OpenAI's names."""
    open_clip = importlib.import_module("open_clip")
    vision = {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 32}
    theirs = scramble(open_clip.model.CLIP(16, vision, TEXT, quick_gelu=True))
    torch.save(theirs.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    backbone = load(
        tmp_path / "open_clip_pytorch_model.bin",
        lambda: timm.create_model("vit_base_patch32_clip_quickgelu_224", img_size=64, **TINY),
    )
    theirs.visual.proj = None
    check(pooled(backbone), theirs.visual(IMAGES))
