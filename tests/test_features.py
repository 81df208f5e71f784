from __future__ import annotations

import os
import subprocess
import sys
import weakref
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import nn

from prognobench.frozen import bank
from prognobench.frozen.bank import View, embed
from prognobench.records import Backbone, BackboneSource, Preprocessing

PREPROCESSING = Preprocessing(8, (0.5,) * 3, (0.25,) * 3)
LAYERS = {"last1": 4, "last4": 8}


class TinyEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 4)

    def forward(self, images):
        return self.linear(images.flatten(1))

    def features(self, images, layers):
        pooled = self(images)
        every = {"last1": pooled, "last4": torch.cat([pooled, -pooled], 1)}
        return {layer: every[layer] for layer in layers}


@dataclass
class Images:
    array: np.ndarray
    digests: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.digests = self.digests or [
            f"digest-{image.tobytes()[:6].hex()}" for image in self.array
        ]

    def __getitem__(self, rows):
        return Images(self.array[rows], [self.digests[row] for row in rows])


class Counting:
    """A source that counts how often its backbone was loaded."""

    def __init__(self, fingerprint="weights-a", preprocessing=PREPROCESSING):
        self.loads = 0
        self.source = BackboneSource(fingerprint, preprocessing, self.load)

    def load(self):
        self.loads += 1
        torch.manual_seed(len(self.source.fingerprint))
        preprocessing = self.source.preprocessing
        return Backbone(TinyEncoder(), 4, preprocessing, {}, (), LAYERS, self.source.fingerprint)


@pytest.fixture(scope="module")
def images():
    return Images(np.random.default_rng(0).integers(0, 256, (70, 8, 8, 1)).astype(np.uint8))


def run(counting, images, folder, layers=("last1",), **more):
    settings = {"device": "cpu", "precision": "fp32", **more}
    return embed(counting.source, images, layers, folder=folder, **settings)


def test_features_are_what_the_backbone_gives(images, tmp_path):
    counting = Counting()

    found = run(counting, images, tmp_path, ("last4", "last1"))

    encoder = counting.load().module
    pixels = torch.from_numpy(images.array).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
    with torch.no_grad():
        expected = encoder.features((pixels / 255 - 0.5) / 0.25, ("last1", "last4"))
    assert list(found) == ["last4", "last1"]
    for layer, values in found.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected[layer].numpy(), rtol=1e-4, atol=1e-5)


def test_on_a_processor_the_backbone_is_read_where_it_lies(images, tmp_path):
    counting = Counting()
    lent = counting.load()
    before = {name: tensor.clone() for name, tensor in lent.module.state_dict().items()}
    source = replace(counting.source, lend=lambda: lent)
    counting.loads = 0

    settings = {"device": "cpu", "precision": "fp32"}
    found = embed(source, images, ("last1",), folder=tmp_path / "lent", **settings)
    expected = run(Counting(), images, tmp_path / "loaded")

    assert not counting.loads
    np.testing.assert_array_equal(found["last1"], expected["last1"])
    assert lent.module.state_dict().keys() == before.keys()
    for name, tensor in lent.module.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("most", [1, 5])
def test_batches_that_do_not_fit_in_memory_are_split(images, tmp_path, monkeypatch, most):
    expected = run(Counting(), images, tmp_path / "plenty")
    whole = TinyEncoder.features

    def scarce(self, batch, layers):
        assert len(batch)
        if len(batch) > most:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, batch, layers)

    monkeypatch.setattr(TinyEncoder, "features", scarce)
    found = run(Counting(), images, tmp_path / "scarce")
    np.testing.assert_allclose(found["last1"], expected["last1"], rtol=1e-5, atol=1e-6)


