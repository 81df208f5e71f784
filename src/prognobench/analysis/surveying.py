"""Which stored runs the score tables were made of, and whether they have changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prognobench import __version__
from prognobench.analysis.catalogue import find_runs
from prognobench.errors import StoreError
from prognobench.files import checksum, checksum_file, read_sealed
from prognobench.store import RunFolder

NOTE = "scores.json"
"""What ``runs.csv`` and ``scores.csv`` were made of, how, and their checksums."""


@dataclass(frozen=True)
class Surveyed:
    """The runs of a results folder, all whole.

    Attributes
    ----------
    made_of
        A checksum of the names and checksums of all runs, of the version and the columns.
    seen
        Path of each run -> a checksum of its files' sizes and times, and of their checksums.
    """

    folders: Sequence[RunFolder]
    made_of: str
    seen: Mapping[str, tuple[str, str]]


def survey(results: Path, before: Mapping[str, Sequence[str]], columns: Sequence[str]) -> Surveyed:
    """Find all runs, and read those whose files changed since they were seen ``before``.

    Parameters
    ----------
    before
        :attr:`Surveyed.seen` of an earlier survey.
    columns
        Of the tables that are made of the runs.
    """
    seen: dict[str, tuple[str, str]] = {}

    def is_known(folder: RunFolder) -> bool:
        path = str(folder.path.relative_to(results))
        stamp, (stamp_before, content) = folder.stamp_files(), before.get(path, ("", ""))
        seen[path] = (stamp, content if stamp == stamp_before else "")
        return bool(seen[path][1])

    folders = find_runs(results, is_known)
    for folder in folders:
        path = str(folder.path.relative_to(results))
        stamp, content = seen[path]
        seen[path] = (stamp, content or checksum(repr(folder.identify()).encode()))
    stored = [(path, content) for path, (_, content) in seen.items()]
    return Surveyed(folders, checksum(repr((__version__, columns, stored)).encode()), seen)


def read_note(results: Path) -> dict[str, Any]:
    """Return what is known of the scores; nothing if it is damaged, or of an older version."""
    try:
        note, sealed = read_sealed(results / NOTE)
    except StoreError:
        return {}
    return note if sealed else {}


def is_stale(results: Path) -> bool:
    """Whether there are score tables that were made of other files than those that are stored."""
    if not (results / "scores.csv").exists():
        return False
    note = read_note(results)
    stamps = {path: stamp for path, (stamp, _) in note.get("seen", {}).items()}
    stored = {
        str(folder.path.relative_to(results)): folder.stamp_files()
        for folder in map(RunFolder, results.glob("runs/*/*/*/*"))
        if folder.exists
    }
    whole = all(checksum_file(results / name) == n for name, n in note.get("files", {}).items())
    return stamps != stored or not whole
