"""Classical classifiers on frozen features, covariates, or both."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.errors import TrainingError
from prognobench.frozen.classifiers import (
    Column,
    FittedRows,
    FrozenClassifier,
    classifier_rows,
    covariate_columns,
    encode,
    every_class,
    fit_rows,
    reads_features,
)
from prognobench.records import Estimator, Fitted, Fold, Loss

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True)
class EstimatorTask:
    """The classical classifier of one cell.

    Attributes
    ----------
    features
        Feature layer -> ``(images of the cohort, width)``.
    covariates
        One row per image of the cohort: numbers, or text for categories.
    labels
        ``(images of the cohort,)``.
    """

    features: Mapping[str, NDArray[np.float32]]
    covariates: pd.DataFrame
    labels: NDArray[np.int64]
    fold: Fold
    loss: Loss
    estimator: Estimator
    seed: int


@dataclass(frozen=True)
class ProbeResult:
    """A fitted classifier's probabilities for every image of the cohort, and how it was found.

    Attributes
    ----------
    probabilities
        ``(images of the cohort, classes)``.
    chosen
        What validation chose: layer, learning rate and weight decay, or the candidate.
    classifier
        Gives what can be stored and applied to new images.
    """

    probabilities: NDArray[np.float64]
    fitted: Fitted
    chosen: Mapping[str, Any]
    classifier: Callable[[], FrozenClassifier]


def fit_estimator(task: EstimatorTask) -> ProbeResult:
    """Fit every candidate on the training part; the least validation log loss chooses.

    The log loss is weighted by the loss's class weights. Without a validation part the middle
    candidate is taken. A candidate that cannot be fitted is left out, and the cost says why.

    Raises
    ------
    NotApplicableError
        If it reads covariates, and the cohort has none.
    TrainingError
        If no candidate can be fitted.
    """
    start = time.perf_counter()
    columns = _columns(task)
    rows, fold = _rows(task, columns), task.fold
    names = list(task.estimator.candidates)
    if not len(fold.validation):
        names = [names[len(names) // 2]]
    fitted: dict[str, NDArray[np.float64]] = {}
    notes: list[str] = []
    for name in names:
        try:
            fitted[name] = _probabilities(task, name, rows, len(columns), notes)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            notes.append(f"{name} cannot be fitted: {error}")
    if not fitted:
        raise TrainingError(f"cell {fold.name}: {'; '.join(notes)}")
    losses = {name: _log_loss(task, p) for name, p in fitted.items()}
    best = min(losses, key=lambda name: losses[name])
    history = [
        {"epoch": number, "validation_loss": loss}
        for number, loss in enumerate(losses.values(), start=1)
    ]
    cost = {
        "seconds_train": time.perf_counter() - start,
        "precision": "fp64",
        "candidates": len(names),
        "notes": list(dict.fromkeys(notes)),
    }
    return ProbeResult(
        fitted[best],
        Fitted(history, list(losses).index(best) + 1, cost),
        {"candidate": best},
        partial(_fitted_rows, task, columns, best),
    )


def _columns(task: EstimatorTask) -> tuple[Column, ...]:
    if task.estimator.inputs not in ("covariates", "both"):
        return ()
    return covariate_columns(task.covariates, task.fold.train)


def _rows(task: EstimatorTask, columns: tuple[Column, ...]) -> NDArray[np.float64]:
    features = task.features[task.estimator.layer] if reads_features(task.estimator) else None
    return classifier_rows(features, encode(task.covariates, columns), len(task.labels))


def _fitted_rows(task: EstimatorTask, columns: tuple[Column, ...], candidate: str) -> FittedRows:
    train, estimator = task.fold.train, task.estimator
    nothing = np.zeros((len(train), 0), np.float32)
    return FittedRows(
        estimator,
        candidate,
        task.seed,
        columns,
        task.features[estimator.layer][train] if reads_features(estimator) else nothing,
        encode(task.covariates.iloc[train], columns),
        task.labels[train],
        len(task.loss.class_weights),
    )


def _probabilities(
    task: EstimatorTask, name: str, rows: NDArray[np.float64], columns: int, notes: list[str]
) -> NDArray[np.float64]:
    """Fit one candidate, and return ``(images, classes)``."""
    train = task.fold.train
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier = task.estimator.candidates[name](task.seed)
        fit_rows(task.estimator, classifier, rows[train], task.labels[train], columns)
        probabilities = every_class(classifier, rows, len(task.loss.class_weights))
    notes += [f"{name}: {str(warning.message).splitlines()[0]}" for warning in caught]
    return probabilities


def _log_loss(task: EstimatorTask, probabilities: NDArray[np.float64]) -> float:
    rows = task.fold.validation
    if not len(rows):
        return 0.0
    labels = task.labels[rows]
    weights = task.loss.class_weights[labels]
    given = np.clip(probabilities[rows, labels], 1e-15, None)
    return float(-(weights * np.log(given)).sum() / weights.sum())
