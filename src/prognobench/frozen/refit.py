"""What validation chose, fitted again on the training and validation parts together.

Validation predictions stay those of the first fit, which did not see the part: thresholds and
calibration come from them. Test predictions and the saved classifier are of the second fit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from prognobench.frozen.estimators import EstimatorTask, ProbeResult
from prognobench.frozen.probes import ProbeTask
from prognobench.records import Fold

Task = ProbeTask | EstimatorTask


def join_parts(fold: Fold) -> Fold:
    """Return the fold whose training part is its training and validation parts."""
    joined = np.concatenate([fold.train, fold.validation])
    return replace(fold, train=joined, validation=fold.validation[:0])


def ask_again(task: Task, result: ProbeResult) -> Task:
    """Return the task of the second fit: one head or candidate, the chosen one.

    Class weights stay those of the first fit, so that its thresholds hold for the second.
    """
    fold, chosen = join_parts(task.fold), result.chosen
    if isinstance(task, EstimatorTask):
        name = str(chosen["candidate"])
        only = {name: task.estimator.candidates[name]}
        return replace(task, fold=fold, estimator=replace(task.estimator, candidates=only))
    layer = "" if chosen["layer"] == "pooled" else str(chosen["layer"])
    probe = replace(task.probe, layers=(layer,) if layer else ())
    if probe.strengths:
        return replace(task, fold=fold, probe=replace(probe, strengths=(chosen["C"],)))
    probe = replace(probe, learning_rates=(chosen["lr"],), weight_decays=(chosen["weight_decay"],))
    recipe = replace(task.recipe, epochs=result.fitted.best_epoch)
    return replace(task, fold=fold, probe=probe, recipe=recipe)


def join_results(task: Task, first: ProbeResult, second: ProbeResult) -> ProbeResult:
    """Return the first fit's history and choice with the second fit's predictions and model."""
    probabilities = second.probabilities.copy()
    probabilities[task.fold.validation] = first.probabilities[task.fold.validation]
    cost = {**first.fitted.cost, "seconds_refit": second.fitted.cost["seconds_train"]}
    cost["seconds_train"] = first.fitted.cost["seconds_train"] + cost["seconds_refit"]
    return replace(
        first,
        probabilities=probabilities,
        fitted=replace(first.fitted, cost=cost),
        classifier=second.classifier,
    )
