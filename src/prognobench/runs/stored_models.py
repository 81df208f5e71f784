"""The models that a run's cells saved, built again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prognobench.errors import StoreError
from prognobench.imaging.cache import Pixels, pixel_cache
from prognobench.records import Adapted, Backbone, Cohort, Estimator, ImageOptions, Probe, Train
from prognobench.registry import MODELS, STRATEGIES
from prognobench.store import RunFolder

if TYPE_CHECKING:
    import torch

    from prognobench.frozen.estimators import FrozenClassifier
    from prognobench.records import BackboneSource
    from prognobench.training.hardware import Precision

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class StoredModels:
    """A run's models, and what is needed to build them again.

    Raises
    ------
    StoreError
        If the weights are not those of the run.
    """

    folder: RunFolder
    weights: str | None = None

    def __post_init__(self) -> None:
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
    def recipe(self) -> Train:
        return Train(**self.config["train"])

    def precision(self, device: torch.device | str) -> Precision:
        """The run's; what its GPU rounded to TF32 stays whole on what is none."""
        import torch

        asked = self.recipe.precision
        return "fp32" if asked == "tf32" and torch.device(device).type != "cuda" else asked

    @property
    def produces(self) -> str:
        """What the run's strategy makes: ``Adapted``, ``Probe`` or ``Estimator``."""
        return STRATEGIES[self.config["strategy"]["builder"]].produces

    def pixels(self, cohort: Cohort, cache: Path, progress: Progress | None) -> Pixels:
        """Return new images, decoded and scaled as those of the run were."""
        expected = self.source.preprocessing
        return pixel_cache(
            cohort,
            expected.image_size,
            expected.interpolation,
            cache,
            options=ImageOptions(**self.config["image"]),
            progress=progress,
        )

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
        saved = [cell for cell in self.folder.cells if self.folder.is_done(cell, "adapted")]
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
        adapted.load(self._saved(cell))
        adapted.model.eval()
        return adapted

    def classifier(self, cell: str) -> FrozenClassifier:
        """Read what a cell on frozen features saved."""
        from prognobench.frozen.probes import load_classifier

        choice = self.config["strategy"]
        spec: Probe | Estimator = STRATEGIES[choice["builder"]](**choice["settings"])
        return load_classifier(self._saved(cell), spec, self.source.fingerprint)

    def _saved(self, cell: str) -> Path:
        return self.folder.path / "cells" / cell / "adapted"


def _tuples(value: Any) -> Any:
    """Undo JSON, which has lists for tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
