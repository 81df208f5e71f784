"""Classifiers on frozen features: applied, kept on disk, and read back.

A linear head is kept as its weights. A classical classifier is kept as the rows that it was fitted
on and fitted again when it is read: exact, and safe to open, as no stored form of it would be.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from prognobench.errors import NotApplicableError, StoreError
from prognobench.records import Estimator, Probe
from prognobench.strategies.files import check_identity, read_arrays, save_arrays, write_identity

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

FeaturesByLayer = Mapping[str, "NDArray[np.float32]"]

Column = tuple[str, str | None]
"""A covariate and one of its categories, or ``None`` for a number."""

FILE = "classifier.safetensors"


class FrozenClassifier(Protocol):
    """What a cell on frozen features leaves behind.

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


def load_classifier(folder: Path, spec: Probe | Estimator, backbone: str) -> FrozenClassifier:
    """Read what :meth:`LinearHead.save` or :meth:`FittedRows.save` wrote.

    Parameters
    ----------
    spec
        Of the run that it was written for.
    backbone
        Fingerprint of the weights at hand.

    Raises
    ------
    StoreError
        If it was fitted on features of other weights, or is damaged.
    """
    about = check_identity(folder, backbone)
    try:
        if isinstance(spec, Probe):
            return LinearHead.load(folder, about)
        return FittedRows.load(folder, about, spec)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{folder}: what it keeps is not this run's ({error!r})") from error


# ------------------------------------------------------------------ linear heads


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier on one layer.

    Attributes
    ----------
    weights
        ``(width + 1, classes)``, the bias last, for features as the backbone gives them: whatever
        standardised them in training is in the weights.
    """

    layer: str
    weights: NDArray[np.float64]
    columns: tuple[Column, ...] = ()

    def probabilities(
        self, features: FeaturesByLayer, covariates: pd.DataFrame | None = None
    ) -> NDArray[np.float64]:
        """Return ``(images, classes)``."""
        logits = features[self.layer].astype(np.float64) @ self.weights[:-1] + self.weights[-1]
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        probabilities: NDArray[np.float64] = exponentials / exponentials.sum(1, keepdims=True)
        return probabilities

    @property
    def stored_bytes(self) -> int:
        return self.weights.nbytes

    def save(self, folder: Path, backbone: str) -> None:
        """Write it, and the fingerprint of the weights that it belongs to."""
        write_identity(folder, backbone, layer=self.layer)
        weight, bias = self.weights[:-1].T, self.weights[-1]
        save_arrays({"weight": weight, "bias": bias}, folder / FILE)

    @classmethod
    def load(cls, folder: Path, about: Mapping[str, Any]) -> LinearHead:
        arrays = read_arrays(folder / FILE)
        return cls(str(about["layer"]), np.vstack([arrays["weight"].T, arrays["bias"]]))


# ------------------------------------------------------------------ classical classifiers


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
        layer = self.layer
        known = classifier_rows(
            self.features if layer is not None else None, self.covariates, len(self.labels)
        )
        given = classifier_rows(
            features[layer] if layer is not None else None,
            encode(covariates, self.columns),
            len(covariates),
        )
        with warnings.catch_warnings():
            # They were noted when the candidate was chosen.
            warnings.simplefilter("ignore")
            classifier = self.estimator.candidates[self.candidate](self.seed)
            fit_rows(self.estimator, classifier, known, self.labels, len(self.columns))
            return every_class(classifier, given, self.classes)

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
        arrays = read_arrays(folder / FILE)
        if about["candidate"] not in estimator.candidates:
            raise StoreError(f"{folder}: {about['candidate']!r} is no candidate of the run's")
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


def reads_features(classifier: Probe | Estimator) -> bool:
    """Whether the backbone has to be run for it."""
    return isinstance(classifier, Probe) or classifier.inputs in ("features", "both")


def fit_rows(
    estimator: Estimator,
    classifier: Any,
    rows: NDArray[np.float64],
    labels: NDArray[np.int64],
    columns: int,
) -> None:
    """Fit one of the estimator's classifiers on rows of features and covariates.

    Parameters
    ----------
    columns
        How many of the last columns are covariates.
    """
    extra = {"covariates": columns} if estimator.inputs == "both" else {}
    classifier.fit(rows, labels, **extra)


def every_class(classifier: Any, rows: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """Return ``(rows, classes)``; a class that the classifier never saw has 0."""
    probabilities = np.zeros((len(rows), classes))
    probabilities[:, np.asarray(classifier.classes_, dtype=int)] = classifier.predict_proba(rows)
    return probabilities


def classifier_rows(
    features: NDArray[np.float32] | None, covariates: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """Return what a classical classifier sees: features, then covariates; 0 if there is neither."""
    parts = [] if features is None else [features.astype(np.float64)]
    parts += [covariates] if covariates.shape[1] else []
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
        categories = set(values.iloc[train].dropna().astype(str)) - {""}
        columns += [(name, category) for category in sorted(categories)]
    if not columns:
        raise NotApplicableError("the cohort has no covariates")
    return tuple(columns)


def encode(covariates: pd.DataFrame, columns: Sequence[Column]) -> NDArray[np.float64]:
    """Return covariates as numbers, ``(images, columns)``, NaN where unknown.

    A category without a column is none of those that have one.
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
