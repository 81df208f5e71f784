"""The verdict on a claim: one test over data sets, and Holm over the claims of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from prognobench.analysis.claims.evidence import Effect, Evidence
from prognobench.analysis.claims.reading import (
    Claim,
    Statement,
    find_claims,
    read_claims,
)
from prognobench.analysis.scores import Scored, read_scores
from prognobench.analysis.statistics.paired_tests import CONFIDENCE, Difference, holm
from prognobench.analysis.statistics.pooling import (
    combine_all,
    combine_any,
    merge_blocks,
    pool_blocks,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Verdict = Literal["supported", "contradicted", "undecided"]

FEWEST_TO_CONTRADICT = 3
"""Independent data sets that one strategy must all win before "none wins everywhere" is refuted."""

UNKNOWN = Difference(*[float("nan")] * 4)


@dataclass(frozen=True)
class Judgement:
    """What all data sets together say to one statement.

    Attributes
    ----------
    supports, contradicts
        One-sided p-values: of the statement being false, and of it being true.
    """

    pooled: Difference
    supports: float
    contradicts: float
    reason: str
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A claim, the verdict on it, and the numbers behind it.

    Attributes
    ----------
    p
        Two-sided; ``p_holm`` is corrected for the number of claims that could be tested.
    """

    claim: Claim
    verdict: Verdict
    reason: str
    judgements: tuple[Judgement, ...]
    p: float = float("nan")
    p_holm: float = float("nan")

    @property
    def effects(self) -> tuple[Effect, ...]:
        return tuple(effect for each in self.judgements for effect in each.effects)

    @property
    def compared(self) -> str:
        """The compared runs, in words."""
        named = [effect.compared for effect in self.effects]
        return "; ".join(dict.fromkeys(named))


def check_claims(
    results: Path, asked: str | Path | None = None, scored: Scored | None = None
) -> list[Finding]:
    """Check the claims of a file (by default the study's) against the results.

    Each statement is one test over data sets (:func:`.pooling.pool_blocks`): contexts of the same
    patients are one unit. A claim of several statements needs all of them. Claims are corrected
    for their number by Holm's method.

    Raises
    ------
    ConfigError
        With every fault of the file.
    StoreError
        If there are no runs.
    """
    file = read_claims(find_claims(asked))
    evidence = Evidence(scored or read_scores(results), file)
    findings = [_find(claim, evidence) for claim in file.claims]
    corrected = holm([finding.p for finding in findings])
    return [_decide(one, float(p)) for one, p in zip(findings, corrected, strict=True)]


def _find(claim: Claim, evidence: Evidence) -> Finding:
    judgements = tuple(_judge(statement, evidence) for statement in claim.statements)
    reason = "; ".join(each.reason for each in judgements)
    return Finding(claim, "undecided", reason, judgements, _two_sided(judgements))


def _sides(judgements: Sequence[Judgement]) -> tuple[float, float]:
    """Return the one-sided p-values: that all statements hold, and that one of them does not."""
    return (
        combine_all([each.supports for each in judgements]),
        combine_any([each.contradicts for each in judgements]),
    )


def _two_sided(judgements: Sequence[Judgement]) -> float:
    sides = np.array(_sides(judgements))
    known = sides[~np.isnan(sides)]
    return float(min(1.0, 2 * known.min())) if len(known) else float("nan")


def _decide(finding: Finding, p: float) -> Finding:
    verdict: Verdict = "undecided"
    if p < 1 - CONFIDENCE:
        supports, contradicts = _sides(finding.judgements)
        verdict = "contradicted" if contradicts < np.nan_to_num(supports, nan=1) else "supported"
    numbers = "" if np.isnan(p) else f"; p = {finding.p:.3f}, {p:.3f} by Holm"
    return replace(finding, verdict=verdict, reason=finding.reason + numbers, p_holm=p)


def _judge(statement: Statement, evidence: Evidence) -> Judgement:
    if statement.kind == "no_single_winner":
        return _judge_winners(statement, evidence)
    effects = evidence.effects(statement)
    if statement.kind == "better_balanced":
        return _judge_balance(statement, effects)
    if not effects:
        reason = "no data set of the claim has finished runs of both groups on the same folds"
        return Judgement(UNKNOWN, float("nan"), float("nan"), reason)
    margin = statement.margin if statement.kind == "not_worse" else 0.0
    values = _by_block(effects)
    if len(values) == 1:
        pooled: Difference = _one_block(values[0] + margin, effects)
        where = "one data set, which says nothing about others"
    else:
        pooled = pool_blocks(values, margin=margin)
        where = f"{len(values)} independent data sets"
    beyond = f" (margin {margin:g} included)" if margin else ""
    reason = f"mean difference {_write(pooled)}{beyond} over {where}"
    return Judgement(pooled, *_one_sided(pooled), reason, tuple(effects))


