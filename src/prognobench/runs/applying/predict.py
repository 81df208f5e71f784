"""The models of a stored run, applied to new images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prognobench.errors import StoreError
from prognobench.metrics.probability import shift_log_odds
from prognobench.runs.applying.new_images import new_cohort
from prognobench.runs.applying.stored_models import read_run
from prognobench.runs.dispatch import WORK
from prognobench.workers import keep_freed_memory

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

    from prognobench.records import BackboneSource, Progress


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
    """Return risks for new images: the mean over the models of a run's cells.

    What class weights did to a model's probabilities is undone, where that is known exactly.

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
    One row per image: ``patient_id``, ``image``, ``predicted`` (the class that the models
    decide for, as they were trained) and ``score_<class>``, the risks. Its ``attrs["notes"]`` say
    how numbers of the table were read, where that is not plain.

    Raises
    ------
    ConfigError, DataError, StoreError
        If the run keeps no models, they do not fit the weights, or images cannot be read.
    """
    keep_freed_memory()
    stored = read_run(run, weights, cache)
    saved = stored.list_saved_cells(cells)
    models = WORK[stored.kind].load_models(stored, saved)
    cohort = new_cohort(images, folder, stored.classes, models.columns)
    outputs = list(models.predict(cohort, device, progress))
    decided = np.mean(outputs, axis=0).argmax(1)
    scores = np.mean(list(map(shift_log_odds, outputs, stored.read_shifts(saved))), axis=0)
    table = cohort.table[["patient_id", "image"]].copy()
    table["predicted"] = [stored.classes[best] for best in decided]
    for column, name in enumerate(stored.classes):
        table[f"score_{name}"] = scores[:, column]
    table.attrs["notes"] = cohort.notes
    return table


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

    stored = read_run(run, weights)
    adapted = WORK[stored.kind].load_models(stored, (cell,)).build(cell)
    if adapted.merge is None:
        raise StoreError(
            f"{run}: what {stored.strategy} adds to the network cannot be merged into its weights"
        )
    merged = adapted.merge()
    _compare(adapted.model, merged, stored.source, where=f"{run}, cell {cell}")
    tensors = {
        key.removeprefix("encoder.").removeprefix("network."): tensor
        for key, tensor in merged.state_dict().items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(tensors, file)


def _compare(model: nn.Module, merged: nn.Module, source: BackboneSource, where: str) -> None:
    """Raise a :class:`StoreError` if the merged model gives other logits on random images."""
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
