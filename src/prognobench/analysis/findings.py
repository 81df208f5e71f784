"""Claims and the verdicts on them, as tables to read and to keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from prognobench.analysis.claims import Finding, check_claims
from prognobench.analysis.figures import slug
from prognobench.analysis.render import Entry, Table, interval_entry
from prognobench.analysis.tables import Made, write_tables

COLUMNS = (
    *("claim", "says", "verdict", "reason", "context"),
    *("value", "low", "high", "folds", "runs"),
)
"""The columns of ``tables/claims*.csv``: one row per claim and context."""


def claims_table(findings: Sequence[Finding]) -> Iterator[Table]:
    """Yield the verdicts, and the evidence of each context behind them."""
    yield Table(
        "claims",
        ("claim", "says"),
        ("verdict", "because"),
        tuple(
            (
                (finding.claim.name, finding.claim.says),
                (Entry(finding.verdict), Entry(finding.reason)),
            )
            for finding in findings
        ),
    )
    pairs = [(finding, each) for finding in findings for each in finding.evidence]
    rows = [
        (
            (one.claim.name, each.context),
            (
                interval_entry(each.value, each.low, each.high),
                _count(each.folds),
                _count(each.runs),
            ),
        )
        for one, each in pairs
    ]
    if rows:
        columns = ("difference [95 %]", "folds", "runs")
        said = ("a positive difference speaks for the claim",)
        yield Table("evidence", ("claim", "where"), columns, tuple(rows), notes=said)


def _count(number: int) -> Entry:
    return Entry(str(number), value=float(number))


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
    tables = tuple(claims_table(findings))
    stem = results / "tables" / ("claims" if file is None else f"claims_{slug(file.stem)}")
    long = pd.DataFrame(rows, columns=list(COLUMNS))
    return Made(tables, tuple(write_tables(stem, long, tables, formats)))
