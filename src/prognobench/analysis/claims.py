"""Statements about which choice is better, checked against whatever results there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prognobench.analysis.aggregate import FOLD, newest, share_tested
from prognobench.analysis.evaluation import HALF, NO_THRESHOLD
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.scored import Scored, read_scores
from prognobench.analysis.scoring import CHANCE
from prognobench.analysis.statements import Claim, Patterns, Where, read_claims, study_claims
from prognobench.analysis.stats import Difference, corrected_t
from prognobench.metrics.metric import Metric, find_metric

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["supported", "contradicted", "undecided"]

CONTEXT = ("dataset", "regime", "k", "cv")
"""Runs are compared within these only."""

FEWEST_TO_CONTRADICT = 3
"""Datasets that a strategy must win, all of them, before "none wins everywhere" is contradicted."""


@dataclass(frozen=True)
class Evidence:
    """What one context says: positive ``value`` speaks for the claim."""

    context: str
    value: float
    low: float
    high: float
    folds: int
    runs: int


@dataclass(frozen=True)
class Finding:
    """A claim, the verdict on it, and the numbers behind it."""

    claim: Claim
    verdict: Verdict
    reason: str
    evidence: tuple[Evidence, ...]


def check_claims(
    results: Path, file: Path | None = None, scored: Scored | None = None
) -> list[Finding]:
    """Check the claims of a file (by default the study's) against the results.

    Raises
    ------
    ConfigError
        With every fault of the file.
    StoreError
        If there are no runs.
    """
    described = read_claims(file or study_claims())
    scored = scored or read_scores(results)
    contexts = _Contexts(scored, described.groups)
    return [contexts.check(claim) for claim in described.claims]


# ------------------------------------------------------------------ evidence


class _Contexts:
    """Scores of folds by context, and the patients behind them."""

    def __init__(self, scored: Scored, groups: Mapping[str, Patterns]) -> None:
        runs = newest(scored.runs[scored.runs["model"] != ORACLE])
        scores = scored.scores[(scored.scores["level"] == "patient")]
        scores = scores[(scores["subgroup"] == "") & (scores["model"] != CHANCE)]
        scores = scores.merge(runs[["dataset", "model", "strategy", "key", "baseline"]])
        scores = scores[~scores["baseline"].astype(bool)]
        self.folds = scores[scores["fold"].notna()]
        pooled = scores[scores["fold"].isna()].drop_duplicates(list(CONTEXT))
        self.sizes = pooled.set_index(list(CONTEXT))[["n", "prevalence"]]
        self.groups = groups

    def check(self, claim: Claim) -> Finding:
        kinds: dict[str, Callable[[Claim], Finding]] = {
            "no_single_winner": self._winners,
            "better_balanced": self._balanced,
        }
        return kinds.get(claim.kind, self._differences)(claim)

    def _differences(self, claim: Claim) -> Finding:
        """First against second in every context."""
        evidence = []
        for context, scores in self._contexts(claim):
            found = self._difference(claim, scores)
            if found is not None:
                value, runs, folds = found
                margin = claim.margin if claim.kind == "not_worse" else 0.0
                low, high = value.low + margin, value.high + margin
                evidence.append(Evidence(context, value.value, low, high, folds, runs))
        return _judge(claim, evidence)

    def _contexts(self, claim: Claim) -> Iterator[tuple[str, pd.DataFrame]]:
        metric = find_metric(claim.metric)
        rule = NO_THRESHOLD if metric.needs == "scores" else HALF
        own = self.folds[(self.folds["metric"] == metric.name) & (self.folds["threshold"] == rule)]
        for names, scores in own.groupby(list(CONTEXT), sort=False):
            named: dict[str, Any] = dict(zip(CONTEXT, names, strict=True))
            if self._speaks_of(claim.where, named):
                k = f", k={named['k']}" if named["k"] else ""
                yield f"{named['dataset']} ({named['regime']}{k}, {named['cv']})", scores

    def _speaks_of(self, where: Where, named: Mapping[str, Any]) -> bool:
        size = self.sizes.loc[tuple(named[name] for name in CONTEXT)]
        minority = min(size["prevalence"], 1 - size["prevalence"])
        return (
            (not where.regime or named["regime"] in where.regime)
            and (not where.dataset or named["dataset"] in where.dataset)
            and where.patients[0] <= size["n"] < where.patients[1]
            and not (minority < where.minority[0] or minority > where.minority[1])
        )

    def _members(self, scores: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
        keep = np.ones(len(scores), dtype=bool)
        for column, patterns in (item for name in groups for item in self.groups[name].items()):
            names = scores[column].map(str)
            matching = {n for n in names.unique() if any(fnmatch(n, each) for each in patterns)}
            keep &= names.isin(matching).to_numpy()
        return scores[keep]

    def _difference(self, claim: Claim, scores: pd.DataFrame) -> tuple[Difference, int, int] | None:
        """First less second over folds, as goodness; with the numbers of runs and folds."""
        metric = find_metric(claim.metric)
        groups = [self._members(scores, names) for names in (claim.first, claim.second)]
        measure = _steadiness if claim.kind == "steadier" else _goodness
        first, second = (measure(group, metric) for group in groups)
        differences = (first - second).dropna()
        if len(differences) < 2:
            return None
        share = share_tested(scores)
        runs = sum(len(group[["model", "strategy", "key"]].drop_duplicates()) for group in groups)
        return corrected_t(np.asarray(differences, dtype=np.float64), share), runs, len(differences)

    def _balanced(self, claim: Claim) -> Finding:
        """The mean difference in balanced contexts against that in imbalanced ones."""
        sides: list[list[tuple[Difference, int, int]]] = []
        for minority in (claim.balanced, claim.imbalanced):
            narrowed = replace(claim, where=replace(claim.where, minority=minority))
            found = (self._difference(claim, scores) for _, scores in self._contexts(narrowed))
            sides.append([each for each in found if each is not None])
        if not all(sides):
            missing = "balanced" if not sides[0] else "imbalanced"
            return Finding(claim, "undecided", f"no {missing} dataset has both groups", ())
        means = [float(np.mean([each[0].value for each in side])) for side in sides]
        halves = [[(each[0].high - each[0].low) / 2 for each in side] for side in sides]
        reach = float(np.sqrt(sum((np.array(half) ** 2).sum() / len(half) ** 2 for half in halves)))
        value = means[0] - means[1]
        runs = sum(each[1] for side in sides for each in side)
        folds = sum(each[2] for side in sides for each in side)
        evidence = Evidence(
            f"{len(sides[0])} balanced ({means[0]:+.3f}) against {len(sides[1])} imbalanced "
            f"({means[1]:+.3f})",
            *(value, value - reach, value + reach, folds, runs),
        )
        return _judge(claim, [evidence])

    def _winners(self, claim: Claim) -> Finding:
        """Two strategies that each clearly beat the other somewhere: none wins everywhere."""
        metric = find_metric(claim.metric)
        evidence: list[Evidence] = []
        clear: set[tuple[str, str]] = set()
        winners: list[str] = []
        for context, scores in self._contexts(claim):
            own = scores[scores["value"].notna()].groupby("strategy")
            folds = {str(name): _goodness(group, metric) for name, group in own}
            most = max(map(len, folds.values()), default=0)  # what is not finished, cannot win
            ordered = [name for name in folds if len(folds[name]) == most]
            ordered.sort(key=lambda name: -folds[name].mean())
            if len(ordered) < 2:
                continue
            share = share_tested(scores)
            best, runs = ordered[0], len(scores[["model", "strategy", "key"]].drop_duplicates())
            winners.append(best)
            leads = {
                other: corrected_t(np.asarray(folds[best] - folds[other], dtype=np.float64), share)
                for other in ordered[1:]
            }
            clear |= {(best, other) for other, lead in leads.items() if lead.low > 0}
            lead = leads[ordered[1]]
            named = f"{context}: {best} before {ordered[1]}"
            evidence.append(
                Evidence(named, lead.value, lead.low, lead.high, len(folds[best]), runs)
            )
        certain = all(each.low > 0 for each in evidence)
        verdict, reason = _judge_winners(winners, clear, certain)
        return Finding(claim, verdict, reason, tuple(evidence))


def _judge_winners(
    winners: Sequence[str], clear: set[tuple[str, str]], certain: bool
) -> tuple[Verdict, str]:
    """``clear`` are pairs of a winner and whom it clearly beats; ``certain`` if all leads are."""
    names, n = ", ".join(sorted(set(winners))), len(winners)
    for first, second in sorted(clear):
        if (second, first) in clear:
            reason = f"{first} is clearly better than {second} on one dataset, and worse on another"
            return "supported", reason
    if len(set(winners)) == 1 and n >= FEWEST_TO_CONTRADICT and certain:
        return "contradicted", f"{names} is clearly best on all {n} datasets"
    if n >= FEWEST_TO_CONTRADICT or len(set(winners)) > 1:
        return "undecided", f"best on {n} datasets: {names}; that could be chance"
    reason = f"{n} datasets with two strategies: at least {FEWEST_TO_CONTRADICT} are needed"
    return "undecided", reason


def _goodness(scores: pd.DataFrame, metric: Metric) -> pd.Series[float]:
    """Mean over the group's runs, per fold; more is better whatever the metric."""
    good = scores.assign(good=-metric.distance(scores["value"].to_numpy()))
    return good.groupby(list(FOLD))["good"].mean()


def _steadiness(scores: pd.DataFrame, metric: Metric) -> pd.Series[float]:
    """Less the standard deviation over draws, mean over the group's runs, per fold."""
    spread = scores.groupby(["model", "strategy", "key", *FOLD])["value"].std()
    return -spread.groupby(list(FOLD)).mean()


def _judge(claim: Claim, evidence: Sequence[Evidence]) -> Finding:
    if not evidence:
        reason = "no dataset in question has finished runs of both groups on the same folds"
        return Finding(claim, "undecided", reason, ())
    speaking = sum(each.low > 0 for each in evidence)
    against = sum(each.high < 0 for each in evidence)
    left = len(evidence) - speaking - against
    mean = float(np.mean([each.value for each in evidence]))
    verdict: Verdict = "undecided"
    if speaking and not against:
        verdict = "supported"
    elif against and not speaking:
        verdict = "contradicted"
    reason = (
        f"{speaking} for, {against} against, {left} open; mean difference {mean:+.3f} over "
        f"{sum(each.runs for each in evidence)} runs"
    )
    return Finding(claim, verdict, reason, tuple(evidence))
