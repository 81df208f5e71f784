"""From configs to runs that are ready to start: cohorts, folds, weights, keys, folders.

Everything that can be wrong is found here, for all runs at once, before any of them trains.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from prognobench.audit import Audit, audit
from prognobench.errors import ConfigError, FaultsError, PrognobenchError
from prognobench.folds import export_folds, make_folds
from prognobench.imaging.cache import Pixels, Recipe, cohort_digest, pixel_cache
from prognobench.records import Estimator, Files, Probe
from prognobench.registry import DATASETS, LOSSES, MODELS, STRATEGIES
from prognobench.store import RunFolder, describe, run_folder, run_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prognobench.records import BackboneSource, Cohort, Estimator, Fold, Loss, RunConfig

Progress = Callable[[str, int, int], None]
"""Called with a label, how much is done, and how much there is."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start."""

    config: RunConfig
    cohort: Cohort
    folds: tuple[Fold, ...]
    source: BackboneSource
    folder: RunFolder
    fingerprints: dict[str, str]
    warnings: tuple[str, ...]

    @cached_property
    def produces(self) -> str:
        """Which path the strategy takes: ``Adapted``, ``Probe`` or ``Estimator``."""
        return STRATEGIES[self.config.strategy.builder].produces

    @cached_property
    def classifier(self) -> Probe | Estimator:
        """What a strategy that trains no backbone fits; of no other."""
        strategy = self.config.strategy
        spec: Probe | Estimator = STRATEGIES[strategy.builder](**strategy.settings)
        return spec

    @property
    def reads(self) -> tuple[str, ...]:
        """What of a patient the strategy looks at: ``image``, ``covariates``."""
        return ("image",) if self.produces == "Adapted" else self.classifier.reads

    @property
    def key(self) -> str:
        return self.folder.path.name

    @cached_property
    def images(self) -> dict[str, NDArray[Any]]:
        """What is stored of every image beside its predictions."""
        table = self.cohort.table
        text = {name: table[name].to_numpy(dtype=object) for name in ("patient_id", "image")}
        return {**text, "label": table["label"].to_numpy()}

    def loss(self, fold: Fold) -> Loss:
        """The loss for the classes as they stand in the training part of a fold."""
        component = self.config.loss
        counts = self.class_counts(fold)
        loss: Loss = LOSSES[component.builder](counts, **component.settings)
        return loss

    def class_counts(self, fold: Fold) -> NDArray[np.int64]:
        """Images of each class in the training part of a fold."""
        labels = self.cohort.table["label"].to_numpy()[fold.train]
        counts: NDArray[np.int64] = np.bincount(labels, minlength=len(self.cohort.classes))
        return counts

    def unfinished(self) -> list[Fold]:
        """The folds whose cells are still to be computed; none of a pair that cannot be."""
        return [fold for fold in self.folds if self.is_unfinished(fold)]

    def is_unfinished(self, fold: Fold) -> bool:
        """Whether a fold's cell is still to be computed."""
        saved = {"none": (), "best": ("adapted",), "all": ("adapted", "epochs")}[
            self.config.train.save
        ]
        if self.produces != "Adapted":  # has no epochs of its own
            saved = saved[:1]
        return not (self.folder.not_applicable or self.folder.is_done(fold.name, *saved))


class Workspace:
    """What the runs of a sweep share, each made once: cohorts, folds, weights, pixels."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress
        self._made: dict[str, Any] = {}

    def once(self, make: Callable[[], Made], *identity: Any) -> Made:
        """Return what ``make`` gave, or raise what it raised, the first time for this identity."""
        key = json.dumps(identity, sort_keys=True, default=str)
        if key not in self._made:
            try:
                self._made[key] = make()
            except PrognobenchError as error:
                self._made[key] = error
        made: Any = self._made[key]
        if isinstance(made, PrognobenchError):
            raise made
        result: Made = made
        return result

    def cohort(self, config: RunConfig) -> Cohort:
        dataset = config.dataset

        def make() -> Cohort:
            from dataclasses import replace

            cohort: Cohort = DATASETS[dataset.builder](**dataset.settings)
            return replace(cohort, name=dataset.name)

        return self.once(make, "cohort", asdict(dataset))

    def cohort_digest(self, config: RunConfig) -> str:
        return self.once(
            lambda: cohort_digest(self.cohort(config), config.paths.cache),
            "digest",
            asdict(config.dataset),
        )

    def folds(self, config: RunConfig) -> tuple[Fold, ...]:
        return self.once(
            lambda: make_folds(self.cohort(config), config.cv, config.regime, config.seed),
            *("folds", asdict(config.dataset), asdict(config.cv), asdict(config.regime)),
            config.seed,
        )

    def source(self, config: RunConfig) -> BackboneSource:
        model = config.model

        def make() -> BackboneSource:
            source: BackboneSource = MODELS[model.builder](**model.settings)
            return source

        return self.once(make, "source", asdict(model))

    def recipe(self, config: RunConfig) -> Recipe:
        """How images become the squares that the model's weights need."""
        preprocessing = self.source(config).preprocessing
        return Recipe(preprocessing.image_size, preprocessing.interpolation, config.image)

    def pixels(self, config: RunConfig) -> Pixels:
        """The cohort's images, decoded and scaled as the model's weights need them."""
        recipe = self.recipe(config)
        return self.once(
            lambda: pixel_cache(
                self.cohort(config),
                recipe.image_size,
                recipe.interpolation,
                config.paths.cache,
                options=recipe.options,
                progress=self.progress,
            ),
            *("pixels", asdict(config.dataset), recipe.name),
        )

    def warnings(self, config: RunConfig, *, look: bool = False) -> tuple[str, ...]:
        """The quick part of the data desk; what it must refuse is a :class:`ConfigError`.

        Parameters
        ----------
        look
            Also compare the images as pictures if the run reads pixels of files, which are decoded
            for it now rather than later.
        """
        cohort = self.cohort(config)
        files = any(isinstance(source, Files) for source in cohort.sources.values())
        recipe = self.recipe(config) if look and files and _reads_pixels(config) else None

        def make() -> tuple[str, ...]:
            report = audit(
                cohort,
                self.folds(config),
                folder=config.paths.cache,
                recipe=recipe,
                progress=self.progress,
            )
            if refusals := report.refusals(config.checks):
                raise ConfigError(refusals)
            return (*report.notes, *report.duplicates, *report.leaks)

        splitting = [asdict(config.dataset), asdict(config.cv), asdict(config.regime)]
        looking = None if recipe is None else recipe.name
        return self.once(make, "audit", splitting, asdict(config.checks), config.seed, looking)

    def full_audit(self, config: RunConfig, folds: Sequence[Fold]) -> Audit:
        """All of the data desk's checks; images that cannot be decoded are part of its findings."""
        return audit(
            self.cohort(config),
            folds,
            folder=config.paths.cache,
            thorough=True,
            seed=config.seed,
            progress=self.progress,
        )


