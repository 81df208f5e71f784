"""Classical classifiers on frozen features, covariates, or both."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.errors import NotApplicableError, TrainingError
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
        Tap -> ``(images of the cohort, width)``.
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
        What validation chose: tap, learning rate and weight decay, or the candidate.
    """

    probabilities: NDArray[np.float64]
    fitted: Fitted
    chosen: Mapping[str, Any] = field(default_factory=dict)


def fit_estimator(task: EstimatorTask) -> ProbeResult:
    """Fit every candidate on the training part; the least validation log loss chooses.

    The log loss is weighted by the loss's class weights. Without a validation part the middle
    candidate is taken. A candidate that cannot be fitted is left out, and the cost says why.

    Raises
    ------
    TrainingError
        If no candidate can be fitted.
    """
    start = time.perf_counter()
    inputs, fold = estimator_inputs(task), task.fold
    names = list(task.estimator.candidates)
    if not len(fold.validation):
        names = [names[len(names) // 2]]
    fitted: dict[str, NDArray[np.float64]] = {}
    notes: list[str] = []
    for name in names:
        try:
            fitted[name] = _probabilities(task, name, inputs, notes)
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
        fitted[best], Fitted(history, list(losses).index(best) + 1, cost), {"candidate": best}
    )


def _probabilities(
    task: EstimatorTask, name: str, inputs: NDArray[np.float64], notes: list[str]
) -> NDArray[np.float64]:
    """Fit one candidate, and return ``(images, classes)``; a class it never saw has 0."""
    classifier = task.estimator.candidates[name](task.seed)
    train = task.fold.train
    width = task.features[task.estimator.tap].shape[1] if task.estimator.inputs == "both" else 0
    extra = {"covariates": inputs.shape[1] - width} if width else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        classifier.fit(inputs[train], task.labels[train], **extra)
        known = classifier.predict_proba(inputs)
    notes += [f"{name}: {str(warning.message).splitlines()[0]}" for warning in caught]
    probabilities = np.zeros((len(inputs), len(task.loss.class_weights)))
    probabilities[:, np.asarray(classifier.classes_, dtype=int)] = known
    return probabilities


def _log_loss(task: EstimatorTask, probabilities: NDArray[np.float64]) -> float:
    rows = task.fold.validation
    if not len(rows):
        return 0.0
    labels = task.labels[rows]
    weights = task.loss.class_weights[labels]
    given = np.clip(probabilities[rows, labels], 1e-15, None)
    return float(-(weights * np.log(given)).sum() / weights.sum())


# ------------------------------------------------------------------ what a classifier sees


def estimator_inputs(task: EstimatorTask) -> NDArray[np.float64]:
    """Return one row per image of the cohort: features, then covariates."""
    wanted, columns = task.estimator.inputs, []
    if wanted in ("features", "both"):
        columns.append(task.features[task.estimator.tap].astype(np.float64))
    if wanted in ("covariates", "both"):
        columns.append(encode(task.covariates, task.fold.train))
    return np.concatenate(columns, 1) if columns else np.zeros((len(task.labels), 1))


def encode(covariates: pd.DataFrame, train: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return covariates as numbers, ``(images, columns)``, NaN where unknown.

    A column of text becomes one column for each category of the training part; a category that
    occurs elsewhere only is none of them.

    Raises
    ------
    NotApplicableError
        If there are no covariates.
    """
    from pandas.api.types import is_numeric_dtype

    columns: list[NDArray[np.float64]] = []
    for name in covariates.columns:
        values = covariates[name]
        if is_numeric_dtype(values.dtype):
            columns.append(values.to_numpy(dtype=np.float64, na_value=np.nan))
            continue
        unknown = values.isna().to_numpy()
        for category in sorted(values.iloc[train].dropna().astype(str).unique()):
            is_category = (values.astype(str) == category).to_numpy(dtype=np.float64)
            columns.append(np.where(unknown, np.nan, is_category))
    if not columns:
        raise NotApplicableError("the cohort has no covariates")
    return np.stack(columns, 1)