def test_tokens_of_a_batch_do_not_outlive_it(images, tmp_path):
    tokens = []

    class Transformer(TinyEncoder):
        def features(self, images, layers):
            room = np.empty((len(images), 9, 4), dtype=np.float32)
            tokens.append(weakref.ref(room))
            every = torch.from_numpy(room)
            every[:] = self(images)[:, None]
            return dict.fromkeys(layers, every[:, 0])

    backbone = replace(Counting().load(), module=Transformer(), layers={"last1": 4})
    source = BackboneSource("weights-a", PREPROCESSING, lambda: backbone)
    alive = []

    embed(
        source,
        images,
        ("last1",),
        folder=tmp_path,
        device="cpu",
        precision="fp32",
        progress=lambda *_: alive.append(sum(room() is not None for room in tokens)),
    )

    assert len(alive) > 2
    assert not any(alive)


def test_a_second_time_the_backbone_is_not_loaded(images, tmp_path):
    first, second = Counting(), Counting()
    found = run(first, images, tmp_path)

    again = run(second, images, tmp_path, ("", "last4", "unknown"))

    assert (first.loads, second.loads) == (1, 0)
    assert list(again) == ["", "last4"]
    assert np.array_equal(again[""], found["last1"])


def test_images_are_found_by_content_whatever_their_order(images, tmp_path):
    found = run(Counting(), images, tmp_path)["last1"]
    rows = np.random.default_rng(1).permutation(70)
    counting = Counting()

    again = run(counting, images[rows], tmp_path)["last1"]

    assert counting.loads == 0
    assert np.array_equal(again, found[rows])


def test_added_images_alone_are_computed(images, tmp_path, monkeypatch):
    first = run(Counting(), images[range(50)], tmp_path)["last1"]
    seen = []
    original = TinyEncoder.features
    monkeypatch.setattr(
        TinyEncoder,
        "features",
        lambda self, x, layers: seen.append(len(x)) or original(self, x, layers),
    )

    grown = run(Counting(), images, tmp_path)["last1"]

    assert sum(seen) == 20
    assert np.array_equal(grown[:50], first)


def test_the_same_image_twice_is_computed_once(images, tmp_path, monkeypatch):
    seen = []
    original = TinyEncoder.features
    monkeypatch.setattr(
        TinyEncoder,
        "features",
        lambda self, x, layers: seen.append(len(x)) or original(self, x, layers),
    )

    found = run(Counting(), images[[3, 5, 3, 3]], tmp_path)["last1"]

    assert sum(seen) == 2
    assert np.array_equal(found[0], found[3])


@pytest.mark.parametrize(
    "other",
    [
        Counting("weights-bb"),
        Counting(preprocessing=replace(PREPROCESSING, mean=(0.4,) * 3)),
    ],
)
def test_other_weights_or_preprocessing_are_other_features(images, tmp_path, other):
    found = run(Counting(), images, tmp_path)["last1"]

    assert not np.array_equal(run(other, images, tmp_path)["last1"], found)
    assert other.loads == 1


def test_precision_is_part_of_the_address(images, tmp_path):
    counting = Counting()
    fp32 = run(counting, images, tmp_path)["last1"]
    bf16 = run(counting, images, tmp_path, precision="bf16")["last1"]

    assert counting.loads == 2
    assert not np.array_equal(fp32, bf16)
    np.testing.assert_allclose(fp32, bf16, atol=0.1)


def test_views_are_fixed_and_follow_the_content(images, tmp_path):
    plain = run(Counting(), images, tmp_path / "a")["last1"]
    one = run(Counting(), images, tmp_path / "a", view=View(1, "strong"))["last1"]
    two = run(Counting(), images, tmp_path / "a", view=View(2, "strong"))["last1"]

    elsewhere = run(Counting(), images[range(69, -1, -1)], tmp_path / "b", view=View(1, "strong"))

    assert not np.array_equal(one, plain)
    assert not np.array_equal(one, two)
    np.testing.assert_allclose(elsewhere["last1"][::-1], one, rtol=1e-4, atol=1e-5)


