"""Tables of scores: any names as rows and columns, references below, notes that explain."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.analysis.catalogue import AS_STORED, CHOICES
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.scores import CHANCE, Scored, read_scores
from prognobench.analysis.shown import show_runs
from prognobench.analysis.statistics.marks import DIMENSIONS
from prognobench.analysis.summaries.aggregate import Selection, aggregate
from prognobench.analysis.summaries.selection import add_optimism
from prognobench.analysis.tables import (
    SYNTHETIC,
    Entry,
    Made,
    Row,
    Table,
    find_unknown_formats,
    write_tables,
)
from prognobench.analysis.thresholds import HALF, NO_THRESHOLD
from prognobench.errors import ConfigError, listed
from prognobench.metrics.metric import find_metric
from prognobench.registry import near

if TYPE_CHECKING:
    import pandas as pd

LONGEST_STEM = 100
"""Characters of a file's name before its ending, which every file system takes."""

NO_IMAGE = "(no image)"
"""Follows the name of a baseline."""

MOST_NOTES, SHOWN = 8, 3
"""Notes of strategies below a table, and models and strategies that one of them names."""

MOST_KEYS = 3
"""Keys of hidden runs that a note lists."""


def make_table(
    results: Path,
    *,
    rows: Sequence[str] = ("model",),
    columns: str = "strategy",
    metrics: Sequence[str] = ("mcc", "average_precision"),
    where: Mapping[str, Sequence[str]] | None = None,
    threshold: str = HALF,
    level: str = "patient",
    formats: Sequence[str] = ("csv", "md"),
    scored: Scored | None = None,
    everything: bool = False,
) -> Made:
    """Make tables of scores, one for each combination of names that neither rows nor columns show.

    Parameters
    ----------
    rows, columns
        Dimensions: dataset, model, strategy, regime, k, cv, metric, threshold, level.
    where
        Dimension -> values to keep.
    threshold
        Rule for metrics that need one: ``0.5``, ``validation``, or one that was scored.
    formats
        Of the files in ``results/tables``: csv (long form), md, tex, html.
    scored
        Scores that were read before; by default they are made anew.
    everything
        Hide no run: see :func:`.shown.show_runs`.

    Raises
    ------
    ConfigError
        For unknown names, near ones suggested.
    StoreError
        If there are no runs.
    """
    _check([*rows, columns], formats)
    selection = Selection(tuple(metrics), threshold, level)
    scored = show_runs(scored or read_scores(results, metrics), where, everything)
    cells = add_optimism(aggregate(scored, selection), scored)
    order = [metric.name for metric in selection.found()]
    by_metric = cells.sort_values("metric", key=lambda names: names.map(order.index), kind="stable")
    by_metric = by_metric.sort_values("dataset", kind="stable")
    tables = list(
        lay_out(
            by_metric,
            tuple(rows),
            columns,
            order,
            (
                *note_results(scored),
                *_note_risks(scored.runs, cells),
                *note_strategies(scored.runs, cells),
            ),
        )
    )
    chosen = [f"{name}={'+'.join(map(str, values))}" for name, values in (where or {}).items()]
    parts = ["+".join(order), "+".join(rows), "by", columns, *chosen]
    stem = results / "tables" / _file_stem("_".join(parts))
    return write_tables(stem, cells, tables, formats)


def _file_stem(name: str) -> str:
    """Return a file's name that every file system takes; different names stay different."""
    safe = re.sub(r"[^\w.+=-]+", "-", name)
    if len(safe) <= LONGEST_STEM:
        return safe
    return f"{safe[:LONGEST_STEM]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _check(dimensions: Sequence[str], formats: Sequence[str]) -> None:
    known = list(DIMENSIONS)
    faults = [
        f"a table has no dimension {name!r}{near(name, known)} (known: {', '.join(known)})"
        for name in dimensions
        if name not in known
    ]
    if len(set(dimensions)) < len(dimensions):
        faults.append("a dimension is named twice: rows and columns must show different dimensions")
    faults += find_unknown_formats(formats)
    if faults:
        raise ConfigError(faults)


def note_results(scored: Scored) -> tuple[str, ...]:
    """Return what a reader of any table of these results has to know."""
    notes = []
    if len(scored.versions) > 1:
        notes.append(f"runs of several versions are mixed: {', '.join(scored.versions)}")
    if scored.scaling != "none":
        notes.append(f"scores after {scored.scaling} scaling, fitted on validation")
    if hidden := scored.hidden:
        keys = ", ".join(hidden[:MOST_KEYS]) + (", ..." if len(hidden) > MOST_KEYS else "")
        runs = "1 run is" if len(hidden) == 1 else f"{len(hidden)} runs are"
        notes.append(
            f"{runs} hidden because newer runs have the same names and settings, on other data or "
            f"by another version ({keys}). Show all with --all"
        )
    return tuple(notes)


