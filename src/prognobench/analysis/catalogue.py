"""The runs of a results folder, one row each: how far they are, what they cost, which are shown."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.analysis.predictions import ORACLE
from prognobench.errors import ConfigError, DamagedError, StoreError, listed, printable
from prognobench.registry import near
from prognobench.store import RunFolder, iter_runs

if TYPE_CHECKING:
    import pandas as pd

NAMES = (
    *("dataset", "model", "strategy", "regime", "k", "cv", "seed", "train_seed"),
    *("key", "synthetic"),
)
"""The columns that name a run, in ``runs.csv`` and ``scores.csv``."""

CHOICES = ("model", "strategy")
"""The names along which values compete: the best of them is marked."""

CONTEXT = ("dataset", "regime", "k", "cv")
"""The names within which values can be compared."""

COSTS = (
    *("parameters_trainable", "parameters_total", "seconds_train", "seconds_inference"),
    *("seconds_embedding_shared", "peak_memory_bytes", "storage_bytes"),
)
"""The columns that say what a run cost, mean over its complete cells."""

SIZES = ("k", "patients")
"""Settings of regimes that say how many patients a fold trains on: the column ``k``."""

BYTES_PER_PARAMETER = 4

AS_STORED = "as stored"
"""How the column ``risks`` begins where class weights cannot be undone."""


def find_runs(
    results: Path, is_known: Callable[[RunFolder], bool] | None = None
) -> list[RunFolder]:
    """Return every run below a results folder, after its files were compared with their checksums.

    Parameters
    ----------
    is_known
        Of which runs this was done before, and no file has changed since.

    Raises
    ------
    DamagedError
        With the files that are not as they were written.
    StoreError
        If there are no runs.
    """
    folders = list(iter_runs(results))
    if not folders:
        raise StoreError(f"no runs below {results}: start with 'prognobench run'")
    new = [folder for folder in folders if is_known is None or not is_known(folder)]
    damaged = [damage for folder in new for damage in _find_damage(folder)]
    if damaged:
        raise DamagedError(listed(damaged, between="\n"))
    older = sum(not folder.has_checksums(cell) for folder in new for cell in folder.marked_cells())
    if older:
        warnings.warn(
            f"{older:,} cells in {results} were stored without checksums by an older version: "
            "damage of their files is not noticed",
            stacklevel=2,
        )
    return folders


def _find_damage(folder: RunFolder) -> list[str]:
    if damage := folder.find_damage():
        return [damage]
    found = map(folder.find_cell_damage, folder.marked_cells())
    return [damage for damage in found if damage]


def list_runs(
    results: Path, folders: Sequence[RunFolder] | None = None
) -> tuple[pd.DataFrame, list[RunFolder]]:
    """Return one row per run below a results folder, and the folder of each row.

    Rows of oracles come last, one for each set of folds of a cohort whose true risks are known;
    their folder is that of a run on the same folds.

    Parameters
    ----------
    folders
        The runs, where :func:`find_runs` has found them already.
    """
    import pandas as pd

    folders = list(folders or find_runs(results))
    rows = [
        {**_show(_describe_run(folder)), "path": str(folder.path.relative_to(results))}
        for folder in folders
    ]
    for row, folder in _one_per_folds(rows, folders):
        if _knows_risk(folder):
            named = {name: row[name] for name in (*NAMES, "cohort", "folds", "cells", "path")}
            key = row["folds"][:12]
            names = {"model": ORACLE, "strategy": ORACLE, "key": key, "done": row["cells"]}
            named |= {"failed": 0, "baseline": False}
            rows.append({**named, **names})
            folders.append(folder)
    table = pd.DataFrame(rows)
    return table.astype({"k": "Int64", "cells": int, "done": int}), folders


def _show(row: Mapping[str, Any]) -> dict[str, Any]:
    # Tables, figures and pages take names from here, and stored runs may be of other people.
    return {n: printable(value) if isinstance(value, str) else value for n, value in row.items()}


def _describe_run(folder: RunFolder) -> dict[str, Any]:
    meta = folder.meta
    done = folder.marked_cells()
    failures = {} if len(done) == len(folder.cells) else folder.failures()
    failed = [cell for cell in failures if cell not in done]
    fingerprints = meta.get("fingerprints", {})
    costs = [folder.cost(cell) for cell in done]
    config = meta.get("config", {})
    settings = config.get("regime", {}).get("settings", {})
    return {
        **{name: meta.get(name) for name in NAMES},
        "train_seed": meta.get("train_seed", meta.get("seed")),
        "k": next((settings[name] for name in SIZES if name in settings), None),
        "cells": len(folder.cells),
        "done": len(done),
        "failed": len(failed),
        "failure": failures[failed[0]]["message"] if failed else None,
        "not_applicable": meta.get("not_applicable"),
        **_costs(costs),
        "baseline": "image" not in meta.get("reads", ("image",)),
        "risks": _describe_risks(costs),
        "notes": _join_notes(costs),
        "weights": meta.get("weights"),
        "version": folder.environment().get("prognobench"),
        "finished": folder.finished(done[-1]) if done else None,
        "cohort": fingerprints.get("cohort", ""),
        "folds": fingerprints.get("folds", ""),
    }


def _costs(costs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    import numpy as np

    means = {}
    for name in COSTS:
        values = [cost[name] for cost in costs if isinstance(cost.get(name), int | float)]
        means[name] = float(np.mean(values)) if values else float("nan")
    # Nothing is stored of a head on frozen features: its size is that of its parameters.
    if np.isnan(means["storage_bytes"]):
        means["storage_bytes"] = means["parameters_trainable"] * BYTES_PER_PARAMETER
    return means


def _describe_risks(costs: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what scoring does to stored probabilities; a reason where they stay distorted."""
    if not costs:
        return None
    if any("log_odds_shift" not in cost for cost in costs):
        return f"{AS_STORED}: the cells do not say how classes were weighted"
    if missing := [cost for cost in costs if cost["log_odds_shift"] is None]:
        return f"{AS_STORED}: {missing[0].get('log_odds_shift_missing', '')}".rstrip(": ")
    shifted = any(any(cost["log_odds_shift"]) for cost in costs)
    return "class weights undone" if shifted else "without class weights"


