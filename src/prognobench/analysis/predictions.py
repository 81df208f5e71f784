"""Stored predictions of many runs as arrays: cell after cell, per image and per patient."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prognobench.errors import StoreError
from prognobench.files import read_tables
from prognobench.store import RunFolder

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Level = Literal["patient", "image"]
Part = Literal["validation", "test"]

ORACLE = "oracle"
"""Model of the rows that are scored with the true risks: the ceiling of a generated cohort."""


@dataclass(frozen=True)
class Units:
    """Patients or images of many cells, one cell after the other.

    Attributes
    ----------
    ids, patients
        ``(units,)``, name of the unit, and of its patient.
    labels
        ``(units,)``, index of the class.
    scores
        ``(units, classes)``, probabilities; a patient has the mean of the patient's images.
    offsets
        ``(cells + 1,)``: cell ``i`` is ``offsets[i]:offsets[i + 1]``.
    """

    ids: NDArray[Any]
    patients: NDArray[Any]
    labels: NDArray[np.intp]
    scores: NDArray[np.float64]
    offsets: NDArray[np.intp]

    @cached_property
    def cell(self) -> NDArray[np.intp]:
        """``(units,)``, number of the unit's cell."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def of(self, cell: int) -> slice:
        """Return the slice of a cell's units."""
        return slice(self.offsets[cell], self.offsets[cell + 1])


