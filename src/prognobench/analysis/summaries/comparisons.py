"""Which of two choices is better, and how sure that is.

First comes the test over folds and seeds, which asks for choices that are trained again; then the
tests over patients, which are about these trained models, as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.catalogue import CHOICES, CONTEXT
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.scores import Scored, read_scores
from prognobench.analysis.shown import show_runs
from prognobench.analysis.statistics.paired_tests import holm
from prognobench.analysis.summaries.aggregate import Selection, aggregate, is_reference
from prognobench.analysis.summaries.comparer import COMMON, Comparer, Named, Question
from prognobench.analysis.tables import (
    BELOW,
    Entry,
    Made,
    Row,
    Table,
    make_count,
    make_difference,
    make_number,
    write_tables,
)
from prognobench.analysis.thresholds import parse_threshold
from prognobench.errors import ConfigError
from prognobench.metrics.metric import Metric, find_metric
from prognobench.registry import near

if TYPE_CHECKING:
    import pandas as pd

COMPARABLE = (*COMMON[1:], "seed")
"""The names by which runs can be compared."""

COLUMNS = (
    *("dataset", "model", "strategy", "regime", "k", "cv", "metric", "first", "second"),
    *("seeds", "folds", "fold_difference", "fold_low", "fold_high", "fold_p", "fold_p_holm"),
    *("effect", "p_first_better", "p_equal", "p_second_better"),
    *("value_first", "value_second", "patients_difference", "patients_low", "patients_high"),
    *("bootstrap_p", "mcnemar_p", "mcnemar_p_holm", "delong_p", "delong_p_holm"),
    *("below_first", "below_second", "refused"),
)
"""The columns of ``tables/comparisons*.csv``."""

COMPARED = (
    *("trained again [95 %]", "p", "effect", "P(first / equal / second)", "seeds"),
    *("these trained models [95 %]", "p (McNemar)", "p (DeLong)", BELOW),
)
"""The columns of the table to read."""


def compare(
    results: Path,
    question: Question | None = None,
    where: Mapping[str, Sequence[str]] | None = None,
    scored: Scored | None = None,
) -> pd.DataFrame:
    """Compare all pairs of runs that differ in one name, on the same patients and folds.

    Baselines that see no image are compared with every choice on their folds, whatever its model.

    Returns
    -------
    pandas.DataFrame
        Columns :data:`COLUMNS`, one row per pair whatever the number of seeds; a difference is
        first minus second. ``fold_*`` is the test of :mod:`.retraining` over the folds of all
        seeds. ``patients_*`` holds the trained models fixed: all folds pooled, mean over seeds,
        interval by paired bootstrap over patients. A pair that cannot be compared has the reason
        in ``refused``. The p-values ending in ``_holm`` are corrected for the number of rows.
        ``below_*`` says that an advantage over the baselines is not shown: :mod:`.marks`.

    Raises
    ------
    ConfigError
        For an unknown name, or where nothing is left to compare.
    """
    import pandas as pd

    question = question or Question()
    if question.by not in COMPARABLE:
        raise ConfigError(
            f"cannot compare runs by {question.by!r}{near(question.by, list(COMPARABLE))} "
            f"(known: {', '.join(COMPARABLE)})"
        )
    metric = find_metric(question.metric)
    question = replace(question, threshold=parse_threshold(question.threshold)[0])
    scored = show_runs(scored or read_scores(results), where, question.everything)
    runs = scored.runs[scored.runs["model"] != ORACLE]
    if question.by == "seed":
        runs = runs.assign(seed=_name_seeds(runs))
    pairs = list(_pairs(runs, question))
    if not pairs:
        raise ConfigError(
            f"no two runs in {results} differ in {question.by} alone "
            f"(found: {', '.join(sorted(map(str, runs[question.by].unique())))})"
        )
    asked = runs.loc[sorted({run for pair in pairs for side in pair for run in side.runs})]
    comparer = Comparer(asked, scored, question, metric)
    table = pd.DataFrame([comparer.compare(first, second) for first, second in pairs])
    for name in ("fold_p", "mcnemar_p", "delong_p"):
        table[f"{name}_holm"] = holm(table.get(name, pd.Series(dtype=float)).reindex(table.index))
    below = _find_below(scored, question)
    names = dict(zip(runs.index, _list_names(runs), strict=True))
    for place, name in enumerate(("below_first", "below_second")):
        table[name] = [names[pair[place].runs[0]] in below for pair in pairs]
    return table.reindex(columns=list(COLUMNS))


def _find_below(scored: Scored, question: Question) -> set[tuple[Any, ...]]:
    """Return the names of the choices that are not shown to be better than the baselines."""
    selection = Selection((question.metric,), question.threshold, question.level)
    if selection.explain_missing(scored.scores):
        return set()
    cells = aggregate(scored, selection)
    return set(_list_names(cells[cells["below"]]))


def _list_names(table: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(table[list(COMMON)].itertuples(index=False, name=None))


def _name_seeds(runs: pd.DataFrame) -> list[str]:
    """Return the seed of the split; with the seed of training after it where that is another."""
    seeds = zip(runs["seed"], runs["train_seed"], strict=True)
    return [f"{split}" if split == training else f"{split}/{training}" for split, training in seeds]


def _pairs(runs: pd.DataFrame, question: Question) -> Iterator[tuple[Named, Named]]:
    """Yield the choices that differ in one name alone; then each beside what sees no image."""
    fixed = [name for name in COMMON if name != question.by]
    for _, group in runs.groupby(fixed, dropna=False, sort=False):
        sides = [
            Named(str(name), tuple(int(run) for run in own.index))
            for name, own in group.groupby(question.by, sort=True)
        ]
        pairs = list(combinations(sides, 2))
        real = {str(name) for name in group.loc[~group["baseline"].astype(bool), question.by]}
        for reference in _find_references(runs, group, question):
            pairs += [(side, reference) for side in sides if side.name in real]
        for first, second in pairs:
            if question.against is None or second.name == question.against:
                yield first, second
            elif first.name == question.against:
                yield second, first


def _find_references(
    runs: pd.DataFrame, group: pd.DataFrame, question: Question
) -> Iterator[Named]:
    """Yield the baselines that stand beside a group without being in it: they see no image."""
    if question.by not in CHOICES or group["baseline"].all():
        return
    first = group.iloc[0]
    beside = runs[runs["baseline"].astype(bool) & ~runs.index.isin(group.index)]
    for column in CONTEXT:
        beside = beside[beside[column] == first[column]]
    known = set(group.loc[group["baseline"].astype(bool), "strategy"])
    for name, own in beside.groupby("strategy", sort=True):
        if name not in known:
            one = own.drop_duplicates(["folds", "train_seed"])
            yield Named(str(name), tuple(int(run) for run in one.index))


# ------------------------------------------------------------------ tables


def make_comparison(
    results: Path,
    question: Question,
    where: Mapping[str, Sequence[str]] | None = None,
    formats: Sequence[str] = ("csv", "md"),
    scored: Scored | None = None,
) -> Made:
    """Compare runs and write the comparison to ``results/tables/comparisons_*``.

    Raises
    ------
    ConfigError
        For an unknown name, or where nothing is left to compare.
    """
    compared = compare(results, question, where, scored)
    name = f"comparisons_{compared['metric'].iloc[0]}_by_{question.by}"
    alone = _count_alone(compared, question, scored or read_scores(results), where)
    table = comparison_table(compared, question, alone)
    return write_tables(results / "tables" / name, compared, [table], formats)


def _count_alone(
    compared: pd.DataFrame,
    question: Question,
    scored: Scored,
    where: Mapping[str, Sequence[str]] | None,
) -> int:
    """Return how many choices are in no row: no other differs from them in that name alone."""
    if question.by == "seed":
        return 0
    runs = show_runs(scored, where, question.everything).runs
    real = runs[~is_reference(runs)].astype({name: str for name in COMMON})
    asked = set(_list_names(real))
    for side in ("first", "second"):
        own = compared.assign(**{question.by: compared[side]}).astype(dict.fromkeys(COMMON, str))
        asked -= set(_list_names(own))
    return len(asked)


def comparison_table(compared: pd.DataFrame, question: Question, alone: int = 0) -> Table:
    """Return comparisons as a table to read; ``compared`` is of :func:`compare`.

    Parameters
    ----------
    alone
        How many choices are in no row; a note counts them.
    """
    metric = find_metric(question.metric)
    fixed = [name for name in COMMON if name != question.by and compared[name].nunique() > 1]
    context = ", ".join(
        str(compared[name].iloc[0]) for name in ("dataset", "regime", "cv") if name not in fixed
    )
    return Table(
        f"{metric.title}, first minus second · {context}",
        (*fixed, "first", "second"),
        COMPARED,
        tuple(_row(line, fixed) for line in compared.to_dict("records")),
        notes=(*_explain(question, metric, compared), *_say_alone(question, alone)),
    )


def _row(line: Mapping[Any, Any], fixed: Sequence[str]) -> Row:
    names = tuple(str(line[name]) for name in (*fixed, "first", "second"))
    if isinstance(line["refused"], str):
        blank = [Entry("")] * (len(COMPARED) - 2) + [_list_below(line)]
        return names, (Entry(f"not compared: {line['refused']}"), *blank)
    beliefs = [line[f"p_{name}"] for name in ("first_better", "equal", "second_better")]
    return names, (
        make_difference(line["fold_difference"], line["fold_low"], line["fold_high"]),
        make_number(line["fold_p_holm"], "{:.3f}".format),
        make_number(line["effect"], "{:.2f}".format),
        Entry(" / ".join(f"{p:.2f}" for p in beliefs if not np.isnan(p))),
        make_count(line["seeds"]),
        make_difference(line["patients_difference"], line["patients_low"], line["patients_high"]),
        make_number(line["mcnemar_p_holm"], "{:.3f}".format),
        make_number(line["delong_p_holm"], "{:.3f}".format),
        _list_below(line),
    )


def _list_below(line: Mapping[Any, Any]) -> Entry:
    return Entry(", ".join(side for side in ("first", "second") if line[f"below_{side}"]))


def _say_alone(question: Question, alone: int) -> Iterator[str]:
    if not alone:
        return
    which = f"{question.by} alone" + (f", or from {question.against}" if question.against else "")
    names = " or ".join(f"--by {name}" for name in CHOICES if name != question.by)
    yield (
        f"{alone} of the choices that are shown by 'prognobench table' are in no row: no other "
        f"differs from them in {which}. Compare them with {names}"
    )


def _explain(question: Question, metric: Metric, compared: pd.DataFrame) -> Iterator[str]:
    how = question.resampling
    yield (
        "trained again: mean over the folds of all seeds, with the test for strategies that are "
        "trained again (Nadeau & Bengio); effect: mean over standard deviation"
    )
    yield (
        f"these trained models: as they are, all folds pooled, paired bootstrap ({how.kind}, "
        f"{how.resamples:,} resamples, seed {how.seed}); McNemar compares decisions, DeLong "
        "ROC-AUC. These three ignore that training again would give other models, so they reject "
        "too often as tests of strategies"
    )
    yield "p-values are corrected for the number of rows (Holm)"
    equal = f"P: Bayesian correlated t-test; equal: within {question.rope:g} of each other"
    yield equal if find_spec("baycomp") else "P needs an extra: pip install 'prognobench[stats]'"
    if compared[["below_first", "below_second"]].any(axis=None):
        yield (
            f"{BELOW}: which of the two is not shown to be better than every baseline, which sees "
            "no image (trained again, after what the choice among several over-estimates)"
        )
    if metric.needs == "decisions":
        yield f"decisions at threshold: {question.threshold}"
