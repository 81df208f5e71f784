"""The cells of runs whose backbone trains: backbone, strategy, training and store meet here."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prognobench.errors import TrainingError
from prognobench.imaging.augment import Augmentation
from prognobench.records import Adapted, Fold, Preprocessing
from prognobench.registry import STRATEGIES
from prognobench.runs.prepare import Prepared, Workspace
from prognobench.seeds import derive
from prognobench.strategies.costs import parameter_counts, step_flops, stored_bytes
from prognobench.training.loader import Loader
from prognobench.training.loop import fit, predict

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prognobench.files import Table


def cell_axes(seed: int, fold: Fold) -> tuple[int, ...]:
    """The named axes that a cell's random numbers come from."""
    return (seed, fold.repeat, fold.fold, -1 if fold.draw is None else fold.draw)


def train_cell(run: Prepared, fold: Fold, workspace: Workspace, device: torch.device) -> None:
    """Adapt the run's backbone on one fold, and store predictions, history and cost.

    Raises
    ------
    NotApplicableError
        If the strategy cannot be applied to this backbone.
    TrainingError
        If training cannot go on.
    """
    config, cohort, recipe = run.config, run.cohort, run.config.train
    axes = cell_axes(config.seed, fold)
    torch.manual_seed(derive("initial weights", *axes))
    backbone = run.source.load()
    strategy = STRATEGIES[config.strategy.builder]
    adapted: Adapted = strategy(backbone, len(cohort.classes), **config.strategy.settings)
    pixels, labels = workspace.pixels(config).array, cohort.table["label"].to_numpy(copy=True)
    loss = run.loss(fold)
    facts = workspace.once(
        partial(accounted, adapted, backbone.preprocessing, recipe.batch_size),
        *("costs", run.source.fingerprint, asdict(config.strategy), len(cohort.classes)),
        recipe.batch_size,
    )

    def loader(rows: NDArray[np.intp], training: bool) -> Loader:
        return Loader(
            pixels,
            labels,
            rows,
            backbone.preprocessing,
            batch_size=recipe.batch_size if training else 4 * recipe.batch_size,
            augmentation=(
                Augmentation(recipe.augmentation, recipe.horizontal_flip) if training else None
            ),
            seed=("batches", *axes),
            shuffle=training,
            balanced=training and loss.balanced_sampling,
            device=device,
        )

    fitted = fit(
        adapted,
        loader(fold.train, True),
        loader(fold.validation, False),
        loss,
        recipe,
        device=device,
        where=f"{cohort.name}, {config.model.name}, {config.strategy.name}, cell {fold.name}",
        progress=workspace.progress,
        keep=partial(_keep_epoch, run, fold, adapted),
    )
    start = time.perf_counter()
    tested = predict(
        adapted.model, loader(fold.test, False), device=device, precision=recipe.precision
    )
    cost = {
        **fitted.cost,
        "seconds_inference": time.perf_counter() - start,
        "best_epoch": fitted.best_epoch,
        **facts,
        "notes": [*backbone.report, *adapted.notes],
    }
    save = adapted.save if recipe.save != "none" else None
    predictions = prediction_table(run, fold, np.concatenate([fitted.validation, tested]))
    run.folder.write_cell(fold.name, predictions, fitted.history, cost, save)


def _keep_epoch(run: Prepared, fold: Fold, adapted: Adapted, epoch: int) -> None:
    if run.config.train.save == "all" and adapted.save is not None:
        run.folder.write_epoch(fold.name, epoch, adapted.save)


def accounted(adapted: Adapted, preprocessing: Preprocessing, batch_size: int) -> dict[str, Any]:
    """What an adapted model costs, whatever the fold: parameters, operations, storage."""
    return {
        **parameter_counts(adapted),
        "flops_per_step": step_flops(adapted, preprocessing, batch_size),
        "storage_bytes": stored_bytes(adapted),
    }


def prediction_table(run: Prepared, fold: Fold, probabilities: NDArray[np.float64]) -> Table:
    """Return predictions as they are stored, by column.

    Parameters
    ----------
    probabilities
        ``(validation and test images, classes)``, in the fold's order.

    Raises
    ------
    TrainingError
        If any is not finite: such a cell has no predictions.
    """
    if wrong := int((~np.isfinite(probabilities)).any(axis=1).sum()):
        raise TrainingError(
            f"the predictions of {wrong} of {len(probabilities)} images are not finite; "
            "are the weights of the backbone, and the learning rates small enough?"
        )
    rows = np.concatenate([fold.validation, fold.test])
    parts = np.repeat(["validation", "test"], [len(fold.validation), len(fold.test)])
    scores = {f"score_{name}": probabilities[:, i] for i, name in enumerate(run.cohort.classes)}
    return {"part": parts, **{name: of[rows] for name, of in run.images.items()}, **scores}
