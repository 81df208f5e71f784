"""The models of a stored run, applied to new images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.errors import StoreError
from prognobench.runs.new_images import new_cohort
from prognobench.runs.stored_models import StoredModels
from prognobench.store import RunFolder
from prognobench.workers import keep_freed_memory

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from prognobench.frozen.estimators import FrozenClassifier
    from prognobench.records import BackboneSource, Cohort

Progress = Callable[[str, int, int], None]


def predict_images(
    run: Path,
    images: Path,
    *,
    cache: Path,
    device: torch.device | str = "cpu",
    cells: Sequence[str] = (),
    folder: Path | None = None,
    weights: str | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return class probabilities for new images: the mean over the models of a run's cells.

    Parameters
    ----------
    run
        Folder of a run that was trained with ``train.save``.
    images
        An image, a folder of images, or a table with a column ``image``, perhaps ``patient_id``,
        and the covariates that the run's strategy reads, as its cohort has them.
    cache
        Where decoded pixels, and features of frozen backbones, are kept.
    cells
        Which of the run's models; all, if empty.
    folder
        What the table's image names are relative to; its own folder, if not given.
    weights
        Where the backbone's weights lie now, if not where they lay for the run.

    Returns
    -------
    One row per image: ``patient_id``, ``image``, ``predicted`` (the most probable class) and
    ``score_<class>``.

    Raises
    ------
    ConfigError, DataError, StoreError
        If the run keeps no models, they do not fit the weights, or images cannot be read.
    """
    keep_freed_memory()
    stored = StoredModels(RunFolder(run), weights)
    names = stored.saved_cells(cells)
    frozen = stored.produces != "Adapted"
    classifiers = [stored.classifier(name) for name in names] if frozen else []
    read = dict.fromkeys(column for each in classifiers for column in each.columns)
    cohort = new_cohort(images, folder, stored.classes, tuple(read))
    how: dict[str, Any] = {"cache": cache, "device": device, "progress": progress}
    predicted = (
        _from_features(stored, classifiers, cohort, **how)
        if frozen
        else _from_pixels(stored, names, cohort, **how)
    )
    scores = np.mean(list(predicted), axis=0)
    table = cohort.table[["patient_id", "image"]].copy()
    table["predicted"] = [stored.classes[best] for best in scores.argmax(1)]
    for column, name in enumerate(stored.classes):
        table[f"score_{name}"] = scores[:, column]
    return table


def _from_pixels(
    stored: StoredModels,
    names: Sequence[str],
    cohort: Cohort,
    *,
    cache: Path,
    device: torch.device | str,
    progress: Progress | None,
) -> Iterator[NDArray[np.float64]]:
    """Yield each adapted model's probabilities."""
    from prognobench.training.loader import Loader
    from prognobench.training.loop import predict

    recipe = stored.recipe
    loader = Loader(
        stored.pixels(cohort, cache, progress).array,
        np.zeros(len(cohort), dtype=np.int64),
        np.arange(len(cohort)),
        stored.source.preprocessing,
        batch_size=4 * recipe.batch_size,
        device=device,
    )
    for done, name in enumerate(names):
        if progress:
            progress("models", done, len(names))
        model = stored.load(name).model
        yield predict(model, loader, device=device, precision=stored.precision(device))


def _from_features(
    stored: StoredModels,
    classifiers: Sequence[FrozenClassifier],
    cohort: Cohort,
    *,
    cache: Path,
    device: torch.device | str,
    progress: Progress | None,
) -> Iterator[NDArray[np.float64]]:
    """Yield each classifier's probabilities; the images pass through the backbone once."""
    from prognobench.frozen.bank import Features, embed

    layers = dict.fromkeys(each.layer for each in classifiers if each.layer is not None)
    features: Features = {}
    if layers:
        features = embed(
            stored.source,
            stored.pixels(cohort, cache, progress),
            tuple(layers),
            folder=cache,
            device=device,
            precision=stored.precision(device),
            progress=progress,
        )
    for each in classifiers:
        yield each.probabilities(features, cohort.table)


def export_merged(run: Path, cell: str, file: Path, weights: str | None = None) -> None:
    """Write one of a run's models as plain weights, adapters merged into them, as safetensors.

    The names are those of the backbone's network, and ``head.*``: the file can be another run's
    ``model.weights``.

    Raises
    ------
    StoreError
        If the strategy's changes cannot be merged, or merging changes the output.
    """
    from prognobench.strategies.adapted_files import save_tensors

    stored = StoredModels(RunFolder(run), weights)
    if stored.produces != "Adapted":
        raise StoreError(
            f"{run}: {stored.strategy} leaves the backbone's weights as they are; its classifier "
            f"lies in cells/{cell}/adapted if it was saved"
        )
    (name,) = stored.saved_cells([cell])
    adapted = stored.load(name)
    if adapted.merge is None:
        raise StoreError(
            f"{run}: what {stored.strategy} adds to the network cannot be merged into its weights"
        )
    merged = adapted.merge()
    _compare(adapted.model, merged, stored.source, where=f"{run}, cell {name}")
    tensors = {
        key.removeprefix("encoder.").removeprefix("network."): tensor
        for key, tensor in merged.state_dict().items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, file)


def _compare(model: nn.Module, merged: nn.Module, source: BackboneSource, where: str) -> None:
    import torch

    expects = source.preprocessing
    random = torch.Generator().manual_seed(0)
    batch = torch.randn(
        2, expects.channels, expects.image_size, expects.image_size, generator=random
    )
    with torch.inference_mode():
        expected, given = (each.eval()(batch) for each in (model, merged))
    if not torch.allclose(given, expected, rtol=1e-3, atol=1e-3):
        largest = (given - expected).abs().max().item()
        raise StoreError(f"{where}: merging changes the logits by up to {largest:.2g}")
