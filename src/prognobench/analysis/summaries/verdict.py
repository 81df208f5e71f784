"""The verdict: what the results of a data set show, in sentences that a clinician can read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.catalogue import CHOICES
from prognobench.analysis.evaluation import Measure
from prognobench.analysis.predictions import Level
from prognobench.analysis.scores import CHANCE, Scored
from prognobench.analysis.shown import show_runs
from prognobench.analysis.statistics.marks import (
    LEVEL,
    average_draws,
    find_advantage,
    pick_scores,
)
from prognobench.analysis.statistics.paired_tests import corrected_error
from prognobench.analysis.statistics.panels import average_statistic, load_panels
from prognobench.analysis.statistics.resampling import (
    Panel,
    bootstrap,
    warn_few_events,
)
from prognobench.analysis.statistics.sample_size import (
    count_patients_needed,
    find_detectable_difference,
)
from prognobench.analysis.summaries.aggregate import (
    Context,
    Selection,
    aggregate,
    describe_context,
    iter_contexts,
    iter_main_contexts,
    sort_best_first,
)
from prognobench.analysis.summaries.selection import add_optimism, find_runs_of
from prognobench.analysis.tables import SYNTHETIC
from prognobench.analysis.thresholds import HALF, parse_threshold
from prognobench.metrics.metric import Metric, find_metric

if TYPE_CHECKING:
    import pandas as pd

PREDICTORS = 10
"""Of the regression that Riley's minimum is given for: few, for a model of images."""

WITHOUT_IMAGE = {
    ("files",): "file metadata alone",
    ("covariates",): "covariates such as age and sex alone",
    (): "the prevalence alone",
}
"""What a baseline reads, in words."""


@dataclass(frozen=True)
class Pooled:
    """The score of a choice, all folds pooled, mean over seeds, with its interval over patients."""

    value: float
    low: float
    high: float
    patients: int
    positives: float


@dataclass(frozen=True)
class Verdict:
    """What the results of one data set show under one regime and cross-validation.

    Attributes
    ----------
    context
        What it is about.
    says
        Sentences: the score of the best choice, the other choices, what needs no image.
    limits
        Sentences: what these data cannot show.
    pooled
        The score of the best choice, if there is one.
    """

    context: str
    says: tuple[str, ...]
    limits: tuple[str, ...] = ()
    pooled: Pooled | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """The verdict as a line to print, and its limits as a second one."""
        said = f"{self.context}: {' '.join(self.says)}"
        return (said, f"What this cannot show: {' '.join(self.limits)}") if self.limits else (said,)


def reach_verdicts(
    scored: Scored,
    metric: str = "mcc",
    *,
    threshold: str = HALF,
    level: Level = "patient",
    where: Mapping[str, Sequence[str]] | None = None,
    everything: bool = False,
) -> list[Verdict]:
    """Return a verdict for each data set (under its regime, k and cv), by one metric.

    All statements are those of :mod:`.marks`, which are tests of :mod:`.retraining` at 5 %; the
    interval is over patients, all folds pooled. Whole training
    parts are judged, or few-shot ones where there are no others.

    Parameters
    ----------
    where, everything
        As :func:`.shown.show_runs` takes them.

    Raises
    ------
    ConfigError
        For an unknown metric, threshold, column or value.
    """
    rule, _ = parse_threshold(threshold)
    scored = show_runs(scored, where, everything)
    found = find_metric(metric)
    selection = Selection((metric,), rule, level)
    if missing := selection.explain_missing(scored.scores):
        return [Verdict("no verdict", (f"{missing}.",))]
    cells = add_optimism(aggregate(scored, selection), scored)
    contexts = list(iter_main_contexts(cells))
    judged = [_Judge(context, scored, found, level).reach() for context in contexts]
    return _name_contexts(judged, contexts, len(list(iter_contexts(cells))) - len(contexts))


def _name_contexts(
    judged: Sequence[Verdict], contexts: Sequence[Context], left_out: int
) -> list[Verdict]:
    """Name each verdict by its data set alone where that is clear; count what is not judged."""
    if not judged:
        reason = "no choice that looks at images was run, so there is nothing to judge."
        return [Verdict("no verdict", (reason,))]
    datasets = [str(named["dataset"]) for named, _, _ in contexts]
    verdicts = []
    for verdict, (named, _, _), dataset in zip(judged, contexts, datasets, strict=True):
        is_clear = datasets.count(dataset) == 1 and not named["k"]
        name = dataset if is_clear else describe_context(named)
        verdicts.append(replace(verdict, context=name))
    if left_out:
        parts = "part is" if left_out == 1 else "parts are"
        more = (
            f"{left_out} smaller training {parts} not judged here: 'prognobench compare --regime "
            "few_shot' judges them."
        )
        verdicts[-1] = replace(verdicts[-1], limits=(*verdicts[-1].limits, more))
    return verdicts


