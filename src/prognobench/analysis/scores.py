"""From stored predictions to ``runs.csv`` and ``scores.csv``, and how these are read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.catalogue import NAMES, count_training_patients, list_runs
from prognobench.analysis.evaluation import Cells, evaluate, make_cells
from prognobench.analysis.predictions import Level, Spans, load_predictions
from prognobench.analysis.subgroups import Bands, check_columns, find_subgroups
from prognobench.analysis.surveying import NOTE, Surveyed, read_note, survey
from prognobench.analysis.thresholds import HALF, VALIDATION, Scaling
from prognobench.errors import StoreError
from prognobench.files import read_table, write_sealed, write_table, write_tables
from prognobench.metrics.metric import all_metrics
from prognobench.store import RunFolder

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

CHANCE = "chance"
"""Name of the row of a forecast that knows the shares of the classes only."""

COLUMNS = (
    *NAMES,
    *("repeat", "draw", "fold", "level", "subgroup", "threshold", "cutoff", "metric", "value"),
    *("reason", "n", "positives", "prevalence", "train_patients", "scaling"),
)
"""The columns of ``scores.csv``."""

AT_ONCE = 1000
"""Runs whose predictions are in memory at once."""

TEXT = (
    *("dataset", "model", "strategy", "regime", "cv", "key", "cohort", "folds", "path", "version"),
    *("level", "subgroup", "threshold", "metric", "reason", "failure", "not_applicable", "risks"),
    "notes",
)
"""Columns that are read as text, numbers among them too; a blank is empty text."""


@dataclass(frozen=True)
class Settings:
    """How predictions are scored.

    Attributes
    ----------
    scaling
        Calibration, fitted on each cell's validation part.
    rules
        Thresholds of decisions, as :func:`.thresholds.parse_threshold` takes them.
    by
        Column of the cohort -> edges of its bands (empty: chosen from the data) whose subgroups
        are scored too, all folds pooled.
    levels
        ``patient`` scores the mean probability of a patient's images, ``image`` each image.
    """

    scaling: Scaling = "none"
    rules: tuple[str, ...] = (HALF, VALIDATION)
    by: Mapping[str, Bands] | None = None
    levels: tuple[Level, ...] = ("patient", "image")


def score(
    results: Path,
    progress: Callable[[str, int, int], None] | None = None,
    settings: Settings = Settings(),
) -> Path:
    """Score all complete cells, and write ``runs.csv`` and ``scores.csv`` below ``results``.

    ``scores.csv`` has one row per run, fold (blank: all folds pooled), level, threshold rule and
    metric. A value that is not defined is blank and has a ``reason``. In more than two classes the
    rule ``0.5`` means the most probable class.

    Raises
    ------
    StoreError
        If there are no runs, or a file of theirs is damaged.
    """
    _score(results, survey(results, {}, COLUMNS), settings, progress)
    return results / "scores.csv"


def _score(
    results: Path,
    surveyed: Surveyed,
    settings: Settings,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Score runs that were surveyed; return the note of what was made of what."""
    runs, folders = list_runs(results, surveyed.folders)
    # The note that says what they were made of is absent while they are written.
    (results / NOTE).unlink(missing_ok=True)
    files = {
        "runs.csv": write_table(results / "runs.csv", runs),
        "scores.csv": write_tables(
            results / "scores.csv", score_tables(runs, folders, settings, progress)
        ),
    }
    note = {
        "made_of": surveyed.made_of,
        "settings": asdict(settings),
        "files": files,
        "seen": surveyed.seen,
    }
    write_sealed(results / NOTE, note)
    return note


