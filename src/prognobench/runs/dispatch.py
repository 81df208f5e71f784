"""What runs do for each kind of strategy: check, compute, measure, load.

One place says where the two kinds differ; :mod:`.execute`, :mod:`.plan` and :mod:`.predict` ask it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from prognobench.runs.kinds import FROZEN, TRAINED, Kind

# What computes is imported where it is called: it brings torch, which takes seconds, and a sweep
# that is done needs none of it.
if TYPE_CHECKING:
    import torch

    from prognobench.records import Fold
    from prognobench.runs.applying.stored_models import Models, StoredRun
    from prognobench.runs.cells.turns import Turns
    from prognobench.runs.measure import Passes, Rates
    from prognobench.runs.prepare import Prepared
    from prognobench.runs.workspace import Workspace


class Work(ABC):
    """What runs do for the strategies of one kind."""

    @abstractmethod
    def check(self, run: Prepared, workspace: Workspace) -> None:
        """Raise a :class:`ConfigError` if the strategy refuses the backbone or its settings."""

    @abstractmethod
    def compute(
        self,
        runs: Sequence[Prepared],
        workspace: Workspace,
        devices: Mapping[str, torch.device],
        turns: Turns,
    ) -> None:
        """Compute and store the cells of runs that are free now; a failing one costs no other."""

    @abstractmethod
    def identify_costs(self, run: Prepared) -> str:
        """Return a text that is the same for runs whose cells cost the same."""

    @abstractmethod
    def measure(self, run: Prepared, left: Sequence[Fold]) -> Rates:
        """Measure what a cell costs; raises :class:`NotApplicableError` for what cannot be."""

    @abstractmethod
    def count_passes(self, run: Prepared, usual: Passes, counted: set[tuple[str, str]]) -> Passes:
        """Return how many images will pass through the backbone.

        Parameters
        ----------
        usual
            How many would if each cell were trained by itself.
        counted
            Features that earlier runs of the plan compute; those of this run are added.
        """

    @abstractmethod
    def load_models(self, stored: StoredRun, cells: Sequence[str]) -> Models:
        """Return the models that cells of a stored run saved."""


class Training(Work):
    """The cells of strategies that train a part of the backbone, one by one."""

    def check(self, run: Prepared, workspace: Workspace) -> None:
        from prognobench.runs.cells.trained_cells import try_on_shapes

        try_on_shapes(run, workspace)

    def compute(
        self,
        runs: Sequence[Prepared],
        workspace: Workspace,
        devices: Mapping[str, torch.device],
        turns: Turns,
    ) -> None:
        from prognobench.runs.cells.trained_cells import train_cells

        train_cells(runs, workspace, devices, turns)

    def identify_costs(self, run: Prepared) -> str:
        # What a step costs does not depend on how many epochs there will be, nor on the seed.
        return repr({**asdict(run.config.train), "epochs": 1, "seed": None})

    def measure(self, run: Prepared, left: Sequence[Fold]) -> Rates:
        from prognobench.runs.measure import measure_training

        return measure_training(run, left)

    def count_passes(self, run: Prepared, usual: Passes, counted: set[tuple[str, str]]) -> Passes:
        return usual

    def load_models(self, stored: StoredRun, cells: Sequence[str]) -> Models:
        from prognobench.runs.applying.stored_models import AdaptedModels

        return AdaptedModels(stored, tuple(cells))


class Fitting(Work):
    """The cells of strategies on a frozen backbone, all cells of all runs at once."""

    def check(self, run: Prepared, workspace: Workspace) -> None:
        from prognobench.runs.cells.frozen_cells import check_layers

        check_layers(run)

    def compute(
        self,
        runs: Sequence[Prepared],
        workspace: Workspace,
        devices: Mapping[str, torch.device],
        turns: Turns,
    ) -> None:
        from prognobench.runs.cells.frozen_cells import fit_cells

        fit_cells(runs, workspace, devices, turns)

    def identify_costs(self, run: Prepared) -> str:
        config = run.config
        # Classifiers cost by the size of their parts, whichever patients are in them.
        sizes = [len(fold.train) for fold in run.folds]
        shared = (run.fingerprints["cohort"], run.fingerprints["weights"])
        train = {**asdict(config.train), "seed": None}
        return repr((train, *shared, min(sizes), max(sizes), config.loss))

    def measure(self, run: Prepared, left: Sequence[Fold]) -> Rates:
        from prognobench.runs.measure import measure_frozen

        return measure_frozen(run, left)

    def count_passes(self, run: Prepared, usual: Passes, counted: set[tuple[str, str]]) -> Passes:
        from prognobench.runs.cells.shared_features import images_to_embed
        from prognobench.runs.measure import Passes

        unknown = images_to_embed(run) - counted
        counted |= unknown
        return Passes(train=0, infer=len(unknown))

    def load_models(self, stored: StoredRun, cells: Sequence[str]) -> Models:
        from prognobench.runs.applying.stored_models import Classifiers

        return Classifiers(stored, tuple(cells))


# Frozen backbones first: their cells are quick, so that tables fill early.
WORK: Mapping[Kind, Work] = {FROZEN: Fitting(), TRAINED: Training()}
