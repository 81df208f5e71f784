"""What was run: datasets and their patients, models and their sources, strategies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.render import Entry, Table
from prognobench.analysis.scored import Scored
from prognobench.files import read_table
from prognobench.store import RunFolder

if TYPE_CHECKING:
    import pandas as pd

MOST_REASONS = 8

ROW = r"\s*\([^()]*\brow \d+\)$"


def _real(scored: Scored) -> pd.DataFrame:
    return scored.runs[scored.runs["model"] != ORACLE]


def _whole(value: float) -> Entry:
    return Entry(f"{value:,.0f}", value=float(value))


def datasets(scored: Scored) -> Iterator[tuple[Table, list[str]]]:
    """Yield each content of each dataset: patients and images by class, and remarks on it."""
    for (name, _), runs in _real(scored).groupby(["dataset", "cohort"], sort=True):
        folder = scored.folders[runs.index[0]]
        cohort, classes = folder.cohort(), folder.meta["classes"]
        first = cohort.drop_duplicates("patient_id")
        total = max(1, len(first))
        rows = []
        for code, label in enumerate(classes):
            patients = int((first["label"] == code).sum())
            share = Entry(f"{100 * patients / total:.1f} %", value=patients / total)
            images = _whole((cohort["label"] == code).sum())
            rows.append(((label,), (_whole(patients), share, images)))
        centres = first["centre"].nunique()
        rows.append(
            (("all",), (_whole(len(first)), Entry("100 %", value=1.0), _whole(len(cohort))))
        )
        said = f"{name}: {len(first):,} patients, {len(cohort):,} images"
        said += f", {centres} centres" if centres > 1 else ""
        remarks = [str(warning) for warning in folder.meta.get("warnings", [])]
        remarks += _exclusions(folder)
        columns = ("patients", "share", "images")
        yield Table(said, ("class",), columns, tuple(rows), references=1), remarks


def _exclusions(folder: RunFolder) -> list[str]:
    """How many rows or files were left out for each reason, the most frequent first."""
    path = folder.path / "exclusions.csv"
    if not path.exists():
        return []
    # Which row of the table it was is in the file; here it would make every reason another one.
    reasons = read_table(path)["reason"].map(str).str.replace(ROW, "", regex=True)
    counts = reasons.value_counts()
    said = [f"{count} x {reason}" for reason, count in counts.head(MOST_REASONS).items()]
    if len(counts) > MOST_REASONS:
        said.append(f"{counts[MOST_REASONS:].sum()} for {len(counts) - MOST_REASONS} other reasons")
    return [f"left out: {', '.join(said)}"] if said else []


def models(scored: Scored) -> Table:
    """Every model with the source of its weights."""
    rows = []
    for name, runs in _real(scored).groupby("model", sort=True):
        weights = sorted({str(w) for w in runs["weights"].dropna() if str(w)})
        total = runs["parameters_total"].max()
        known = bool(runs["parameters_total"].notna().any())
        size = Entry(f"{total / 1e6:.2f}", value=float(total)) if known else Entry("")
        rows.append(((str(name),), (size, Entry(", ".join(weights)))))
    return Table("models", ("model",), ("parameters (M)", "weights"), tuple(rows))


def strategies(scored: Scored) -> Table:
    """Every strategy with its settings."""
    rows = []
    for name, runs in _real(scored).groupby("strategy", sort=True):
        written = set()
        for index in runs.index:
            component = scored.folders[index].meta.get("config", {}).get("strategy", {})
            written.add(_settings(component.get("settings", {})))
        rows.append(((str(name),), (_whole(len(runs)), Entry("; ".join(sorted(written))))))
    return Table("strategies", ("strategy",), ("runs", "settings"), tuple(rows))


def _settings(settings: Any) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())


def unfinished(scored: Scored) -> Table | None:
    """Runs that are not complete, and why; ``None`` if all are."""
    runs = _real(scored)
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