def _by_block(effects: Sequence[Effect]) -> NDArray[np.float64]:
    values = [effect.difference.value for effect in effects]
    return merge_blocks(values, [effect.block for effect in effects])


def _one_block(value: float, effects: Sequence[Effect]) -> Difference:
    """Test the mean difference of contexts that share their patients, by their folds."""
    from scipy.special import stdtr, stdtrit

    # The same patients are tested, so errors are taken as fully correlated.
    error = float(np.mean([effect.error for effect in effects]))
    freedom = min(effect.folds for effect in effects) - 1
    if not error:
        return Difference(value, value, value, 0.0 if value else 1.0)
    reach = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    p = float(2 * stdtr(freedom, -abs(value) / error))
    return Difference(value, value - reach, value + reach, p)


def _judge_balance(statement: Statement, effects: Sequence[Effect]) -> Judgement:
    """Compare the mean difference on balanced data sets with that on imbalanced ones."""
    ranges = (statement.balanced, statement.imbalanced)
    groups = [[e for e in effects if low <= e.minority <= high] for low, high in ranges]
    for name, group in zip(("balanced", "imbalanced"), groups, strict=True):
        if not group:
            reason = f"no {name} data set has both groups"
            return Judgement(UNKNOWN, float("nan"), float("nan"), reason)
    parts = [_by_block(group) for group in groups]
    sizes = [len(values) for values in parts]
    pooled = pool_blocks(np.concatenate(parts), np.repeat([True, False], sizes))
    reason = (
        f"difference {_write(pooled)} between {sizes[0]} balanced and {sizes[1]} imbalanced "
        "data sets"
    )
    if np.isnan(pooled.p):
        reason += "; at least 3 are needed"
    return Judgement(pooled, *_one_sided(pooled), reason, (*groups[0], *groups[1]))


def _judge_winners(statement: Statement, evidence: Evidence) -> Judgement:
    """Test that for every strategy there is a data set where another one is better.

    Each strategy is refuted as the one that wins everywhere by its worst data set (the smallest
    of all p-values, times their number); the claim needs all of them refuted (Berger 1982). It is
    contradicted by a strategy that is better than every other one on every data set.
    """
    leads = evidence.leads(statement)
    strategies = sorted({first for first, _ in leads})
    if len(strategies) < 2:
        reason = "no data set has two strategies on the same model and folds"
        return Judgement(UNKNOWN, float("nan"), float("nan"), reason)
    refuted, wins = {}, {}
    for name in strategies:
        behind = [e for (_, second), own in leads.items() if second == name for e in own]
        ahead = [e for (first, _), own in leads.items() if first == name for e in own]
        refuted[name] = combine_any([_one_sided(effect.difference)[0] for effect in behind])
        wins[name] = combine_all([_one_sided(effect.difference)[0] for effect in ahead])
        if len({effect.block for effect in ahead}) < FEWEST_TO_CONTRADICT:
            wins[name] = 1.0
    best = min(strategies, key=lambda name: wins[name])
    hardest = max(strategies, key=lambda name: refuted[name])
    blocks = len({effect.block for own in leads.values() for effect in own})
    reason = (
        f"{len(strategies)} strategies on {blocks} independent data sets; hardest to refute as the "
        f"one that wins everywhere: {hardest} (p = {refuted[hardest]:.3f})"
    )
    effects = [e for (first, _), own in leads.items() if first == hardest for e in own]
    supports = combine_all(list(refuted.values()))
    contradicts = min(1.0, len(strategies) * wins[best])
    return Judgement(UNKNOWN, supports, contradicts, reason, tuple(effects))


def _one_sided(found: Difference) -> tuple[float, float]:
    """Return the p-values against a difference of at most zero, and of at least zero."""
    half = found.p / 2
    return (half, 1 - half) if found.value > 0 else (1 - half, half)


def _write(found: Difference) -> str:
    if np.isnan(found.low):
        return f"{found.value:+.3f}"
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
