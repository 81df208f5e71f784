"""The tests of one pair of choices: trained again, and as these models are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.catalogue import count_training_patients
from prognobench.analysis.evaluation import Measure
from prognobench.analysis.predictions import Level
from prognobench.analysis.scores import Scored
from prognobench.analysis.statistics.paired_tests import combine_splits, delong, mcnemar
from prognobench.analysis.statistics.panels import load_panels
from prognobench.analysis.statistics.resampling import (
    Panel,
    Repetition,
    Resampling,
    draw_weights,
    interval_ends,
    jackknife,
)
from prognobench.analysis.statistics.retraining import (
    average_trainings,
    compare_retrained,
    scale_share,
    weigh_retrained,
)
from prognobench.analysis.thresholds import HALF
from prognobench.errors import MissingExtraError
from prognobench.metrics.metric import Metric

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

COMMON = ("dataset", "model", "strategy", "regime", "k", "cv")
"""The names that two compared choices share, all but one; their seeds are analysed together."""

Side = tuple[int, ...]
"""The runs of one choice: one for each seed."""


@dataclass(frozen=True)
class Named:
    """One choice of a comparison: what a table calls it, and its runs."""

    name: str
    runs: Side


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
        As :func:`.thresholds.parse_threshold` takes it.
    rope
        Half-width of the region of practical equivalence, in units of the metric.
    """

    by: str = "strategy"
    against: str | None = None
    metric: str = "mcc"
    threshold: str = HALF
    level: Level = "patient"
    rope: float = 0.01
    everything: bool = False
    resampling: Resampling = field(default_factory=Resampling)


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


def _mean(parts: Sequence[Resampled]) -> Resampled:
    """Return the mean over runs, on the same resamples."""
    left_out = [part.left_out for part in parts if part.left_out is not None]
    return Resampled(
        np.mean([part.value for part in parts], axis=0),
        np.mean([part.drawn for part in parts], axis=0),
        np.mean(left_out, axis=0) if left_out else None,
    )


