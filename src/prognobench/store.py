"""Run folders on disk: the only writer under ``results/runs``, and the reader of what it wrote.

Every file is written beside its place and renamed into it, a cell's completion mark last: whatever
is found was written whole, and a cell without its mark never happened.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.errors import NotApplicableError, PrognobenchError, StoreError
from prognobench.records import Component, RunConfig

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
"""Of run folders; a reader refuses a newer one."""

WHERE_WEIGHTS_ARE = ("weights", "hub", "package", "obtain")
"""Settings of models that say where weights lie; which they are, the fingerprint says."""

TEXT_COLUMNS = ("patient_id", "image", "source", "centre", "part", "item", "reason")
"""Columns that are text whatever they look like (a patient called ``007`` or ``NA``)."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


# ------------------------------------------------------------------ files


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, keys in their order."""
    write_text(path, json.dumps(value, indent=2, default=_plain, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read what :func:`write_json` wrote; a damaged file is a :class:`StoreError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a CSV that is safe to open in a spreadsheet; nine significant digits."""
    buffer = io.StringIO()
    # Several times as fast as pandas, whose float format is a call per cell.
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(zip(*(_texts(table[column]) for column in table.columns), strict=True))
    write_text(path, buffer.getvalue())


def _texts(values: pd.Series[Any]) -> Any:
    """Each cell as it is written; each different value is formatted once."""
    import numpy as np
    import pandas as pd

    codes, different = pd.factorize(values)
    return np.array([*map(_text, different), ""], dtype=object)[codes]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.9g}"
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else str(value)


def read_table(path: Path, text: Sequence[str] = TEXT_COLUMNS) -> pd.DataFrame:
    """Read what :func:`write_table` wrote; the columns in ``text`` stay text."""
    try:
        return _parse(path.read_bytes(), text)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error


def read_tables(paths: Sequence[Path], text: Sequence[str] = TEXT_COLUMNS) -> pd.DataFrame:
    """Read many tables of the same columns as one, much faster than one by one.

    The column ``file`` says which of the paths a row came from, as an index.
    """
    contents: list[bytes] = []
    for path in paths:
        try:
            contents.append(path.read_bytes())
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        if contents[-1].partition(b"\n")[0] != contents[0].partition(b"\n")[0]:
            raise StoreError(f"{path} has other columns than {paths[0]}")
    bodies = [content.partition(b"\n")[2].rstrip(b"\n") for content in contents]
    rows = [body.count(b"\n") + bool(body) for body in bodies]
    together = b"\n".join([contents[0].partition(b"\n")[0], *filter(None, bodies)])
    try:
        table = _parse(together, text)
    except ValueError:
        table = None
    if table is None or len(table) != sum(rows):
        # A damaged file, which is named so, or line breaks inside cells.
        import pandas as pd

        tables = [read_table(path, text) for path in paths]
        rows, table = [len(each) for each in tables], pd.concat(tables, ignore_index=True)
    table["file"] = [number for number, count in enumerate(rows) for _ in range(count)]
    return table


def _parse(content: bytes, text: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    table = pd.read_csv(
        io.BytesIO(content),
        dtype=dict.fromkeys(text, str),
        keep_default_na=False,
        na_values=[""],
    )
    for column in table.columns:
        if table[column].dtype == "str" or table[column].dtype == object:
            values = table[column]
            guarded = values.str.startswith("'", na=False)
            if guarded.any():
                table[column] = values.where(~guarded, values.str[1:])
            if column in text:
                table[column] = table[column].fillna("")
    return table


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


# ------------------------------------------------------------------ identity


def describe(config: RunConfig) -> dict[str, Any]:
    """Return the whole resolved config as plain JSON values."""
    described: dict[str, Any] = json.loads(json.dumps(asdict(config), default=_plain))
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
    train = {name: value for name, value in plain["train"].items() if name != "save"}
    identity = {
        "format": FORMAT,
        "cohort": cohort,
        "folds": folds,
        "weights": weights,
        "image": plain["image"],
        "train": train,
        "seed": plain["seed"],
        **{
            group: _choice(getattr(config, group))
            for group in ("model", "strategy", "regime", "cv", "loss")
        },
    }
    for setting in WHERE_WEIGHTS_ARE:
        identity["model"]["settings"].pop(setting, None)
    text = json.dumps(identity, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _choice(component: Component) -> dict[str, Any]:
    settings = {k: v for k, v in component.settings.items() if not isinstance(v, Path)}
    return {"builder": component.builder, "settings": settings}


# ------------------------------------------------------------------ run folders


@dataclass(frozen=True)
class RunFolder:
    """One run's folder, ``results/runs/<dataset>/<model>/<strategy>/<key>``."""

    path: Path

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What ``run.json`` says; raises :class:`StoreError` for a format that is newer."""
        meta: dict[str, Any] = read_json(self.path / "run.json")
        if meta.get("format", 0) > FORMAT:
            raise StoreError(
                f"{self.path}: written by a newer prognobench (format {meta['format']}, this one "
                f"reads up to {FORMAT}); update prognobench"
            )
        return meta

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of the cells that the run consists of."""
        return tuple(self.meta["cells"])

    def is_done(self, cell: str, adapted: bool = False) -> bool:
        """Whether a cell is complete (and, where asked, its adapted part was saved)."""
        folder = self.path / "cells" / cell
        return (folder / "done.json").exists() and (not adapted or (folder / "adapted").is_dir())

    def done_cells(self) -> list[str]:
        """The complete cells, in the run's order."""
        marked = {mark.parent.name for mark in self.path.glob("cells/*/done.json")}
        return [cell for cell in self.cells if cell in marked]

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

    def cohort(self) -> pd.DataFrame:
        """One row per image of the cohort, with its covariates and true risk where known."""
        return read_table(self.path / "cohort.csv")

    def folds(self) -> pd.DataFrame:
        """Columns repeat, fold, draw, part, patient_id."""
        return read_table(self.path / "folds.csv")

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
        if (self.path / "run.json").exists() and self.meta == _json_form(
            {"format": FORMAT, **meta}
        ):
            return
        for stem, table in tables.items():
            write_table(self.path / f"{stem}.csv", table)
        write_json(self.path / "environment.json", environment)
        write_json(self.path / "run.json", meta)
        self.__dict__.pop("meta", None)

    def mark_not_applicable(self, reason: NotApplicableError) -> None:
        """Record that this pair of model and strategy cannot be, and why."""
        write_json(self.path / "run.json", {**self.meta, "not_applicable": str(reason)})
        self.__dict__.pop("meta", None)

    def write_cell(
        self,
        cell: str,
        predictions: pd.DataFrame,
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
        import pandas as pd

        folder = self.path / "cells" / cell
        folder.mkdir(parents=True, exist_ok=True)
        write_table(folder / "predictions.csv", predictions)
        write_table(folder / "history.csv", pd.DataFrame(list(history)))
        write_json(folder / "cost.json", cost)
        if save is not None:
            _write_folder(folder / "adapted", save)
        write_json(folder / "done.json", {"finished": _now()})
        (folder / "failure.json").unlink(missing_ok=True)

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


def _json_form(value: Any) -> Any:
    return json.loads(json.dumps(value, default=_plain))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
