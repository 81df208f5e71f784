"""Pieces of the page: figures with captions, claims with verdicts, remarks."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import replace
from html import escape

import numpy as np

from prognobench.analysis.claims import Finding
from prognobench.analysis.plots import Figure
from prognobench.analysis.render import Entry, Table
from prognobench.analysis.tables import SYNTHETIC
from prognobench.metrics.metric import Metric

MOST_LINES = 6

WIDE = 5.5
"""Figures wider than this many inches get a row of their own."""


def listed(lines: Sequence[str]) -> str:
    """Remarks as a list, folded where there are many."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    listed = f'<ul class="notes">{items}</ul>' if items else ""
    if len(lines) > MOST_LINES:
        return f"<details><summary>{len(lines)} remarks</summary>{listed}</details>"
    return listed


def best_first(table: Table, metric: Metric) -> Table:
    """Sort a table by its first column, which shows this metric; references stay below."""
    competing = len(table.rows) - table.references

    def worth(row: tuple[tuple[str, ...], tuple[Entry, ...]]) -> tuple[bool, float]:
        value = row[1][0].value
        return math.isnan(value), float(metric.distance(np.array([value]))[0])

    ordered = sorted(table.rows[:competing], key=worth)
    return replace(table, rows=(*ordered, *table.rows[competing:]))


def figure_fragment(figure: Figure, svg: str) -> str:
    """A figure with its words, its data and the command that makes it, around ``svg``."""
    data = base64.b64encode(figure.data.to_csv(index=False, float_format="%.5g").encode()).decode()
    title = figure.title + (f" ({SYNTHETIC})" if figure.synthetic else "")
    wide = " class=wide" if figure.size[0] > WIDE else ""
    return (
        f"<figure{wide}>{svg}<figcaption><strong>{escape(title)}</strong>"
        f"{escape(figure.alt)} "
        f'<a download="{figure.name}.csv" href="data:text/csv;base64,{data}">data</a> · '
        f"<code>{escape(figure.command)}</code></figcaption></figure>"
    )


def claim_fragment(finding: Finding) -> str:
    """A claim with the verdict on it, and the evidence folded."""
    lines = [
        f"{each.context}: {each.value:+.3f}"
        + ("" if math.isnan(each.low) else f" [{each.low:+.3f}, {each.high:+.3f}]")
        + f", {each.runs} runs, {each.folds} folds"
        for each in finding.evidence
    ]
    evidence = f"<details><summary>evidence</summary>{listed(lines)}</details>" if lines else ""
    return (
        f'<div class="claim"><span class="verdict {finding.verdict}">{finding.verdict}</span><div>'
        f"<h3>{escape(finding.claim.says)}</h3><p>{escape(finding.reason)}.</p>{evidence}</div></div>"
    )
