"""Where weights come from: located and fingerprinted without loading them or importing torch."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prognobench.errors import WeightsError
from prognobench.registry import near

FILES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
"""Names under which hub repositories keep weights, best first."""
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""Of files that may hold weights."""


@dataclass(frozen=True)
class Weights:
    """Weights that are on this machine.

    Attributes
    ----------
    origin
        For reports: a hub tag, a file's name, ``random (seed 0)``.
    digest
        SHA-256 of the file's content, or ``random-SEED``.
    path
        The file, or ``None`` for random weights.
    """

    origin: str
    digest: str
    path: Path | None = None


def locate(
    weights: str, *, hub: str = "", package: str = "", obtain: str = "", seed: int = 0
) -> Weights:
    """Find the weights that a config asks for; the hub's are downloaded once.

    Parameters
    ----------
    weights
        ``hub``, ``random``, or the path of a safetensors file or state dict.
    hub
        ``owner/repository`` or ``owner/repository:file`` on the Hugging Face hub.
    package
        ``package:file`` of an installed package that ships the weights, for machines without a
        network; a file in the hub's cache comes first.
    obtain
        How a user gets weights that are neither here nor on a hub.
    seed
        Of random weights.

    Raises
    ------
    WeightsError
        Saying how to get the weights, if they are not here. Random weights never replace them.
    """
    if weights == "random":
        return Weights(f"random (seed {seed})", f"random-{seed}")
    if weights == "hub":
        return _of_name(hub, package, obtain)
    path = Path(weights).expanduser()
    if path.suffix not in SUFFIXES:
        raise WeightsError(
            f"model.weights={weights}: must be 'hub', 'random' or a file of weights "
            f"({', '.join(SUFFIXES)}); code that comes with a model is never run"
        )
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise WeightsError(f"model.weights: no file {path}{near(path.name, beside)}")
    return Weights(path.name, file_digest(path), path)


def weights_here(settings: Mapping[str, Any]) -> bool | None:
    """Say whether a model's weights can be loaded without a network; ``None`` if it needs none.

    ``settings`` are those of a model's YAML; an unset ``weights`` means ``hub``.
    """
    weights = str(settings.get("weights", "hub"))
    if weights == "random":
        return None
    if weights == "embedded":
        return True
    if weights != "hub":
        return Path(weights).expanduser().is_file()
    package = str(settings.get("package") or "")
    return (_cached(str(settings.get("hub") or "")) or _packaged(package)) is not None


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content, remembered while size and time stay the same."""
    real = path.resolve()
    if real.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", real.name):
        return real.name  # the hub's cache names large files by this very digest
    stat = real.stat()
    return _content_digest(real, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _content_digest(path: Path, _size: int, _mtime: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split(hub: str) -> tuple[str, tuple[str, ...]]:
    repository, _, file = hub.partition(":")
    return repository, (file,) if file else FILES


def _cached(hub: str) -> Path | None:
    """Return the file in the hub's local cache, if it is there."""
    from huggingface_hub import errors, try_to_load_from_cache

    repository, files = _split(hub)
    for file in files:
        try:
            found = try_to_load_from_cache(repository, file)
        except errors.HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found)
    return None


def _packaged(package: str) -> Path | None:
    """Return the file that an installed package brings, without importing the package."""
    name, _, file = package.partition(":")
    spec = find_spec(name) if name else None
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((path for folder in folders if (path := Path(folder, file)).is_file()), None)


def _of_name(hub: str, package: str, obtain: str) -> Weights:
    """Find weights by hub tag or package: first on this machine, last on the network."""
    if (path := _cached(hub)) is None and (inside := _packaged(package)) is not None:
        return Weights(f"{package.partition(':')[0]} ({inside.name})", file_digest(inside), inside)
    if not hub:
        raise WeightsError(
            f"these weights are on no hub: {obtain or 'get them from their authors'}; "
            "then set model.weights=PATH"
        )
    path = path or _download(hub, obtain)
    # The cache keeps .../snapshots/COMMIT/FILE: the commit says which version of a tag this is.
    commit = path.parts[path.parts.index("snapshots") + 1][:12]
    return Weights(f"{_split(hub)[0]}@{commit} ({path.name})", file_digest(path), path)


def _download(hub: str, obtain: str) -> Path:
    from huggingface_hub import errors

    repository, files = _split(hub)
    if not files[0].endswith(SUFFIXES):
        raise WeightsError(
            f"model.hub: {files[0]} is not a file of weights ({', '.join(SUFFIXES)})"
        )
    by_hand = (
        f"download {files[0]} from https://huggingface.co/{repository} on a machine that can, "
        "copy it here, and set model.weights=PATH to it"
    )
    if obtain:
        by_hand = f"{obtain}, or {by_hand}"
    for file in files:
        try:
            return _fetch(repository, file)
        except errors.GatedRepoError as error:
            raise WeightsError(
                f"{repository} is gated: accept its licence at https://huggingface.co/{repository} "
                f"and log in with 'hf auth login', or {by_hand}"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise WeightsError(
                f"the hub has no repository {repository!r}; check model.hub"
            ) from error
        except errors.HFValidationError as error:
            raise WeightsError(
                f"model.hub: {repository!r} must look like 'owner/repository'"
            ) from error
        except (errors.LocalEntryNotFoundError, ConnectionError) as error:
            raise WeightsError(
                f"the weights {repository} are not here and the hub cannot be reached: {by_hand}"
            ) from error
        except errors.EntryNotFoundError:
            continue
        except OSError as error:
            raise WeightsError(f"{repository}: {error}; or {by_hand}") from error
    raise WeightsError(
        f"{repository} has none of {', '.join(files)}; name its file: model.hub={repository}:FILE"
    )


def _fetch(repository: str, file: str) -> Path:
    """Download one file; a hub that cannot be reached is tried once.

    ``HF_HUB_ETAG_TIMEOUT`` is how many seconds it waits.

    Raises
    ------
    ConnectionError
        If the hub does not answer, whatever its client raises.
    OSError, ValueError
        The client's own errors: no such repository or file, a gated one, a full disk.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        # The download itself would ask six times, for half a minute, before it gives up.
        get_hf_file_metadata(hf_hub_url(repository, file))
        return Path(hf_hub_download(repository, file))
    except (OSError, ValueError):
        raise
    except Exception as error:  # the HTTP library's own, and each major version uses another one
        raise ConnectionError(str(error)) from error
