"""Files of the embedding bank: whole or not at all, for many processes at once."""

from __future__ import annotations

import hashlib
import json
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from prognobench.errors import StoreError
from prognobench.files import write_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Shard:
    """Features of some images: layer -> ``(images, width)``, the pooled feature first."""

    digests: Sequence[str]
    features: Mapping[str, NDArray[np.float32]]


@contextmanager
def alone(store: Path) -> Iterator[bool]:
    """Keep other processes from computing the same features, and say whether any can be kept.

    What a killed process was writing is cleared away.
    """
    writable = True
    with ExitStack() as held:
        try:
            store.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(store / "lock"))
            for draft in store.glob(".*"):
                draft.unlink(missing_ok=True)
        except OSError as error:
            writable = False
            warnings.warn(
                f"nothing can be kept in {store} ({error.strerror or error}); the next run will "
                "compute its features again",
                stacklevel=2,
            )
        yield writable


def stored_digests(store: Path) -> set[str]:
    """Return which images a store has, without reading their features."""
    from safetensors import SafetensorError, safe_open

    digests: set[str] = set()
    for file in store.glob("*.safetensors"):
        # A damaged file has none; whoever wants its features says so.
        damaged = suppress(SafetensorError, ValueError, KeyError, TypeError)
        with damaged, safe_open(file, framework="np") as opened:
            digests.update(json.loads(opened.metadata()["about"])["digests"])
    return digests


def read(store: Path) -> list[Shard]:
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
            warnings.warn(f"{file} is damaged ({error}); it is made anew", stacklevel=2)
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


def write(store: Path, shard: Shard) -> None:
    """Write a shard whole or not at all; a full disk costs the bank only, not the run."""
    from safetensors.numpy import save

    content = {"digests": list(shard.digests), "layers": list(shard.features)}
    about = json.dumps({**content, "checksum": _checksum(shard.features)})
    file = save(dict(shard.features), metadata={"about": about})
    name = hashlib.sha256("\n".join(shard.digests).encode()).hexdigest()[:20]
    try:
        write_bytes(store / f"{name}.safetensors", file)
    except StoreError as error:
        warnings.warn(
            f"{len(shard.digests)} images' features could not be kept ({error}); the next run "
            "will compute them again",
            stacklevel=2,
        )
