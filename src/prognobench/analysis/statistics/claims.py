"""Statements about which choice is better, checked against the results at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from prognobench.analysis.catalogue import CONTEXT, keep_newest
from prognobench.analysis.evaluation import Measure
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.scores import CHANCE, Scored, read_scores
from prognobench.analysis.statistics.aggregate import FOLD, share_tested
from prognobench.analysis.statistics.paired_tests import Difference, corrected_t
from prognobench.analysis.tables import (
    Entry,
    Made,
    Table,
    make_count,
    make_difference,
    make_slug,
    write_tables,
)
from prognobench.analysis.thresholds import HALF
from prognobench.errors import ConfigError
from prognobench.metrics.metric import Metric, find_metric

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["supported", "contradicted", "undecided"]

FEWEST_TO_CONTRADICT = 3
"""Datasets that one strategy must all win before "none wins everywhere" is contradicted."""

COLUMNS = (
    *("claim", "says", "verdict", "reason", "context"),
    *("value", "low", "high", "folds", "runs"),
)
"""The columns of ``tables/claims*.csv``: one row per claim and context."""


Range = tuple[float, float]
Patterns = Mapping[str, tuple[str, ...]]
"""Column -> shell patterns of names; all columns must match."""


@dataclass(frozen=True)
class Where:
    """Which contexts a claim is about."""

    regime: tuple[str, ...] = ()
    dataset: tuple[str, ...] = ()
    patients: Range = (0, float("inf"))
    minority: Range = (0, 0.5)


@dataclass(frozen=True)
class Claim:
    """One statement; ``configs/claims/study.yaml`` explains the kinds.

    ``first`` and ``second`` name groups; only runs that belong to all of them count.
    """

    name: str
    says: str
    kind: Literal["better", "not_worse", "steadier", "better_balanced", "no_single_winner"]
    metric: str = "mcc"
    first: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    margin: Annotated[float, Ge(0)] = 0.0
    where: Where = Where()
    balanced: Range = (0.35, 0.5)
    imbalanced: Range = (0.0, 0.2)


@dataclass(frozen=True)
class ClaimFile:
    """A file of claims: named groups of runs, and statements about them."""

    claims: tuple[Claim, ...]
    groups: Mapping[str, Patterns]


@dataclass(frozen=True)
class Evidence:
    """What one context shows: a positive ``value`` supports the claim."""

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


def study_claims() -> Path:
    """Return the file with the study's findings."""
    package = Path(str(files("prognobench")))
    # Beside the code where it is installed, beside src in a checkout.
    roots = (package / "configs", package.parents[1] / "configs")
    return next(path for root in roots if (path := root / "claims" / "study.yaml").exists())


def read_claims(file: Path) -> ClaimFile:
    """Read and check a file of claims; all its faults are one :class:`ConfigError`."""
    import yaml
    from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

    try:
        written = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    strict = ConfigDict(extra="forbid")
    for record in (ClaimFile, Claim, Where):
        with_config(strict)(record)
    try:
        found = TypeAdapter(ClaimFile).validate_python(written)
    except ValidationError as error:
        raise ConfigError(
            f"{file}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in error.errors()
        ) from error
    faults = [
        f"{file}: claim {claim.name!r} names an unknown group {group!r} "
        f"(known: {', '.join(found.groups)})"
        for claim in found.claims
        for group in (*claim.first, *claim.second)
        if group not in found.groups
    ]
    if faults:
        raise ConfigError(faults)
    for claim in found.claims:
        find_metric(claim.metric)
    return found


# ------------------------------------------------------------------ evidence