@dataclass(frozen=True)
class Spans:
    """Neighbouring cells that are scored as one: ``(spans,)`` each.

    Attributes
    ----------
    run, repeat, draw, fold
        What they belong to; ``fold`` is -1 where all folds of a repetition are pooled.
    first, last
        First cell, and the one after the last.
    """

    run: NDArray[np.intp]
    repeat: NDArray[np.intp]
    draw: NDArray[np.intp]
    fold: NDArray[np.intp]
    first: NDArray[np.intp]
    last: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.run)

    def take(self, chosen: NDArray[Any]) -> Spans:
        """Return some of them."""
        return Spans(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Predictions:
    """All stored predictions of runs that share their classes.

    Attributes
    ----------
    cells
        One row per cell: ``run`` (index into the table of runs), ``repeat``, ``draw`` (-1 without
        draws), ``fold``, ``cell`` (its name); in this order, so that the folds of one repetition
        stand together.
    units
        With the probabilities as they are stored.
    shifts
        ``(cells, classes)``: by how much training shifted the log odds; 0 where nothing is known.
    """

    classes: tuple[str, ...]
    cells: pd.DataFrame
    units: dict[tuple[Level, Part], Units]
    shifts: NDArray[np.float64]

    @cached_property
    def spans(self) -> Spans:
        """Each cell, and after the folds of a repetition (and draw) these folds pooled."""
        axes = self.cells[["run", "repeat", "draw", "fold"]].to_numpy()
        number = np.arange(len(axes))
        # The folds of a repetition stand together, so that pooling them takes no copy: a span from
        # the first cell of a (run, repeat, draw) to the first cell of the next.
        starts = np.ones(len(axes), dtype=bool)
        starts[1:] = (axes[1:, :3] != axes[:-1, :3]).any(axis=1)
        first = number[starts]
        last = np.append(first[1:], len(axes))
        pooled = np.column_stack([axes[first, :3], np.full(len(first), -1), first, last])
        single = np.column_stack([axes, number, number + 1])
        both = np.concatenate([single, pooled])
        # lexsort takes its last key first: run, repeat, draw, and the pooled span (fold -1) last.
        order = np.lexsort((both[:, 3] < 0, both[:, 2], both[:, 1], both[:, 0]))
        return Spans(*both[order].T)


def load_predictions(runs: pd.DataFrame, folders: Sequence[RunFolder]) -> Iterator[Predictions]:
    """Yield the predictions of all complete cells, runs of the same classes together.

    Parameters
    ----------
    runs
        As :func:`.catalogue.list_runs` gives them; an oracle's row stands for true
        risks, which are read from the cohort.
    folders
        Folder of each row.
    """
    classes = [tuple(folders[row].meta["classes"]) for row in runs.index]
    for names in dict.fromkeys(classes):
        rows = runs[[each == names for each in classes]]
        oracles = rows["model"] == ORACLE
        listed, tables = _load_oracles(rows.index[oracles], folders, names)
        cells = [
            (row, cell) for row in rows.index[~oracles] for cell in folders[row].marked_cells()
        ]
        if cells:
            files = [folders[row].predictions_file(cell) for row, cell in cells]
            paths, wanted = zip(*files, strict=True)
            stored = read_tables(paths, wanted=wanted)
            stored["file"] += len(tables)
            tables.append(stored)
        if tables:
            import pandas as pd

            unmoved = [np.zeros(len(names)) for _ in listed]
            shifts = [folders[row].shift(cell) for row, cell in cells]
            table = pd.concat(tables, ignore_index=True)
            yield arrange(table, [*listed, *cells], names, np.stack([*unmoved, *shifts]))


def _load_oracles(
    rows: Iterable[int], folders: Sequence[RunFolder], classes: Sequence[str]
) -> tuple[list[tuple[int, str]], list[pd.DataFrame]]:
    listed: list[tuple[int, str]] = []
    tables: list[pd.DataFrame] = []
    for row in rows:
        for cell, table in oracle_predictions(folders[row], classes):
            listed.append((row, cell))
            tables.append(table.assign(file=len(tables)))
    return listed, tables


def arrange(
    table: pd.DataFrame,
    listed: Sequence[tuple[int, str]],
    classes: tuple[str, ...],
    shifts: NDArray[np.float64],
) -> Predictions:
    """Order prediction tables by cell, and average images to patients.

    Parameters
    ----------
    table
        Predictions as they are stored; ``file`` numbers the cells.
    listed
        Run and name of each cell.
    shifts
        Of each cell, as :class:`Predictions` has them.
    """
    import pandas as pd

    columns = [f"score_{name}" for name in classes]
    if missing := [column for column in columns if column not in table]:
        raise StoreError(
            f"predictions have no column {missing[0]!r}: were the classes renamed after the run?"
        )
    cells = pd.DataFrame([(run, *parse_cell(cell), cell) for run, cell in listed])
    cells.columns = pd.Index(["run", "repeat", "draw", "fold", "cell"])
    order = cells.sort_values(["run", "repeat", "draw", "fold"], kind="stable").index.to_numpy()
    # order[new] is the old number of a cell, place[old] its new one.
    place = np.empty(len(order), dtype=np.intp)
    place[order] = np.arange(len(order))
    patient, patients = pd.factorize(table["patient_id"], sort=True)
    data = _Images(
        cell=place[table["file"].to_numpy()],
        patient=patient,
        image=table["image"].to_numpy(),
        labels=table["label"].to_numpy(np.intp),
        scores=table[columns].to_numpy(np.float64),
    )
    units: dict[tuple[Level, Part], Units] = {}
    parts: tuple[Part, ...] = ("validation", "test")
    for part in parts:
        chosen = data.take(np.flatnonzero(table["part"].to_numpy() == part))
        units["image", part] = chosen.images(len(cells), np.asarray(patients))
        units["patient", part] = chosen.patients(len(cells), np.asarray(patients))
    return Predictions(classes, cells.loc[order].reset_index(drop=True), units, shifts[order])


def parse_cell(name: str) -> tuple[int, int, int]:
    """Return repeat, draw (-1 without) and fold of a cell's name such as ``r0-f2-d7``."""
    match = re.fullmatch(r"r(\d+)-f(\d+)(?:-d(\d+))?", name)
    if match is None:
        raise StoreError(f"{name!r} is not a cell: cells are named like r0-f2 or r0-f2-d7")
    repeat, fold, draw = match.groups()
    return int(repeat), -1 if draw is None else int(draw), int(fold)


@dataclass(frozen=True)
class _Images:
    """Predictions of images in columns; ``patient`` is a code."""

    cell: NDArray[np.intp]
    patient: NDArray[np.intp]
    image: NDArray[Any]
    labels: NDArray[np.intp]
    scores: NDArray[np.float64]

    def take(self, rows: NDArray[np.intp]) -> _Images:
        rows = rows[np.argsort(self.cell[rows], kind="stable")]
        return _Images(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def images(self, cells: int, names: NDArray[Any]) -> Units:
        patients = names[self.patient]
        return Units(self.image, patients, self.labels, self.scores, _offsets(self.cell, cells))

    def patients(self, cells: int, names: NDArray[Any]) -> Units:
        # One number for each pair of cell and patient: equal numbers are images of one patient.
        code = self.cell * max(1, len(names)) + self.patient
        groups, first, inverse = np.unique(code, return_index=True, return_inverse=True)
        count = np.bincount(inverse, minlength=len(groups))
        sums = [np.bincount(inverse, scores, minlength=len(groups)) for scores in self.scores.T]
        means = np.stack(sums, axis=-1) / count[:, None]
        ids = names[self.patient[first]]
        return Units(ids, ids, self.labels[first], means, _offsets(self.cell[first], cells))


def _offsets(cell: NDArray[np.intp], cells: int) -> NDArray[np.intp]:
    return np.searchsorted(cell, np.arange(cells + 1))


def oracle_predictions(
    folder: RunFolder, classes: Sequence[str]
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield, for each of a run's cells, the true risks in the form of predictions."""
    folds, cohort = folder.folds(), folder.cohort()
    columns = {f"risk_{name}": f"score_{name}" for name in classes}
    risks = cohort[["patient_id", "image", "label", *columns]].rename(columns=columns)
    held_out = folds[folds["part"] != "train"].fillna({"draw": -1})
    for axes, rows in held_out.groupby(["repeat", "fold", "draw"], sort=False):
        repeat, fold, draw = (int(axis) for axis in np.asarray(axes))
        name = f"r{repeat}-f{fold}" + ("" if draw < 0 else f"-d{draw}")
        yield name, rows[["part", "patient_id"]].merge(risks, on="patient_id")