@dataclass(frozen=True)
class _Judge:
    """Judges one context."""

    context: Context
    scored: Scored
    metric: Metric
    level: Level

    def reach(self) -> Verdict:
        """Return the verdict, not yet named."""
        _, own, _ = self.context
        if self.known.empty:
            return Verdict("", (f"no verdict, because no choice has a score{_reason(own)}.",))
        runs = find_runs_of(self.scored.runs, self.best)
        measure = Measure(self.metric, str(self.best["threshold"]))
        asked = self.scored.runs.loc[runs]
        panels = list(load_panels(asked, self.scored, self.level, (measure.rule,)).values())
        pooled = self._pool(runs[0], panels, measure)
        says = (
            self._say_score(pooled, panels[0]),
            *self._say_others(),
            *self._say_optimism(),
            *self._say_baselines(),
            *_say_missing(own, self.known),
        )
        limits = (
            *self._say_sizes(runs, panels[0]),
            self._say_difference(),
            *self._warn(panels[0]),
        )
        return Verdict("", says, limits, pooled)

    @cached_property
    def known(self) -> pd.DataFrame:
        """The choices that have a score."""
        _, own, _ = self.context
        return own[own["mean"].notna()]

    @cached_property
    def best(self) -> pd.Series[Any]:
        return sort_best_first(self.known, self.metric).iloc[0]

    @cached_property
    def folds(self) -> tuple[pd.DataFrame, float]:
        """The scores of choices and references by fold, and the share that their test assumes."""
        import pandas as pd

        _, _, references = self.context
        beside = pd.concat([self.known, references[references["mean"].notna()]])
        return average_draws(pick_scores(self.scored.scores, beside))

    # -------------------------------------------------------------- what is shown

    def _say_score(self, pooled: Pooled, first: Panel) -> str:
        value = f"{self.metric.title} {pooled.value:.2f}"
        ends = (
            "no interval, because resamples have no value"
            if math.isnan(pooled.low)
            else f"95 % interval {pooled.low:.2f} to {pooled.high:.2f}"
        )
        who = f"{len(first.strata):,} patients"
        if first.is_binary:
            who += f", {int((first.strata == 1).sum()):,} of them with the outcome"
        kind = f" ({SYNTHETIC})" if self.best["synthetic"] else ""
        return f"{_name(self.best)} scores {value} ({ends}) on {who}{kind}."

    def _pool(self, run: int, panels: Sequence[Panel], measure: Measure) -> Pooled:
        """Resample as the tables of intervals do, so that a single run has the same interval."""
        strata = panels[0].strata
        axes = (str(self.scored.runs.at[run, "cohort"]), len(strata))
        found = bootstrap(average_statistic(panels, [measure]), strata, axes=axes)
        ends = float(found.value[0]), float(found.low[0]), float(found.high[0])
        positives = float((strata == 1).sum()) if panels[0].is_binary else math.nan
        return Pooled(*ends, len(strata), positives)

    def _say_others(self) -> Iterator[str]:
        others = self.known.drop(index=self.best.name)
        if others.empty:
            yield "It is the only choice, so it is compared with no other."
            return
        worse, total = int((others["p_best"] < LEVEL).sum()), len(others)
        if total == 1:
            shown = "is shown to be worse" if worse else "is not shown to be worse or better"
            yield f"The other choice, {_name(others.iloc[0])}, {shown}."
        elif worse == total:
            yield f"All {total} other choices are shown to be worse."
        elif not worse:
            yield f"No other of the {total + 1} choices is shown to be worse or better."
        else:
            yield (
                f"Of the {total} other choices {_are(worse)} shown to be worse; "
                f"{_are(total - worse)} not shown to be worse or better."
            )
        if untested := int(others["p_best"].isna().sum()):
            yield f"{untested} of {total} cannot be tested: that needs two folds in common."

    def _say_optimism(self) -> Iterator[str]:
        choices, optimism = int(self.best["choices"]), float(self.best["optimism"])
        if choices < 2:
            return
        if math.isnan(optimism):
            yield f"How much the choice among {choices} over-estimates it is not known."
            return
        much = "less than 0.01" if optimism < 0.005 else f"about {optimism:.2f}"
        yield f"It is the best of {choices} choices, which over-estimates it by {much}."

    def _say_baselines(self) -> Iterator[str]:
        """Say whether the best is better than each kind of baseline, or else than chance."""
        folds, share = self.folds
        off = folds.apply(self.metric.distance)
        choices = [_key(row) for _, row in self.known.iterrows()]
        place = choices.index(_key(self.best))
        said: dict[bool, list[str]] = {True: [], False: []}
        for what, reference in self.baselines.items():
            if _key(reference) not in off.columns:
                continue
            own, other = off[choices].to_numpy(), off[[_key(reference)]].to_numpy()
            _, is_shown = find_advantage(own, other, share)
            said[bool(is_shown[place])].append(f"{what} ({reference['mean']:.2f})")
        if said[True]:
            yield f"It is better than {' and '.join(said[True])}."
        if said[False]:
            yield f"It is not shown to be better than {' or '.join(said[False])}."

    @cached_property
    def baselines(self) -> dict[str, pd.Series[Any]]:
        """The best baseline of each kind, or chance where there are none."""
        _, _, references = self.context
        real = references[references["baseline"] & references["mean"].notna()]
        found: dict[str, pd.Series[Any]] = {}
        for _, row in sort_best_first(real, self.metric).iterrows():
            found.setdefault(self._describe_baseline(row), row)
        if len(found) > 1:
            found.pop(WITHOUT_IMAGE[()], None)
        if not found:
            for _, row in references[references["model"] == CHANCE].iterrows():
                found[CHANCE] = row
        return found

    def _describe_baseline(self, row: pd.Series[Any]) -> str:
        folder = self.scored.folders[find_runs_of(self.scored.runs, row)[0]]
        reads = tuple(folder.meta.get("reads", ()))
        return WITHOUT_IMAGE.get(reads, f"{row['strategy']}, which sees no image")

    # -------------------------------------------------------------- what cannot be shown

    def _say_sizes(self, runs: Sequence[int], panel: Panel) -> Iterator[str]:
        folder = self.scored.folders[runs[0]]
        labels = folder.cohort().drop_duplicates("patient_id").set_index("patient_id")["label"]
        parts = folder.folds()
        train = parts[parts["part"] == "train"]
        cells = len(train.drop_duplicates(["repeat", "fold", "draw"]))
        patients = len(train) / cells
        if not panel.is_binary:
            yield (
                f"A training part has {patients:.0f} patients; Riley's minimum sample size is "
                "defined for two classes only."
            )
            return
        events = (train["patient_id"].map(labels) == 1).sum() / cells
        share = float((panel.strata == 1).mean())
        needed = count_patients_needed(share, PREDICTORS)
        yield (
            f"A training part has {patients:.0f} patients, {events:.0f} of them with the outcome; "
            f"a regression on {PREDICTORS} predictors needs {needed:,} (Riley's minimum), and "
            "models of images need more."
        )

    def _say_difference(self) -> str:
        (folds, share), best = self.folds, _key(self.best)
        others = [_key(row) for _, row in self.known.iterrows() if _key(row) != best]
        between = "two choices"
        if not others:
            baselines = self.baselines
            others = [_key(row) for row in baselines.values() if _key(row) in folds.columns]
            between = f"it and {next(iter(baselines), '')}"
        errors, units = [], 0
        for name in others:
            difference = (folds[best] - folds[name]).to_numpy(float)
            known_folds = int((~np.isnan(difference)).sum())
            if known_folds > 1:
                errors.append(corrected_error(difference, share))
                units = max(units, known_folds)
        least = find_detectable_difference(float(np.median(errors)), units) if errors else math.nan
        if math.isnan(least):
            return (
                "The smallest difference that this design detects is unknown: that needs two "
                "choices with two folds in common."
            )
        low, high = self.metric.bounds
        if least > high - low:
            return f"This design detects no difference between {between} ({units} folds)."
        return (
            f"The smallest difference between {between} that this design detects in 4 of 5 studies "
            f"is {self.metric.title} {least:.2f} ({units} folds, one comparison)."
        )

    def _warn(self, panel: Panel) -> Iterator[str]:
        if panel.is_binary:
            n, events = len(panel.strata), int((panel.strata == 1).sum())
            for warning in warn_few_events({"Few events": (n, events)}):
                yield f"{warning}."


def _key(row: pd.Series[Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in CHOICES)


def _name(row: pd.Series[Any]) -> str:
    return f"{row['strategy']} on {row['model']}"


def _reason(own: pd.DataFrame) -> str:
    reasons = own.loc[own["reason"] != "", "reason"].unique()
    return f" ({reasons[0]})" if len(reasons) else ""


def _say_missing(own: pd.DataFrame, known: pd.DataFrame) -> Iterator[str]:
    """Count the choices without all scores."""
    if missing := len(own) - len(known):
        reason = _reason(own[own["mean"].isna()])
        yield f"Choices without a score{reason}: {missing} of {len(own)}."
    if partly := int((known["folds"] < known["expected"]).sum()):
        yield f"Choices that lack the scores of some folds: {partly} of {len(known)}."


def _are(number: int) -> str:
    return f"{number} is" if number == 1 else f"{number} are"
