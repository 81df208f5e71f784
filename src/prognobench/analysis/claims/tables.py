"""Verdicts on claims as tables: what is said of each, and the evidence of each data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prognobench.analysis.claims.judging import Finding, check_claims
from prognobench.analysis.claims.reading import STUDY
from prognobench.analysis.tables import (
    Entry,
    Made,
    Table,
    make_count,
    make_difference,
    make_number,
    make_slug,
    write_tables,
)

COLUMNS = (
    *("claim", "says", "verdict", "reason", "p", "p_holm"),
    *("context", "compared", "value", "low", "high", "folds", "runs"),
)
"""The columns of ``tables/claims*.csv``: one row per claim and context, all together first."""

TOGETHER = "all data sets"
"""The context of the test over data sets."""


def make_claims(
    results: Path, asked: str | Path | None = None, formats: Sequence[str] = ("csv", "md")
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

    findings = check_claims(results, asked)
    rows = [
        {"claim": finding.claim.name, "says": finding.claim.says, "verdict": finding.verdict}
        | {"reason": finding.reason, "p": finding.p, "p_holm": finding.p_holm}
        | line
        for finding in findings
        for line in _lines(finding)
    ]
    own = asked is not None and str(asked) != STUDY
    stem = results / "tables" / (f"claims_{make_slug(Path(str(asked)).stem)}" if own else "claims")
    long = pd.DataFrame(rows, columns=list(COLUMNS))
    return write_tables(stem, long, list(claims_table(findings)), formats)


def _lines(finding: Finding) -> Iterator[dict[str, Any]]:
    for judgement in finding.judgements:
        found = judgement.pooled
        yield {
            "context": TOGETHER,
            **{"value": found.value, "low": found.low, "high": found.high},
            "folds": sum(effect.folds for effect in judgement.effects),
            "runs": sum(effect.runs for effect in judgement.effects),
        }
        for effect in judgement.effects:
            one = effect.difference
            yield {
                "context": effect.context,
                "compared": effect.compared,
                **{"value": one.value, "low": one.low, "high": one.high},
                **{"folds": effect.folds, "runs": effect.runs},
            }


def claims_table(findings: Sequence[Finding]) -> Iterator[Table]:
    """Yield the verdicts, then the evidence behind them, one row for each context."""
    verdicts = [
        (
            (one.claim.name, one.claim.says),
            (
                Entry(one.verdict),
                make_number(one.p_holm, "{:.3f}".format),
                Entry(one.reason),
            ),
        )
        for one in findings
    ]
    columns = ("verdict", "p", "because")
    yield Table(
        "claims",
        ("claim", "says"),
        columns,
        tuple(verdicts),
        notes=(
            "each claim is one test over data sets (t-test, each data set one unit); tasks on the "
            "same patients count once; p-values are corrected for the number of claims (Holm)",
        ),
    )
    rows = [
        (
            (one.claim.name, effect.context, effect.compared),
            (
                make_difference(
                    effect.difference.value, effect.difference.low, effect.difference.high
                ),
                make_count(effect.folds),
                make_count(effect.runs),
            ),
        )
        for one in findings
        for effect in one.effects
        if not np.isnan(effect.difference.value)
    ]
    if rows:
        heads = ("difference [95 %]", "folds", "runs")
        notes = ("a positive difference supports the claim; single data sets decide nothing",)
        yield Table("evidence", ("claim", "where", "compared"), heads, tuple(rows), notes=notes)
