"""The embedded backbones: shipped, stable, and better than random weights on unseen images."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open

from prognobench.datasets.synthetic.patients import ImageGenerator
from prognobench.errors import ConfigError, WeightsError
from prognobench.frozen.bank import embed
from prognobench.imaging.cache import Recipe, pixel_cache
from prognobench.models.embedded import ASSETS
from prognobench.registry import DATASETS, MODELS

build = MODELS["embedded"]
NETWORKS = ("vit", "cnn")


def test_the_shipped_weights_are_small_half_and_finite():
    assert sum(file.stat().st_size for file in ASSETS.iterdir()) < 8e6
    for network in NETWORKS:
        with safe_open(ASSETS / f"{network}.safetensors", "pt") as file:
            tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
        floating = [tensor for tensor in tensors if tensor.is_floating_point()]
        assert all(tensor.dtype == torch.float16 for tensor in floating)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in floating)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_backbone_is_small_and_in_float32(network):
    backbone = build(network=network).load()
    parameters = list(backbone.module.parameters())
    assert sum(parameter.numel() for parameter in parameters) < 1.3e6
    assert all(parameter.dtype == torch.float32 for parameter in parameters)
    look = backbone.preprocessing
    with torch.inference_mode():
        pooled = backbone.module(torch.zeros(2, look.channels, look.image_size, look.image_size))
    assert pooled.shape == (2, backbone.width)
    assert bool(torch.isfinite(pooled).all())
    assert ("convolution" in backbone.roles) == (network == "cnn")
    assert ("attention_qkv" in backbone.roles) == (network == "vit")


@pytest.mark.parametrize("network", NETWORKS)
def test_the_fingerprint_tells_weights_apart(network):
    shipped = build(network=network).fingerprint
    copied = build(network=network, weights=str(ASSETS / f"{network}.safetensors")).fingerprint
    assert shipped == build(network=network).fingerprint == copied
    random = {build(network=network, weights="random", seed=seed).fingerprint for seed in (0, 1)}
    assert len({shipped, *random}) == 3


@pytest.mark.parametrize("network", NETWORKS)
def test_another_side_keeps_the_weights(network):
    small, large = (
        build(network=network, image_size=image_size).load().module for image_size in (64, 96)
    )
    images = torch.from_numpy(ImageGenerator(seed=0, image_size=64)("P00001-1"))[None, None] / 255
    enlarged = torch.nn.functional.interpolate(images, size=96, mode="bilinear")
    with torch.inference_mode():
        alike = torch.cosine_similarity(small(images), large(enlarged))
    assert alike.item() > 0.5


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="not on a hub"):
        build(network="vit", weights="hub")
    with pytest.raises(ConfigError, match="patch of 8"):
        build(network="vit", image_size=68)
    with pytest.raises(WeightsError, match="no file"):
        build(network="cnn", weights="nowhere.safetensors")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    cohort = DATASETS["embedded"](
        task="severity", prevalence=0.47, patients=300, images_per_patient=1.0, seed=11
    )
    folder = tmp_path_factory.mktemp("cache")
    return cohort, pixel_cache(cohort, Recipe(64, "area"), folder), folder


@pytest.mark.parametrize("network", NETWORKS)
def test_a_frozen_probe_beats_the_same_on_random_weights(network, images):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    cohort, pixels, folder = images

    def probe(weights):
        source = build(network=network, weights=weights)
        found = embed(source, pixels, ("",), folder=folder, device="cpu", precision="fp32")[""]
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        label = cohort.table["label"]
        score = cross_val_predict(head, found, label, cv=5, method="predict_proba")[:, 1]
        return roc_auc_score(label, score)

    assert probe("embedded") > probe("random") + 0.08