class _Contexts:
    """Scores of folds by context, and the patients behind them."""

    def __init__(self, scored: Scored, groups: Mapping[str, Patterns]) -> None:
        runs = keep_newest(scored.runs[scored.runs["model"] != ORACLE])
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
        """The first group against the second in every context."""
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
        rule = Measure.of(metric, HALF).rule
        own = self.folds[(self.folds["metric"] == metric.name) & (self.folds["threshold"] == rule)]
        for names, scores in own.groupby(list(CONTEXT), sort=False):
            named: dict[str, Any] = dict(zip(CONTEXT, names, strict=True))
            if self._is_about(claim.where, named):
                k = f", k={named['k']}" if named["k"] else ""
                yield f"{named['dataset']} ({named['regime']}{k}, {named['cv']})", scores

    def _is_about(self, where: Where, named: Mapping[str, Any]) -> bool:
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
        """First minus second over folds, more is better; with the numbers of runs and folds."""
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
        parts: list[list[tuple[Difference, int, int]]] = []
        for minority in (claim.balanced, claim.imbalanced):
            narrowed = replace(claim, where=replace(claim.where, minority=minority))
            found = (self._difference(claim, scores) for _, scores in self._contexts(narrowed))
            parts.append([each for each in found if each is not None])
        if not all(parts):
            missing = "balanced" if not parts[0] else "imbalanced"
            return Finding(claim, "undecided", f"no {missing} dataset has both groups", ())
        means = [float(np.mean([each[0].value for each in part])) for part in parts]
        halves = [[(each[0].high - each[0].low) / 2 for each in part] for part in parts]
        # Half-widths of independent means add as squares, as standard errors do.
        reach = float(np.sqrt(sum((np.array(half) ** 2).sum() / len(half) ** 2 for half in halves)))
        value = means[0] - means[1]
        runs = sum(each[1] for part in parts for each in part)
        folds = sum(each[2] for part in parts for each in part)
        evidence = Evidence(
            f"{len(parts[0])} balanced ({means[0]:+.3f}) against {len(parts[1])} imbalanced "
            f"({means[1]:+.3f})",
            *(value, value - reach, value + reach, folds, runs),
        )
        return _judge(claim, [evidence])

    def _winners(self, claim: Claim) -> Finding:
        """No strategy wins everywhere: two of them each clearly beat the other somewhere."""
        metric = find_metric(claim.metric)
        evidence: list[Evidence] = []
        clear: set[tuple[str, str]] = set()
        winners: list[str] = []
        for context, scores in self._contexts(claim):
            own = scores[scores["value"].notna()].groupby("strategy")
            folds = {str(name): _goodness(group, metric) for name, group in own}
            most = max(map(len, folds.values()), default=0)  # unfinished runs cannot win
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
    """Judge by pairs of a winner and what it clearly beats; ``certain`` if every lead is clear."""
    names, n = ", ".join(sorted(set(winners))), len(winners)
    for first, second in sorted(clear):
        if (second, first) in clear:
            reason = f"{first} is clearly better than {second} on one dataset, and worse on another"
            return "supported", reason
    if len(set(winners)) == 1 and n >= FEWEST_TO_CONTRADICT and certain:
        return "contradicted", f"{names} is clearly best on all {n} datasets"
    if n >= FEWEST_TO_CONTRADICT or len(set(winners)) > 1:
        return "undecided", f"best on {n} datasets: {names}; that could be chance"
    reason = f"datasets with two strategies: {n}, but at least {FEWEST_TO_CONTRADICT} are needed"
    return "undecided", reason


def _goodness(scores: pd.DataFrame, metric: Metric) -> pd.Series[float]:
    """Mean over the group's runs, per fold; more is better for every metric."""
    good = scores.assign(good=-metric.distance(scores["value"].to_numpy()))
    return good.groupby(list(FOLD))["good"].mean()


def _steadiness(scores: pd.DataFrame, metric: Metric) -> pd.Series[float]:
    """Minus the standard deviation over draws, mean over the group's runs, per fold."""
    spread = scores.groupby(["model", "strategy", "key", *FOLD])["value"].std()
    return -spread.groupby(list(FOLD)).mean()


def _judge(claim: Claim, evidence: Sequence[Evidence]) -> Finding:
    if not evidence:
        reason = "no dataset of the claim has finished runs of both groups on the same folds"
        return Finding(claim, "undecided", reason, ())
    supporting = sum(each.low > 0 for each in evidence)
    against = sum(each.high < 0 for each in evidence)
    left = len(evidence) - supporting - against
    mean = float(np.mean([each.value for each in evidence]))
    verdict: Verdict = "undecided"
    if supporting and not against:
        verdict = "supported"
    elif against and not supporting:
        verdict = "contradicted"
    reason = (
        f"{supporting} for, {against} against, {left} open; mean difference {mean:+.3f} over "
        f"{sum(each.runs for each in evidence)} runs"
    )
    return Finding(claim, verdict, reason, tuple(evidence))


# ------------------------------------------------------------------ tables


def claims_table(findings: Sequence[Finding]) -> Iterator[Table]:
    """Yield the verdicts, then the evidence behind them, one row for each context."""
    verdicts = [
        ((one.claim.name, one.claim.says), (Entry(one.verdict), Entry(one.reason)))
        for one in findings
    ]
    yield Table("claims", ("claim", "says"), ("verdict", "because"), tuple(verdicts))
    rows = [
        (
            (one.claim.name, each.context),
            (
                make_difference(each.value, each.low, each.high),
                make_count(each.folds),
                make_count(each.runs),
            ),
        )
        for one in findings
        for each in one.evidence
    ]
    if rows:
        columns = ("difference [95 %]", "folds", "runs")
        notes = ("a positive difference supports the claim",)
        yield Table("evidence", ("claim", "where"), columns, tuple(rows), notes=notes)


def make_claims(
    results: Path, file: Path | None = None, formats: Sequence[str] = ("csv", "md")
) -> Made:
    """Check claims and write them to ``results/tables/claims*``.

    Raises
    ------
    ConfigError
        With every fault of the file.
    StoreError
        If there are no runs.
    """
    import pandas as pd

    findings = check_claims(results, file)
    rows = [
        {"claim": finding.claim.name, "says": finding.claim.says, "verdict": finding.verdict}
        | {"reason": finding.reason, "context": each.context if each else ""}
        | {name: getattr(each, name, None) for name in COLUMNS[5:]}
        for finding in findings
        for each in (finding.evidence or (None,))
    ]
    stem = results / "tables" / ("claims" if file is None else f"claims_{make_slug(file.stem)}")
    long = pd.DataFrame(rows, columns=list(COLUMNS))
    return write_tables(stem, long, list(claims_table(findings)), formats)
