"""Every strategy that trains a backbone, on a CNN and a transformer: does it what it says?"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from made_backbones import BACKBONES, images
from peft import PeftModel
from sklearn.metrics import matthews_corrcoef
from torch import nn

from prognobench.cli.compose import compose
from prognobench.cli.config_files import options
from prognobench.errors import NotApplicableError
from prognobench.records import Adapted, Component
from prognobench.registry import STRATEGIES

MOVED_AT_START = {"ssf", "visual_prompts"}
"""Builders that change the output before training, as their papers do."""


@cache
def choices() -> dict[str, Component]:
    """Every YAML whose strategy trains the backbone, by name."""
    configs = compose([f"strategy={','.join(options('strategy'))}"], multirun=True)
    return {
        config.strategy.name: config.strategy
        for config in configs
        if STRATEGIES[config.strategy.builder].produces == "Adapted"
    }


def build(name: str, backbone: str, seed: int = 0) -> Adapted | None:
    """Apply a strategy to a fresh backbone; ``None`` where it says that it cannot be."""
    torch.manual_seed(seed)
    choice = choices()[name]
    made = BACKBONES[backbone]()
    torch.manual_seed(seed)
    try:
        adapted: Adapted = STRATEGIES[choice.builder](made, 2, **choice.settings)
    except NotApplicableError:
        return None
    if backbone == "cnn":
        # As the engine does with CNNs.
        adapted.model.to(memory_format=torch.channels_last)
    return adapted


def train(adapted: Adapted, steps: int, lr: float | None = None, head_lr: float = 1e-2) -> None:
    """Take steps as the engine does, on 16 images in two classes."""
    named = dict(adapted.model.named_parameters())
    optimiser = torch.optim.AdamW(
        [
            {
                "params": [named[name] for name in group.parameters],
                "lr": head_lr if group.role == "head" else lr or group.lr,
                "weight_decay": 0.01 if group.weight_decay is None else group.weight_decay,
            }
            for group in adapted.groups
        ]
    )
    x, y = images(16), torch.arange(16) % 2
    torch.manual_seed(3)
    for _ in range(steps):
        adapted.model.train()
        optimiser.zero_grad()
        nn.functional.cross_entropy(adapted.model(x), y).backward()
        optimiser.step()
    adapted.model.eval()


def mcc(adapted: Adapted) -> float:
    adapted.model.eval()
    with torch.no_grad():
        predicted = adapted.model(images(16)).argmax(1)
    return float(matthews_corrcoef(torch.arange(16) % 2, predicted))


def first_of(builder: str) -> str:
    return next(name for name, choice in choices().items() if choice.builder == builder)


pairs = pytest.mark.parametrize("backbone", list(BACKBONES))
names = pytest.mark.parametrize("name", list(choices()))
variants = pytest.mark.parametrize("name", [n for n in choices() if "_study" not in n])
builders = pytest.mark.parametrize("builder", sorted({c.builder for c in choices().values()}))


def test_there_are_strategies_and_each_applies_somewhere() -> None:
    trained = {builder for builder, part in STRATEGIES.items() if part.produces == "Adapted"}
    assert trained == {choice.builder for choice in choices().values()}
    assert len(trained) > 10


@names
def test_each_strategy_applies_to_a_transformer(name: str) -> None:
    assert build(name, "vit") is not None


@pairs
@names
def test_starts_at_the_frozen_model_and_changes_what_it_declares(name: str, backbone: str) -> None:
    if (adapted := build(name, backbone)) is None:
        return
    adapted.model.eval()
    with torch.no_grad():
        frozen, given = BACKBONES[backbone]().module(images()), adapted.model.encoder(images())
    same = torch.allclose(given, frozen, rtol=1e-4, atol=1e-5)
    assert same == (choices()[name].builder not in MOVED_AT_START)
    declared = [n for group in adapted.groups for n in group.parameters]
    required = [n for n, p in adapted.model.named_parameters() if p.requires_grad]
    assert len(declared) == len(set(declared))
    assert sorted(declared) == sorted(required)
    before = deepcopy(adapted.model.state_dict())
    # Factors that start at zero pass no gradient to their partners in the first step.
    train(adapted, steps=3)
    after = adapted.model.state_dict()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    trained_norms = {
        f"{prefix}.{buffer}"
        for prefix, module in adapted.model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and all(p.requires_grad for p in module.parameters())
        for buffer, _ in module.named_buffers()
    }
    assert changed == set(declared) | trained_norms


@pairs
@builders
def test_the_same_seed_gives_the_same_model(builder: str, backbone: str) -> None:
    first, second = (build(first_of(builder), backbone) for _ in range(2))
    if first is None or second is None:
        return
    for adapted in (first, second):
        train(adapted, steps=2)
    for one, other in zip(
        first.model.state_dict().values(), second.model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
@pairs
@variants
def test_saved_loaded_and_merged_predict_the_same(name: str, backbone: str, tmp_path: Path) -> None:
    adapted, again = build(name, backbone), build(name, backbone, seed=5)
    if adapted is None or again is None or adapted.save is None or again.load is None:
        return
    train(adapted, steps=3, lr=1e-2)
    adapted.save(tmp_path)
    again.load(tmp_path)
    assert all(file.suffix in (".json", ".safetensors") for file in tmp_path.iterdir())
    again.model.eval()
    with torch.no_grad():
        expected = adapted.model(images())
        assert torch.equal(again.model(images()), expected)
        if (tmp_path / "adapter_config.json").exists():
            opened = PeftModel.from_pretrained(BACKBONES[backbone]().module, str(tmp_path)).eval()
            logits = adapted.model.head(opened(images()))
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
        if adapted.merge is not None:
            merged = adapted.merge()
            torch.testing.assert_close(merged(images()), expected, rtol=1e-3, atol=1e-4)
            assert torch.equal(adapted.model(images()), expected)
            own = BACKBONES[backbone]().module.state_dict()
            assert own.keys() <= merged.encoder.state_dict().keys()


@pairs
@builders
def test_learns_sixteen_images_by_heart(builder: str, backbone: str) -> None:
    if (adapted := build(first_of(builder), backbone)) is None:
        return
    for _ in range(8):
        train(adapted, steps=20, head_lr=5e-2)
        if mcc(adapted) == 1:
            return
    pytest.fail(f"MCC {mcc(adapted):.2f} after 160 steps")
