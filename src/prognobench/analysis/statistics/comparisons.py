"""Which of two runs is better, and how sure that is: paired over folds and over patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.catalogue import count_training_patients, filter_runs, keep_newest
from prognobench.analysis.decisions import HALF, parse_threshold
from prognobench.analysis.evaluation import Measure, make_cells
from prognobench.analysis.predictions import ORACLE, Level, load_predictions
from prognobench.analysis.scores import Scored, read_scores
from prognobench.analysis.statistics.paired_tests import (
    bayesian_t,
    corrected_t,
    delong,
    holm,
    mcnemar,
)
from prognobench.analysis.statistics.resampling import (
    Panel,
    Resampling,
    draw_weights,
    interval_ends,
    jackknife,
    make_panel,
)
from prognobench.analysis.tables import (
    Entry,
    Made,
    Row,
    Table,
    make_difference,
    make_number,
    write_tables,
)
from prognobench.errors import ConfigError, MissingExtraError
from prognobench.metrics.metric import Metric, find_metric
from prognobench.registry import near

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

COMMON = ("dataset", "model", "strategy", "regime", "k", "cv", "seed")

COLUMNS = (
    *("dataset", "model", "strategy", "regime", "k", "cv", "seed", "metric", "first", "second"),
    *("value_first", "value_second", "difference", "low", "high"),
    *("folds", "fold_difference", "fold_low", "fold_high", "fold_p", "fold_p_holm", "effect"),
    *("bootstrap_p", "mcnemar_p", "mcnemar_p_holm", "delong_p", "delong_p_holm"),
    *("p_first_better", "p_equal", "p_second_better", "refused"),
)
"""The columns of ``tables/comparisons*.csv``."""

COMPARED = (
    *("over patients [95 %]", "over folds [95 %]", "p (folds)", "effect"),
    *("p (McNemar)", "p (DeLong)", "P(first / equal / second)"),
)
"""The columns of the table to read."""


@dataclass(frozen=True)
class Question:
    """What is compared, and how.

    Attributes
    ----------
    by
        The name in which two runs differ, and that alone.
    against
        Compare all with this one; by default every pair.
    threshold
        As :func:`.decisions.parse_threshold` takes it.
    rope
        Half-width of the region of practical equivalence, in units of the metric.
    """

    by: str = "strategy"
    against: str | None = None
    metric: str = "mcc"
    threshold: str = HALF
    level: Level = "patient"
    rope: float = 0.01
    resampling: Resampling = field(default_factory=Resampling)


def compare(
    results: Path,
    question: Question = Question(),
    where: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Compare all pairs of runs that differ in one name, on the same patients and folds.

    Returns
    -------
    pandas.DataFrame
        Columns :data:`COLUMNS`; a difference is first minus second. ``difference`` with ``low`` and
        ``high`` is of all folds pooled, its interval by paired bootstrap over patients;
        ``fold_*`` is the mean over folds with the Nadeau-Bengio correction. A pair that cannot be
        compared has the reason in ``refused``. The p-values ending in ``_holm`` are corrected for
        the number of rows.

    Raises
    ------
    ConfigError
        For an unknown name, or where nothing is left to compare.
    """
    import pandas as pd

    if question.by not in COMMON[1:]:
        raise ConfigError(
            f"cannot compare runs by {question.by!r}{near(question.by, list(COMMON[1:]))} "
            f"(known: {', '.join(COMMON[1:])})"
        )
    metric = find_metric(question.metric)
    question = replace(question, threshold=parse_threshold(question.threshold)[0])
    scored = read_scores(results)
    runs = scored.runs[scored.runs["model"] != ORACLE]
    runs = keep_newest(filter_runs(runs, where or {}))
    pairs = list(_pairs(runs, question))
    if not pairs:
        raise ConfigError(
            f"no two runs in {results} differ in {question.by} alone "
            f"(found: {', '.join(sorted(map(str, runs[question.by].unique())))})"
        )
    asked = runs.loc[sorted({run for pair in pairs for run in pair})]
    comparer = Comparer(asked, scored, question, metric)
    table = pd.DataFrame([comparer.compare(first, second) for first, second in pairs])
    for name in ("fold_p", "mcnemar_p", "delong_p"):
        table[f"{name}_holm"] = holm(table.get(name, pd.Series(dtype=float)).reindex(table.index))
    return table.reindex(columns=list(COLUMNS))


def _pairs(runs: pd.DataFrame, question: Question) -> Iterator[tuple[int, int]]:
    fixed = [name for name in COMMON if name != question.by]
    for _, group in runs.groupby(fixed, dropna=False, sort=False):
        ordered = group.sort_values(question.by)
        names = ordered[question.by].map(str)
        for first, second in combinations(ordered.index, 2):
            if question.against is None or names[second] == question.against:
                yield first, second
            elif names[first] == question.against:
                yield second, first


