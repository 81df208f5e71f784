"""Run folders on disk: the only writer under ``results/runs``, and their reader.

Every file is written under another name and then renamed, a cell's completion mark last. So every
file that exists is whole, and a cell without its mark counts as not computed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.errors import NotApplicableError, PrognobenchError, StoreError
from prognobench.files import json_form, read_json, read_table, write_json, write_table
from prognobench.records import Component, RunConfig
from prognobench.registry import GROUPS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from prognobench.files import Table

FORMAT = 1
"""Of run folders; a reader refuses a newer one."""

NUMBERS = 3
"""Part of every run's name. Raise it when the same config gives other numbers, such as after a fix
of training, so that old results are not taken for new ones.
"""


# ------------------------------------------------------------------ identity


def describe(config: RunConfig) -> dict[str, Any]:
    """Return the whole resolved config as plain JSON values."""
    described: dict[str, Any] = json_form(asdict(config))
    return described


def run_key(config: RunConfig, cohort: str, folds: str, weights: str) -> str:
    """Return the name of a run: 12 hexadecimal digits.

    Parameters
    ----------
    config
        Enters without names, paths, device and checks, which change no number. A dataset's
        settings and where a model's weights lie enter through the digests instead, so that a moved
        folder is the same run and a changed file is another.
    cohort, folds, weights
        Digests of the cohort's content, of the folds, and of the loaded weights.
    """
    plain = describe(config)
    # What is saved changes no number, and speed-ups change it by rounding alone.
    no_number = ("save", "speedups")
    train = {name: value for name, value in plain["train"].items() if name not in no_number}
    identity = {
        "format": FORMAT,
        "numbers": NUMBERS,
        "cohort": cohort,
        "folds": folds,
        "weights": weights,
        "image": plain["image"],
        "train": train,
        "seed": plain["seed"],
        **{
            group: _choice(group, getattr(config, group))
            for group in ("model", "strategy", "regime", "cv", "loss")
        },
    }
    text = json.dumps(json_form(identity), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _choice(group: str, component: Component) -> dict[str, Any]:
    """Return what a component computes with; where its content lies does not matter."""
    locations = GROUPS[group][component.builder].locations
    settings = {
        name: value
        for name, value in component.settings.items()
        if name not in locations and not isinstance(value, Path)
    }
    return {"builder": component.builder, "settings": settings}


# ------------------------------------------------------------------ run folders


@dataclass(frozen=True)
class RunFolder:
    """One run's folder, ``results/runs/<dataset>/<model>/<strategy>/<key>``."""

    path: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The content of ``run.json``; a newer format is a :class:`StoreError`."""
        try:
            meta: dict[str, Any] = read_json(self.path / "run.json")
        except StoreError as error:
            raise StoreError(
                f"{error}; delete the file, and the same 'prognobench run' writes it again"
            ) from error
        if meta.get("format", 0) > FORMAT:
            raise StoreError(
                f"{self.path}: written by a newer prognobench (format {meta['format']}, this one "
                f"reads up to {FORMAT}); update prognobench"
            )
        return meta

    @property
    def exists(self) -> bool:
        """Whether the run is described."""
        return (self.path / "run.json").exists()

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of the cells that the run consists of."""
        return tuple(self.meta["cells"])

    def is_done(self, cell: str, *saved: str) -> bool:
        """Whether a cell is complete and has the folders ``saved`` (``adapted``, ``epochs``)."""
        folder = self.path / "cells" / cell
        return (folder / "done.json").exists() and all((folder / s).is_dir() for s in saved)

    @property
    def not_applicable(self) -> str | None:
        """Why this strategy cannot be applied to this model, if that was recorded."""
        if not self.exists:
            return None
        reason: str | None = self.meta["not_applicable"]
        return reason

    def done_cells(self) -> list[str]:
        """The complete cells, in the run's order."""
        marked = {mark.parent.name for mark in self.path.glob("cells/*/done.json")}
        return [cell for cell in self.cells if cell in marked]

    def failure(self, cell: str) -> bytes:
        """The stored failure of a cell, to be compared; empty if there is none."""
        try:
            return (self.path / "cells" / cell / "failure.json").read_bytes()
        except OSError:  # another process may just have removed it
            return b""

    def failures(self) -> dict[str, dict[str, Any]]:
        """Cell -> what went wrong (``type``, ``message``, ``traceback``)."""
        found = self.path.glob("cells/*/failure.json")
        return {path.parent.name: read_json(path) for path in sorted(found)}

    def predictions(self, cell: str) -> pd.DataFrame:
        """A cell's predictions: part, patient_id, image, label, one score column per class."""
        return read_table(self.path / "cells" / cell / "predictions.csv")

    def history(self, cell: str) -> pd.DataFrame:
        """A cell's training history, one row per evaluation."""
        return read_table(self.path / "cells" / cell / "history.csv")

    def cost(self, cell: str) -> dict[str, Any]:
        """What a cell cost and what it chose."""
        cost: dict[str, Any] = read_json(self.path / "cells" / cell / "cost.json")
        return cost

    def shift(self, cell: str) -> NDArray[np.float64]:
        """By how much training shifted the log odds of each class; 0 where it is not known."""
        import numpy as np

        shift = self.cost(cell).get("log_odds_shift")
        return np.array(shift or [0.0] * len(self.meta["classes"]), dtype=np.float64)

    def cohort(self) -> pd.DataFrame:
        """One row per image of the cohort, with its covariates and true risk where known."""
        return read_table(self.path / "cohort.csv")

    def folds(self) -> pd.DataFrame:
        """Columns repeat, fold, draw, part, patient_id."""
        return read_table(self.path / "folds.csv")

    # -------------------------------------------------------------- writing

    @contextmanager
    def leased(self, cell: str, *, wait: bool) -> Iterator[bool]:
        """Keep other processes from computing a cell; gives false while one of them does.

        A lease ends with its process, however that ends. Where the file system has no locks, or
        denies one to this account, every process may compute every cell.

        Parameters
        ----------
        wait
            Wait until no other process has the cell.
        """
        from filelock import FileLock, Timeout

        file = self.path / "cells" / cell / ".lock"
        file.parent.mkdir(parents=True, exist_ok=True)
        # The mode lets other accounts open the file. A soft lock would outlive its process.
        lock = FileLock(file, -1 if wait else 0, mode=0o666, fallback_to_soft=False)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        except (OSError, NotImplementedError):
            yield True
            return
        try:
            yield True
        finally:
            if self.is_done(cell):  # nobody needs the lock of a complete cell
                with suppress(OSError):
                    file.unlink()
            lock.release()

    def create(
        self,
        meta: Mapping[str, Any],
        environment: Mapping[str, Any],
        tables: Mapping[str, pd.DataFrame],
    ) -> None:
        """Write what is known before the first cell; the same content is not written again.

        Parameters
        ----------
        meta
            Of ``run.json``, without ``format``; written last.
        environment
            Of ``environment.json``.
        tables
            File stem (``cohort``, ``exclusions``, ``folds``) -> table.
        """
        if self.exists and self.meta == json_form({"format": FORMAT, **meta}):
            return
        for stem, table in tables.items():
            write_table(self.path / f"{stem}.csv", table)
        write_json(self.path / "environment.json", environment)
        write_json(self.path / "run.json", meta)
        self.__dict__.pop("meta", None)

    def mark_not_applicable(self, reason: NotApplicableError) -> None:
        """Record why this strategy cannot be applied to this model."""
        write_json(self.path / "run.json", {**self.meta, "not_applicable": str(reason)})
        self.__dict__.pop("meta", None)

    def write_cell(
        self,
        cell: str,
        predictions: Table,
        history: Sequence[Mapping[str, float]],
        cost: Mapping[str, Any],
        save: Callable[[Path], None] | None = None,
    ) -> None:
        """Store a finished cell; its completion mark comes last.

        Parameters
        ----------
        save
            Writes the adapted part into the (new, empty) folder that it is given.
        """
        import numpy as np

        folder = self.path / "cells" / cell
        folder.mkdir(parents=True, exist_ok=True)
        write_table(folder / "predictions.csv", predictions)
        measured = dict.fromkeys(name for row in history for name in row)
        evaluations = {n: np.array([row.get(n) for row in history], object) for n in measured}
        write_table(folder / "history.csv", evaluations)
        write_json(folder / "cost.json", cost)
        if save is not None:
            _write_folder(folder / "adapted", save)
        write_json(folder / "done.json", {"finished": _now()})
        (folder / "failure.json").unlink(missing_ok=True)

    def write_epoch(self, cell: str, epoch: int, save: Callable[[Path], None]) -> None:
        """Store the adapted part as it is after an epoch, while the cell is computed."""
        _write_folder(self.path / "cells" / cell / "epochs" / str(epoch), save)

    def write_failure(self, cell: str, error: BaseException) -> None:
        """Store why a cell failed; it stays unfinished and is tried again next time."""
        lines = [] if isinstance(error, PrognobenchError) else traceback.format_exception(error)
        write_json(
            self.path / "cells" / cell / "failure.json",
            {
                "type": type(error).__name__,
                "message": str(error),
                "traceback": "".join(lines),
                "when": _now(),
            },
        )


def run_folder(config: RunConfig, key: str) -> RunFolder:
    """Return the folder of a run, whether or not it exists."""
    names = (config.dataset.name, config.model.name, config.strategy.name)
    return RunFolder(config.paths.results.joinpath("runs", *map(_folder_name, names), key))


def iter_runs(results: Path) -> Iterator[RunFolder]:
    """Yield every run below a results folder, in the order of their paths.

    Raises
    ------
    StoreError
        If there is no such folder.
    """
    if not results.is_dir():
        raise StoreError(f"no results in {results}: start with 'prognobench run'")
    for file in sorted(results.glob("runs/*/*/*/*/run.json")):
        yield RunFolder(file.parent)


def _write_folder(folder: Path, save: Callable[[Path], None]) -> None:
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)


def _folder_name(name: str) -> str:
    """Keep a name readable and inside the results folder, whatever it is."""
    safe = "".join(c if c.isalnum() or c in "._-+=" else "-" for c in name).lstrip(".-")
    return safe or "unnamed"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
