"""Scores of all folds pooled, with intervals over patients; also of subgroups of patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.catalogue import CONTEXT, NAMES
from prognobench.analysis.evaluation import Measure, make_cells
from prognobench.analysis.predictions import ORACLE, Level, Predictions, load_predictions
from prognobench.analysis.scores import CHANCE, Scored, read_scores
from prognobench.analysis.shown import show_runs
from prognobench.analysis.statistics.resampling import (
    Panel,
    Resampling,
    bootstrap,
    make_panel,
    warn_few_events,
    within,
)
from prognobench.analysis.subgroups import Bands, check_columns, find_subgroups
from prognobench.analysis.summaries.aggregate import describe_context
from prognobench.analysis.summaries.score_tables import note_results
from prognobench.analysis.tables import (
    SYNTHETIC,
    Entry,
    Made,
    Row,
    Table,
    make_count,
    make_number,
    write_tables,
)
from prognobench.analysis.thresholds import HALF, NO_THRESHOLD, VALIDATION, parse_threshold
from prognobench.metrics.metric import find_metric

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

COLUMNS = (
    *NAMES,
    *("level", "subgroup", "metric", "threshold", "value", "low", "high", "undefined"),
    *("n", "positives", "fold_mean", "fold_sd", "folds"),
)
"""The columns of ``tables/intervals*.csv``."""


@dataclass(frozen=True)
class Wanted:
    """Which scores, of which runs and patients, and how they are resampled.

    Attributes
    ----------
    where
        Column of ``runs.csv`` -> values that are taken.
    by
        Column of the cohort -> edges of its bands (empty: chosen from the data): each subgroup
        gets a row.
    """

    metrics: Sequence[str] = ("mcc", "average_precision")
    threshold: str = HALF
    level: Level = "patient"
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    by: Mapping[str, Bands] = field(default_factory=dict)
    everything: bool = False
    resampling: Resampling = field(default_factory=Resampling)

    @property
    def measures(self) -> list[Measure]:
        rule, _ = parse_threshold(self.threshold)
        return [Measure.of(find_metric(name), rule) for name in self.metrics]


def make_intervals(
    results: Path, wanted: Wanted = Wanted(), formats: Sequence[str] = ("csv", "md")
) -> Made:
    """Make tables of pooled scores with intervals, and write ``results/tables/intervals*``.

    Raises
    ------
    ConfigError
        For an unknown metric, threshold, column or value.
    StoreError
        If there are no runs.
    """
    measures = wanted.measures
    scored = show_runs(read_scores(results), wanted.where, wanted.everything)
    runs = scored.runs
    frame = pooled_scores(runs, scored, wanted, measures)
    few = warn_few_events(count_events(frame))
    notes = (_explain(wanted), *few, *note_results(scored))
    tables = list(lay_out(frame, runs, scored, measures, notes))
    names = "+".join(measure.metric.name for measure in measures)
    stem = "_".join(["intervals", names, *(f"by-{name}" for name in wanted.by)])
    return write_tables(results / "tables" / stem, frame, tables, formats)


def _explain(wanted: Wanted) -> str:
    how = wanted.resampling
    strata = "within each class" if how.stratified else "over all patients"
    return (
        f"[ ]: 95 % {how.kind} interval over patients, all folds pooled ({how.resamples:,} "
        f"resamples {strata}, seed {how.seed}); ±: mean and standard deviation over folds"
    )


def count_events(frame: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """Return patients and positives of each dataset (and subgroup) of :func:`pooled_scores`."""
    sets = frame.drop_duplicates(["dataset", "subgroup"]).to_dict("records")
    return {
        ", ".join(filter(None, (row["dataset"], row["subgroup"]))): (row["n"], row["positives"])
        for row in sets
    }


# ------------------------------------------------------------------ numbers


def pooled_scores(
    runs: pd.DataFrame, scored: Scored, wanted: Wanted, measures: Sequence[Measure]
) -> pd.DataFrame:
    """Return one row per run, subgroup and measure: :data:`COLUMNS`."""
    import pandas as pd

    check_columns(runs, scored.folders, wanted.by)
    rows: list[dict[str, Any]] = []
    rules = tuple({HALF, VALIDATION, *(m.rule for m in measures if m.rule != NO_THRESHOLD)})
    for predictions in load_predictions(runs, scored.folders):
        cells = make_cells(predictions, wanted.level, scored.scaling, rules)
        masks = find_subgroups(predictions, runs, scored.folders, wanted.level, wanted.by)
        for run in predictions.cells["run"].unique():
            panel = make_panel(predictions, cells, run)
            named = {name: runs.at[run, name] for name in NAMES} | {"level": wanted.level}
            axes = (str(runs.at[run, "cohort"]), len(panel.strata))
            for group, inside in _groups(panel, predictions, run, wanted.level, masks):
                rows += [
                    {**named, "subgroup": group, **values}
                    for values in _values(panel, inside, measures, wanted.resampling, axes)
                ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _groups(
    panel: Panel,
    predictions: Predictions,
    run: int,
    level: Level,
    masks: Mapping[str, NDArray[np.bool_]],
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield all patients, then each subgroup: its name, and 1 for the patients in it, else 0."""
    yield "", np.ones(len(panel.strata))
    test = predictions.units[level, "test"]
    own = predictions.cells["run"].to_numpy()[test.cell] == run
    for name, mask in masks.items():
        inside = np.isin(panel.patients, test.patients[mask & own]).astype(np.float64)
        if inside.any():
            yield name, inside


