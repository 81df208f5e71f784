"""What is known of an image without its pixels, and how well that alone predicts the outcome."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.imaging.dicom_files import DicomFile, is_dicom, read_dataset
from prognobench.imaging.pixels import FORMATS
from prognobench.records import Cohort, Files
from prognobench.seeds import derive
from prognobench.workers import shared_out

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

SHORTCUTS: Mapping[str, tuple[str, ...]] = {
    "centre": ("centre", "source"),
    "device": ("device",),
    "image and file size": ("height", "width", "bytes"),
    "file format": ("format", "colour"),
    "number of images": ("images",),
    "date of image": ("order",),
}
"""What an outcome may follow without being seen on any image, and the features that tell it."""

QUANTILES = 8
"""So many groups numbers are cut into."""

RARE = 3
"""Values that fewer patients have are one value."""

CHANCE = 2.5
"""Standard errors of an MCC of zero within which metadata are taken not to tell the outcome."""

CHUNK = 500
"""So many headers are read at once."""

HEADER_TAGS = ("Rows", "Columns", "Manufacturer", "ManufacturerModelName")


def read_image_metadata(cohort: Cohort) -> pd.DataFrame:
    """Return one row per image: format, colour mode, device, height, width, bytes of its file.

    Read from the headers; what a file does not say (or a generated image does not have) is blank.
    """
    import pandas as pd

    table = cohort.table
    columns: list[Any] = ["format", "colour", "device", "height", "width", "bytes"]
    blank = ("", "", "", np.nan, np.nan, np.nan)
    rows: list[tuple[Any, ...]] = [blank] * len(table)
    sources, images = table["source"].tolist(), table["image"].tolist()
    paths = {
        row: os.path.join(source.root, images[row])
        for row, name in enumerate(sources)
        if isinstance(source := cohort.sources[name], Files)
    }
    for row, header in zip(paths, _headers(list(paths.values())), strict=True):
        rows[row] = header or blank
    return pd.DataFrame(rows, columns=columns)


def _headers(paths: Sequence[str]) -> Iterator[tuple[Any, ...] | None]:
    """Read headers; many by several processes, since interpreting them keeps this one busy."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    return chain.from_iterable(shared_out(_chunk_of_headers, chunks, separate=len(chunks) > 2))


def _chunk_of_headers(paths: Sequence[str]) -> list[tuple[Any, ...] | None]:
    return [_header(Path(path)) for path in paths]


def _header(path: Path) -> tuple[Any, ...] | None:
    from PIL import Image

    try:
        size = path.stat().st_size
        if is_dicom(path):
            return (*_dicom_header(path), size)
        with Image.open(path, formats=FORMATS) as image:
            return (str(image.format), image.mode, "", image.height, image.width, size)
    except Exception:  # a broken file is reported elsewhere
        return None


def _dicom_header(path: Path) -> tuple[Any, ...]:
    with DicomFile(path) as file:
        header = read_dataset(file, pixels=False, tags=[*HEADER_TAGS, "PhotometricInterpretation"])
    rows, columns, *device = (header.get(tag) for tag in HEADER_TAGS)
    colour = str(header.get("PhotometricInterpretation") or "")
    return "DICOM", colour, " ".join(str(part) for part in device if part), rows, columns


