"""The answer first: the best choice on each dataset, how sure it is, and what it must beat."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prognobench.analysis.figures import whole
from prognobench.analysis.pooled import Wanted, pooled_scores
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.render import Entry, Table
from prognobench.analysis.scored import Scored
from prognobench.analysis.scoring import CHANCE
from prognobench.metrics.metric import Metric

if TYPE_CHECKING:
    import pandas as pd


def headline(cells: pd.DataFrame, scored: Scored, metric: Metric) -> Table | None:
    """Return one row per dataset (under its regime and cv), or ``None`` without a score.

    Parameters
    ----------
    cells
        Of :func:`.aggregate`, with this metric.
    """
    found = [
        (named, own, references, own[own["mark"] == "best"].iloc[0].to_dict())
        for named, own, references in whole(cells[cells["metric"] == metric.name])
        if (own["mark"] == "best").any()
    ]
    if not found:
        return None
    intervals = _intervals([best for *_, best in found], scored, metric)
    rows = []
    for named, own, references, best in found:
        title = f"{named['dataset']}{_setting(named)}" + (
            " (synthetic)" if best["synthetic"] else ""
        )
        over_patients = intervals.get(best["keys"])
        rows.append(
            (
                (title,),
                (
                    Entry(f"{best['model']}, {best['strategy']}", "best"),
                    Entry(_spread(best), below=bool(best["below"]), value=float(best["mean"])),
                    _interval(over_patients),
                    Entry(f"{(own['mark'] == 'tie').sum()} of {len(own) - 1}"),
                    _reference(references, "metadata"),
                    _reference(references, ORACLE),
                    _reference(references, CHANCE),
                    _patients(over_patients),
                ),
            )
        )
    title = metric.title
    return Table(
        f"the best by {title} on each dataset",
        ("dataset",),
        (
            *("best choice", f"{title}, folds", f"{title}, patients [95 %]"),
            *("as good", "metadata", "ceiling", "chance", "patients"),
        ),
        tuple(rows),
        notes=(
            "folds: mean ± standard deviation over folds; patients: all folds pooled, bootstrap "
            "over patients",
            "as good: other choices whose difference over folds could be chance "
            "(corrected t-test, 5 %); the best of many is flattered by the choosing",
            "metadata: what age, sex and the like predict without an image; ceiling: the true "
            "risk, which a generator knows; synthetic: images of a generator, no clinical data",
            "†: not better than the best that looks at no image",
        ),
    )


def _setting(named: Mapping[str, Any]) -> str:
    """Regime, k and cv where they are not the usual ones."""
    k = f" k={named['k']}" if named["k"] else ""
    said = [] if named["regime"] == "full" else [f"{named['regime']}{k}"]
    said += [] if named["cv"] == "five_fold" else [str(named["cv"])]
    return "".join(f" · {each}" for each in said)


def _intervals(
    best: Sequence[Mapping[Any, Any]], scored: Scored, metric: Metric
) -> dict[str, Mapping[Any, Any]]:
    """Pooled score of each best choice that is one run, by its key."""
    keys = [str(row["keys"]) for row in best]
    runs = scored.runs[scored.runs["key"].isin(keys)]
    wanted = Wanted((metric.name,))
    pooled = pooled_scores(runs, scored, wanted, wanted.measures)
    return {str(row["key"]): row for row in pooled.to_dict("records")}


def _spread(cell: Mapping[Any, Any]) -> str:
    return f"{cell['mean']:.3f}" + ("" if math.isnan(cell["sd"]) else f" ± {cell['sd']:.3f}")


def _interval(pooled: Mapping[Any, Any] | None) -> Entry:
    if pooled is None:
        return Entry("")
    text = f"{pooled['value']:.3f} [{pooled['low']:.3f}, {pooled['high']:.3f}]"
    return Entry(text, value=float(pooled["value"]))


def _reference(references: pd.DataFrame, strategy: str) -> Entry:
    own = references.loc[references["strategy"] == strategy, "mean"].dropna()
    return Entry(f"{own.iloc[0]:.3f}", value=float(own.iloc[0])) if len(own) else Entry("")


def _patients(pooled: Mapping[Any, Any] | None) -> Entry:
    if pooled is None:
        return Entry("")
    n, positives = pooled["n"], pooled["positives"]
    share = "" if math.isnan(positives) else f", {100 * positives / n:.0f} % positive"
    return Entry(f"{n}{share}", value=float(n))