@dataclass(frozen=True)
class Resampled:
    """One measure of a run: as it is, in all resamples, and (for BCa) without each patient.

    Each is a column of one, so that :func:`.resampling.interval_ends` takes it.
    """

    value: NDArray[np.float64]
    drawn: NDArray[np.float64]
    left_out: NDArray[np.float64] | None

    def minus(self, other: Resampled) -> Resampled:
        """Return the difference of two runs on the same resamples."""
        left_out = None
        if self.left_out is not None and other.left_out is not None:
            left_out = self.left_out - other.left_out
        return Resampled(self.value - other.value, self.drawn - other.drawn, left_out)


class Comparer:
    """Predictions of many runs, loaded once, and the tests of pairs of them."""

    def __init__(
        self, runs: pd.DataFrame, scored: Scored, question: Question, metric: Metric
    ) -> None:
        self.runs: dict[int, dict[str, Any]] = runs.to_dict("index")  # type: ignore[assignment]
        self.question, self.metric = question, metric
        self.measure = Measure.of(metric, question.threshold)
        self.panels: dict[int, Panel] = {}
        rules = (HALF, question.threshold)
        for predictions in load_predictions(runs, scored.folders):
            cells = make_cells(predictions, question.level, scored.scaling, rules)
            for run in predictions.cells["run"].unique():
                self.panels[run] = make_panel(predictions, cells, run)
        sizes = (
            count_training_patients(runs, scored.folders).groupby("run")["train_patients"].mean()
        )
        self.train_patients = sizes.to_dict()
        self._weights: dict[tuple[str, int], NDArray[np.float64]] = {}
        self.resampled = cache(self._resampled)

    def compare(self, first: int, second: int) -> dict[str, Any]:
        """Return the row of one pair."""
        run, other, by = self.runs[first], self.runs[second], self.question.by
        names: dict[str, Any] = {name: run[name] for name in COMMON if name != by}
        names |= {"metric": self.metric.name, "first": run[by], "second": other[by]}
        refused = self.explain_refusal(first, second)
        return {**names, "refused": refused} if refused else {**names, **self.test(first, second)}

    def explain_refusal(self, first: int, second: int) -> str:
        """Return why two runs cannot be compared; empty if they can."""
        pair = self.runs[first], self.runs[second]
        for run in pair:
            name = f"{run['model']}, {run['strategy']}"
            if run["not_applicable"]:
                return f"{name} is not applicable: {run['not_applicable']}"
            if run["done"] < run["cells"]:
                failed = f", {run['failed']:.0f} failed" if run["failed"] else ""
                return f"{name} is not finished: {run['done']}/{run['cells']} cells done{failed}"
        if pair[0]["cohort"] != pair[1]["cohort"]:
            return "the cohort changed between the two runs: run both again on one version"
        if pair[0]["folds"] != pair[1]["folds"]:
            return "their folds differ: run both with the same cv, regime and seed"
        return ""

    def test(self, first: int, second: int) -> dict[str, Any]:
        """Return all tests of a pair that can be compared."""
        one, other = self.panels[first], self.panels[second]
        values = self.fold_values(one), self.fold_values(other)
        share = one.test_size / self.trainable_patients(first)
        folds = corrected_t(values[0] - values[1], share)
        one_drawn, other_drawn = self.resampled(first), self.resampled(second)
        difference = one_drawn.minus(other_drawn)
        low, high = interval_ends(difference.value, difference.drawn, difference.left_out)
        return {
            "value_first": one_drawn.value[0],
            "value_second": other_drawn.value[0],
            "difference": difference.value[0],
            "low": low[0],
            "high": high[0],
            "bootstrap_p": bootstrap_p(difference.drawn[:, 0]),
            "folds": int((~np.isnan(values[0] - values[1])).sum()),
            "fold_difference": folds.value,
            "fold_low": folds.low,
            "fold_high": folds.high,
            "fold_p": folds.p,
            "effect": folds.effect,
            **self._patient_tests(one, other),
            **self._beliefs(*values, share),
        }

    def trainable_patients(self, run: int) -> float:
        """How many patients a fold trains on, or draws from: see :func:`.share_tested`."""
        panel = self.panels[run]
        size = float(self.train_patients[run])
        draws = len(panel.repetitions) > len({at.repeat for at in panel.repetitions})
        return max(size, len(panel.strata) - panel.test_size) if draws else size

    def fold_values(self, panel: Panel) -> NDArray[np.float64]:
        """The metric of every fold of every repetition, mean over draws."""
        repeats = sorted({at.repeat for at in panel.repetitions})
        values = []
        for repeat in repeats:
            draws = [
                panel.by_fold(at, self.measure) for at in panel.repetitions if at.repeat == repeat
            ]
            known = ~np.isnan(draws)
            with np.errstate(invalid="ignore"):
                values.append(np.where(known, draws, 0.0).sum(axis=0) / known.sum(axis=0))
        return np.concatenate(values)

    def _resampled(self, run: int) -> Resampled:
        panel, how = self.panels[run], self.question.resampling
        patients = len(panel.strata)
        # Runs on one cohort get the same resamples: their differences are paired.
        name = (str(self.runs[run]["cohort"]), patients)
        if name not in self._weights:
            axes = (how.seed, *name)
            self._weights[name] = draw_weights(panel.strata, how.resamples, axes, how.stratified)
        statistic = panel.statistic([self.measure])
        return Resampled(
            statistic(np.ones((1, patients)))[0],
            statistic(self._weights[name]),
            jackknife(statistic, patients) if how.method == "bca" else None,
        )

    def _patient_tests(self, one: Panel, other: Panel) -> dict[str, float]:
        """McNemar and DeLong on the first repetition: they take every patient once."""
        if self.question.level != "patient":
            return {}
        first, second = one.repetitions[0], other.repetitions[0]
        rule = self.question.threshold
        right = [each.decisions(rule) == each.labels for each in (first, second)]
        tests = {"mcnemar_p": mcnemar(*right).p}
        if first.scores.shape[1] == 2:
            scores = first.scores[:, 1], second.scores[:, 1]
            tests["delong_p"] = delong(first.labels, *scores).p
        return tests

    def _beliefs(
        self, first: NDArray[np.float64], second: NDArray[np.float64], share: float
    ) -> dict[str, float]:
        better = self.metric.distance(first) - self.metric.distance(second)
        better = better[~np.isnan(better)]
        if len(better) < 2:
            return {}
        try:
            belief = bayesian_t(better, share, self.question.rope)
        except MissingExtraError:  # a note of the table says so
            return {}
        return {
            "p_first_better": belief.first,
            "p_equal": belief.equal,
            "p_second_better": belief.second,
        }


