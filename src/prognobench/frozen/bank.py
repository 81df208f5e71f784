"""The embedding bank: an image passes through a frozen backbone once, ever.

Features lie in ``<folder>/features/<store>/*.safetensors``: one store for each backbone,
preprocessing, precision and augmented view, in which an image is found by the digest of its
content. A store grows by whole files that are renamed into place, so readers need no lock, and a
kill or a full disk leaves nothing broken behind.
"""

from __future__ import annotations

import hashlib
import json
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch

from prognobench.errors import StoreError
from prognobench.files import read_json, write_bytes, write_json
from prognobench.imaging.augment import Augmentation
from prognobench.records import BackboneSource, Progress, Train
from prognobench.seeds import derive
from prognobench.training.hardware import (
    Precision,
    autocast,
    in_parts,
    memory_format,
    resolve_precision,
)
from prognobench.training.loader import Loader
from prognobench.workers import hold

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

Features = dict[str, "NDArray[np.float32]"]

BATCH_SIZE, BATCH_SIZE_CPU = 64, 16
"""Larger batches are no faster on a processor, and take more memory."""

SHARD_SIZE = 8 * BATCH_SIZE
"""After so many images what was computed is written; a multiple of the batch sizes."""


@dataclass(frozen=True)
class Shard:
    """Features of some images: layer -> ``(images, width)``, the pooled feature first."""

    digests: Sequence[str]
    features: Mapping[str, NDArray[np.float32]]


