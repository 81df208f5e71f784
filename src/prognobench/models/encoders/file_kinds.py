"""What a file of weights really is, told by its first bytes: the suffix often says otherwise."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from prognobench.errors import WeightsError

SAVE_STATE = "save its state_dict() as safetensors and set model.weights to that file"

FOREIGN: tuple[tuple[bytes, str], ...] = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the weights themselves; run 'git lfs pull' in its repository",
    ),
    (
        b"/annex/objects/",
        "is a git-annex pointer, not the weights themselves; run 'git annex get' in its repository",
    ),
    (
        b"\x89HDF",
        f"is an HDF5 file, of Keras for example; load it where it was made and {SAVE_STATE}",
    ),
    (b"GGUF", f"is a GGUF file of quantised weights; get the original weights, or {SAVE_STATE}"),
    (b"\x93NUMPY", f"is a NumPy array without names; load the model and {SAVE_STATE}"),
    (b"\x1f\x8b", "is compressed with gzip; unpack it and set model.weights to what is in it"),
    (b"BZh", "is compressed with bzip2; unpack it and set model.weights to what is in it"),
    (b"\xfd7zXZ", "is compressed with xz; unpack it and set model.weights to what is in it"),
    (b"7z\xbc\xaf", "is a 7-Zip archive; unpack it and set model.weights to what is in it"),
    (b"Rar!", "is a RAR archive; unpack it and set model.weights to what is in it"),
)
"""First bytes -> what such a file is, and what to do."""


def is_safetensors(path: Path) -> bool:
    """Return whether a file starts as safetensors do: the length of a JSON header, then it."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and start[5:8] == b"\0\0\0"


def refuse_foreign(path: Path) -> None:
    """Raise where a file is whole, but cannot be a state dict.

    Raises
    ------
    WeightsError
        Naming what the file is, and what to do.
    """
    with path.open("rb") as file:
        start = file.read(512)
    found = next((told for magic, told in FOREIGN if start.startswith(magic)), "")
    if start[257:262] == b"ustar":
        found = "is a tar archive; unpack it and set model.weights to what is in it"
    elif re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
        found = "is a web page, of a log-in or an error perhaps; download the file itself"
    elif zipfile.is_zipfile(path):
        found = _in_archive(path)
    elif not found and len(start) > 16 and re.fullmatch(rb"[\t\r\n\x20-\x7e]+", start):
        found = f"is a text file, which starts with {start[:40].decode()!r}; get the weights again"
    part = re.search(r"-\d{5}-of-(\d{5})\.", path.name)
    if not found and part and int(part[1]) > 1:
        found = f"is one of {int(part[1])} parts; load the model from all of them and {SAVE_STATE}"
    if found:
        raise WeightsError(f"the file {found}")


def _in_archive(path: Path) -> str:
    """Tell TorchScript and other archives from those of ``torch.save``, which are zip files too."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        return (
            "is a TorchScript archive, a program with its weights, and no code of model files is "
            f"run; open it with torch.jit.load where you trust it, {SAVE_STATE}"
        )
    if any(name.endswith("data.pkl") for name in names):
        return ""
    return "is a zip archive; unpack it and set model.weights to what is in it"