def note_strategies(runs: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Return what the strategies of a table say of themselves, each sentence once.

    A method that reaches only some layers of a network is not what its name says.
    """
    shown = ["dataset", *CHOICES]
    noted = runs[runs["notes"].fillna("") != ""].merge(table[shown].drop_duplicates())
    found = [
        f"{listed([f'{model}, {strategy}' for model, strategy in names], SHOWN, '; ')}: {note}"
        for note, names in (
            (note, own[list(CHOICES)].drop_duplicates().itertuples(index=False))
            for note, own in noted.groupby("notes", sort=False)
        )
    ]
    if (left := len(found) - MOST_NOTES) > 0:
        found[MOST_NOTES:] = [f"{left} more notes stand in the column notes of runs.csv"]
    return found


def _note_risks(runs: pd.DataFrame, table: pd.DataFrame) -> Iterator[str]:
    """Say which probabilities are scored as stored, if the table has a metric that minds."""
    if not any(find_metric(name).of_risk for name in set(table["metric"])):
        return
    shown = runs[runs["dataset"].isin(table["dataset"]) & runs["risks"].str.startswith(AS_STORED)]
    if len(shown):
        yield (
            f"class weights are not undone in {len(shown)} runs, so their risks may be too high or "
            f"too low ({shown['risks'].iloc[0]}); the column risks of runs.csv says which"
        )


# ------------------------------------------------------------------ layout


def lay_out(
    cells: pd.DataFrame,
    rows: tuple[str, ...],
    columns: str,
    metrics: Sequence[str],
    more_notes: Sequence[str] = (),
) -> Iterator[Table]:
    """Yield one table for each combination of what neither rows nor columns show."""
    shown = {*rows, columns}
    apart = [name for name in DIMENSIONS if name not in shown and name != "threshold"]
    if "k" in shown:
        apart.remove("regime")
    made = ~cells["model"].isin([ORACLE, CHANCE])
    competing = cells[made & ~cells["baseline"]]
    if not len(competing):  # baselines alone compete with each other
        competing = cells[made]
    for names, group in competing.groupby(apart, sort=False):
        fixed = dict(zip(apart, names, strict=True))
        common = [name for name in apart if name not in CHOICES]
        same = (cells[common] == [fixed[name] for name in common]).all(axis=1)
        references = cells[same & ~cells.index.isin(competing.index)]
        heads = _values(group, columns, metrics)
        body = [
            (tuple(_write_name(name, value) for name, value in key), line)
            for key, line in _lines(group, rows, columns, heads)
        ]
        below = list(_references(references, rows, columns, heads))
        yield Table(
            _title(fixed, group),
            rows,
            tuple(_write_name(columns, value) for value in heads),
            tuple([*body, *below]),
            len(below),
            (*_notes(group, references, "metric" in fixed), *more_notes),
        )


def _values(group: pd.DataFrame, dimension: str, metrics: Sequence[str]) -> list[Any]:
    values = list(group[dimension].unique())
    return sorted(values, key=metrics.index) if dimension == "metric" else sorted(values)


def _lines(
    group: pd.DataFrame, rows: Sequence[str], columns: str, heads: Sequence[Any]
) -> Iterator[tuple[list[tuple[str, Any]], tuple[Entry, ...]]]:
    lines: dict[tuple[Any, ...], dict[Any, Entry]] = {}
    for cell in group.to_dict("records"):
        names = tuple(cell[name] for name in rows)
        lines.setdefault(names, {})[cell[columns]] = _entry(cell)
    for names, by_head in sorted(lines.items()):
        entries = tuple(by_head.get(head, Entry("")) for head in heads)
        yield list(zip(rows, names, strict=True)), entries


def reference_kinds(cells: pd.DataFrame) -> list[str]:
    """Return ceiling, baselines and chance, as the column ``strategy`` calls them."""
    return [ORACLE, *sorted(set(cells.loc[cells["baseline"], "strategy"])), CHANCE]


def reference_label(kind: str) -> str:
    """Return how a table calls one of :func:`reference_kinds`."""
    return {ORACLE: "ceiling (true risk)", CHANCE: CHANCE}.get(kind, f"{kind} {NO_IMAGE}")


def _references(
    cells: pd.DataFrame, rows: Sequence[str], columns: str, heads: Sequence[Any]
) -> Iterator[Row]:
    """Ceiling, baselines and chance: the same for every model and strategy."""
    where = [name for name in rows if name not in CHOICES]
    for kind in reference_kinds(cells):
        own = cells[(cells["strategy"] == kind) & cells["mean"].notna()]
        groups = own.groupby(where, sort=True) if where else [((), own)] if len(own) else []
        for names, line in groups:
            known = dict(zip(where, names, strict=True))
            label = reference_label(kind)
            texts = [_write_name(name, known[name]) if name in known else "" for name in rows]
            free = [place for place, name in enumerate(rows) if name not in known]
            # Where every name is known, the kind stands beside the first: several rows have it.
            texts[free[0] if free else 0] = label if free else f"{texts[0]} · {label}"
            by_head = {cell[columns]: _entry(cell) for cell in line.to_dict("records")}
            if columns in CHOICES:
                entries = tuple(next(iter(by_head.values())) for _ in heads)
            else:
                entries = tuple(by_head.get(head, Entry("")) for head in heads)
            yield tuple(texts), entries


def _entry(cell: Mapping[Any, Any]) -> Entry:
    folds, expected = int(cell["folds"]), int(cell["expected"])
    share = f"{folds}/{expected} folds"
    if folds == 0:
        reason = cell["reason"]
        return Entry(reason if reason.startswith("n/a") else f"{share}: {reason}".rstrip(": "))
    spread = "" if cell["sd"] != cell["sd"] else f" ± {cell['sd']:.3f}"
    text = f"{round(cell['mean'], 3) + 0.0:.3f}{spread}"  # adding 0 makes 0.000 of -0.000
    remarks = [share] if folds < expected else []
    remarks += list(describe_optimism(cell))
    if remarks:
        text += f" ({'; '.join(remarks)})"
    return Entry(text, cell["mark"], bool(cell["below"]), float(cell["mean"]))


def describe_optimism(cell: Mapping[Any, Any]) -> Iterator[str]:
    """Say beside the best of how many choices it is, and by how much that over-estimates it."""
    if cell["mark"] == "best" and cell["choices"] > 1:
        yield f"best of {cell['choices']:.0f}"
        if not math.isnan(cell["optimism"]):
            yield f"optimism {cell['optimism']:.2f}"


def _write_name(dimension: str, value: Any) -> str:
    if dimension == "k":
        return f"k={value}" if value else "all"
    return find_metric(value).title if dimension == "metric" else str(value)


def _title(fixed: Mapping[str, Any], group: pd.DataFrame) -> str:
    first = [name for name in ("metric", "dataset", "model", "strategy", "regime") if name in fixed]
    parts = [_write_name(name, fixed[name]) for name in first]
    if fixed.get("k"):
        parts.append(f"k={fixed['k']}")
    if "cv" in fixed:
        parts.append(str(fixed["cv"]))
    if "level" in fixed:
        parts.append(f"per {fixed['level']}")
    synthetic = group.loc[group["synthetic"].astype(bool), "dataset"].unique()
    if len(synthetic):
        some = len(synthetic) < group["dataset"].nunique()
        parts.append((f"{', '.join(map(str, synthetic))}: " if some else "") + SYNTHETIC)
    return " · ".join(parts)


def _notes(group: pd.DataFrame, references: pd.DataFrame, one_metric: bool) -> Iterator[str]:
    over = "folds" if (group["k"] == 0).all() else "folds and draws"
    yield (
        f"mean ± standard deviation over {over}; bold: best; *: its difference to the best could "
        "be chance when both are trained again (corrected t-test over folds and seeds, Holm, 5 %)"
    )
    rules = {rule for rule in group["threshold"] if rule != NO_THRESHOLD}
    if rules:
        yield f"decisions at threshold: {', '.join(sorted(rules))}"
    if group["below"].any():
        yield (
            "†: not shown to be better than every baseline, which sees no image (the same test, "
            "after what the choice among several over-estimates is subtracted)"
        )
    if (group["choices"] > 1).any():
        yield (
            "optimism: by how much the best is over-estimated, because it was selected on the same "
            "folds (bootstrap, BBC-CV)"
        )
    yield from dict.fromkeys(
        f"{cell['dataset']}, {cell['model']}, {cell['strategy']}: "
        f"{cell['expected'] - cell['folds']} of {cell['expected']} folds blank: {cell['reason']}"
        for cell in group.to_dict("records")
        if cell["reason"] and 0 < cell["folds"] < cell["expected"]
    )
    shares = references.loc[references["model"] == CHANCE, "prevalence"].dropna()
    if one_metric and len(shares) and "average_precision" in set(group["metric"]):
        yield f"prevalence {shares.mean():.3f} is the chance level of PR-AUC"
