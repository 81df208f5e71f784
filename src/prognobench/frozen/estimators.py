"""Classical classifiers on frozen features, covariates or both: fitted, applied, kept on disk.

A fitted classifier is kept as the rows that it was fitted on, and fitted again when it is read:
exact, and safe to open, as no stored form of it would be.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prognobench.errors import NotApplicableError, StoreError, TrainingError
from prognobench.records import Estimator, Fitted, Fold, Loss, Probe
from prognobench.strategies.adapted_files import read_arrays, save_arrays, write_identity

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

FeaturesByLayer = Mapping[str, "NDArray[np.float32]"]

Column = tuple[str, str | None]
"""A covariate and one of its categories, or ``None`` for a number."""

FILE = "classifier.safetensors"


class FrozenClassifier(Protocol):
    """What a cell on frozen features leaves behind: a linear head, or a classical classifier.

    Attributes
    ----------
    layer
        The feature that it reads, ``""`` for the pooled one; ``None`` if it reads none.
    columns
        The covariates that it reads.
    stored_bytes
        What it takes on disk.
    """

    @property
    def layer(self) -> str | None: ...
    @property
    def columns(self) -> tuple[Column, ...]: ...
    @property
    def stored_bytes(self) -> int: ...

    def save(self, folder: Path, backbone: str) -> None:
        """Write it, and the fingerprint of the weights that it belongs to."""
        ...

    def probabilities(
        self, features: FeaturesByLayer, covariates: pd.DataFrame
    ) -> NDArray[np.float64]:
        """Return ``(images, classes)``."""
        ...


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


def reads_features(classifier: Probe | Estimator) -> bool:
    """Return whether the backbone has to be run for it."""
    return isinstance(classifier, Probe) or classifier.inputs in ("features", "both")


# ------------------------------------------------------------------ fitting


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

    features: FeaturesByLayer
    covariates: pd.DataFrame
    labels: NDArray[np.int64]
    fold: Fold
    loss: Loss
    estimator: Estimator
    seed: int


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
    estimator, fold = task.estimator, task.fold
    columns: tuple[Column, ...] = ()
    if estimator.inputs in ("covariates", "both"):
        columns = covariate_columns(task.covariates, fold.train)
    features = task.features[estimator.layer] if reads_features(estimator) else None
    rows = _join(features, encode(task.covariates, columns), len(task.labels))
    names = list(estimator.candidates)
    if not len(fold.validation):
        names = [names[len(names) // 2]]
    fitted: dict[str, NDArray[np.float64]] = {}
    notes: list[str] = []
    for name in names:
        try:
            fitted[name] = _fit_candidate(task, name, rows, len(columns), notes)
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
        # Every candidate may warn of the same thing.
        "notes": list(dict.fromkeys(notes)),
    }
    return ProbeResult(
        fitted[best],
        Fitted(history, list(losses).index(best) + 1, cost),
        {"candidate": best},
        partial(_fitted_rows, task, columns, best),
    )


def _fit_candidate(
    task: EstimatorTask, name: str, rows: NDArray[np.float64], columns: int, notes: list[str]
) -> NDArray[np.float64]:
    """Fit one candidate, note its warnings, and return ``(images, classes)``."""
    train, estimator = task.fold.train, task.estimator
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unfitted = estimator.candidates[name](task.seed)
        classifier = _fit(estimator, unfitted, rows[train], task.labels[train], columns)
        probabilities = _every_class(classifier, rows, len(task.loss.class_weights))
    notes += [f"{name}: {str(warning.message).splitlines()[0]}" for warning in caught]
    return probabilities


def _log_loss(task: EstimatorTask, probabilities: NDArray[np.float64]) -> float:
    rows = task.fold.validation
    if not len(rows):
        return 0.0
    labels = task.labels[rows]
    weights = task.loss.class_weights[labels]
    if task.loss.image_weights is not None:
        weights = weights * task.loss.image_weights[rows]
    given = np.clip(probabilities[rows, labels], 1e-15, None)
    return float(-(weights * np.log(given)).sum() / weights.sum())


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


# ------------------------------------------------------------------ applied and kept


@dataclass(frozen=True)
class FittedRows:
    """A classical classifier as the rows that it is fitted on.

    Attributes
    ----------
    candidate, seed
        Which of the estimator's candidates, and of which seed.
    features, covariates, labels
        Of the training part: ``(images, width)``, ``(images, columns)``, ``(images,)``.
    classes
        Of the outcome; the training part may lack some.
    """

    estimator: Estimator
    candidate: str
    seed: int
    columns: tuple[Column, ...]
    features: NDArray[np.float32]
    covariates: NDArray[np.float64]
    labels: NDArray[np.int64]
    classes: int

    @property
    def layer(self) -> str | None:
        return self.estimator.layer if reads_features(self.estimator) else None

    @property
    def stored_bytes(self) -> int:
        return self.features.nbytes + self.covariates.nbytes + self.labels.nbytes

    def probabilities(
        self, features: FeaturesByLayer, covariates: pd.DataFrame
    ) -> NDArray[np.float64]:
        """Fit the candidate, and return ``(images, classes)``."""
        reads = self.layer is not None
        known = _join(self.features if reads else None, self.covariates, len(self.labels))
        given = _join(
            features[self.estimator.layer] if reads else None,
            encode(covariates, self.columns),
            len(covariates),
        )
        with warnings.catch_warnings():
            # They were noted when the candidate was chosen.
            warnings.simplefilter("ignore")
            unfitted = self.estimator.candidates[self.candidate](self.seed)
            classifier = _fit(self.estimator, unfitted, known, self.labels, len(self.columns))
            return _every_class(classifier, given, self.classes)

    def save(self, folder: Path, backbone: str) -> None:
        """Write it, and the fingerprint of the weights that it belongs to."""
        write_identity(
            folder,
            backbone,
            candidate=self.candidate,
            seed=self.seed,
            columns=self.columns,
            classes=self.classes,
        )
        arrays: dict[str, NDArray[Any]] = {
            "features": self.features,
            "covariates": self.covariates,
            "labels": self.labels,
        }
        save_arrays(arrays, folder / FILE)

    @classmethod
    def load(cls, folder: Path, about: Mapping[str, Any], estimator: Estimator) -> FittedRows:
        """Read what :meth:`save` wrote; ``about`` is its identity."""
        arrays = read_arrays(folder / FILE)
        if about["candidate"] not in estimator.candidates:
            raise StoreError(f"{folder}: the run has no candidate {about['candidate']!r}")
        return cls(
            estimator,
            about["candidate"],
            int(about["seed"]),
            tuple((str(name), category) for name, category in about["columns"]),
            arrays["features"],
            arrays["covariates"],
            arrays["labels"],
            int(about["classes"]),
        )


def _fit(
    estimator: Estimator,
    classifier: Any,
    rows: NDArray[np.float64],
    labels: NDArray[np.int64],
    columns: int,
) -> Any:
    """Fit one of the estimator's classifiers on rows whose last ``columns`` are covariates."""
    extra = {"covariates": columns} if estimator.inputs == "both" else {}
    classifier.fit(rows, labels, **extra)
    return classifier