def score_tables(
    runs: pd.DataFrame,
    folders: Sequence[RunFolder],
    settings: Settings,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield the scores of all complete cells of these runs, of :data:`AT_ONCE` runs at a time.

    Chance is scored once for each cohort and its folds, whatever the runs on them.
    """
    check_columns(runs, folders, settings.by or {})
    parts = [runs.iloc[start : start + AT_ONCE] for start in range(0, len(runs), AT_ONCE)]
    chance: set[tuple[str, str, str]] = set()
    for number, part in enumerate(parts):

        def say(label: str, done: int, total: int, before: int = number) -> None:
            if progress:
                progress(label, before * total + done, total * len(parts))

        table = _score_part(part, folders, settings, say)
        own = set(map(tuple, part[["dataset", "cohort", "folds"]].to_numpy()))
        if repeated := [folds[:12] for _, _, folds in own & chance]:
            again = (table["model"] == CHANCE) & table["key"].isin(repeated)
            table = table[~again]
        chance |= own
        yield table


def _score_part(
    runs: pd.DataFrame,
    folders: Sequence[RunFolder],
    settings: Settings,
    progress: Callable[[str, int, int], None],
) -> pd.DataFrame:
    import pandas as pd

    train = count_training_patients(runs, folders)
    tables: list[pd.DataFrame] = []
    for predictions in load_predictions(runs, folders):
        sizes = predictions.cells.merge(train, how="left")["train_patients"].to_numpy(float)
        for number, level in enumerate(settings.levels):
            progress("scoring", number, len(settings.levels))
            cells = make_cells(predictions, level, settings.scaling, settings.rules)
            spans = predictions.spans
            common: dict[str, Any] = {
                "train_patients": sizes,
                "classes": predictions.classes,
                "level": level,
            }
            tables += _Scores(cells, spans, **common).tables(runs)
            pooled = spans.take(spans.fold < 0)
            groups = find_subgroups(predictions, runs, folders, level, settings.by or {})
            for group, inside in groups.items():
                scores = _Scores(cells, pooled, group=group, inside=inside, **common)
                tables += scores.tables(runs)
    progress("scoring", len(settings.levels), len(settings.levels))
    if not tables:
        return pd.DataFrame(columns=list(COLUMNS))
    scaling = pd.Categorical([settings.scaling]).repeat(sum(map(len, tables)))
    return pd.concat(tables, ignore_index=True).assign(scaling=scaling)


class _Scores:
    """All measures of some spans at one level, and what rows of a table they become."""

    def __init__(
        self,
        cells: Cells,
        spans: Spans,
        *,
        train_patients: NDArray[np.float64],
        classes: Sequence[str],
        level: Level,
        group: str = "",
        inside: NDArray[np.bool_] | None = None,
    ) -> None:
        self.cells, self.classes, self.level, self.group = cells, classes, level, group
        values, counts = evaluate(cells, spans, cells.measures, inside)
        some = counts.sum(axis=1) > 0
        self.spans, self.values, self.counts = spans.take(some), values[some], counts[some]
        self.train_patients = train_patients[self.spans.first]

    def tables(self, runs: pd.DataFrame) -> list[pd.DataFrame]:
        """The scores, and those of chance on the same patients."""
        names = runs.loc[self.spans.run, list(NAMES)]
        scores = self._table(names, self.values, np.arange(len(self.spans)))
        sources = runs.loc[self.spans.run, ["dataset", "cohort", "folds"]]
        first_run = sources.assign(run=self.spans.run).groupby(["dataset", "cohort", "folds"])
        is_first = (first_run["run"].transform("min") == self.spans.run).to_numpy()
        chosen = np.flatnonzero(is_first)
        shares = self.counts[chosen] / self.counts[chosen].sum(axis=1, keepdims=True)
        values = np.full((len(chosen), len(self.cells.measures)), np.nan)
        for column, measure in enumerate(self.cells.measures):
            if measure.metric.chance is not None:
                values[:, column] = [measure.metric.chance(share) for share in shares]
        key = sources["folds"].iloc[chosen].str[:12]
        names = names.iloc[chosen].assign(model=CHANCE, strategy=CHANCE, key=key)
        return [scores, self._table(names, values, chosen, chance=True)]

    def _table(
        self,
        names: pd.DataFrame,
        values: NDArray[np.float64],
        chosen: NDArray[np.intp],
        chance: bool = False,
    ) -> pd.DataFrame:
        import pandas as pd

        measures = self.cells.measures
        size, width = values.shape
        spans, counts = self.spans.take(chosen), self.counts[chosen]
        n, positives = counts.sum(axis=1), counts[:, 1]
        if len(self.classes) > 2:
            positives = np.full(size, np.nan)
        per_span: dict[str, Any] = {
            **{str(name): pd.Categorical(names[name]) for name in names},
            "repeat": spans.repeat,
            "draw": _blank_if(spans.draw < 0, spans.draw),
            "fold": _blank_if(spans.fold < 0, spans.fold),
            "level": pd.Categorical([self.level] * size),
            "subgroup": pd.Categorical([self.group or None] * size),
            "n": n.astype(int),
            "positives": positives,
            "prevalence": positives / n,
            "train_patients": self.train_patients[chosen],
        }
        per_measure: dict[str, Any] = {
            "threshold": pd.Categorical([measure.rule for measure in measures]),
            "metric": pd.Categorical([measure.metric.name for measure in measures]),
        }
        span, column = np.repeat(np.arange(size), width), np.tile(np.arange(width), size)
        table = pd.DataFrame(
            {
                **{name: value.take(span) for name, value in per_span.items()},
                **{name: value.take(column) for name, value in per_measure.items()},
                "cutoff": self._cutoffs(spans).ravel(),
                "value": values.ravel(),
                "reason": None if chance else self._reasons(values, counts, spans),
            }
        )[[name for name in COLUMNS if name != "scaling"]]
        return table[table["value"].notna()] if chance else table

    def _cutoffs(self, spans: Spans) -> NDArray[np.float64]:
        """``(spans, measures)``: thresholds; folds that are pooled have no common one."""
        columns = []
        for measure in self.cells.measures:
            per_cell = self.cells.cutoffs.get(measure.rule)
            if per_cell is None or len(self.classes) != 2:
                columns.append(np.full(len(spans), np.nan))
                continue
            single = (spans.fold >= 0) | (per_cell == per_cell[0]).all()
            columns.append(np.where(single, per_cell[spans.first], np.nan))
        return np.stack(columns, axis=1)

    def _reasons(
        self, values: NDArray[np.float64], counts: NDArray[np.float64], spans: Spans
    ) -> NDArray[Any]:
        reasons = np.full(values.shape, None, dtype=object)
        for row, column in np.argwhere(np.isnan(values)):
            measure = self.cells.measures[column]
            missing = [name for name, n in zip(self.classes, counts[row], strict=True) if not n]
            cutoffs = self.cells.cutoffs.get(measure.rule, np.zeros(len(self.cells.test.offsets)))
            if missing:
                what = " or ".join(map(repr, missing))
                reasons[row, column] = (
                    f"no {self.level} of class {what} among {counts[row].sum():.0f}"
                )
            elif np.isnan(cutoffs[spans.first[row] : spans.last[row]]).any():
                reasons[row, column] = (
                    "validation gives no threshold: its labels or scores are equal"
                )
            else:
                reasons[row, column] = measure.metric.undefined or "not finite"
        return reasons.ravel()


def _blank_if(blank: NDArray[np.bool_], values: NDArray[np.intp]) -> Any:
    import pandas as pd

    return pd.arrays.IntegerArray(values.astype(np.int64), blank)


# ------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Scored:
    """``runs.csv`` and ``scores.csv`` of a results folder, and the folder of each row of runs.

    Attributes
    ----------
    hidden
        Keys of the runs that are not shown, because newer ones have the same names and settings.
    is_shown
        Whether the names are complete: see :func:`.shown.show_runs`.
    """

    runs: pd.DataFrame
    scores: pd.DataFrame
    folders: tuple[RunFolder, ...]
    hidden: tuple[str, ...] = ()
    is_shown: bool = False

    @property
    def versions(self) -> list[str]:
        """The versions of prognobench that made the runs."""
        return sorted(set(self.runs["version"]) - {""})

    @property
    def scaling(self) -> Scaling:
        """How probabilities were calibrated before they were scored."""
        found: list[Scaling] = list(self.scores["scaling"].unique())
        return found[0] if found else "none"


def read_scores(results: Path, metrics: Sequence[str] | None = None) -> Scored:
    """Read the scores of a results folder.

    They are made anew if the stored runs are not those that they were made of; and, with the
    settings that they were made with, if a file of theirs was changed.

    Parameters
    ----------
    metrics
        Read the scores of these metrics only: all of 10,000 runs fill the memory.

    Raises
    ------
    DamagedError
        With the stored files that are not as they were written.
    StoreError
        If there are no runs.
    """
    note = read_note(results)
    surveyed = survey(results, note.get("seen", {}), COLUMNS)
    scored, settings = None, Settings()
    if note.get("made_of") == surveyed.made_of:
        settings = _read_settings(note)
        scored = _read(results, surveyed.folders, note["files"], metrics)
    if scored is None:
        note = _score(results, surveyed, settings)
        scored = _read(results, surveyed.folders, note["files"], metrics)
    if scored is None:
        raise StoreError(f"{results / 'scores.csv'} was changed while it was read; try again")
    return scored


def _read_settings(note: Mapping[str, Any]) -> Settings:
    kept = note["settings"]
    by = kept["by"] and {name: tuple(edges) for name, edges in kept["by"].items()}
    return Settings(kept["scaling"], tuple(kept["rules"]), by, tuple(kept["levels"]))


def _read(
    results: Path,
    found: Sequence[RunFolder],
    files: Mapping[str, str],
    metrics: Sequence[str] | None,
) -> Scored | None:
    """Read both tables; nothing if one was changed, or lacks a metric that is registered now."""
    there: set[str] = set()

    def keep(rows: pd.DataFrame) -> pd.Series[bool]:
        there.update(rows["metric"].unique())
        return rows["metric"].isin(list(metrics or ()))

    try:
        tables = [
            read_table(results / "runs.csv", TEXT, files["runs.csv"]),
            read_table(
                results / "scores.csv", TEXT, files["scores.csv"], keep if metrics else None
            ),
        ]
    except StoreError:
        return None
    # A regime without k has 0 here: blanks do not group.
    runs, scores = (table.fillna({"k": 0}).astype({"k": int}) for table in tables)
    there.update(scores["metric"].unique())
    if not {metric.name for metric in all_metrics()} <= there:
        return None
    # Of the folds that a score is of: runs on the same folds can be paired. The key of a row of
    # chance or of a ceiling is the start of that digest.
    folds = dict(zip(runs["key"], runs["folds"], strict=True))
    folds |= {digest[:12]: digest for digest in runs["folds"]}
    scores["folds"] = scores["key"].map(folds)
    if not {"risks", "notes"}.issubset(runs):  # an older version made them
        return None
    known = {str(folder.path.relative_to(results)): folder for folder in found}
    return Scored(runs, scores, tuple(known[path] for path in runs["path"]))