def score_metadata(cohort: Cohort, metadata: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Predict the outcome from metadata alone, cross-validated over patients.

    A logistic regression on indicators of each kind of metadata and of all together, numbers cut
    into quantiles; five stratified folds (fewer where a class has fewer patients); scores of the
    pooled out-of-fold predictions.

    Parameters
    ----------
    metadata
        As :func:`read_image_metadata` gives it.

    Returns
    -------
    Columns ``metadata``, ``mcc``, ``pr_auc`` (average precision; with several classes their mean),
    ``chance_pr_auc`` (the prevalence), ``follows`` (whether the MCC is beyond chance). No rows if
    there is no metadata that varies, or a class has a single patient.
    """
    import pandas as pd

    features, labels = _per_patient(cohort, metadata)
    varying = [str(name) for name in features if features[name].nunique(dropna=False) > 1]
    kinds = {
        kind: present
        for kind, names in SHORTCUTS.items()
        if (present := [name for name in names if name in varying])
    }
    kinds["all metadata"] = varying
    rows = []
    if varying and np.bincount(labels).min() > 1:
        for kind, names in kinds.items():
            scores = _out_of_fold(features[names], labels, seed)
            rows.append({"metadata": kind, **_scored(scores, labels)})
    return pd.DataFrame(rows, columns=["metadata", "mcc", "pr_auc", "chance_pr_auc", "follows"])


def _per_patient(cohort: Cohort, metadata: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.intp]]:
    """One row per patient: of the first image in time, and how many there are."""
    table = metadata.assign(
        **{
            name: cohort.table[name]
            for name in ("patient_id", "label", "centre", "source", "order")
        }
    ).sort_values("order", kind="stable")
    by_patient = table.groupby("patient_id", sort=True)
    features = by_patient.first().assign(images=by_patient.size())
    labels = features.pop("label").to_numpy(dtype=np.intp)
    return features.apply(_in_groups), labels


def _in_groups(values: pd.Series[Any]) -> pd.Series[str]:
    """Turn many numbers into quantiles, and make one of all rare values."""
    import pandas as pd

    if values.dtype.kind in "fiu" and values.nunique() > QUANTILES:
        return pd.qcut(values, QUANTILES, duplicates="drop").astype(str)
    texts = values.astype(str)
    return texts.where(texts.map(texts.value_counts()) >= RARE, "other")


def _out_of_fold(
    features: pd.DataFrame, labels: NDArray[np.intp], seed: int
) -> NDArray[np.float64]:
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = StratifiedKFold(
        n_splits=min(5, int(np.bincount(labels).min())),
        shuffle=True,
        random_state=derive(seed, "metadata baseline") % 2**32,
    )
    indicators = pd.get_dummies(features).to_numpy(dtype=np.float64)
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    scores: NDArray[np.float64] = cross_val_predict(
        model, indicators, labels, cv=folds, method="predict_proba"
    )
    return scores


def _scored(scores: NDArray[np.float64], labels: NDArray[np.intp]) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score, matthews_corrcoef

    classes: Sequence[int] = range(scores.shape[1]) if scores.shape[1] > 2 else (1,)
    precisions = [average_precision_score(labels == label, scores[:, label]) for label in classes]
    mcc = float(matthews_corrcoef(labels, scores.argmax(axis=1)))
    return {
        "mcc": mcc,
        "pr_auc": float(np.mean(precisions)),
        "chance_pr_auc": float(np.mean([np.mean(labels == label) for label in classes])),
        # Without an association, n MCC^2 is about chi-squared with one degree of freedom.
        "follows": bool(mcc * np.sqrt(len(labels)) > CHANCE),
    }


def predict_from_metadata(
    cohort: Cohort, metadata: pd.DataFrame, train: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return class probabilities ``(images, classes)`` from metadata, fitted on a training part.

    The classifier of :func:`score_metadata`, on all metadata but dates; quantiles, rare values and
    coefficients come from the training part alone. All images of a patient have one forecast.

    Parameters
    ----------
    train
        Rows of the training part.
    """
    from sklearn.linear_model import LogisticRegression

    features, labels, patients = _first_images(cohort, metadata)
    fitted = np.isin(np.arange(len(labels)), patients[train])
    columns = [_indicators(features[name], fitted) for name in features]
    indicators = np.concatenate(columns, axis=1)
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    model.fit(indicators[fitted], labels[fitted])
    scores = np.zeros((len(labels), len(cohort.classes)))
    scores[:, model.classes_] = model.predict_proba(indicators)
    return scores[patients]


def _first_images(
    cohort: Cohort, metadata: pd.DataFrame
) -> tuple[pd.DataFrame, NDArray[np.intp], NDArray[np.intp]]:
    """Return what is known of each patient's first image, labels, and the patient of each image."""
    import pandas as pd

    table = cohort.table
    known = metadata.assign(
        **{name: table[name] for name in ("patient_id", "label", "centre", "source", "order")}
    ).sort_values("order", kind="stable")
    by_patient = known.groupby("patient_id", sort=True)
    features = by_patient.first().assign(images=by_patient.size())
    labels = features.pop("label").to_numpy(dtype=np.intp)
    patients = np.asarray(features.index.get_indexer(pd.Index(table["patient_id"])), dtype=np.intp)
    return features.drop(columns="order"), labels, patients


def _indicators(values: pd.Series[Any], fitted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a column for each group of values that the training part has, ``(patients, groups)``.

    Numbers are cut at the training part's quantiles; values that it rarely has are one group.
    """
    known = values[fitted]
    if values.dtype.kind in "fiu" and known.nunique() > QUANTILES:
        edges = np.unique(known.quantile(np.linspace(0, 1, QUANTILES + 1)[1:-1]))
        groups = np.where(values.isna(), -1, np.searchsorted(edges, values)).astype(str)
    else:
        texts = values.astype(str)
        counts = texts.map(texts[fitted].value_counts()).fillna(0)
        groups = texts.where(counts >= RARE, "other").to_numpy(str)
    return np.asarray(groups[:, None] == np.unique(groups[fitted]), dtype=np.float64)
