"""Where the cohorts of a sweep lie: below ``paths.data``, each in the folder of its own name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prognobench.cli.values import EVERYWHERE
from prognobench.errors import ConfigError
from prognobench.registry import DATASETS

TABLES = (".csv", ".xlsx", ".xls", ".tsv", ".parquet")


class AbsentError(ConfigError):
    """A cohort is not where it is looked for."""


def place_dataset(composed: Mapping[str, Any]) -> dict[str, Any]:
    """Return a composed config whose dataset gets its missing places from ``paths.data``.

    ``root`` and ``images`` become the cohort's folder, ``table`` the only table in it.

    Raises
    ------
    AbsentError
        If the cohort's folder, or a table in it, does not exist.
    """
    data = (composed.get("paths") or {}).get("data")
    placed = dict(composed)
    placed["paths"] = {k: v for k, v in (composed.get("paths") or {}).items() if k != "data"}
    if data is not None and isinstance(dataset := composed.get("dataset"), Mapping):
        placed["dataset"] = _place(dataset, data)
    return placed


def _place(dataset: Mapping[str, Any], data: Any) -> dict[str, Any]:
    placed = dict(dataset)
    if isinstance(parts := dataset.get("parts"), Mapping):
        placed["parts"] = {
            name: _place(part, data) if isinstance(part, Mapping) else part
            for name, part in parts.items()
        }
    if "folder" not in dataset or dataset.get("builder") not in DATASETS:
        return placed
    known = DATASETS[dataset["builder"]].settings
    missing = [key for key in ("root", "images", "table") if key in known and key not in dataset]
    folder = _find_folder(data, str(dataset["folder"])) if missing else Path()
    for key in missing:
        placed[key] = str(_find_table(folder) if key == "table" else folder)
    return placed


def _find_folder(data: Any, name: str) -> Path:
    given = data if isinstance(data, Mapping) else {EVERYWHERE: data}
    for key, value in given.items():
        if key != EVERYWHERE and _plain(key) == _plain(name):
            folder = Path(str(value)).expanduser()
            if not folder.is_dir():
                raise ConfigError(f"paths.data.{key}: no folder {folder}")
            return folder
    if EVERYWHERE not in given:
        raise AbsentError(f"no paths.data.{name}")
    above = Path(str(given[EVERYWHERE])).expanduser()
    if not above.is_dir():
        raise ConfigError(f"paths.data: no folder {above}")
    folders = (each for each in sorted(above.iterdir()) if each.is_dir())
    found = next((each for each in folders if _plain(each.name) == _plain(name)), None)
    if found is None:
        raise AbsentError(f"no folder {name} in {above}")
    return found


def _find_table(folder: Path) -> Path:
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in TABLES)
    if not found:
        raise AbsentError(f"no table in {folder}")
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5])
        raise ConfigError(f"several tables in {folder} ({names}); set dataset.table=FILE")
    return found[0]


def _plain(name: str) -> str:
    """Return a name without what spellings of it differ in."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
