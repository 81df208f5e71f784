"""A run's key, and its folder on disk: the only writer under ``results/runs``, and the reader.

Every file is written under another name and then renamed, a cell's completion mark last. So every
file that exists is whole, and a cell without its mark counts as not computed. ``run.json`` and the
mark keep the checksums of the files beside them, and their own: what changed since is not read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from prognobench.errors import DamagedError, NotApplicableError, PrognobenchError, StoreError
from prognobench.files import (
    checksum,
    checksum_file,
    json_form,
    read_json,
    read_sealed,
    read_table,
    stamp_file,
    write_json,
    write_sealed,
    write_table,
)
from prognobench.records import Component, RunConfig
from prognobench.registry import GROUPS
from prognobench.workers import hold

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from prognobench.files import Table

FORMAT = 1
"""Of run folders; a reader refuses a newer one."""

CELL_FILES = ("predictions.csv", "history.csv", "cost.json")
"""What every complete cell has beside its mark."""

SAVED = ("adapted", "epochs")
"""Folders that a cell may have: its model, and the model after each epoch."""

DRAFT = re.compile(r"\.(adapted|[\w-]+\.csv|(environment|cost|done)\.json)\.\d+$")
"""Name under which a file or folder of one process is written before it is whole."""

WRITTEN_AGAIN = "the same 'prognobench run' writes it again"
COMPUTED_AGAIN = "the same 'prognobench run' computes the cell again"

NUMBERS = 3
"""Part of every run's name. Raise it when the same config gives other numbers, such as after a fix
of training, so that old results are not taken for new ones.
"""


# ------------------------------------------------------------------ identity


def describe(config: RunConfig) -> dict[str, Any]:
    """Return the resolved config as plain JSON values, but for what changes no result."""
    described: dict[str, Any] = json_form(asdict(config))
    del described["engine"], described["privacy"]
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
    # What is saved changes no number, and speed-ups change it by rounding alone.
    no_number = ("save", "speedups", "seed")
    train = {name: value for name, value in asdict(config.train).items() if name not in no_number}
    if config.training_seed != config.seed:
        train["seed"] = config.training_seed
    for younger in ("refit", "head_grid"):  # than the keys of stored runs
        if not train[younger]:
            del train[younger]
    identity = {
        "format": FORMAT,
        "numbers": NUMBERS,
        "cohort": cohort,
        "folds": folds,
        "weights": weights,
        "image": asdict(config.image),
        "train": train,
        "seed": config.seed,
        **{
            group: _choice(group, getattr(config, group))
            for group in ("model", "strategy", "regime", "cv", "loss")
        },
    }
    # Sorted once it is plain: keys become text first.
    text = json.dumps(json_form(identity), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _choice(group: str, component: Component) -> dict[str, Any]:
    """Return what a component computes with; where its content lies does not matter."""
    locations = GROUPS[group][component.builder].locations
    settings = {name: value for name, value in component.settings.items() if name not in locations}
    return {"builder": component.builder, "settings": settings}


# ------------------------------------------------------------------ run folders

_marks: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {}
"""Completion mark -> its stamp when it was read here, and its content."""


class _Description:
    """What describes a run, once, whichever thread comes first."""

    def __init__(self, write: Callable[[], None]) -> None:
        self._lock, self._write = Lock(), write
        self._is_written = False

    def write(self) -> None:
        with self._lock:
            if not self._is_written:
                self._write()
                self._is_written = True


@dataclass(frozen=True)
class RunFolder:
    """One run's folder, ``results/runs/<dataset>/<model>/<strategy>/<key>``."""

    path: Path
    _awaited: list[_Description] = field(default_factory=list, repr=False, compare=False)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The content of ``run.json``, without its own checksum.

        Raises
        ------
        StoreError
            For a newer format; a damaged file is a :class:`DamagedError`.
        """
        file = self.path / "run.json"
        try:
            meta, sealed = read_sealed(file)
            if meta.get("format", 0) > FORMAT:
                raise StoreError(
                    f"{self.path}: written by a newer prognobench (format {meta['format']}, this "
                    f"one reads up to {FORMAT}); update prognobench"
                )
            if not sealed and ("files" in meta or not {"cells", "not_applicable"} <= set(meta)):
                raise DamagedError(f"{file} is damaged: it lacks its own checksum")
        except DamagedError as error:
            raise DamagedError(f"{error}; {WRITTEN_AGAIN}") from error
        return meta

    @cached_property
    def _place(self) -> str:
        return str(self.path)

    def _file_of(self, cell: str, name: str) -> str:
        # As text: a sweep has tens of thousands of files, and to join paths takes longer than
        # to look at what lies there.
        return os.path.join(self._place, "cells", cell, name)

    def _is_marked(self, cell: str) -> bool:
        return os.path.exists(self._file_of(cell, "done.json"))

    @property
    def exists(self) -> bool:
        """Whether the run is described."""
        return os.path.exists(os.path.join(self._place, "run.json"))

    @property
    def is_described(self) -> bool:
        """Whether the run is described by files that are whole."""
        return self.exists and self.find_damage() is None

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of the cells that the run consists of."""
        return tuple(self.meta["cells"])

    @property
    def not_applicable(self) -> str | None:
        """Why this strategy cannot be applied to this model, if that was recorded."""
        if not self.exists:
            return None
        try:
            reason: str | None = self.meta["not_applicable"]
        except DamagedError:  # it is found out and written again
            return None
        return reason

    def find_damage(self) -> str | None:
        """Return what is wrong with the files of the run itself, and nothing if they are whole."""
        try:
            recorded = self.meta.get("files", {})
        except DamagedError as error:
            return str(error)
        for name, wanted in recorded.items():
            if checksum_file(os.path.join(self._place, name)) != wanted:
                return f"{self.path / name} is damaged or missing; {WRITTEN_AGAIN}"
        return None

    def find_cell_damage(self, cell: str, *saved: str) -> str | None:
        """Return what is wrong with a complete cell's files, and nothing if they are whole.

        Parameters
        ----------
        saved
            Folders of the cell that are looked at too; their files, which may be large, are read
            only where their size or a time differs from when they were written.
        """
        try:
            mark = self._read_mark(cell)
        except DamagedError as error:
            return str(error)
        stamps = mark.get("stamps", {})
        for name, wanted in mark.get("files", {}).items():
            if name not in CELL_FILES and name.partition("/")[0] not in saved:
                continue
            file = self._file_of(cell, name)
            if name in stamps and _has_stamp(file, stamps[name]):
                continue
            if checksum_file(file) != wanted:
                return f"{file} is damaged or missing; {COMPUTED_AGAIN}"
        return None

    def is_done(self, cell: str, *saved: str) -> bool:
        """Whether a cell is complete, whole, and has the folders ``saved`` (``adapted``, ...)."""
        if not self._is_marked(cell):
            return False
        if not all(os.path.isdir(self._file_of(cell, folder)) for folder in saved):
            return False
        return self.find_cell_damage(cell, *saved) is None

    def stamp_files(self) -> str:
        """Return a checksum of the names, sizes and times of all files of the run.

        It changes whenever one is written, replaced or removed; models are not looked at.
        """
        stamps = _stamp_folder(self.path)
        with suppress(OSError), os.scandir(self.path / "cells") as cells:
            for cell in sorted(cells, key=lambda entry: entry.name):
                stamps.append(cell.name)
                stamps += _stamp_folder(cell.path)
        return checksum(repr(stamps).encode())

    def identify(self) -> tuple[str, ...]:
        """Return checksums that change with every number and name that the run has stored."""
        stored = [checksum_file(os.path.join(self._place, "run.json"))]
        for cell in self.cells:
            names: tuple[str, ...] = ("done.json",)
            if not self._is_marked(cell):
                names = ("failure.json",)
            elif not self.has_checksums(cell):
                names = (*CELL_FILES, "done.json")
            stored += [checksum_file(self._file_of(cell, name)) for name in names]
        return tuple(map(str, stored))

    def has_checksums(self, cell: str) -> bool:
        """Whether a complete cell was stored with checksums, as all but older versions do."""
        return "files" in self._read_mark(cell)

    def _read_mark(self, cell: str) -> dict[str, Any]:
        file = self._file_of(cell, "done.json")
        try:
            stamp = stamp_file(file)
        except OSError as error:
            raise StoreError(f"{file} cannot be read: {error}") from error
        if (known := _marks.get(file)) and known[0] == stamp:
            return known[1]
        try:
            mark, sealed = read_sealed(Path(file))
            if not sealed and set(mark) != {"finished"}:
                raise DamagedError(f"{file} is damaged: it lacks its own checksum")
        except DamagedError as error:
            raise DamagedError(f"{error}; {COMPUTED_AGAIN}") from error
        _marks[file] = (stamp, mark)
        return mark

    def _wanted(self, cell: str, name: str) -> str | None:
        """Return the checksum that a file of a complete cell must have."""
        if not self._is_marked(cell):
            return None
        wanted: str | None = self._read_mark(cell).get("files", {}).get(name)
        return wanted

    def marked_cells(self) -> list[str]:
        """The cells with a completion mark, whole or damaged, in the run's order."""
        return [cell for cell in self.cells if self._is_marked(cell)]

    def done_cells(self) -> list[str]:
        """The complete cells that are whole, in the run's order."""
        return [cell for cell in self.marked_cells() if self.find_cell_damage(cell) is None]

    def finished(self, cell: str) -> str:
        """When a complete cell was stored."""
        return str(self._read_mark(cell)["finished"])

    def failure(self, cell: str) -> bytes:
        """The stored failure of a cell, to be compared; empty if there is none."""
        try:
            return (self.path / "cells" / cell / "failure.json").read_bytes()
        except OSError:  # another process may just have removed it
            return b""

    def failed_at(self, cell: str) -> int:
        """When a cell's failure was stored, by the file system's clock; 0 if it has none."""
        try:
            return (self.path / "cells" / cell / "failure.json").stat().st_mtime_ns
        except OSError:
            return 0

    def failures(self) -> dict[str, dict[str, Any]]:
        """Cell -> what went wrong (``type``, ``message``, ``traceback``)."""
        failures = {}
        for path in sorted(self.path.glob("cells/*/failure.json")):
            try:
                failure, _ = read_sealed(path)
                if "message" not in failure:
                    raise DamagedError(f"{path} is damaged: it has no message")
            except DamagedError as error:
                raise DamagedError(f"{error}; {COMPUTED_AGAIN}, or delete the file") from error
            failures[path.parent.name] = failure
        return failures

    def predictions(self, cell: str) -> pd.DataFrame:
        """A cell's predictions: part, patient_id, image, label, one score column per class."""
        return self._read_cell_table(cell, "predictions.csv")

    def history(self, cell: str) -> pd.DataFrame:
        """A cell's training history, one row per evaluation."""
        return self._read_cell_table(cell, "history.csv")

    def _read_cell_table(self, cell: str, name: str) -> pd.DataFrame:
        with _with_way_out(COMPUTED_AGAIN):
            wanted = self._wanted(cell, name)
            return read_table(self.path / "cells" / cell / name, wanted=wanted)

    def cost(self, cell: str) -> dict[str, Any]:
        """What a cell cost and what it chose."""
        with _with_way_out(COMPUTED_AGAIN):
            file = Path(self._file_of(cell, "cost.json"))
            cost: dict[str, Any] = read_json(file, self._wanted(cell, "cost.json"))
        if not isinstance(cost, dict):
            raise DamagedError(f"{file} is damaged: it holds no entries; {COMPUTED_AGAIN}")
        return cost

    def shift(self, cell: str) -> NDArray[np.float64]:
        """By how much training shifted the log odds of each class; 0 where it is not known."""
        import numpy as np

        shift = self.cost(cell).get("log_odds_shift")
        return np.array(shift or [0.0] * len(self.meta["classes"]), dtype=np.float64)

    def predictions_file(self, cell: str) -> tuple[Path, str | None]:
        """Return where a complete cell's predictions lie, and their checksum where it is known."""
        name = "predictions.csv"
        return Path(self._file_of(cell, name)), self._wanted(cell, name)

    def require_model(self, cell: str) -> Path:
        """Return the folder of a cell's saved model, after all of its files were read.

        Raises
        ------
        StoreError
            If a file is not as it was written.
        """
        folder = self.path / "cells" / cell
        recorded = self._read_mark(cell).get("files", {})
        for name in [*recorded]:
            if name.startswith("adapted/") and checksum_file(folder / name) != recorded[name]:
                raise DamagedError(f"{folder / name} is damaged or missing; {COMPUTED_AGAIN}")
        return folder / "adapted"

    def cohort(self) -> pd.DataFrame:
        """One row per image of the cohort, with its covariates and true risk where known."""
        return self._read_run_table("cohort.csv")

    def folds(self) -> pd.DataFrame:
        """Columns repeat, fold, draw, part, patient_id."""
        return self._read_run_table("folds.csv")

    def exclusions(self) -> pd.DataFrame:
        """Columns item, reason: what of the dataset is not in the cohort."""
        return self._read_run_table("exclusions.csv")

    def _read_run_table(self, name: str) -> pd.DataFrame:
        with _with_way_out(WRITTEN_AGAIN):
            return read_table(self.path / name, wanted=self.meta.get("files", {}).get(name))

    def environment(self) -> dict[str, Any]:
        """What the run's numbers may depend on beside its config: machine and versions."""
        with _with_way_out(WRITTEN_AGAIN):
            name = "environment.json"
            wanted = self.meta.get("files", {}).get(name)
            environment: dict[str, Any] = read_json(self.path / name, wanted)
        if not isinstance(environment, dict):
            raise DamagedError(f"{self.path / name} is damaged; {WRITTEN_AGAIN}")
        return environment

    # -------------------------------------------------------------- writing

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
        described = {"format": FORMAT, **meta}
        if self._is_described_by(described):
            return
        try:
            # Two machines at once would mix the files that differ between them.
            with hold(self.path, "description"):
                self.__dict__.pop("meta", None)
                if not self._is_described_by(described):
                    self._write_description(described, environment, tables)
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"{self.path} cannot be written: {reason}") from error

    def _is_described_by(self, described: Mapping[str, Any]) -> bool:
        if not self.is_described or "files" not in self.meta:
            return False
        known = {name: value for name, value in self.meta.items() if name != "files"}
        return bool(known == json_form(described))

    def _write_description(
        self,
        described: Mapping[str, Any],
        environment: Mapping[str, Any],
        tables: Mapping[str, pd.DataFrame],
    ) -> None:
        files = {}
        for stem, table in tables.items():
            files[f"{stem}.csv"] = write_table(self.path / f"{stem}.csv", table)
        files["environment.json"] = write_json(self.path / "environment.json", environment)
        write_sealed(self.path / "run.json", {**json_form(described), "files": files})
        _remove_drafts(self.path)
        self.__dict__.pop("meta", None)

    def describe_later(self, write: Callable[[], None]) -> None:
        """Call ``write``, which creates the run, once there is something to store."""
        self._awaited[:] = [_Description(write)]

    def describe_now(self) -> None:
        """Do what :meth:`describe_later` put off, if it was not done yet."""
        for description in self._awaited:
            description.write()

    def mark_not_applicable(self, reason: NotApplicableError) -> None:
        """Record why this strategy cannot be applied to this model."""
        self.describe_now()
        write_sealed(self.path / "run.json", {**self.meta, "not_applicable": str(reason)})
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

        self.describe_now()
        folder = self.path / "cells" / cell
        folder.mkdir(parents=True, exist_ok=True)
        # The mark of a cell that is computed again must not vouch for a mixture of both.
        (folder / "done.json").unlink(missing_ok=True)
        files = {"predictions.csv": write_table(folder / "predictions.csv", predictions)}
        measured = dict.fromkeys(name for row in history for name in row)
        evaluations = {n: np.array([row.get(n) for row in history], object) for n in measured}
        files["history.csv"] = write_table(folder / "history.csv", evaluations)
        files["cost.json"] = write_json(folder / "cost.json", cost)
        if save is not None:
            _write_folder(folder / "adapted", save)
        stamps = {}
        for file in sorted(file for name in SAVED for file in folder.glob(f"{name}/**/*")):
            if (found := checksum_file(file)) is not None:  # of a folder there is none
                name = file.relative_to(folder).as_posix()
                files[name], stamps[name] = found, stamp_file(file)
        mark = {"finished": _now(), "files": files, "stamps": json_form(stamps)}
        write_sealed(folder / "done.json", mark)
        (folder / "failure.json").unlink(missing_ok=True)
        _remove_drafts(folder)

    def write_epoch(self, cell: str, epoch: int, save: Callable[[Path], None]) -> None:
        """Store the adapted part as it is after an epoch, while the cell is computed."""
        self.describe_now()
        _write_folder(self.path / "cells" / cell / "epochs" / str(epoch), save)

    def write_failure(self, cell: str, error: BaseException) -> None:
        """Store why a cell failed; it stays unfinished and is tried again next time."""
        self.describe_now()
        lines = [] if isinstance(error, PrognobenchError) else traceback.format_exception(error)
        write_sealed(
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
    for path in sorted(results.glob("runs/*/*/*/*")):
        folder = RunFolder(path)
        if folder.exists:
            yield folder
        elif any(path.glob("cells/*/done.json")):
            raise DamagedError(f"{path / 'run.json'} is missing; {WRITTEN_AGAIN}")


@contextmanager
def _with_way_out(way_out: str) -> Iterator[None]:
    """Add to the message about a file that cannot be read how to get it again."""
    try:
        yield
    except StoreError as error:
        message = str(error)
        raise type(error)(
            message if "prognobench" in message else f"{message}; {way_out}"
        ) from error


def _stamp_folder(folder: Path | str) -> list[object]:
    """Return name, size, times and inode of each file; nothing of files that come and go."""
    stamps: list[object] = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith(".") or not entry.is_file(follow_symlinks=True):
                continue
            stat = entry.stat()
            stamps.append(
                (entry.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
            )
    return stamps


def _has_stamp(file: str, stamp: Sequence[int]) -> bool:
    try:
        return list(stamp_file(file)) == list(stamp)
    except OSError:
        return False


def _write_folder(folder: Path, save: Callable[[Path], None]) -> None:
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save(draft)
    shutil.rmtree(folder, ignore_errors=True)
    draft.replace(folder)


def _remove_drafts(folder: Path) -> None:
    """Remove what processes left in a folder that died while they wrote what is now complete."""
    for draft in [each for each in os.listdir(folder) if _is_draft(each)]:
        with suppress(OSError):
            shutil.rmtree(folder / draft) if (folder / draft).is_dir() else (
                folder / draft
            ).unlink()


def _is_draft(name: str) -> bool:
    return DRAFT.match(name) is not None


def _folder_name(name: str) -> str:
    """Keep a name readable and inside the results folder, whatever it is."""
    safe = "".join(c if c.isalnum() or c in "._-+=" else "-" for c in name).lstrip(".-")
    return safe or "unnamed"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
