"""A logistic head on frozen features, as the scripts that measure backbones use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, matthews_corrcoef, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prognobench.folds import make_folds
from prognobench.frozen.bank import embed
from prognobench.imaging.cache import Recipe, pixel_cache
from prognobench.records import BackboneSource, Cohort, Component, ImageOptions

FIVE_FOLD, ALL = Component("five_fold", "k_fold"), Component("full", "full")


def features_of(
    cohort: Cohort, source: BackboneSource, folder: Path, layer: str = ""
) -> NDArray[np.float32]:
    """Features of every image ``(images, width)``; ``folder`` keeps pixels and features."""
    pixels = pixel_cache(cohort, Recipe.of(source.preprocessing, ImageOptions()), folder)
    return embed(source, pixels, (layer,), folder=folder, device="cpu", precision="fp32")[layer]


def out_of_fold(cohort: Cohort, features: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Probability of the positive class for each image, from five folds grouped by patient.

    The head is balanced logistic regression (C = 0.01) on standardised features; nothing is
    chosen, so that the validation part is trained on, too.
    """
    labels = cohort.table["label"].to_numpy()
    scores = np.full(len(cohort), np.nan)
    for fold in make_folds(cohort, FIVE_FOLD, ALL, seed):
        rows = np.concatenate([fold.train, fold.validation])
        head = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
        ).fit(features[rows], labels[rows])
        scores[fold.test] = head.predict_proba(features[fold.test])[:, 1]
    return scores


def figures(labels: Any, scores: Any) -> dict[str, float]:
    """ROC-AUC, average precision and MCC at 0.5."""
    return {
        "ROC-AUC": float(roc_auc_score(labels, scores)),
        "average precision": float(average_precision_score(labels, scores)),
        "MCC": float(matthews_corrcoef(labels, np.asarray(scores) > 0.5)),
    }