def _values(
    panel: Panel,
    inside: NDArray[np.float64],
    measures: Sequence[Measure],
    resampling: Resampling,
    axes: tuple[str, int],
) -> Iterator[dict[str, Any]]:
    statistic = within(panel.statistic(measures), inside)
    found = bootstrap(statistic, panel.strata, resampling, axes=axes)
    for column, measure in enumerate(measures):
        folds = np.concatenate([panel.by_fold(at, measure, inside) for at in panel.repetitions])
        known = folds[~np.isnan(folds)]
        yield {
            "metric": measure.metric.name,
            "threshold": measure.rule,
            "value": found.value[column],
            "low": found.low[column],
            "high": found.high[column],
            "undefined": found.undefined[column],
            "n": int(inside.sum()),
            "positives": inside[panel.strata == 1].sum() if panel.is_binary else np.nan,
            "fold_mean": known.mean() if len(known) else np.nan,
            "fold_sd": known.std(ddof=1) if len(known) > 1 else np.nan,
            "folds": len(known),
        }


# ------------------------------------------------------------------ layout


def lay_out(
    frame: pd.DataFrame,
    runs: pd.DataFrame,
    scored: Scored,
    measures: Sequence[Measure],
    notes: Sequence[str],
) -> Iterator[Table]:
    """Yield one table for each dataset under each regime, k and cv; references below."""
    baselines = set(runs.loc[runs["baseline"].astype(bool), "key"])
    kind = frame["key"].isin(baselines).astype(int) + 2 * (frame["model"] == ORACLE)
    lacking = runs[runs["done"] < runs["cells"]].set_index("key")
    share = {key: f" ({run['done']}/{run['cells']} folds)" for key, run in lacking.iterrows()}
    unfinished = [share.get(key, "") for key in frame["key"]]
    frame = frame.assign(kind=kind, unfinished=unfinished)
    heads = ["model", "strategy"]
    seeds = frame.groupby("dataset")[["seed", "train_seed"]].nunique().max()
    heads += [name for name in ("seed", "train_seed") if seeds[name] > 1]
    heads += ["subgroup"] if (frame["subgroup"] != "").any() else []
    for names, own in frame.groupby(list(CONTEXT), sort=True):
        named = dict(zip(CONTEXT, names, strict=True))
        lines = [
            (int(group["kind"].iloc[0]), (tuple(map(str, texts)), tuple(_entries(group))))
            for texts, group in own.groupby(heads, sort=False)
        ]
        real = [line for number, line in lines if not number]
        references = [line for number, line in lines if number]
        references.append(_chance(own, scored, measures, heads))
        title = f"{describe_context(named)} · per {own['level'].iloc[0]}"
        title += f" · {SYNTHETIC}" if own["synthetic"].astype(bool).any() else ""
        rules = sorted({measure.rule for measure in measures} - {NO_THRESHOLD})
        how = [f"decisions at threshold: {', '.join(rules)}"] if rules else []
        yield Table(
            title,
            tuple(heads),
            ("n", "positives", *(m.metric.title for m in measures)),
            tuple([*real, *references]),
            len(references),
            (*notes, *how),
        )


def _entries(group: pd.DataFrame) -> Iterator[Entry]:
    first = group.iloc[0]
    yield from (make_count(first["n"], first["unfinished"]), make_count(first["positives"]))
    for row in group.to_dict("records"):
        if np.isnan(row["value"]):
            yield Entry("not defined")
            continue
        text = f"{row['value']:.3f}"
        if not np.isnan(row["low"]):
            text += f" [{row['low']:.3f}, {row['high']:.3f}]"
        if not np.isnan(row["fold_sd"]):
            text += f"; {row['fold_mean']:.3f} ± {row['fold_sd']:.3f}"
        yield Entry(text, value=float(row["value"]))


def _chance(
    own: pd.DataFrame, scored: Scored, measures: Sequence[Measure], heads: Sequence[str]
) -> Row:
    """Return the row of a forecast without skill on the same patients."""
    whole = own[own["subgroup"] == ""].sort_values("n").iloc[-1]
    scores = scored.scores[(scored.scores["model"] == CHANCE) & scored.scores["fold"].isna()]
    for name in (*CONTEXT, "level", "subgroup"):
        scores = scores[scores[name] == whole[name]]
    values = scores.groupby("metric")["value"].mean()
    entries = [make_count(whole["n"]), make_count(whole["positives"])]
    for measure in measures:
        value = float(values.get(measure.metric.name, np.nan))
        entries.append(make_number(value, "{:.3f}".format))
    return (CHANCE, *[""] * (len(heads) - 1)), tuple(entries)