def _every_class(classifier: Any, rows: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """Return ``(rows, classes)``; a class that the classifier never saw has 0."""
    probabilities = np.zeros((len(rows), classes))
    probabilities[:, np.asarray(classifier.classes_, dtype=int)] = classifier.predict_proba(rows)
    return probabilities


def _join(
    features: NDArray[np.float32] | None, covariates: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """Return what a classical classifier sees: features, then covariates; 0 if there is neither."""
    parts = [] if features is None else [features.astype(np.float64)]
    parts += [covariates] if covariates.shape[1] else []
    # scikit-learn refuses rows without columns, also to those that look at none.
    return np.concatenate(parts, 1) if parts else np.zeros((count, 1))


# ------------------------------------------------------------------ covariates


def covariate_columns(covariates: pd.DataFrame, train: NDArray[np.intp]) -> tuple[Column, ...]:
    """Return the numbers that covariates become: one for each category of the training part.

    Raises
    ------
    NotApplicableError
        If there are no covariates.
    """
    from pandas.api.types import is_numeric_dtype

    columns: list[Column] = []
    for name in covariates.columns:
        values = covariates[name]
        if is_numeric_dtype(values.dtype):
            columns.append((name, None))
            continue
        # Of the training part alone: that a category exists at all is knowledge of the test part.
        categories = set(values.iloc[train].dropna().astype(str)) - {""}
        columns += [(name, category) for category in sorted(categories)]
    if not columns:
        raise NotApplicableError("the cohort has no covariates")
    return tuple(columns)


def encode(covariates: pd.DataFrame, columns: Sequence[Column]) -> NDArray[np.float64]:
    """Return covariates as numbers, ``(images, columns)``, NaN where unknown.

    A category that has no column is 0 in all of them.
    """
    encoded = np.zeros((len(covariates), len(columns)))
    for at, (name, category) in enumerate(columns):
        values = covariates[name]
        if category is None:
            encoded[:, at] = values.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            text = values.where(values.notna(), "").astype(str)
            encoded[:, at] = np.where(text == "", np.nan, text == category)
    return encoded
