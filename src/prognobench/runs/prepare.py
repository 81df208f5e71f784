"""From configs to runs that are ready to start: cohorts, folds, weights, folders.

Everything that can be wrong is found here, for all runs at once, before any of them trains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.errors import (
    ConfigError,
    FaultsError,
    NotApplicableError,
    PrognobenchError,
    refusal,
)
from prognobench.imaging.cache import Recipe
from prognobench.registry import LOSSES, STRATEGIES
from prognobench.runs.hiding import Hiding, check_names, read_key
from prognobench.runs.kinds import Kind, build_classifier, find_kind
from prognobench.runs.workspace import Workspace
from prognobench.store import RunFolder, run_folder, run_key

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prognobench.records import (
        Adapted,
        Backbone,
        BackboneSource,
        Cohort,
        Estimator,
        Fold,
        Loss,
        Probe,
        RunConfig,
    )


@dataclass(frozen=True)
class ReadyRun:
    """A run, new or stored, whose backbone and strategy can be built.

    Attributes
    ----------
    classes
        Names of the outcome's values.
    """

    config: RunConfig
    folder: RunFolder
    source: BackboneSource
    classes: tuple[str, ...]

    @cached_property
    def kind(self) -> Kind:
        """Whether the strategy trains the backbone, and all that follows from that."""
        return find_kind(self.config.strategy)

    @cached_property
    def classifier(self) -> Probe | Estimator:
        """What a strategy that trains no backbone fits; of no other."""
        return build_classifier(self.config.strategy)

    def adapt(self, backbone: Backbone) -> Adapted:
        """Apply a strategy that trains the backbone to it; of no other.

        Raises
        ------
        NotApplicableError
            If they do not fit, or the recipe asks for a grid of heads and the strategy has none.
        """
        from prognobench.strategies.layers.head_grid import find_grid

        strategy, grid = self.config.strategy, self.config.train.head_grid
        adapted: Adapted = STRATEGIES[strategy.builder](
            replace(backbone, head_grid=grid), len(self.classes), **strategy.settings
        )
        if grid and find_grid(adapted.model) is None:
            raise NotApplicableError(
                f"train.head_grid=true needs a strategy built on 'adapt' or 'Classifier'; "
                f"{strategy.name} brings a head of its own"
            )
        return adapted

    @property
    def recipe(self) -> Recipe:
        """How images become the squares that the backbone's weights need."""
        return Recipe.of(self.source.preprocessing, self.config.image)


@dataclass(frozen=True)
class Prepared(ReadyRun):
    """A run that is ready to start."""

    cohort: Cohort
    folds: tuple[Fold, ...]
    fingerprints: dict[str, str]
    warnings: tuple[str, ...]
    left_out: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """What of a patient the strategy looks at: ``image``, ``covariates``."""
        return self.kind.reads(self.config.strategy)

    @cached_property
    def hiding(self) -> Hiding | None:
        """What is stored in the place of patients' names; ``None`` where they are stored."""
        pseudonyms = read_key(self.config.privacy)
        return None if pseudonyms is None else Hiding(pseudonyms, self.cohort)

    def record_failure(self, fold: Fold, error: Exception) -> None:
        """Store why a cell failed."""
        self.folder.write_failure(fold.name, self.hide_error(error))

    def hide_error(self, error: Exception) -> Exception:
        """Return an error as it is stored."""
        return self.hiding.hide_error(error) if self.hiding else error

    def record_not_applicable(self, reason: NotApplicableError) -> None:
        """Store why the strategy cannot be applied to the model."""
        hide = self.hiding.hide_text if self.hiding else str
        self.folder.mark_not_applicable(NotApplicableError(hide(str(reason))))

    @property
    def key(self) -> str:
        return self.folder.path.name

    @cached_property
    def images(self) -> dict[str, NDArray[Any]]:
        """What is stored of every image beside its predictions."""
        table = self.cohort.table[["patient_id", "image", "label"]]
        if self.hiding:
            table = self.hiding.hide_table(table)
        text = {name: table[name].to_numpy(dtype=object) for name in ("patient_id", "image")}
        return {**text, "label": table["label"].to_numpy()}

    def make_loss(self, fold: Fold) -> Loss:
        """The loss for the class counts of a fold's training part."""
        component, per_patient = self.config.loss, self.config.train.weight_per == "patient"
        counts = self.count_patients(fold) if per_patient else self.count_images(fold)
        loss: Loss = LOSSES[component.builder](counts, **component.settings)
        return replace(loss, image_weights=self.weigh_images(fold)) if per_patient else loss

    @cached_property
    def patients(self) -> NDArray[np.intp]:
        """A number for the patient of each image."""
        return self.cohort.patients[0]

    def count_patients(self, fold: Fold) -> NDArray[np.int64]:
        """Patients of each class in the training part of a fold."""
        _, first = np.unique(self.patients[fold.train], return_index=True)
        labels = self.cohort.table["label"].to_numpy()[fold.train[first]]
        counts: NDArray[np.int64] = np.bincount(labels, minlength=len(self.cohort.classes))
        return counts

    def weigh_images(self, fold: Fold) -> NDArray[np.float64] | None:
        """Weigh each image by one over the images of its patient in the same part.

        Returns
        -------
        ``(images of the cohort,)``, or ``None`` if no patient has several images.
        """
        weights = np.ones(len(self.patients))
        for rows in (fold.train, fold.validation):
            images = np.bincount(self.patients[rows], minlength=1)
            weights[rows] = 1 / images[self.patients[rows]]
        return weights if (weights < 1).any() else None

    def count_images(self, fold: Fold) -> NDArray[np.int64]:
        """Images of each class in the training part of a fold."""
        labels = self.cohort.table["label"].to_numpy()[fold.train]
        counts: NDArray[np.int64] = np.bincount(labels, minlength=len(self.cohort.classes))
        return counts

    def list_unfinished(self) -> list[Fold]:
        """The folds whose cells are still to be computed; none of a pair that cannot be."""
        return [fold for fold in self.folds if self.is_unfinished(fold)]

    def is_unfinished(self, fold: Fold) -> bool:
        """Whether a fold's cell is still to be computed."""
        saved = self.kind.saved[self.config.train.save]
        return not (self.folder.not_applicable or self.folder.is_done(fold.name, *saved))


