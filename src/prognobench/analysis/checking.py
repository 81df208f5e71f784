"""What of a results folder is damaged, torn, foreign or stale; nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prognobench.errors import StoreError
from prognobench.store import SAVED, RunFolder

Finding = tuple[str, str, str]
"""Path below the results folder, what it is (``damaged``, ``foreign``, ...), and what to do."""


def check_results(results: Path) -> list[Finding]:
    """Return what is wrong with the stored files of a results folder, saved models included.

    Raises
    ------
    StoreError
        If there is no such folder.
    """
    if not results.is_dir():
        raise StoreError(f"no results in {results}: start with 'prognobench run'")
    found: list[Finding] = []
    for path in sorted(results.glob("runs/*/*/*/*")):
        place = str(path.relative_to(results))
        found += [(place, kind, what) for kind, what in _check_run(RunFolder(path))]
    return found


def _check_run(folder: RunFolder) -> Iterator[tuple[str, str]]:
    for draft in sorted(folder.path.rglob(".*.[0-9]*")):
        yield "torn", f"{draft} was left by a process that died, or is being written now"
    if not folder.exists:
        yield "foreign", "it has no run.json; the same 'prognobench run' writes it again"
        return
    try:
        cells = folder.cells
    except StoreError as error:
        yield "damaged", str(error)
        return
    if damage := folder.find_damage():
        yield "damaged", damage
    for home in sorted(folder.path.glob("cells/*")):
        if home.name not in cells:
            yield "foreign", f"{home} is not a cell of this run"
    for cell in folder.marked_cells():
        if damage := folder.find_cell_damage(cell, *SAVED):
            yield "damaged", damage
        elif not folder.has_checksums(cell):
            yield "unchecked", f"cell {cell} was stored without checksums by an older version"
