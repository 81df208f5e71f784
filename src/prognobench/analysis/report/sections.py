"""The tables of the report: the answer first, then what was run and what is not finished."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.scores import CHANCE, Scored
from prognobench.analysis.statistics.resampling import warn_few_events
from prognobench.analysis.summaries.aggregate import Context, best_baseline, iter_main_contexts
from prognobench.analysis.summaries.score_tables import describe_optimism
from prognobench.analysis.summaries.verdict import Pooled, Verdict
from prognobench.analysis.tables import Entry, Row, Table, make_interval, make_number
from prognobench.metrics.metric import Metric
from prognobench.store import RunFolder

if TYPE_CHECKING:
    import pandas as pd

MOST_REASONS = 8
"""Reasons of exclusion that are listed; the others are counted."""

WriteCommand = Callable[[Mapping[str, Any]], str | None]
"""The content of ``run.json`` -> the command that gives the run again, where it holds enough."""

REPEAT = ("prognobench", "run", "--from")

ROW = r"\s*\([^()]*\brow \d+\)$"
"""The end of a reason that names the row of a table."""


def real_runs(scored: Scored) -> pd.DataFrame:
    """Return the runs that somebody computed: all but oracles."""
    return scored.runs[scored.runs["model"] != ORACLE]


def sort_rows(table: Table, metric: Metric) -> Table:
    """Sort a table by its first column, which shows this metric, best first."""

    def worth(row: Row) -> tuple[bool, float]:
        value = row[1][0].value
        return math.isnan(value), float(metric.distance(np.array([value]))[0])

    return replace(table, rows=(*sorted(table.competing, key=worth), *table.below))


# ------------------------------------------------------------------ the answer


def make_headline(cells: pd.DataFrame, verdicts: Sequence[Verdict], metric: Metric) -> Table | None:
    """Return the best choice on each dataset (under its regime and cv), or ``None`` without one.

    Parameters
    ----------
    cells
        Of :func:`.aggregate`, with this metric.
    verdicts
        Of the same metric.
    """
    contexts = list(iter_main_contexts(cells[cells["metric"] == metric.name]))
    judged = [
        (context, verdict.pooled)
        for context, verdict in zip(contexts, verdicts, strict=False)
        if verdict.pooled is not None
    ]
    if not judged:
        return None
    found = [context for context, _ in judged]
    best = [own[own["mark"] == "best"].iloc[0].to_dict() for _, own, _ in found]
    shared, differing = _settings_of([named for named, _, _ in found])
    rows = [
        _headline_row(context, row, pooled, differing, metric)
        for (context, pooled), row in zip(judged, best, strict=True)
    ]
    title = metric.title
    return Table(
        " · ".join([f"the best by {title} on each dataset", *shared]),
        ("dataset",),
        (
            *("best choice", f"{title}, folds", f"{title}, patients [95 %]", "selection"),
            *("as good", "no image", "ceiling", "chance", "patients"),
        ),
        tuple(rows),
        notes=(
            "folds: mean ± standard deviation over folds; patients: all folds pooled, bootstrap "
            "over patients",
            "as good: other choices whose difference to the best could be chance when both are "
            "trained again (corrected t-test over folds and seeds, Holm, 5 %)",
            "optimism: by how much the best of several choices is over-estimated, because it was "
            "selected on the same folds (bootstrap, BBC-CV)",
            "no image: the best baseline, for example what age and sex predict; ceiling: the true "
            "risk, which a generator knows; synthetic: generated images, no clinical data",
            "†: not shown to be better than every baseline, which sees no image (the same test, "
            "after the optimism is subtracted)",
            *warn_few_events(
                {
                    str(context[0]["dataset"]): (pooled.patients, pooled.positives)
                    for context, pooled in judged
                }
            ),
        ),
    )


def _headline_row(
    context: Context,
    best: Mapping[Any, Any],
    pooled: Pooled,
    differing: Sequence[str],
    metric: Metric,
) -> Row:
    named, own, references = context
    title = " · ".join([str(named["dataset"]), *_describe_settings(named, differing)])
    spread = "" if math.isnan(best["sd"]) else f" ± {best['sd']:.3f}"
    mean = float(best["mean"])
    return (title + (" (synthetic)" if best["synthetic"] else ""),), (
        Entry(f"{best['model']}, {best['strategy']}", "best"),
        Entry(f"{mean:.3f}{spread}", below=bool(best["below"]), value=mean),
        make_interval(pooled.value, pooled.low, pooled.high),
        Entry(", ".join(describe_optimism(best)) or "the only choice"),
        Entry(f"{(own['mark'] == 'tie').sum()} of {len(own) - 1}"),
        _baseline(references, metric),
        _reference(references, ORACLE),
        _reference(references, CHANCE),
        _patients(pooled),
    )


def _settings_of(contexts: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """What all contexts share, in words; and the names in which they differ."""
    names = ("regime", "k", "cv")
    differing = [name for name in names if len({context[name] for context in contexts}) > 1]
    return _describe_settings(contexts[0], [n for n in names if n not in differing]), differing


def _describe_settings(named: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    texts = {**named, "k": f"k={named['k']}" if named["k"] else ""}
    return [str(texts[name]) for name in names if texts[name]]


def _reference(references: pd.DataFrame, strategy: str) -> Entry:
    own = references.loc[references["strategy"] == strategy, "mean"].dropna()
    return make_number(own.iloc[0] if len(own) else None, "{:.3f}".format)


def _baseline(references: pd.DataFrame, metric: Metric) -> Entry:
    found = best_baseline(references, metric)
    if found is None:
        return Entry("")
    return Entry(f"{found['mean']:.3f} ({found['strategy']})", value=float(found["mean"]))


def _patients(pooled: Pooled) -> Entry:
    n, positives = pooled.patients, pooled.positives
    share = "" if math.isnan(positives) else f", {100 * positives / n:.0f} % positive"
    return Entry(f"{n}{share}", value=float(n))


# ------------------------------------------------------------------ what was run


def list_datasets(scored: Scored) -> Iterator[tuple[Table, list[str]]]:
    """Yield patients and images by class of each dataset (and version of it), with remarks."""
    for (name, _), runs in real_runs(scored).groupby(["dataset", "cohort"], sort=True):
        folder = scored.folders[runs.index[0]]
        cohort, classes = folder.cohort(), folder.meta["classes"]
        first = cohort.drop_duplicates("patient_id")
        total = max(1, len(first))
        rows = []
        for code, label in enumerate(classes):
            patients = int((first["label"] == code).sum())
            share = Entry(f"{100 * patients / total:.1f} %", value=patients / total)
            images = _amount((cohort["label"] == code).sum())
            rows.append(((label,), (_amount(patients), share, images)))
        centres = first["centre"].nunique()
        rows.append(
            (("all",), (_amount(len(first)), Entry("100 %", value=1.0), _amount(len(cohort))))
        )
        title = f"{name}: {len(first):,} patients, {len(cohort):,} images"
        title += f", {centres} centres" if centres > 1 else ""
        remarks = [str(warning) for warning in folder.meta.get("warnings", [])]
        remarks += count_exclusions(folder)
        columns = ("patients", "share", "images")
        yield Table(title, ("class",), columns, tuple(rows), references=1), remarks


def count_exclusions(folder: RunFolder) -> list[str]:
    """How many rows or files were left out for each reason, the most frequent reason first."""
    if not (folder.path / "exclusions.csv").exists():
        return []
    # A reason ends with the row of the table that it is about: without it, equal reasons are equal.
    reasons = folder.exclusions()["reason"].map(str).str.replace(ROW, "", regex=True)
    counts = reasons.value_counts()
    parts = [f"{count} x {reason}" for reason, count in counts.head(MOST_REASONS).items()]
    if len(counts) > MOST_REASONS:
        parts.append(
            f"{counts[MOST_REASONS:].sum()} for {len(counts) - MOST_REASONS} other reasons"
        )
    return [f"left out: {', '.join(parts)}"] if parts else []


def list_models(scored: Scored) -> Table:
    """Return every model with its size and the source of its weights."""
    rows = []
    for name, runs in real_runs(scored).groupby("model", sort=True):
        weights = sorted({str(w) for w in runs["weights"].dropna() if str(w)})
        total = runs["parameters_total"].max()
        known = bool(runs["parameters_total"].notna().any())
        size = Entry(f"{total / 1e6:.2f}", value=float(total)) if known else Entry("")
        rows.append(((str(name),), (size, Entry(", ".join(weights)))))
    return Table("models", ("model",), ("parameters (M)", "weights"), tuple(rows))


def list_strategies(scored: Scored) -> Table:
    """Return every strategy with its settings."""
    rows = []
    for name, runs in real_runs(scored).groupby("strategy", sort=True):
        written = set()
        for index in runs.index:
            component = scored.folders[index].meta.get("config", {}).get("strategy", {})
            written.add(_settings(component.get("settings", {})))
        rows.append(((str(name),), (_amount(len(runs)), Entry("; ".join(sorted(written))))))
    return Table("strategies", ("strategy",), ("runs", "settings"), tuple(rows))


def _settings(settings: Any) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())


def list_unfinished(scored: Scored) -> Table | None:
    """Return the runs that are not complete, and why; ``None`` if all are."""
    runs = real_runs(scored)
    lacking = runs[runs["done"] < runs["cells"]]
    rows = []
    for run in lacking.to_dict("records"):
        names = tuple(str(run[name]) for name in ("dataset", "model", "strategy", "key"))
        why = f"n/a: {run['not_applicable']}" if run["not_applicable"] else run["failure"]
        state = Entry(f"{run['done']}/{run['cells']} folds", value=float(run["done"]))
        rows.append((names, (state, Entry(str(why or "not finished")))))
    heads = ("dataset", "model", "strategy", "key")
    return (
        Table("runs without all scores", heads, ("state", "reason"), tuple(rows)) if rows else None
    )


def _amount(value: float) -> Entry:
    return Entry(f"{value:,.0f}", value=float(value))


def list_commands(scored: Scored, write: WriteCommand | None) -> list[str]:
    """Return the command of each run, which ``write`` makes from the content of ``run.json``.

    A run of which ``write`` makes none is named by its key.
    """
    folders = [scored.folders[row] for row in real_runs(scored).index]
    # What files alone tell is computed beside any run of the cohort, and has no command of its own.
    folders = [folder for folder in folders if folder.meta.get("reads") != ["files"]]
    commands = [
        (write(folder.meta) if write else None) or shlex.join([*REPEAT, folder.path.name])
        for folder in folders
    ]
    return list(dict.fromkeys(commands))
