"""Comparisons of pairs of runs, as tables to read and to keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prognobench.analysis.comparisons import COMMON, Question, compare
from prognobench.analysis.render import Entry, Table, interval_entry, number_entry
from prognobench.analysis.tables import Made, write_tables
from prognobench.metrics.metric import Metric, find_metric

if TYPE_CHECKING:
    import pandas as pd


def make_comparison(
    results: Path,
    question: Question,
    where: Mapping[str, Sequence[str]] | None = None,
    formats: Sequence[str] = ("csv", "md"),
) -> Made:
    """Compare runs and write the comparison to ``results/tables/comparisons_*``.

    Raises
    ------
    ConfigError
        For an unknown name, or where nothing is left to compare.
    """
    compared = compare(results, question, where)
    tables = (comparison_table(compared, question),)
    name = f"comparisons_{compared['metric'].iloc[0]}_by_{question.by}"
    stem = results / "tables" / name
    return Made(tables, tuple(write_tables(stem, compared, tables, formats)))


def comparison_table(compared: pd.DataFrame, question: Question) -> Table:
    """Return comparisons as a table to read; ``compared`` is of ``comparisons.compare``."""
    metric = find_metric(question.metric)
    fixed = [name for name in COMMON if name != question.by and compared[name].nunique() > 1]
    rows = []
    for line in compared.to_dict("records"):
        names = tuple(str(line[name]) for name in (*fixed, "first", "second"))
        if isinstance(line["refused"], str):
            rows.append((names, (Entry(f"not compared: {line['refused']}"), *[Entry("")] * 6)))
            continue
        beliefs = [line[f"p_{name}"] for name in ("first_better", "equal", "second_better")]
        rows.append(
            (
                names,
                (
                    interval_entry(line["difference"], line["low"], line["high"]),
                    interval_entry(line["fold_difference"], line["fold_low"], line["fold_high"]),
                    number_entry(line["fold_p_holm"], "{:.3f}".format),
                    number_entry(line["effect"], "{:.2f}".format),
                    number_entry(line["mcnemar_p_holm"], "{:.3f}".format),
                    number_entry(line["delong_p_holm"], "{:.3f}".format),
                    Entry(" / ".join(f"{p:.2f}" for p in beliefs if not np.isnan(p))),
                ),
            )
        )
    context = ", ".join(
        str(compared[name].iloc[0]) for name in ("dataset", "regime", "cv") if name not in fixed
    )
    return Table(
        f"{metric.title}, first less second · {context}",
        (*fixed, "first", "second"),
        COMPARED,
        tuple(rows),
        notes=tuple(_how_compared(question, metric)),
    )


COMPARED = (
    *("over patients [95 %]", "over folds [95 %]", "p (folds)", "effect"),
    *("p (McNemar)", "p (DeLong)", "P(first / equal / second)"),
)


def _how_compared(question: Question, metric: Metric) -> Iterator[str]:
    how = question.resampling
    yield (
        f"over patients: all folds pooled, paired bootstrap ({how.kind}, {how.resamples:,} "
        f"resamples, seed {how.seed}); over folds: corrected t-test (Nadeau & Bengio); effect: "
        "mean over standard deviation"
    )
    yield (
        "p-values are Holm-corrected for the rows of this table; McNemar compares decisions, "
        "DeLong ROC-AUC, whatever the metric"
    )
    equal = f"P: Bayesian correlated t-test; equal: within {question.rope:g} of each other"
    yield equal if find_spec("baycomp") else "P needs an extra: pip install 'prognobench[stats]'"
    if metric.needs == "decisions":
        yield f"decisions at threshold: {question.threshold}"
