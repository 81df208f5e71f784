"""What the runs of a sweep share, each made once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

from prognobench.audit import Audit, audit
from prognobench.errors import ConfigError, PrognobenchError
from prognobench.folds import make_folds
from prognobench.imaging.cache import Pixels, Recipe, cohort_digest, pixel_cache
from prognobench.imaging.content import with_digests
from prognobench.records import Files, Progress
from prognobench.registry import DATASETS, MODELS
from prognobench.runs.kinds import find_kind

if TYPE_CHECKING:
    from prognobench.records import BackboneSource, Cohort, Component, Fold, RunConfig

Made = TypeVar("Made")


class Workspace:
    """What the runs of a sweep share, each made once: cohorts, folds, weights, pixels."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress
        self._made: dict[str, Any] = {}

    def once(self, make: Callable[[], Made], *identity: Any) -> Made:
        """Return what ``make`` gave, or raise what it raised, the first time for this identity.

        A fault is kept as well: a sweep of many runs reports it once, without making it again.
        """
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

    def load_cohort(self, config: RunConfig) -> Cohort:
        """Return the cohort with the digests of its images, so that files are looked at once."""
        dataset = config.dataset

        def load() -> Cohort:
            cohort: Cohort = DATASETS[dataset.builder](**dataset.settings)
            return with_digests(replace(cohort, name=dataset.name), config.paths.cache)

        return self.once(load, "cohort", asdict(dataset))

    def digest_cohort(self, config: RunConfig) -> str:
        return self.once(
            lambda: cohort_digest(self.load_cohort(config), config.paths.cache),
            "digest",
            asdict(config.dataset),
        )

    def split_cohort(self, config: RunConfig) -> tuple[Fold, ...]:
        return self.once(
            lambda: make_folds(self.load_cohort(config), config.cv, config.regime, config.seed),
            *("folds", asdict(config.dataset), asdict(config.cv), asdict(config.regime)),
            config.seed,
        )

    def locate_source(self, model: Component) -> BackboneSource:
        def locate() -> BackboneSource:
            source: BackboneSource = MODELS[model.builder](**model.settings)
            return source

        return self.once(locate, "source", asdict(model))

    def load_pixels(self, config: RunConfig) -> Pixels:
        """Return the cohort's images, decoded and scaled as the model's weights need them."""
        cohort, recipe = self.load_cohort(config), self._recipe(config)
        return self.once(
            lambda: pixel_cache(cohort, recipe, config.paths.cache, self.progress),
            *("pixels", asdict(config.dataset), recipe.name),
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
        files = any(isinstance(source, Files) for source in cohort.sources.values())
        images = files and "image" in find_kind(config.strategy).reads(config.strategy)
        recipe = self._recipe(config) if look and images else None

        def look_for_faults() -> tuple[str, ...]:
            report = audit(
                cohort,
                self.split_cohort(config),
                folder=config.paths.cache,
                recipe=recipe,
                progress=self.progress,
            )
            if refusals := report.refusals(config.checks):
                raise ConfigError(refusals)
            return (*report.notes, *report.duplicates, *report.leaks)

        splitting = [asdict(config.dataset), asdict(config.cv), asdict(config.regime)]
        looking = None if recipe is None else recipe.name
        return self.once(
            look_for_faults, "audit", splitting, asdict(config.checks), config.seed, looking
        )

    def audit_fully(self, config: RunConfig, folds: Sequence[Fold]) -> Audit:
        """Return the findings of all checks; images that cannot be decoded are among them."""
        return audit(
            self.load_cohort(config),
            folds,
            folder=config.paths.cache,
            thorough=True,
            seed=config.seed,
            progress=self.progress,
        )