class Images(Protocol):
    """uint8 pixels ``(images, size, size, channels)``, and a digest of each image's content."""

    @property
    def array(self) -> NDArray[np.uint8]: ...
    @property
    def digests(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class View:
    """One of several fixed augmented views of every image; number 0 is the image itself."""

    number: int = 0
    level: Literal["none", "light", "strong"] = "light"
    horizontal_flip: bool = False


PLAIN = View()


def view_of(number: int, recipe: Train) -> View:
    """Return one of the views that a recipe's augmentation makes."""
    return View(number, recipe.augmentation, recipe.horizontal_flip) if number else PLAIN


def embed(
    source: BackboneSource,
    pixels: Images,
    layers: Sequence[str],
    *,
    folder: Path,
    device: torch.device | str,
    precision: Precision,
    view: View = PLAIN,
    progress: Progress | None = None,
) -> Features:
    """Return features of every image, computed for those that the bank does not know.

    If it knows all of them, the backbone is not loaded.

    Parameters
    ----------
    layers
        Which features; ``""`` is the pooled one. A layer that the backbone lacks is left out.
    folder
        Of the cache. Processes that need the same features at the same time wait for each other.

    Returns
    -------
    dict
        Feature layer, as it was asked for -> ``(images, width)``.
    """
    device = torch.device(device)
    resolved = resolve_precision(precision, device)
    store = folder / "features" / _store_name(source, resolved, view)
    shards = _read_shards(store)
    if _unknown(pixels.digests, shards):
        with _lock_store(store) as writable:
            # Again, since another process may have computed them while this one waited.
            shards = _read_shards(store)
            unknown = _unknown(pixels.digests, shards)
            for shard in _compute(
                source,
                pixels,
                unknown,
                view,
                device=device,
                precision=resolved,
                progress=progress,
            ):
                if writable:
                    _write_shard(store, shard)
                shards.append(shard)
    return _collect(pixels.digests, shards, layers)


def not_embedded(
    source: BackboneSource,
    digests: Sequence[str],
    *,
    folder: Path,
    device: torch.device | str,
    precision: Precision,
    view: View,
) -> set[tuple[str, str]]:
    """Return what :func:`embed` would have to compute: pairs of a store's name and a digest."""
    store = _store_name(source, resolve_precision(precision, torch.device(device)), view)
    known = _stored_digests(folder / "features" / store)
    return {(store, digest) for digest in digests if digest not in known}


@dataclass(frozen=True)
class BackboneFacts:
    """What can be known of a backbone without loading it again."""

    parameters: int
    layers: tuple[str, ...]


def backbone_facts(source: BackboneSource, folder: Path) -> BackboneFacts:
    """Return the facts of a backbone, which is loaded for that once, ever.

    Parameters
    ----------
    folder
        Of the cache.
    """
    name = hashlib.sha256(source.fingerprint.encode()).hexdigest()[:20]
    file = folder / "features" / f"{name}.json"
    with suppress(StoreError, KeyError, TypeError):
        known = read_json(file)
        return BackboneFacts(int(known["parameters"]), tuple(known["layers"]))
    backbone = source.to_read()
    module: Any = backbone.module
    facts = BackboneFacts(sum(p.numel() for p in module.parameters()), tuple(backbone.layers))
    with suppress(StoreError):  # a full disk costs the next run a second
        write_json(file, asdict(facts))
    return facts


def _compute(
    source: BackboneSource,
    pixels: Images,
    rows: Sequence[int],
    view: View,
    *,
    device: torch.device,
    precision: str,
    progress: Progress | None,
) -> Iterator[Shard]:
    if not rows:
        return
    # A lent backbone shares its weights with the source, which a move to a GPU would take away.
    backbone = source.to_read() if device.type == "cpu" else source.load()
    encoder: Any = backbone.module
    layout = memory_format(encoder)
    encoder.to(device).to(memory_format=layout)
    for start in range(0, len(rows), SHARD_SIZE):
        part = rows[start : start + SHARD_SIZE]
        digests = [pixels.digests[row] for row in part]
        images = _augmented(pixels.array, part, digests, view)
        loader = Loader(
            images,
            np.zeros(len(part), dtype=np.int64),
            np.arange(len(part)),
            backbone.preprocessing,
            batch_size=BATCH_SIZE_CPU if device.type == "cpu" else BATCH_SIZE,
            device=device,
        )
        pieces: list[dict[str, NDArray[np.float32]]] = []
        parts = 1
        for batch in loader.epoch(0, layout):
            compute = partial(_features, encoder, batch.images, tuple(backbone.layers), precision)
            found, parts = in_parts(compute, parts, len(batch.rows), device)
            pieces += found
            if progress:
                done = start + sum(len(piece[next(iter(piece))]) for piece in pieces)
                progress("embedding", done, len(rows))
        yield Shard(
            digests, {layer: np.concatenate([p[layer] for p in pieces]) for layer in pieces[0]}
        )


def _features(
    encoder: Any, images: Tensor, layers: tuple[str, ...], precision: str, parts: int
) -> list[dict[str, NDArray[np.float32]]]:
    with torch.inference_mode(), autocast(precision, images.device):
        found = [encoder.features(part, layers) for part in images.tensor_split(parts)]
    # Copies: a class token's view would keep all tokens of its batch until the shard is written.
    return [
        {layer: x.float().cpu().numpy().copy() for layer, x in piece.items()} for piece in found
    ]


def _augmented(
    array: NDArray[np.uint8], rows: Sequence[int], digests: Sequence[str], view: View
) -> NDArray[np.uint8]:
    images = array[list(rows)]
    if view.number:
        augmentation = Augmentation(view.level, view.horizontal_flip)
        # The seed is the content's, so that a view is the same in every cohort.
        for i, digest in enumerate(digests):
            images[i] = augmentation(images[i], derive("view", view.number, digest))
    return images


# ------------------------------------------------------------------ what the bank knows


def _store_name(source: BackboneSource, precision: str, view: View) -> str:
    identity = {
        "weights": source.fingerprint,
        "preprocessing": asdict(source.preprocessing),
        "precision": precision,
        "view": asdict(view) if view.number else None,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


def _unknown(digests: Sequence[str], shards: Sequence[Shard]) -> list[int]:
    """Return the first row of each content that no shard has."""
    known = {digest for shard in shards for digest in shard.digests}
    rows: dict[str, int] = {}
    for row, digest in enumerate(digests):
        if digest not in known:
            rows.setdefault(digest, row)
    return list(rows.values())


def _collect(digests: Sequence[str], shards: Sequence[Shard], layers: Sequence[str]) -> Features:
    # Shards hold images in the order of other runs; a cohort's rows pick theirs by content.
    rows = {d: row for row, d in enumerate(d for shard in shards for d in shard.digests)}
    order = [rows[digest] for digest in digests]
    available = list(shards[0].features)
    names = {layer: layer or available[0] for layer in layers}
    return {
        layer: np.concatenate([shard.features[name] for shard in shards])[order]
        for layer, name in names.items()
        if name in available
    }


# ------------------------------------------------------------------ files of the bank


@contextmanager
def _lock_store(store: Path) -> Iterator[bool]:
    """Keep other processes from computing the same features; yield whether any can be kept.

    What a killed process was writing is deleted.
    """
    writable = True
    with ExitStack() as held:
        try:
            store.mkdir(parents=True, exist_ok=True)
            held.enter_context(hold(store, "lease"))
            for draft in set(store.glob(".*")) - set(store.glob(".lease-*")):
                draft.unlink(missing_ok=True)
        except OSError as error:
            writable = False
            warnings.warn(
                f"no features can be stored in {store} ({error.strerror or error}); the next run "
                "will compute its features again",
                stacklevel=2,
            )
        yield writable


def _stored_digests(store: Path) -> set[str]:
    """Return which images a store has, without reading their features."""
    from safetensors import SafetensorError, safe_open

    digests: set[str] = set()
    for file in store.glob("*.safetensors"):
        # A damaged file has none; whoever wants its features says so.
        damaged = suppress(SafetensorError, ValueError, KeyError, TypeError)
        with damaged, safe_open(file, framework="np") as opened:
            digests.update(json.loads(opened.metadata()["about"])["digests"])
    return digests


def _read_shards(store: Path) -> list[Shard]:
    """Return the shards of a store; a damaged file is deleted with a warning."""
    from safetensors import SafetensorError, safe_open

    shards = []
    for file in sorted(store.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as opened:
                about: dict[str, Any] = json.loads(opened.metadata()["about"])
                features = {layer: opened.get_tensor(layer) for layer in about["layers"]}
            if about.get("checksum") not in (None, _checksum(features)):  # older files have none
                raise ValueError("its numbers are not those that were written")
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            # Files are renamed into place when whole, so something has happened to this one since.
            warnings.warn(
                f"{file} is damaged ({error}); its features are computed again", stacklevel=2
            )
            with suppress(OSError):
                file.unlink()
            continue
        shards.append(Shard(about["digests"], features))
    return shards


def _checksum(features: Mapping[str, NDArray[np.float32]]) -> int:
    total = 0
    for values in features.values():
        total = zlib.crc32(values.tobytes(), total)
    return total


def _write_shard(store: Path, shard: Shard) -> None:
    """Write a shard whole or not at all; a full disk costs the bank only, not the run."""
    from safetensors.numpy import save

    content = {"digests": list(shard.digests), "layers": list(shard.features)}
    about = json.dumps({**content, "checksum": _checksum(shard.features)})
    file = save(dict(shard.features), metadata={"about": about})
    # Named by its content: two processes that computed the same shard write one file.
    name = hashlib.sha256("\n".join(shard.digests).encode()).hexdigest()[:20]
    try:
        write_bytes(store / f"{name}.safetensors", file)
    except StoreError as error:
        warnings.warn(
            f"features of {len(shard.digests)} images could not be stored ({error}); the next run "
            "will compute them again",
            stacklevel=2,
        )
