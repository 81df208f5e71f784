"""What each data set says to a statement: differences of matched runs, and who shares patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.catalogue import CONTEXT
from prognobench.analysis.claims.reading import ClaimFile, Statement, Where
from prognobench.analysis.evaluation import Measure
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.scores import CHANCE, Scored
from prognobench.analysis.shown import show_runs
from prognobench.analysis.statistics.marks import FOLD, share_assumed
from prognobench.analysis.statistics.paired_tests import (
    Difference,
    corrected_error,
    corrected_t,
)
from prognobench.analysis.thresholds import HALF
from prognobench.metrics.metric import Metric, find_metric

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

SHARED = 0.5
"""Data sets that have this share of the smaller one's images in common are one block."""


@dataclass(frozen=True)
class Effect:
    """A difference in one context: a positive one supports the statement.

    Attributes
    ----------
    block
        Contexts of one block test the same patients.
    compared
        The matched runs in words.
    """

    context: str
    block: int
    minority: float
    difference: Difference
    error: float
    folds: int
    runs: int
    compared: str


class Evidence:
    """Scores of folds by context, and the patients behind them."""

    def __init__(self, scored: Scored, file: ClaimFile) -> None:
        shown = show_runs(scored)
        runs = shown.runs[shown.runs["model"] != ORACLE]
        scores = shown.scores[shown.scores["level"] == "patient"]
        scores = scores[(scores["subgroup"] == "") & (scores["model"] != CHANCE)]
        scores = scores.merge(runs[["dataset", "model", "strategy", "key", "baseline"]])
        scores = scores[~scores["baseline"].astype(bool)]
        self.folds = scores[scores["fold"].notna()]
        pooled = scores[scores["fold"].isna()].drop_duplicates(list(CONTEXT))
        self.sizes = pooled.set_index(list(CONTEXT))[["n", "prevalence"]]
        self.blocks = _find_blocks(runs, shown)
        self.file = file

    def contexts(self, statement: Statement) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
        """Yield the names of each context that the statement is about, and its scores."""
        metric = find_metric(statement.metric)
        rule = Measure.of(metric, HALF).rule
        own = self.folds[(self.folds["metric"] == metric.name) & (self.folds["threshold"] == rule)]
        names: Any
        for names, scores in own.groupby(list(CONTEXT), sort=False):
            named: dict[str, Any] = dict(zip(CONTEXT, names, strict=True))
            size = self.sizes.loc[names]
            minority = min(size["prevalence"], 1 - size["prevalence"])
            if _is_about(statement.where, named, float(size["n"]), float(minority)):
                yield named | {"minority": float(minority)}, scores

    def effects(self, statement: Statement) -> list[Effect]:
        """Return the first group minus the second in every context where both have runs."""
        found = [
            self._effect(statement, named, scores) for named, scores in self.contexts(statement)
        ]
        return [effect for effect in found if effect is not None]

    def leads(self, statement: Statement) -> dict[tuple[str, str], list[Effect]]:
        """Return each strategy minus each other, within the same model, in every context."""
        found: dict[tuple[str, str], list[Effect]] = {}
        metric = find_metric(statement.metric)
        for named, scores in self.contexts(statement):
            matched = set(self.file.find_matched(statement) or ("model",))
            good = scores.assign(value=-metric.distance(scores["value"].to_numpy()))
            own = good.groupby([*sorted(matched), "strategy", *FOLD])["value"].mean()
            table = own.unstack("strategy")
            for first in table.columns:
                for second in table.columns:
                    differences = _mean_by_fold(table[first] - table[second])
                    if first == second or len(differences) < 2:
                        continue
                    used = scores[scores["strategy"].isin([first, second])]
                    effect = self._measure(named, differences, used, f"{first} against {second}")
                    found.setdefault((str(first), str(second)), []).append(effect)
        return found

    def _effect(
        self, statement: Statement, named: Mapping[str, Any], scores: pd.DataFrame
    ) -> Effect | None:
        metric = find_metric(statement.metric)
        matched = list(self.file.find_matched(statement))
        groups = [self._members(scores, names) for names in (statement.first, statement.second)]
        measure = _steadiness if statement.kind == "steadier" else _goodness
        first, second = (measure(group, metric, matched) for group in groups)
        differences = _mean_by_fold(first - second)
        if len(differences) < 2:
            return None
        if matched:  # only what both groups have is compared
            shared = set(groups[0][matched[0]]) & set(groups[1][matched[0]])
            groups = [group[group[matched[0]].isin(shared)] for group in groups]
        import pandas as pd

        compared = " against ".join(_name_runs(group) for group in groups)
        return self._measure(named, differences, pd.concat(groups), compared)

    def _measure(
        self,
        named: Mapping[str, Any],
        differences: NDArray[np.float64],
        scores: pd.DataFrame,
        compared: str,
    ) -> Effect:
        share = share_assumed(scores)
        k = f", k={named['k']}" if named["k"] else ""
        return Effect(
            f"{named['dataset']} ({named['regime']}{k}, {named['cv']})",
            self.blocks[str(named["dataset"])],
            named["minority"],
            corrected_t(differences, share),
            corrected_error(differences, share),
            len(differences),
            len(scores[["model", "strategy", "key"]].drop_duplicates()),
            compared,
        )

    def _members(self, scores: pd.DataFrame, groups: Sequence[str]) -> pd.DataFrame:
        keep = np.ones(len(scores), dtype=bool)
        items = (item for name in groups for item in self.file.groups[name].items())
        for column, patterns in items:
            names = scores[column].map(str)
            matching = {
                name
                for name in names.unique()
                if any(fnmatch(_bare(name), pattern) for pattern in patterns)
            }
            keep &= names.isin(matching).to_numpy()
        return scores[keep]