def bootstrap_p(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of no difference: the share of resamples beyond zero, twice."""
    known = differences[~np.isnan(differences)]
    if not len(known):
        return float("nan")
    beyond = 1 + min((known <= 0).sum(), (known >= 0).sum())
    return min(1.0, 2 * float(beyond) / (len(known) + 1))


# ------------------------------------------------------------------ tables


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
    name = f"comparisons_{compared['metric'].iloc[0]}_by_{question.by}"
    table = comparison_table(compared, question)
    return write_tables(results / "tables" / name, compared, [table], formats)


def comparison_table(compared: pd.DataFrame, question: Question) -> Table:
    """Return comparisons as a table to read; ``compared`` is of :func:`compare`."""
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
        notes=tuple(_explain(question, metric)),
    )


def _row(line: Mapping[Any, Any], fixed: Sequence[str]) -> Row:
    names = tuple(str(line[name]) for name in (*fixed, "first", "second"))
    if isinstance(line["refused"], str):
        blank = [Entry("")] * (len(COMPARED) - 1)
        return names, (Entry(f"not compared: {line['refused']}"), *blank)
    beliefs = [line[f"p_{name}"] for name in ("first_better", "equal", "second_better")]
    return names, (
        make_difference(line["difference"], line["low"], line["high"]),
        make_difference(line["fold_difference"], line["fold_low"], line["fold_high"]),
        make_number(line["fold_p_holm"], "{:.3f}".format),
        make_number(line["effect"], "{:.2f}".format),
        make_number(line["mcnemar_p_holm"], "{:.3f}".format),
        make_number(line["delong_p_holm"], "{:.3f}".format),
        Entry(" / ".join(f"{p:.2f}" for p in beliefs if not np.isnan(p))),
    )


def _explain(question: Question, metric: Metric) -> Iterator[str]:
    how = question.resampling
    yield (
        f"over patients: all folds pooled, paired bootstrap ({how.kind}, {how.resamples:,} "
        f"resamples, seed {how.seed}); over folds: corrected t-test (Nadeau & Bengio); effect: "
        "mean over standard deviation"
    )
    yield (
        "p-values are corrected for the number of rows (Holm); McNemar compares decisions and "
        "DeLong ROC-AUC, whatever the metric"
    )
    equal = f"P: Bayesian correlated t-test; equal: within {question.rope:g} of each other"
    yield equal if find_spec("baycomp") else "P needs an extra: pip install 'prognobench[stats]'"
    if metric.needs == "decisions":
        yield f"decisions at threshold: {question.threshold}"
