"""What of a results folder is damaged, torn, foreign or stale, and how it is put aside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from prognobench.analysis.surveying import is_stale
from prognobench.errors import StoreError
from prognobench.store import SAVED, RunFolder
from prognobench.workers import LEASE, find_dead, hold

Finding = tuple[str, str, str]
"""Path below the results folder, what it is (``damaged``, ``foreign``, ...), and what to do."""

ASIDE = "set-aside"
"""Folder of a results folder where :func:`repair_results` puts files; nothing reads it."""

SETTLED = 3600
"""Seconds after which a draft was left by a process that died."""


def check_results(results: Path) -> list[Finding]:
    """Return what is wrong with the stored files of a results folder, saved models included.

    Raises
    ------
    StoreError
        If there is no such folder.
    """
    return [finding for finding, _ in _find(results)]


class Repaired(NamedTuple):
    """What a repair did, by places below the results folder.

    Attributes
    ----------
    moved
        Of each file and folder that was moved, where it was and where it is.
    in_use
        Runs and cells that another process computes now; they stay as they are.
    """

    moved: list[tuple[str, str]]
    in_use: list[str]


def repair_results(results: Path) -> Repaired:
    """Move what :func:`check_results` finds into the folder ``set-aside``; nothing is deleted.

    A cell without its folder is computed again by the same ``prognobench run``, and a run without
    its ``run.json`` is described again. Drafts that may be in use stay, and so does what another
    process has a lease on.

    Raises
    ------
    StoreError
        If there is no such folder, or a file cannot be moved.
    """
    moved: dict[Path, Path] = {}
    in_use: list[Path] = []
    for path in _list_runs(results):
        with hold(path, LEASE, wait=False) as lease:
            if lease is None:
                in_use.append(path)
                continue
            for _, _, which in _check_run(RunFolder(path)):
                if which is None or any(inside in moved for inside in (which, *which.parents)):
                    continue
                with _hold_cell(path, which) as free:
                    if free:
                        moved[which] = _set_aside(results, which)
                    else:
                        in_use.append(which)
    places = [(str(a.relative_to(results)), str(b.relative_to(results))) for a, b in moved.items()]
    return Repaired(places, [str(path.relative_to(results)) for path in dict.fromkeys(in_use)])


@contextmanager
def _hold_cell(run: Path, found: Path) -> Iterator[bool]:
    """Hold the cell that something was found in, and say whether it may be moved."""
    within = found.relative_to(run).parts
    if within[0] != "cells":
        yield True
        return
    cell = run.joinpath(*within[:2])
    with hold(cell, LEASE, wait=False) as lease:
        # Looked at again, now that nobody can be writing: the cell may have been computed anew.
        yield lease is not None and any(
            which == found for _, _, which in _check_run(RunFolder(run))
        )


def _set_aside(results: Path, path: Path) -> Path:
    """Move a file or folder below ``set-aside``, and return its place there."""
    place = results / ASIDE / path.relative_to(results)
    number = 1
    while place.exists():
        number += 1
        place = place.with_name(f"{path.name}-{number}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    except OSError as error:
        raise StoreError(f"{path} cannot be moved: {error.strerror or error}") from error
    for lease in place.glob(f".{LEASE}-*"):  # of this process; nobody computes what lies there
        lease.unlink()
    return place


def _list_runs(results: Path) -> list[Path]:
    if not results.is_dir():
        raise StoreError(f"no results in {results}: start with 'prognobench run'")
    return sorted(path for path in results.glob("runs/*/*/*/*") if path.is_dir())


def _find(results: Path) -> Iterator[tuple[Finding, Path | None]]:
    """Yield each finding, and what is moved to repair it."""
    for path in _list_runs(results):
        place = str(path.relative_to(results))
        for kind, what, which in _check_run(RunFolder(path)):
            yield (place, kind, what), which
    if is_stale(results):
        what = "they are of other runs than those that are stored; 'prognobench score' makes them"
        yield ("scores.csv", "stale", f"{what} again, as every table does"), None


def _check_run(folder: RunFolder) -> Iterator[tuple[str, str, Path | None]]:
    yield from _check_traces(folder.path)
    if not folder.exists:
        yield "foreign", "it has no run.json; the same 'prognobench run' writes it again", None
        return
    try:
        cells = folder.cells
    except StoreError as error:
        yield "damaged", str(error), folder.path / "run.json"
        return
    if damage := folder.find_damage():
        yield "damaged", damage, folder.path / "run.json"
    for home in sorted(folder.path.glob("cells/*")):
        if home.name not in cells:
            yield "foreign", f"{home} is not a cell of this run", home
    for cell in folder.marked_cells():
        if damage := folder.find_cell_damage(cell, *SAVED):
            yield "damaged", damage, folder.path / "cells" / cell
        elif not folder.has_checksums(cell):
            what = f"cell {cell} was stored without checksums by an older version"
            yield "unchecked", what, None


def _is_settled(draft: Path) -> bool:
    with suppress(OSError):
        return time.time() - draft.stat().st_mtime > SETTLED
    return False


def _check_traces(folder: Path) -> Iterator[tuple[str, str, Path | None]]:
    for draft in sorted(folder.rglob(".*.[0-9]*")):
        what = f"{draft} was left by a process that died, or is being written now"
        yield "torn", what, draft if _is_settled(draft) else None
    for lease in find_dead(folder):
        what = f"{lease} is the lease of a process that ended; 'prognobench run' takes it over"
        yield "left", what, None
