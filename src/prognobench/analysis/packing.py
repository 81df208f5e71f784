"""A results folder to hand on: patients, images and centres under keyed pseudonyms, no paths.

What is not known to be harmless is left out: covariates that nobody asked for, warnings, reasons,
saved models. Scores, tables and the report are made again from the packed predictions.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.errors import ConfigError, StoreError, listed
from prognobench.files import NAMED, Pseudonyms
from prognobench.records import Progress
from prognobench.store import RunFolder, iter_runs

if TYPE_CHECKING:
    import pandas as pd

LEFT_OUT = "left out when packed"

COHORT = ("patient_id", "image", "source", "label", "centre", "order")
"""Columns of a cohort that are packed; of all others, those that are asked for."""

PREDICTED = ("part", "patient_id", "image", "label")

EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The time of every file in the archive: when somebody worked is nobody's business."""


def pack(
    results: Path,
    archive: Path,
    pseudonyms: Pseudonyms,
    keep: Sequence[str] = (),
    progress: Progress | None = None,
) -> Path:
    """Write the runs of a results folder into a zip archive that can be handed on.

    Parameters
    ----------
    keep
        Covariates that are packed with their values.

    Raises
    ------
    StoreError
        If a run is damaged, or the archive exists or cannot be written.
    ConfigError
        If no run has a covariate of ``keep``.
    """
    if archive.exists():
        raise StoreError(f"{archive} exists already: remove it, or choose another name")
    runs = list(iter_runs(results))
    known = {column for run in runs for column in run.cohort().columns}
    if unknown := [column for column in keep if column not in known]:
        raise ConfigError(f"--keep {listed(unknown)}: no run has such a column")
    with tempfile.TemporaryDirectory(prefix="prognobench-pack-") as folder:
        home = Path(folder) / archive.stem
        for number, run in enumerate(runs, 1):
            packed = RunFolder(home / run.path.relative_to(results))
            _pack_run(run, packed, pseudonyms, keep)
            if progress:
                progress("packing", number, len(runs))
        draft = Path(folder) / "archive.zip"
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as zipped:
            for file in sorted(path for path in home.rglob("*") if path.is_file()):
                entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), EARLIEST)
                entry.compress_type = zipfile.ZIP_DEFLATED
                zipped.writestr(entry, file.read_bytes())
        _move(draft, archive)
    return archive


def _move(draft: Path, archive: Path) -> None:
    beside = archive.with_name(f".{archive.name}.{os.getpid()}")
    try:
        beside.write_bytes(draft.read_bytes())  # the temporary folder may be on another disk
        beside.replace(archive)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise StoreError(f"{archive} cannot be written: {error.strerror or error}") from error


def _pack_run(
    run: RunFolder, packed: RunFolder, pseudonyms: Pseudonyms, keep: Sequence[str]
) -> None:
    cohort, folds = run.cohort(), run.folds()
    private = _private(cohort)
    tables = {
        "cohort": _pack_cohort(cohort, pseudonyms, keep),
        "exclusions": _pack_exclusions(run, pseudonyms),
        "folds": pseudonyms.rename(folds[["repeat", "fold", "draw", "part", "patient_id"]]),
    }
    packed.create(_pack_meta(run.meta, private), _pack_environment(run, private), tables)
    for cell in run.marked_cells():  # a damaged one is refused, not left out
        predictions = run.predictions(cell)
        scores = [name for name in predictions.columns if name.startswith("score_")]
        packed.write_cell(
            cell,
            pseudonyms.rename(predictions[[*PREDICTED, *scores]]),
            [{str(k): v for k, v in row.items()} for row in run.history(cell).to_dict("records")],
            _scrub(run.cost(cell), private),
        )
    for cell in run.failures():
        packed.write_failure(cell, StoreError(LEFT_OUT))


def _private(cohort: pd.DataFrame) -> Callable[[str], bool]:
    """Return whether a text must not be packed: it names something of the cohort, or a file."""
    names = {
        str(value) for column in NAMED.keys() & set(cohort.columns) for value in cohort[column]
    } - {""}
    return lambda text: text in names or "/" in text or "\\" in text or "~" in text


def _pack_cohort(cohort: pd.DataFrame, pseudonyms: Pseudonyms, keep: Sequence[str]) -> pd.DataFrame:
    columns = [
        column
        for column in cohort.columns
        if column in (*COHORT, *keep) or str(column).startswith("risk_")
    ]
    packed = pseudonyms.rename(cohort[columns])
    if "order" in columns:  # often a date; what counts is which image came first
        packed["order"] = cohort.groupby("patient_id")["order"].rank(method="dense")
    return packed


def _pack_exclusions(run: RunFolder, pseudonyms: Pseudonyms) -> pd.DataFrame:
    exclusions = run.exclusions()
    items = [pseudonyms.name("item", str(item)) for item in exclusions["item"]]
    return exclusions[["item", "reason"]].assign(item=items, reason=LEFT_OUT)


def _pack_meta(meta: Mapping[str, Any], private: Callable[[str], bool]) -> dict[str, Any]:
    # Names, classes and cells are how runs are told apart; a writer makes format and checksums.
    plain = {
        name: value
        for name, value in meta.items()
        if name not in ("format", "files", "config", "warnings", "weights", "components")
    }
    config = dict(meta["config"])
    dataset = dict(config.pop("dataset"))
    dataset["settings"] = {
        name: value
        for name, value in dataset.get("settings", {}).items()
        if isinstance(value, bool | int | float)
    }
    config.pop("paths", None)
    return {
        **plain,
        "weights": _scrub(meta["weights"], private),
        "warnings": [LEFT_OUT] if meta["warnings"] else [],
        "config": {"dataset": dataset, **_scrub(config, private)},
    }


def _pack_environment(run: RunFolder, private: Callable[[str], bool]) -> dict[str, Any]:
    environment: dict[str, Any] = _scrub(run.environment(), private)
    return environment


def _scrub(value: Any, private: Callable[[str], bool]) -> Any:
    """Return JSON values without the texts that must not be packed."""
    if isinstance(value, Mapping):
        return {
            LEFT_OUT if private(str(name)) else name: _scrub(inner, private)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_scrub(inner, private) for inner in value]
    return LEFT_OUT if isinstance(value, str) and private(value) else value