def name_axes(seed: int, fold: Fold) -> tuple[int, ...]:
    """Return the named axes that a cell's random numbers come from."""
    return (seed, fold.repeat, fold.fold, -1 if fold.draw is None else fold.draw)


def prepare(
    configs: Sequence[RunConfig], workspace: Workspace, *, look: bool = False
) -> list[Prepared]:
    """Make every run ready, or raise one :class:`ConfigError` with all faults of all runs.

    Nothing is written but to the cache. Runs that are the same (a sweep may ask twice) come once.

    Parameters
    ----------
    look
        See :meth:`Workspace.audit_quickly`.
    """
    prepared: dict[str, Prepared] = {}
    faults: list[str] = []
    for config in configs:
        try:
            run = _prepare(config, workspace, look)
        except FaultsError as error:
            faults += error.faults
        except PrognobenchError as error:
            if refusal(error):  # a full disk, say, is not a fault of the command
                raise
            faults.append(str(error))
        else:
            prepared.setdefault(str(run.folder.path), run)
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    return list(prepared.values())


def _prepare(config: RunConfig, workspace: Workspace, look: bool) -> Prepared:
    cohort, folds = workspace.load_cohort(config), workspace.split_cohort(config)
    source = workspace.locate_source(config.model)
    fingerprints = {
        "cohort": workspace.digest_cohort(config),
        "folds": _folds_digest(folds),
        "weights": source.fingerprint,
    }
    folder = run_folder(config, run_key(config, **fingerprints))
    check_names(folder, read_key(config.privacy))
    recalled = _recall_audit(folder, config)
    warnings = workspace.audit_quickly(config, look=look) if recalled is None else recalled
    run = Prepared(
        *(config, folder, source, cohort.classes, cohort, folds, fingerprints, warnings),
        workspace.count_left_out(config),
    )
    for fold in folds if recalled is None else ():
        run.make_loss(fold)
    return run


def _recall_audit(folder: RunFolder, config: RunConfig) -> tuple[str, ...] | None:
    """Return the warnings of the audit that let a described run begin; nothing if there was none.

    A run's name stands for the content of its cohort and folds, so with the same checks the audit
    would say the same again.
    """
    if not folder.is_described or folder.meta["config"].get("checks") != asdict(config.checks):
        return None
    return tuple(folder.meta["warnings"])


def _folds_digest(folds: Iterable[Fold]) -> str:
    digest = hashlib.sha256()
    for fold in folds:
        digest.update(fold.name.encode())
        for rows in (fold.train, fold.validation, fold.test):
            digest.update(np.asarray(rows, dtype=np.int64).tobytes() + b"|")
    return digest.hexdigest()
