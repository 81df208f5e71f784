"""The adapted part of a model on disk: safetensors, and which backbone it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.errors import StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

FORMAT = 1
"""Of adapted folders; a reader refuses another one."""

IDENTITY = "adapted.json"


def write_identity(folder: Path, backbone: str, **more: Any) -> None:
    """Note the format, and the fingerprint of the weights that the adapted part belongs to."""
    content = {"format": FORMAT, "backbone": backbone, **more}
    (folder / IDENTITY).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_identity(folder: Path, backbone: str) -> dict[str, Any]:
    """Return what was noted; refuse an adapted part of another format or of other weights.

    Raises
    ------
    StoreError
        Saying which of the two differs.
    """
    try:
        noted: dict[str, Any] = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
        written, fingerprint = noted["format"], noted["backbone"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{folder} holds no adapted model ({IDENTITY}: {error}); run again with train.save=best"
        ) from error
    if written != FORMAT:
        raise StoreError(
            f"{folder} has format {written}, this prognobench reads {FORMAT}: use the version that "
            "wrote it, or train again"
        )
    if fingerprint != backbone:
        raise StoreError(
            f"{folder} was trained on other weights (fingerprint {fingerprint}, here "
            f"{backbone}): load the weights that the run used"
        )
    return noted


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors by name as safetensors."""
    from safetensors.torch import save_file

    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, file)


def load_tensors(model: nn.Module, file: Path, expected: Mapping[str, Tensor]) -> None:
    """Load tensors by name into the model.

    Raises
    ------
    StoreError
        If the file is damaged, lacks an expected tensor, has another one, or a shape differs.
    """
    model.load_state_dict(read_tensors(file, expected), strict=False)


def read_tensors(file: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a safetensors file that must hold exactly the expected tensors.

    Raises
    ------
    StoreError
        With the first differences.
    """
    tensors = _read(file)
    faults = [f"{name} is missing" for name in expected if name not in tensors]
    faults += [f"{name} is not part of this model" for name in tensors if name not in expected]
    faults += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if faults:
        raise StoreError(f"{file} does not fit the model: {'; '.join(faults[:5])}")
    return tensors


def save_arrays(arrays: Mapping[str, NDArray[Any]], file: Path) -> None:
    """Write NumPy arrays by name as safetensors."""
    import torch

    save_tensors({name: torch.tensor(array) for name, array in arrays.items()}, file)


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Read what :func:`save_arrays` wrote; a damaged file is a :class:`StoreError`."""
    return {name: tensor.numpy() for name, tensor in _read(file).items()}


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{file} cannot be read: {error}") from error
