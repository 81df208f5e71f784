"""What runs lie in a results folder, how far they are, and what they cost: one row per run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.analysis.predictions import ORACLE
from prognobench.errors import StoreError
from prognobench.files import read_json
from prognobench.store import RunFolder, iter_runs

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("dataset", "model", "strategy", "regime", "k", "cv", "seed", "key", "synthetic")
"""The columns that name a run, in ``runs.csv`` and ``scores.csv``."""

COSTS = (
    *("parameters_trainable", "parameters_total", "seconds_train", "seconds_inference"),
    *("seconds_embedding_shared", "peak_memory_bytes", "storage_bytes"),
)
"""The columns that say what a run cost, mean over its complete cells."""

BASELINES = ("metadata", "prior")
"""Strategies that look at no image."""

BYTES_PER_PARAMETER = 4


def catalogue(results: Path) -> tuple[pd.DataFrame, list[RunFolder]]:
    """Return one row per run below a results folder, and the folder of each row.

    Rows of oracles come last, one for each set of folds of a cohort whose true risks are known;
    their folder is that of a run on the same folds.

    Raises
    ------
    StoreError
        If there are no runs.
    """
    import pandas as pd

    folders = list(iter_runs(results))
    if not folders:
        raise StoreError(f"no runs below {results}: start with 'prognobench run'")
    rows = [
        {**_describe(folder), "path": str(folder.path.relative_to(results))} for folder in folders
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


def _describe(folder: RunFolder) -> dict[str, Any]:
    meta = folder.meta
    done = folder.done_cells()
    failures = {} if len(done) == len(folder.cells) else folder.failures()
    failed = [cell for cell in failures if cell not in done]
    fingerprints = meta.get("fingerprints", {})
    config = meta.get("config", {})
    settings = config.get("regime", {}).get("settings", {})
    return {
        **{name: meta.get(name) for name in NAMES},
        "k": settings.get("k", settings.get("patients")),
        "cells": len(folder.cells),
        "done": len(done),
        "failed": len(failed),
        "failure": failures[failed[0]]["message"] if failed else None,
        "not_applicable": meta.get("not_applicable"),
        **_costs(folder, done),
        "baseline": config.get("strategy", {}).get("builder") in BASELINES,
        "weights": meta.get("weights"),
        "version": read_json(folder.path / "environment.json").get("prognobench"),
        "finished": _finished(folder, done),
        "cohort": fingerprints.get("cohort", ""),
        "folds": fingerprints.get("folds", ""),
    }


def _costs(folder: RunFolder, done: Sequence[str]) -> dict[str, float]:
    import numpy as np

    costs = [folder.cost(cell) for cell in done]
    means = {}
    for name in COSTS:
        values = [cost[name] for cost in costs if isinstance(cost.get(name), int | float)]
        means[name] = float(np.mean(values)) if values else float("nan")
    if np.isnan(means["storage_bytes"]):  # a head on frozen features is its parameters
        means["storage_bytes"] = means["parameters_trainable"] * BYTES_PER_PARAMETER
    return means


def _finished(folder: RunFolder, done: Sequence[str]) -> str | None:
    marks = [read_json(folder.path / "cells" / cell / "done.json") for cell in done[-1:]]
    return marks[0].get("finished") if marks else None


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


def training_patients(runs: pd.DataFrame, folders: Sequence[RunFolder]) -> pd.DataFrame:
    """Return how many patients each cell trains on: columns row, repeat, draw (-1), fold, train."""
    import pandas as pd

    counted: dict[str, pd.DataFrame] = {}
    parts = []
    for row, folds in zip(runs.index, runs["folds"], strict=True):
        if folds not in counted:
            table = folders[row].folds().fillna({"draw": -1})
            train = table[table["part"] == "train"]
            sizes = train.groupby(["repeat", "draw", "fold"]).size()
            counted[folds] = sizes.rename("train_patients").reset_index().astype(int)
        parts.append(counted[folds].assign(run=row))
    return pd.concat(parts, ignore_index=True)
