"""Results folders that several people computed become one: equal cells once, conflicts refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prognobench.errors import StoreError
from prognobench.files import checksum_file
from prognobench.records import Progress
from prognobench.store import SAVED, RunFolder, iter_runs

RUN_FILES = ("cohort.csv", "exclusions.csv", "folds.csv", "environment.json", "run.json")
"""What a run has beside its cells; the last one says that the others are whole."""

IDENTITY = ("key", "classes", "cells", "fingerprints")
"""What ``run.json`` must say alike everywhere; paths and remarks depend on the machine."""


@dataclass(frozen=True)
class Merged:
    """What was copied: runs that were not there yet, cells, and cells that several folders have."""

    runs: int
    cells: int
    equal: int


def merge(sources: Sequence[Path], into: Path, progress: Progress | None = None) -> Merged:
    """Copy the runs of several results folders into one; nothing is copied if anything conflicts.

    Parameters
    ----------
    sources
        Results folders, which are only read.
    into
        A new folder, or a results folder that gets what it lacks.

    Raises
    ------
    StoreError
        With every run and cell that is damaged, and every cell that two folders have with other
        predictions.
    """
    known: dict[str, list[RunFolder]] = {}
    for results in [*([into] if into.is_dir() else []), *sources]:
        for folder in iter_runs(results):
            known.setdefault(folder.path.relative_to(results).as_posix(), []).append(folder)
    if faults := [fault for name in known for fault in _find_conflicts(name, known[name])]:
        raise StoreError("nothing was merged:\n" + "\n".join(faults))
    runs = cells = equal = 0
    for done, (name, folders) in enumerate(known.items(), start=1):
        target = RunFolder(into / name)
        runs += not target.exists
        for cell in folders[0].cells:
            owners = [folder for folder in folders if cell in folder.marked_cells()]
            equal += len(owners) > 1
            if owners and owners[0].path != target.path:
                _copy_cell(owners[0], target, cell)
                cells += 1
        if not target.exists:
            _copy_files(folders[0], target)
        if progress:
            progress("merging", done, len(known))
    return Merged(runs, cells, equal)


def _find_conflicts(name: str, folders: Sequence[RunFolder]) -> Iterator[str]:
    """Yield what is damaged, and what two folders say differently of one run."""
    for folder in folders:
        if damage := folder.find_damage():
            yield damage
    first, *others = folders
    for other in others:
        differing = [key for key in IDENTITY if first.meta.get(key) != other.meta.get(key)]
        if differing:
            yield f"{name}: {first.path} and {other.path} differ in {', '.join(differing)}"
    for cell in first.cells:
        prints: dict[str | None, Path] = {}
        for folder in folders:
            if cell not in folder.marked_cells():
                continue
            if damage := folder.find_cell_damage(cell, *SAVED):
                yield damage
                continue
            file, wanted = folder.predictions_file(cell)
            prints.setdefault(wanted or checksum_file(file), folder.path)
        if len(prints) > 1:
            places = " and ".join(map(str, prints.values()))
            yield f"{name} cell {cell}: other predictions in {places}"


def _copy_cell(source: RunFolder, target: RunFolder, cell: str) -> None:
    """Copy a cell whole or not at all: its mark comes last."""
    home, copy = source.path / "cells" / cell, target.path / "cells" / cell
    shutil.copytree(
        home,
        copy,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns(".*", "done.json", "failure.json"),
    )
    (copy / "failure.json").unlink(missing_ok=True)
    shutil.copy2(home / "done.json", copy / ".done.json.0")
    (copy / ".done.json.0").replace(copy / "done.json")


def _copy_files(source: RunFolder, target: RunFolder) -> None:
    for name in RUN_FILES:
        if (source.path / name).exists():
            shutil.copy2(source.path / name, target.path / f".{name}.0")
            (target.path / f".{name}.0").replace(target.path / name)