class Comparer:
    """Predictions of many runs, loaded once, and the tests of pairs of them."""

    def __init__(
        self, runs: pd.DataFrame, scored: Scored, question: Question, metric: Metric
    ) -> None:
        self.runs: dict[int, dict[str, Any]] = runs.to_dict("index")  # type: ignore[assignment]
        self.question, self.metric = question, metric
        self.measure = Measure.of(metric, question.threshold)
        self.panels = load_panels(runs, scored, question.level, (question.threshold,))
        sizes = (
            count_training_patients(runs, scored.folders).groupby("run")["train_patients"].mean()
        )
        self.train_patients = sizes.to_dict()
        self._weights: dict[tuple[str, int], NDArray[np.float64]] = {}
        self.resampled = cache(self._resampled)

    def compare(self, first: Named, second: Named) -> dict[str, Any]:
        """Return the row of one pair of choices."""
        # A baseline stands beside every model: the names are those of the choice.
        run = self.runs[first.runs[0]]
        if run["baseline"]:
            run = self.runs[second.runs[0]]
        names: dict[str, Any] = {name: run[name] for name in COMMON if name != self.question.by}
        names |= {"metric": self.metric.name, "first": first.name, "second": second.name}
        pairs, reasons = [], []
        for pair in self._matches(first.runs, second.runs):
            reason = self.explain_refusal(*pair)
            reasons += [reason] if reason else []
            pairs += [] if reason else [pair]
        if pairs:
            return {**names, **self.test(pairs)}
        return {**names, "refused": reasons[0]}

    def _matches(self, first: Side, second: Side) -> Iterator[tuple[int, int]]:
        """Yield runs on the same folds, the n-th training of one with that of the other."""
        left, found = list(second), False
        for run in first:
            same = [each for each in left if self.runs[each]["folds"] == self.runs[run]["folds"]]
            if same:
                # A baseline is trained once, and stands beside every training of a choice.
                if not self.runs[same[0]]["baseline"]:
                    left.remove(same[0])
                found = True
                yield run, same[0]
        if not found:  # no folds are shared: which differ, a refusal says
            yield first[0], second[0]

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
        if pair[0]["folds"] != pair[1]["folds"] and self.question.by != "seed":
            return "their folds differ: run both with the same cv, regime and seed"
        return ""

    def test(self, pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """Return all tests of two choices, whose runs are paired by seed."""
        sides = [sorted({pair[side] for pair in pairs}) for side in (0, 1)]
        one_drawn, other_drawn = (_mean([self.resampled(run) for run in side]) for side in sides)
        difference = one_drawn.minus(other_drawn)
        low, high = interval_ends(difference.value, difference.drawn, difference.left_out)
        return {
            "value_first": one_drawn.value[0],
            "value_second": other_drawn.value[0],
            "patients_difference": difference.value[0],
            "patients_low": low[0],
            "patients_high": high[0],
            "bootstrap_p": bootstrap_p(difference.drawn[:, 0]),
            "seeds": len(pairs),
            **self._fold_tests(pairs),
            **self._patient_tests(pairs),
        }

    def _fold_tests(self, pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
        """The tests of :mod:`.retraining`; blank where seeds split the patients differently."""
        if any(self.runs[first]["folds"] != self.runs[second]["folds"] for first, second in pairs):
            return {}
        differences, better, units = [], [], []
        for first, second in pairs:
            one, other = (self.fold_values(self.panels[run]) for run in (first, second))
            differences.append(one - other)
            better.append(self.metric.distance(other) - self.metric.distance(one))
            digest = str(self.runs[first]["folds"])
            units += [(digest, str(fold)) for fold in range(len(one))]
        run = pairs[0][0]
        share = self.panels[run].test_size / self.trainable_patients(run)
        values, names = np.concatenate(differences), np.array(units)
        share = scale_share(share, self.metric, self._count_splits(pairs))
        folds = compare_retrained(values, names, share)
        return {
            "folds": len(average_trainings(values, names)),
            "fold_difference": folds.value,
            "fold_low": folds.low,
            "fold_high": folds.high,
            "fold_p": folds.p,
            "effect": folds.effect,
            **self._beliefs(np.concatenate(better), names, share),
        }

    def _count_splits(self, pairs: Sequence[tuple[int, int]]) -> int:
        """How often the patients are split anew: repetitions of each different set of folds."""
        runs = {str(self.runs[first]["folds"]): first for first, _ in pairs}
        return sum(len({at.repeat for at in self.panels[run].repetitions}) for run in runs.values())

    def trainable_patients(self, run: int) -> float:
        """How many patients a fold may learn from: see :func:`.share_tested`."""
        panel = self.panels[run]
        return max(float(self.train_patients[run]), len(panel.strata) - panel.test_size)

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

    def _patient_tests(self, pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
        """McNemar and DeLong on each repetition of each seed: they take every patient once."""
        if self.question.level != "patient":
            return {}
        found: dict[str, list[float]] = {"mcnemar_p": [], "delong_p": []}
        for runs in pairs:
            one, other = (self.panels[run] for run in runs)
            for first, second in zip(one.repetitions, other.repetitions, strict=True):
                for name, p in self._patient_test(first, second).items():
                    found[name].append(p)
        return {name: combine_splits(p) for name, p in found.items() if p}

    def _patient_test(self, first: Repetition, second: Repetition) -> dict[str, float]:
        # Folds that differ list their patients in another order.
        orders = [np.argsort(each.patient, kind="stable") for each in (first, second)]
        right = [
            (each.decisions(self.question.threshold) == each.labels)[order]
            for each, order in zip((first, second), orders, strict=True)
        ]
        tests = {"mcnemar_p": mcnemar(*right).p}
        if first.scores.shape[1] == 2:
            scores = first.scores[orders[0], 1], second.scores[orders[1], 1]
            tests["delong_p"] = delong(first.labels[orders[0]], *scores).p
        return tests

    def _beliefs(
        self, better: NDArray[np.float64], units: NDArray[Any], share: float
    ) -> dict[str, float]:
        if len(average_trainings(better, units)) < 2:
            return {}
        try:
            belief = weigh_retrained(better, units, share, self.question.rope)
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
