"""The adapted models of a stored run, applied to new images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.datasets.files import IMAGE_SUFFIXES, ImageFolder
from prognobench.datasets.spreadsheet import read_sheet
from prognobench.errors import ConfigError, DataError, StoreError
from prognobench.imaging.cache import pixel_cache
from prognobench.records import Adapted, Backbone, Cohort, Files, ImageOptions, Train
from prognobench.registry import MODELS, STRATEGIES
from prognobench.store import RunFolder

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from prognobench.records import BackboneSource

Progress = Callable[[str, int, int], None]

IMAGE_COLUMNS = ("image", "ImageFile", "filename", "file", "path")
PATIENT_COLUMNS = ("patient_id", "patientid", "patient")


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
        An image, a folder of images, or a table with a column ``image`` (and perhaps
        ``patient_id``).
    cache
        Where decoded pixels are kept.
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
    from prognobench.engine import predict
    from prognobench.loaders import Loader

    stored = StoredModels(RunFolder(run), weights)
    names = stored.saved_cells(cells)
    cohort = new_cohort(images, folder, stored.classes)
    preprocessing, recipe = stored.source.preprocessing, Train(**stored.config["train"])
    pixels = pixel_cache(
        cohort,
        preprocessing.side,
        preprocessing.interpolation,
        cache,
        options=ImageOptions(**stored.config["image"]),
        progress=progress,
    )
    loader = Loader(
        pixels.array,
        np.zeros(len(cohort), dtype=np.int64),
        np.arange(len(cohort)),
        preprocessing,
        batch_size=4 * recipe.batch_size,
        device=device,
    )
    total: NDArray[np.float64] = np.zeros((len(cohort), len(stored.classes)))
    for done, name in enumerate(names):
        if progress:
            progress("models", done, len(names))
        model = stored.load(name).model
        total += predict(model, loader, device=device, precision=recipe.precision)
    scores = total / len(names)
    table = cohort.table[["patient_id", "image"]].copy()
    table["predicted"] = [stored.classes[best] for best in scores.argmax(1)]
    for column, name in enumerate(stored.classes):
        table[f"score_{name}"] = scores[:, column]
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
    from prognobench.strategies.files import save_tensors

    stored = StoredModels(RunFolder(run), weights)
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
    batch = torch.randn(2, expects.channels, expects.side, expects.side, generator=random)
    with torch.inference_mode():
        expected, given = (each.eval()(batch) for each in (model, merged))
    if not torch.allclose(given, expected, rtol=1e-3, atol=1e-3):
        largest = (given - expected).abs().max().item()
        raise StoreError(f"{where}: merging changes the logits by up to {largest:.2g}")


# ------------------------------------------------------------------ stored models


@dataclass(frozen=True)
class StoredModels:
    """A run's adapted models, and what is needed to build them again.

    Raises
    ------
    ConfigError
        If the run trained no backbone.
    StoreError
        If the weights are not those of the run.
    """

    folder: RunFolder
    weights: str | None = None

    def __post_init__(self) -> None:
        if STRATEGIES[self.config["strategy"]["builder"]].produces != "Adapted":
            raise ConfigError(
                f"{self.folder.path}: {self.strategy} classifies frozen features and keeps no "
                "model; take a run whose strategy trains the backbone, with train.save=best"
            )
        wanted = self.folder.meta["fingerprints"]["weights"]
        if self.source.fingerprint != wanted:
            raise StoreError(
                f"{self.folder.path}: the run used other weights (fingerprint {wanted}, here "
                f"{self.source.fingerprint} from {self.source.origin}); name its own file"
            )

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The run's resolved config, as JSON holds it."""
        config: Mapping[str, Any] = _tuples(self.folder.meta["config"])
        return config

    @cached_property
    def source(self) -> BackboneSource:
        settings = dict(self.config["model"]["settings"])
        if self.weights is not None:
            settings["weights"] = self.weights
        source: BackboneSource = MODELS[self.config["model"]["builder"]](**settings)
        return source

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.folder.meta["classes"])

    @property
    def strategy(self) -> str:
        return str(self.folder.meta["strategy"])

    def saved_cells(self, cells: Sequence[str]) -> list[str]:
        """Return the asked cells, or all that have a model.

        Raises
        ------
        StoreError
            If there is none, or one that is asked for is not there.
        """
        saved = [cell for cell in self.folder.cells if self.folder.is_done(cell, adapted=True)]
        missing = [cell for cell in cells if cell not in saved]
        if missing or not saved:
            raise StoreError(
                f"{self.folder.path} keeps no model of {', '.join(missing) or 'any cell'} "
                f"(models there: {', '.join(saved) or 'none'}); run it again with train.save=best"
            )
        return list(cells) or saved

    def load(self, cell: str) -> Adapted:
        """Build a cell's model and load what was saved of it."""
        backbone: Backbone = self.source.load()
        choice = self.config["strategy"]
        build = STRATEGIES[choice["builder"]]
        adapted: Adapted = build(backbone, len(self.classes), **choice["settings"])
        if adapted.load is None:
            raise StoreError(f"{self.folder.path}: {self.strategy} cannot load what it saved")
        adapted.load(self.folder.path / "cells" / cell / "adapted")
        adapted.model.eval()
        return adapted


def _tuples(value: Any) -> Any:
    """Undo JSON, which has lists for tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


# ------------------------------------------------------------------ new images


def new_cohort(images: Path, folder: Path | None, classes: tuple[str, ...]) -> Cohort:
    """Return new images as a cohort whose outcomes are unknown (its labels mean nothing).

    Raises
    ------
    DataError
        With every image that is missing or cannot be read.
    """
    import pandas as pd

    if not images.exists():
        raise DataError(f"no image, folder or table {images}")
    if images.is_dir():
        root, wanted = images, _images_below(images)
    elif images.suffix.lower() in IMAGE_SUFFIXES:
        root, wanted = images.parent, [(images.stem, images.name)]
    else:
        root = folder or images.parent
        wanted = _listed_in(images)
    rows: list[tuple[str, str]] = []
    faults: list[str] = []
    within = ImageFolder(root, "images")
    for patient, name in wanted:
        found = within.find(name)
        faults += filter(None, [found.problem, found.refused])
        rows += [(patient, image) for image in found.images]
    if faults or not rows:
        raise DataError(faults or f"{images} holds no images")
    table = pd.DataFrame(rows, columns=["patient_id", "image"])
    table["source"], table["label"], table["centre"], table["order"] = "new", 0, "", np.nan
    return Cohort("new", table, classes, {"new": Files(root)})


def _images_below(folder: Path) -> list[tuple[str, str]]:
    files = ImageFolder(folder, "images").files
    return [(Path(f).stem, f) for f in files if Path(f).suffix.lower() in IMAGE_SUFFIXES]


def _listed_in(table: Path) -> list[tuple[str, str]]:
    sheet = read_sheet(table)
    images = sheet.select({"image": IMAGE_COLUMNS})["image"]
    known = {column.casefold() for column in sheet.frame.columns}
    patients = images
    if known & set(PATIENT_COLUMNS):
        patients = sheet.select({"patient": PATIENT_COLUMNS})["patient"]
    return list(zip(patients, images, strict=True))