def _join_notes(costs: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what the strategy says of itself on this backbone, each sentence once."""
    notes = dict.fromkeys(note for cost in costs for note in cost.get("strategy_notes", ()))
    return "; ".join(notes) or None


def _one_per_folds(
    rows: Sequence[dict[str, Any]], folders: Sequence[RunFolder]
) -> list[tuple[dict[str, Any], RunFolder]]:
    found: dict[tuple[str, str, str], tuple[dict[str, Any], RunFolder]] = {}
    for row, folder in zip(rows, folders, strict=True):
        found.setdefault((row["dataset"], row["cohort"], row["folds"]), (row, folder))
    return list(found.values())


def _knows_risk(folder: RunFolder) -> bool:
    with (folder.path / "cohort.csv").open(encoding="utf-8") as file:
        return "risk_" in file.readline()


def count_training_patients(runs: pd.DataFrame, folders: Sequence[RunFolder]) -> pd.DataFrame:
    """Return how many patients each cell trains on.

    Returns
    -------
    pandas.DataFrame
        Columns repeat, draw (-1 without draws), fold, train_patients, run.
    """
    import numpy as np
    import pandas as pd

    counted: dict[str, pd.DataFrame] = {}
    parts = []
    for row, folds in zip(runs.index, runs["folds"], strict=True):
        if folds not in counted:
            table = folders[row].folds().fillna({"draw": -1})
            train = table[table["part"] == "train"]
            sizes = train.groupby(["repeat", "draw", "fold"]).size()
            counted[folds] = sizes.rename("train_patients").reset_index().astype(int)
        parts.append(counted[folds])
    together = pd.concat(parts, ignore_index=True)
    return together.assign(run=np.repeat(runs.index.to_numpy(), [*map(len, parts)]))


# ------------------------------------------------------------------ which runs are shown


def filter_runs(table: pd.DataFrame, where: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return the rows with the wanted values.

    References stay whatever model and strategy are wanted: oracles, and baselines that see no
    image, which are the same beside every model.

    Raises
    ------
    ConfigError
        For a column or value that does not occur.
    """
    faults = []
    for column, wanted in where.items():
        if column not in table:
            known = [*map(str, table)]
            faults.append(
                f"cannot filter by {column!r}: there is no such column{near(column, known)}"
            )
            continue
        texts = table[column].map(plain_text)
        known = sorted(set(texts))
        faults += [
            f"no run has {column}={value}{near(value, known)} (known: {', '.join(known)})"
            for value in map(str, wanted)
            if value not in known
        ]
        chosen = texts.isin([str(value) for value in wanted])
        if column in CHOICES:
            chosen |= (table["model"] == ORACLE) | table["baseline"].astype(bool)
        table = table[chosen]
    if faults:
        raise ConfigError(faults)
    return table


def plain_text(value: Any) -> str:
    """Return a name as a command line gives it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def find_newest(runs: pd.DataFrame) -> pd.Index[Any]:
    """Return the rows of the newest of the runs that share all their names."""
    names = [name for name in NAMES if name not in ("key", "synthetic")]
    ordered = runs.sort_values("finished", kind="stable", na_position="first")
    return ordered.drop_duplicates(names, keep="last").index


def keep_newest(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the newest of the runs that share all their names and differ in settings."""
    return runs.loc[find_newest(runs).sort_values()]