def prepare(
    configs: Sequence[RunConfig], workspace: Workspace, *, look: bool = False
) -> list[Prepared]:
    """Make every run ready, or raise one :class:`ConfigError` with all faults of all runs.

    Nothing is written but to the cache. Runs that are the same (a sweep may ask twice) come once.

    Parameters
    ----------
    look
        See :meth:`Workspace.warnings`.
    """
    prepared: dict[str, Prepared] = {}
    faults: list[str] = []
    for config in configs:
        try:
            run = _prepare(config, workspace, look)
        except FaultsError as error:
            faults += error.faults
        except PrognobenchError as error:
            faults.append(str(error))
        else:
            prepared.setdefault(str(run.folder.path), run)
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    return list(prepared.values())


def _prepare(config: RunConfig, workspace: Workspace, look: bool) -> Prepared:
    cohort, folds = workspace.cohort(config), workspace.folds(config)
    source = workspace.source(config)
    warnings = workspace.warnings(config, look=look)
    fingerprints = {
        "cohort": workspace.cohort_digest(config),
        "folds": _folds_digest(folds),
        "weights": source.fingerprint,
    }
    folder = run_folder(config, run_key(config, **fingerprints))
    run = Prepared(config, cohort, folds, source, folder, fingerprints, warnings)
    for fold in folds:
        run.loss(fold)
    return run


def _reads_pixels(config: RunConfig) -> bool:
    strategy = STRATEGIES[config.strategy.builder]
    if strategy.produces != "Estimator":
        return True
    estimator: Estimator = strategy(**config.strategy.settings)
    return estimator.inputs in ("features", "both")


def _folds_digest(folds: Iterable[Fold]) -> str:
    digest = hashlib.sha256()
    for fold in folds:
        digest.update(fold.name.encode())
        for rows in (fold.train, fold.validation, fold.test):
            digest.update(np.asarray(rows, dtype=np.int64).tobytes() + b"|")
    return digest.hexdigest()


def run_meta(run: Prepared) -> dict[str, Any]:
    """What ``run.json`` says of a run before its first cell."""
    config = run.config
    return {
        "key": run.key,
        **{group: getattr(config, group).name for group in ("dataset", "model", "strategy")},
        **{group: getattr(config, group).name for group in ("regime", "cv", "loss")},
        "seed": config.seed,
        "classes": list(run.cohort.classes),
        "synthetic": run.cohort.synthetic,
        "reads": list(run.reads),
        "cells": [fold.name for fold in run.folds],
        "weights": run.source.origin,
        "warnings": list(run.warnings),
        "not_applicable": None,
        "fingerprints": run.fingerprints,
        "config": describe(config),
    }


def run_tables(run: Prepared) -> dict[str, Any]:
    """The tables that a run stores beside its cells: cohort, exclusions, folds."""
    import pandas as pd

    cohort = run.cohort.table.copy(deep=False)
    if run.cohort.risk is not None:
        for column, name in enumerate(run.cohort.classes):
            cohort[f"risk_{name}"] = run.cohort.risk[:, column]
    exclusions = run.cohort.exclusions
    if exclusions is None:
        exclusions = pd.DataFrame({"item": [], "reason": []}, dtype=str)
    return {
        "cohort": cohort,
        "exclusions": exclusions,
        "folds": export_folds(run.folds, run.cohort),
    }
