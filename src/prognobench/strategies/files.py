"""The adapted part of a model on disk: safetensors, and which backbone it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prognobench.errors import StoreError
from prognobench.records import Backbone

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
"""Of adapted folders; a reader refuses another one."""

IDENTITY = "adapted.json"


def write_identity(folder: Path, backbone: Backbone) -> None:
    """Note the format and the weights that the adapted part belongs to."""
    content = {"format": FORMAT, "backbone": backbone.fingerprint}
    (folder / IDENTITY).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_identity(folder: Path, backbone: Backbone) -> None:
    """Refuse an adapted part of another format or of other weights.

    Raises
    ------
    StoreError
        Saying which of the two differs.
    """
    try:
        noted = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
        written, fingerprint = noted["format"], noted["backbone"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{folder} holds no adapted model ({IDENTITY}: {error}); train with train.save=best"
        ) from error
    if written != FORMAT:
        raise StoreError(
            f"{folder} has format {written}, this prognobench reads {FORMAT}: use the version that "
            "wrote it, or train again"
        )
    if fingerprint != backbone.fingerprint:
        raise StoreError(
            f"{folder} was trained on other weights (fingerprint {fingerprint}, here "
            f"{backbone.fingerprint}): load the weights that the run used"
        )


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
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{file} cannot be read: {error}") from error
    faults = [f"{name} is missing" for name in expected if name not in tensors]
    faults += [f"{name} is not part of this model" for name in tensors if name not in expected]
    faults += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if faults:
        raise StoreError(f"{file} does not fit the model: {'; '.join(faults[:5])}")
    return dict(tensors)