def _is_about(where: Where, named: Mapping[str, Any], n: float, minority: float) -> bool:
    return (
        (not where.regime or _bare(named["regime"]) in where.regime)
        and (not where.dataset or _bare(named["dataset"]) in where.dataset)
        and where.patients[0] <= n < where.patients[1]
        and where.minority[0] <= minority <= where.minority[1]
    )


def _bare(name: Any) -> str:
    """Return a name without the settings that complete it."""
    return str(name).partition(" (")[0]


def _goodness(scores: pd.DataFrame, metric: Metric, matched: Sequence[str]) -> pd.Series[float]:
    """Mean over the group's runs, per fold (and matched name); more is better."""
    good = scores.assign(good=-metric.distance(scores["value"].to_numpy()))
    return good.groupby([*matched, *FOLD])["good"].mean()


def _steadiness(scores: pd.DataFrame, metric: Metric, matched: Sequence[str]) -> pd.Series[float]:
    """Minus the standard deviation over draws, mean over the group's runs, per fold."""
    names = dict.fromkeys([*matched, "model", "strategy", "key", *FOLD])
    spread = scores.groupby([*names])["value"].std()
    return -spread.groupby([*matched, *FOLD]).mean()


def _mean_by_fold(differences: pd.Series[float]) -> NDArray[np.float64]:
    """Mean over what is matched: folds count, not the backbones that they test."""
    known = differences.dropna()
    return np.asarray(known.groupby(list(FOLD)).mean(), dtype=np.float64)


def _name_runs(scores: pd.DataFrame) -> str:
    strategies, models = (
        ", ".join(sorted(map(str, scores[name].unique()))) for name in ("strategy", "model")
    )
    return f"{strategies} on {models}"


def _find_blocks(runs: pd.DataFrame, scored: Scored) -> dict[str, int]:
    """Return the block of each data set: those with the same images are one."""
    images: dict[str, set[str]] = {}
    for name, row in runs.drop_duplicates("dataset").reset_index().set_index("dataset").iterrows():
        folder = scored.folders[row["index"]]
        builder = folder.meta.get("config", {}).get("dataset", {}).get("builder")
        # Names of images mean the same only among data sets of one builder.
        cohort = folder.cohort()
        spelled = cohort["patient_id"].astype(str) + "/" + cohort["image"].astype(str)
        images[str(name)] = {f"{builder or name}/{text}" for text in spelled}
    blocks: dict[str, int] = {}
    for name, own in images.items():
        like = [
            blocks[other]
            for other in blocks
            if len(own & images[other]) > SHARED * min(len(own), len(images[other]))
        ]
        blocks[name] = like[0] if like else len(set(blocks.values()))
    return blocks