def test_what_was_written_before_a_kill_is_not_computed_again(images, tmp_path, monkeypatch):
    class KilledError(BaseException):
        pass

    monkeypatch.setattr(bank, "SHARD_SIZE", 32)
    seen = []
    original = TinyEncoder.features

    def dying(self, x, layers):
        if len(seen) == 2:
            raise KilledError
        seen.append(len(x))
        return original(self, x, layers)

    monkeypatch.setattr(TinyEncoder, "features", dying)
    with pytest.raises(KilledError):
        run(Counting(), images, tmp_path)
    monkeypatch.setattr(TinyEncoder, "features", original)
    resumed = run(Counting(), images, tmp_path)["last1"]

    assert np.array_equal(resumed, run(Counting(), images, tmp_path / "whole")["last1"])
    stores = list((tmp_path / "features").iterdir())
    assert len(list(stores[0].glob("*.safetensors"))) == 3


def cut_short(content):
    return content[:1000]


def altered(content):
    return content[:-8] + bytes(byte ^ 1 for byte in content[-8:])


@pytest.mark.parametrize("damage", [cut_short, altered])
def test_a_damaged_file_is_made_anew_and_drafts_of_the_killed_go(images, tmp_path, damage):
    whole = run(Counting(), images, tmp_path)["last1"]
    (store,) = (folder for folder in (tmp_path / "features").iterdir() if folder.is_dir())
    (shard,) = store.glob("*.safetensors")
    draft = store / ".killed.123"
    draft.write_bytes(b"half")
    shard.write_bytes(damage(shard.read_bytes()))

    with pytest.warns(UserWarning, match=rf"{shard.name} is damaged"):
        again = run(Counting(), images, tmp_path)["last1"]

    assert np.array_equal(again, whole)
    assert not draft.exists()
    counting = Counting()
    assert np.array_equal(run(counting, images, tmp_path)["last1"], whole)
    assert counting.loads == 0


def test_a_folder_that_cannot_be_made_costs_the_bank_and_not_the_run(images, tmp_path):
    expected = run(Counting(), images, tmp_path / "elsewhere")["last1"]
    (tmp_path / "features").write_text("no folder")

    with pytest.warns(UserWarning, match="no features can be stored in"):
        found = run(Counting(), images, tmp_path)["last1"]

    assert np.array_equal(found, expected)


def test_a_full_disk_costs_the_bank_and_not_the_run(images, tmp_path, monkeypatch):
    expected = run(Counting(), images, tmp_path / "elsewhere")["last1"]

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.warns(UserWarning, match="No space left on device"):
            found = run(Counting(), images, tmp_path)["last1"]
    (store,) = (tmp_path / "features").iterdir()

    assert np.array_equal(found, expected)
    assert list(store.iterdir()) == []
    counting = Counting()
    assert np.array_equal(run(counting, images, tmp_path)["last1"], expected)
    assert counting.loads == 1


ELSEWHERE = """
import runpy, sys
from pathlib import Path
import numpy as np
test, pixels, folder, out = sys.argv[1:]
made = runpy.run_path(test)
counting = made["Counting"]()
found = made["run"](counting, made["Images"](np.load(pixels)), Path(folder))
np.savez(out, features=found["last1"], loads=counting.loads)
"""


def test_processes_share_the_bank(images, tmp_path):
    np.save(tmp_path / "pixels.npy", images.array)
    outs = [tmp_path / "0.npz", tmp_path / "1.npz"]
    shared = (__file__, tmp_path / "pixels.npy", tmp_path / "cache")
    processes = [
        subprocess.Popen([sys.executable, "-c", ELSEWHERE, *map(str, (*shared, out))])
        for out in outs
    ]
    assert [process.wait(120) for process in processes] == [0, 0]

    first, second = (np.load(out) for out in outs)
    assert np.array_equal(first["features"], second["features"])
    assert sorted([int(first["loads"]), int(second["loads"])]) == [0, 1]


def test_progress_counts_images(images, tmp_path):
    calls = []

    run(Counting(), images, tmp_path, progress=lambda *call: calls.append(call))

    assert calls[-1] == ("embedding", 70, 70)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
