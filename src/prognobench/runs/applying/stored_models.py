"""The models that the cells of a stored run saved, built again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from prognobench.config import read_config
from prognobench.errors import ConfigError, StoreError
from prognobench.files import HIDDEN
from prognobench.imaging.cache import Pixels, pixel_cache
from prognobench.runs.prepare import ReadyRun
from prognobench.runs.workspace import Workspace
from prognobench.store import RunFolder

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from prognobench.frozen.estimators import Column, FrozenClassifier
    from prognobench.records import Adapted, Cohort, Progress
    from prognobench.training.hardware import Precision


@dataclass(frozen=True)
class StoredRun(ReadyRun):
    """A run that was computed before."""

    @property
    def strategy(self) -> str:
        """Name of its strategy."""
        return self.config.strategy.name

    def choose_precision(self, device: torch.device | str) -> Precision:
        """Return the run's precision; TF32 exists on NVIDIA GPUs only, elsewhere fp32 stands in."""
        import torch

        asked = self.config.train.precision
        return "fp32" if asked == "tf32" and torch.device(device).type != "cuda" else asked

    def load_pixels(self, cohort: Cohort, progress: Progress | None) -> Pixels:
        """Return new images, decoded and scaled as those of the run were."""
        return pixel_cache(cohort, self.recipe, self.config.paths.cache, progress)

    def list_saved_cells(self, cells: Sequence[str]) -> tuple[str, ...]:
        """Return the asked cells, or all that have a model.

        Raises
        ------
        StoreError
            If there is none, or one that is asked for is not there.
        """
        saved = [cell for cell in self.folder.marked_cells() if self.locate_model(cell).is_dir()]
        missing = [cell for cell in cells if cell not in saved]
        if missing or not saved:
            raise StoreError(
                f"{self.folder.path} keeps no model of {', '.join(missing) or 'any cell'} "
                f"(models there: {', '.join(saved) or 'none'}); run it again with train.save=best"
            )
        return tuple(cells or saved)

    def read_shifts(self, cells: Sequence[str]) -> list[NDArray[np.float64]]:
        """Return by how much the training of each cell shifted the log odds of each class."""
        return [self.folder.shift(cell) for cell in cells]

    def locate_model(self, cell: str) -> Path:
        """Return the folder in which a cell's model lies."""
        return self.folder.path / "cells" / cell / "adapted"

    def require_model(self, cell: str) -> Path:
        """Return that folder; a :class:`.DamagedError` if a file in it is not as written."""
        return self.folder.require_model(cell)


def read_run(path: Path, weights: str | None = None, cache: Path | None = None) -> StoredRun:
    """Return a stored run, ready to build its models again.

    Parameters
    ----------
    weights
        Where the backbone's weights lie now, if not where they lay for the run.
    cache
        The cache folder, if not the run's.

    Raises
    ------
    StoreError
        If this version does not take the run's config, or the weights are not those of the run.
    """
    folder = RunFolder(path)
    meta = folder.meta
    try:
        # Its own cohort and folds play no part in predicting others.
        config = read_config(meta["config"], built=("model", "strategy"))
    except ConfigError as error:
        raise StoreError(
            f"{path / 'run.json'}: this version of prognobench cannot build the run's model: "
            f"{error}; use the version in environment.json"
        ) from error
    if cache is not None:
        config = replace(config, paths=replace(config.paths, cache=cache))
    if weights is not None:
        settings = {**config.model.settings, "weights": weights}
        config = replace(config, model=replace(config.model, settings=settings))
    if HIDDEN in config.model.settings.values():
        raise StoreError(f"{path} does not store where its weights lie; give them with --weights")
    source = Workspace().locate_source(config.model)
    wanted = meta["fingerprints"]["weights"]
    if source.fingerprint != wanted:
        raise StoreError(
            f"{path}: the run used other weights (fingerprint {wanted}, here "
            f"{source.fingerprint} from {source.origin}); give their file with --weights"
        )
    return StoredRun(config, folder, source, tuple(meta["classes"]))


class Models(Protocol):
    """The models of some cells of a stored run."""

    @property
    def columns(self) -> Sequence[Column]:
        """The covariates that they read."""
        ...

    def predict(
        self, images: Cohort, device: torch.device | str, progress: Progress | None
    ) -> Iterator[NDArray[np.float64]]:
        """Yield the probabilities ``(images, classes)`` that each model gives."""
        ...

    def build(self, cell: str) -> Adapted:
        """Build a cell's adapted backbone; raises :class:`StoreError` where none was adapted."""
        ...


@dataclass(frozen=True)
class AdaptedModels:
    """Backbones that were trained, each with its head."""

    run: StoredRun
    cells: tuple[str, ...]
    columns: Sequence[Column] = ()

    def predict(
        self, images: Cohort, device: torch.device | str, progress: Progress | None
    ) -> Iterator[NDArray[np.float64]]:
        """Yield the probabilities ``(images, classes)`` that each model gives."""
        from prognobench.training.loader import Loader
        from prognobench.training.loop import predict

        loader = Loader(
            self.run.load_pixels(images, progress).array,
            np.zeros(len(images), dtype=np.int64),
            np.arange(len(images)),
            self.run.source.preprocessing,
            batch_size=4 * self.run.config.train.batch_size,
            device=device,
        )
        for done, cell in enumerate(self.cells):
            if progress:
                progress("models", done, len(self.cells))
            model = self.build(cell).model
            yield predict(
                model,
                loader,
                device=device,
                precision=self.run.choose_precision(device),
                speedups=self.run.config.train.speedups,
            )

    def build(self, cell: str) -> Adapted:
        """Build a cell's model and load what was saved of it."""
        self.run.list_saved_cells((cell,))
        adapted = self.run.adapt(self.run.source.load())
        if adapted.load is None:
            raise StoreError(
                f"{self.run.folder.path}: {self.run.strategy} cannot load what it saved"
            )
        adapted.load(self.run.require_model(cell))
        adapted.model.eval()
        return adapted


@dataclass(frozen=True)
class Classifiers:
    """Classifiers on features of a frozen backbone, on covariates, or on nothing."""

    run: StoredRun
    cells: tuple[str, ...]

    @cached_property
    def _loaded(self) -> list[FrozenClassifier]:
        from prognobench.frozen.probes import load_classifier

        spec, fingerprint = self.run.classifier, self.run.source.fingerprint
        return [
            load_classifier(self.run.require_model(cell), spec, fingerprint) for cell in self.cells
        ]

    @property
    def columns(self) -> Sequence[Column]:
        """The covariates that they read, each once."""
        return tuple(dict.fromkeys(column for each in self._loaded for column in each.columns))

    def predict(
        self, images: Cohort, device: torch.device | str, progress: Progress | None
    ) -> Iterator[NDArray[np.float64]]:
        """Yield each classifier's probabilities; the images pass through the backbone once."""
        from prognobench.frozen.bank import Features, embed

        layers = dict.fromkeys(each.layer for each in self._loaded if each.layer is not None)
        features: Features = {}
        if layers:
            features = embed(
                self.run.source,
                self.run.load_pixels(images, progress),
                tuple(layers),
                folder=self.run.config.paths.cache,
                device=device,
                precision=self.run.choose_precision(device),
                progress=progress,
            )
        for each in self._loaded:
            yield each.probabilities(features, images.table)

    def build(self, cell: str) -> Adapted:
        """Refuse: the backbone is as it was."""
        raise StoreError(
            f"{self.run.folder.path}: {self.run.strategy} leaves the backbone's weights as they "
            f"are; its classifier lies in cells/{cell}/adapted if it was saved"
        )
