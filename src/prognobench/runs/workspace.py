"""What the runs of a sweep share, each made once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

from prognobench.audit import (
    STANDARD,
    Audit,
    audit,
    audit_folds,
    drop_leaks,
    find_same_pictures,
    look_at_images,
)
from prognobench.errors import ConfigError, PrognobenchError, listed
from prognobench.folds import make_folds
from prognobench.imaging.cache import Pixels, Recipe, cohort_digest, pixel_cache
from prognobench.imaging.content import with_digests
from prognobench.records import Component, Files, Progress
from prognobench.registry import DATASETS, MODELS
from prognobench.runs.kinds import find_kind

if TYPE_CHECKING:
    import pandas as pd

    from prognobench.records import BackboneSource, Cohort, Fold, RunConfig

Made = TypeVar("Made")


class Workspace:
    """What the runs of a sweep share, each made once: cohorts, folds, weights, pixels."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress
        self._made: dict[str, Any] = {}
        self._texts: dict[int, tuple[Component, str]] = {}

    def once(self, make: Callable[[], Made], *identity: Any) -> Made:
        """Return what ``make`` gave, or raise what it raised, the first time for this identity.

        A fault is kept as well: a sweep of many runs reports it once, without making it again.
        """
        key = json.dumps(identity, sort_keys=True, default=self._name)
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

    def _name(self, value: Any) -> str:
        """Return a text for what JSON does not know; the choices of a sweep are shared objects."""
        if not isinstance(value, Component):
            return str(value)
        known = self._texts.get(id(value))
        if known is None or known[0] is not value:
            known = (value, json.dumps(asdict(value), sort_keys=True, default=str))
            self._texts[id(value)] = known
        return known[1]

    def load_cohort(self, config: RunConfig) -> Cohort:
        """Return the cohort with the digests of its images, so that files are looked at once."""
        dataset = config.dataset

        def load() -> Cohort:
            cohort: Cohort = DATASETS[dataset.builder](**dataset.settings)
            return with_digests(replace(cohort, name=dataset.name), config.paths.cache)

        return self.once(load, "cohort", dataset)

    def digest_cohort(self, config: RunConfig) -> str:
        return self.once(
            lambda: cohort_digest(self.load_cohort(config), config.paths.cache),
            *("digest", config.dataset),
        )

    def split_cohort(self, config: RunConfig) -> tuple[Fold, ...]:
        return self._split(config)[0]

    def count_left_out(self, config: RunConfig) -> list[dict[str, Any]]:
        """Of each fold, the patients that ``checks.leaks=drop`` left out of its parts."""
        return self._split(config)[1]

    def _split(self, config: RunConfig) -> tuple[tuple[Fold, ...], list[dict[str, Any]]]:
        drops = config.checks.leaks == "drop"

        def split() -> tuple[tuple[Fold, ...], list[dict[str, Any]]]:
            cohort, left_out = self.load_cohort(config), []

            def clean(folds: Sequence[Fold]) -> list[Fold]:
                kept, counts = drop_leaks(cohort, self._same_pictures(config), folds)
                left_out.extend(counts)
                return kept

            parts = (config.cv, config.regime, config.seed)
            return make_folds(cohort, *parts, clean if drops else None), left_out

        return self.once(
            split,
            *("folds", config.dataset, config.cv, config.regime, config.seed, drops),
        )

    def _same_pictures(self, config: RunConfig) -> pd.DataFrame:
        """Images that show the same, decoded alike for all models, so that folds do not differ."""
        cohort = self.load_cohort(config)
        recipe = STANDARD if _has_files(cohort) else None
        return self.once(
            lambda: find_same_pictures(cohort, config.paths.cache, recipe, self.progress),
            *("same pictures", config.dataset),
        )

    def locate_source(self, model: Component) -> BackboneSource:
        def locate() -> BackboneSource:
            source: BackboneSource = MODELS[model.builder](**model.settings)
            return source

        return self.once(locate, "source", model)

    def load_pixels(self, config: RunConfig) -> Pixels:
        """Return the cohort's images, decoded and scaled as the model's weights need them."""
        cohort, recipe = self.load_cohort(config), self._recipe(config)
        return self.once(
            lambda: pixel_cache(cohort, recipe, config.paths.cache, self.progress),
            *("pixels", config.dataset, recipe.name),
        )

    def _recipe(self, config: RunConfig) -> Recipe:
        return Recipe.of(self.locate_source(config.model).preprocessing, config.image)

    def audit_quickly(self, config: RunConfig, *, look: bool = False) -> tuple[str, ...]:
        """Return the warnings of the quick audit; what a run must refuse is a :class:`ConfigError`.

        Parameters
        ----------
        look
            Also compare the images as pictures if the run reads pixels of files, which are decoded
            for it now rather than later.
        """
        cohort = self.load_cohort(config)
        images = "image" in find_kind(config.strategy).reads(config.strategy)
        recipe = self._recipe(config) if look and images and _has_files(cohort) else None
        if recipe is not None and config.checks.leaks == "drop":
            recipe = STANDARD  # as the patients to be left out were found
        looking = None if recipe is None else recipe.name

        def look_for_faults() -> tuple[str, ...]:
            seen = self.once(
                lambda: look_at_images(cohort, config.paths.cache, recipe, self.progress),
                *("seen", config.dataset, looking),
            )
            report = audit_folds(cohort, self.split_cohort(config), seen)
            if refusals := report.refusals(config.checks):
                raise ConfigError(refusals)
            left_out = describe_left_out(cohort.name, self.count_left_out(config))
            return (*report.notes, *left_out, *report.duplicates, *report.leaks)

        return self.once(
            look_for_faults,
            *("audit", config.dataset, config.cv, config.regime, config.seed, looking),
            asdict(config.checks),
        )

    def audit_fully(self, config: RunConfig, folds: Sequence[Fold]) -> Audit:
        """Return the findings of all checks; images that cannot be decoded are among them."""
        found = audit(
            self.load_cohort(config),
            folds,
            folder=config.paths.cache,
            thorough=True,
            seed=config.seed,
            progress=self.progress,
        )
        left_out = self.count_left_out(config) if folds else []
        return replace(found, notes=(*found.notes, *describe_left_out(found.cohort, left_out)))


def describe_left_out(cohort: str, left_out: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say how many patients ``checks.leaks=drop`` left out, in one sentence; nothing if none."""
    if not left_out:
        return []
    folds = listed(
        [f"{fold['fold']}: {fold['train']} and {fold['validation']}" for fold in left_out], 5
    )
    return [
        f"{cohort}: checks.leaks=drop left patients out of training and validation, because they "
        f"share pictures or ids with a later part ({folds})"
    ]


def _has_files(cohort: Cohort) -> bool:
    return any(isinstance(source, Files) for source in cohort.sources.values())
