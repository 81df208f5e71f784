"""What an image is made from, as a digest: known without decoding, and quickly the second time."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.errors import DataError
from prognobench.records import Cohort, Files
from prognobench.workers import shared_out

if TYPE_CHECKING:
    import pandas as pd

IDENTITY = ("patient_id", "image", "label", "centre", "order")
"""Columns that enter a cohort's digest, beside its covariates."""

SETTLED_NS = 2_000_000_000
"""A file changed less than so many nanoseconds ago may change again within the same time stamp."""

CHUNK, MANY = 16, 256
"""Files that a thread or a process takes at once."""

PROCESSES_FROM = 4000
"""So many files are worth the time that starting processes takes."""


def cohort_digest(cohort: Cohort, folder: Path) -> str:
    """Return a digest of a cohort's table and of the content of every image.

    Nothing is decoded; where files lie does not enter.

    Parameters
    ----------
    folder
        The cache folder, where the digests of files are remembered.

    Raises
    ------
    DataError
        With every file that cannot be read.
    """
    columns = [*IDENTITY, *cohort.covariates]
    table: pd.DataFrame = cohort.table[columns].assign(content=content_digests(cohort, folder))
    codes = [name for name in cohort.covariates if _looks_like_numbers(table[name])]
    told = [columns, cohort.classes, *([codes] if codes else [])]
    digest = hashlib.sha256(json.dumps(told).encode())
    digest.update(table.to_csv(index=False, lineterminator="\n").encode())
    if cohort.risk is not None:
        # The last bits of an exponential are not the same on every processor.
        digest.update(cohort.risk.round(9).tobytes())
    return digest.hexdigest()


def _looks_like_numbers(cells: pd.Series[Any]) -> bool:
    """Whether text, written out, cannot be told from numbers."""
    import pandas as pd

    if pd.api.types.is_numeric_dtype(cells):
        return False
    filled = cells[cells != ""]
    return len(filled) > 0 and bool(pd.to_numeric(filled, errors="coerce").notna().all())


def with_digests(cohort: Cohort, folder: Path) -> Cohort:
    """Return the cohort with its images' digests, so that nobody looks at its files again.

    Raises
    ------
    DataError
        With every file that cannot be read.
    """
    return replace(cohort, digests=content_digests(cohort, folder))


def content_digests(cohort: Cohort, folder: Path) -> tuple[str, ...]:
    """Return one digest per image: those that the cohort carries, or computed from the files.

    A file's digest is remembered under its path, size and times of change.
    """
    if cohort.digests is not None:
        return cohort.digests
    digests = [""] * len(cohort)
    sources, images = cohort.table["source"].to_numpy(), cohort.table["image"].to_numpy()
    faults: list[str] = []
    for name, source in cohort.sources.items():
        rows = (sources == name).nonzero()[0].tolist()
        names = [str(images[row]) for row in rows]
        if isinstance(source, Files):
            found = _file_digests(source.root, names, folder, faults)
        else:
            found = [_sha256(f"{source.recipe}\x1f{image}") for image in names]
        for row, digest in zip(rows, found, strict=True):
            digests[row] = digest
    if faults:
        raise DataError(faults)
    return tuple(digests)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(root: Path, name: str) -> str:
    """Return what stands for a file in the memory: others may read the cache, and names tell."""
    return _sha256(f"{root.absolute()}\x1f{name}")[:32]


def _file_digests(root: Path, names: Sequence[str], folder: Path, faults: list[str]) -> list[str]:
    """Digest each file of a folder, reading only those not seen before in this state."""
    memory = folder / "digests" / f"{_sha256(str(root.absolute()))[:16]}.json"
    known = _recall(memory)
    digests: dict[str, str] = {}
    stamps: dict[str, list[int]] = {}
    unknown = []
    for name in dict.fromkeys(names):
        try:
            stamps[name] = _stamp(os.path.join(root, name))
        except OSError as error:
            faults.append(_unreadable(root / name, error))
            continue
        # A file of the same size and times is taken to be the same: to read a cohort of 100 GB
        # again at every start would take minutes.
        *stamp, digest = known.get(_entry(root, name), [""])
        if stamp == stamps[name]:
            digests[name] = digest
        else:
            unknown.append(name)
    for name, found in zip(unknown, _read_all(root, unknown), strict=True):
        if isinstance(found, OSError):
            faults.append(_unreadable(root / name, found))
        else:
            digests[name] = found
    settled = time.time_ns() - SETTLED_NS
    fresh = {
        _entry(root, name): [*stamps[name], digests[name]]
        for name in unknown
        if name in digests and max(stamps[name][1:]) < settled
    }
    if fresh:
        _remember(memory, {**known, **fresh})
    return [digests.get(name, "") for name in names]


def _read_all(root: Path, names: Sequence[str]) -> Iterator[str | OSError]:
    """Digest files in groups, since handing over one costs as much.

    Threads wait for each other at every small file; many files go to processes.
    """
    separate = len(names) >= PROCESSES_FROM
    size = MANY if separate else CHUNK
    chunks = [names[start : start + size] for start in range(0, len(names), size)]
    return chain.from_iterable(shared_out(partial(_digests, root), chunks, separate=separate))


def _digests(root: Path, names: Sequence[str]) -> list[str | OSError]:
    return [_digest(root / name) for name in names]


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path}: {error.strerror or error}; put the file in place, or leave the image out"


def _stamp(path: str) -> list[int]:
    """Size and times of change; the second time also notices a replaced file of the same age."""
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _digest(path: Path) -> str | OSError:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return error


def _recall(memory: Path) -> dict[str, Any]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or damaged: it is only a memory
        return {}
    return known if isinstance(known, dict) else {}


def _remember(memory: Path, known: Mapping[str, Any]) -> None:
    draft = memory.with_name(f".{memory.name}.{os.getpid()}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(known), encoding="utf-8")
        draft.replace(memory)
    except OSError:  # a full or read-only disk costs the memory, not the digests
        with suppress(OSError):
            draft.unlink()
