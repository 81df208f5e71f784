"""The cells of runs whose backbone trains: backbone, strategy, training and store meet here."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from prognobench.errors import ConfigError, NotApplicableError, refusal
from prognobench.frozen.refit import join_parts
from prognobench.imaging.augment import Augmentation
from prognobench.losses.correction import describe_shift
from prognobench.records import Adapted, Backbone, BackboneSource, Fold, Preprocessing, Train
from prognobench.runs.cells.recording import tabulate_predictions
from prognobench.runs.cells.turns import Turns
from prognobench.runs.prepare import Prepared, name_axes
from prognobench.runs.workspace import Workspace
from prognobench.seeds import derive
from prognobench.strategies.costs import parameter_counts, step_flops, stored_bytes
from prognobench.strategies.layers.head_grid import choose_head, chosen_head
from prognobench.training.loader import Loader
from prognobench.training.loop import fit, predict
from prognobench.workers import Lease

if TYPE_CHECKING:
    from numpy.typing import NDArray


def try_on_shapes(run: Prepared, workspace: Workspace) -> None:
    """Apply the strategy to tensors that have a shape and no content, which takes no memory.

    Raises
    ------
    ConfigError
        With what the strategy refuses of this backbone.
    """
    fingerprint = run.source.fingerprint
    shapes = workspace.once(partial(_shapes, run.source), "shapes", fingerprint)
    backbone = replace(shapes, module=deepcopy(shapes.module))
    try:
        with torch.device("meta"):
            run.adapt(backbone)
    except ConfigError:
        raise
    except Exception:
        # A pair that cannot be is recorded with its run; what only content shows, its cells say.
        return


def count_operations(run: Prepared, workspace: Workspace) -> int:
    """Return the operations of a training step on one image, counted on shapes alone.

    Raises
    ------
    NotApplicableError
        If the strategy cannot be applied to this backbone.
    """
    fingerprint = run.source.fingerprint

    def count() -> int:
        shapes = workspace.once(partial(_shapes, run.source), "shapes", fingerprint)
        backbone = replace(shapes, module=deepcopy(shapes.module))
        with torch.device("meta"):
            adapted = run.adapt(backbone)
        return step_flops(adapted, backbone.preprocessing, 1)

    strategy = asdict(run.config.strategy)
    return workspace.once(count, "operations", fingerprint, strategy, len(run.classes))


def _shapes(source: BackboneSource) -> Backbone:
    backbone = source.load()
    return replace(backbone, module=backbone.module.to("meta"))


def train_cells(
    runs: Sequence[Prepared],
    workspace: Workspace,
    devices: Mapping[str, torch.device],
    turns: Turns,
) -> None:
    """Compute the cells of runs that are free, one after the other, each leased meanwhile."""
    cells = [(run, fold) for run in runs for fold in turns.list_open(run)]
    for run, fold in cells:
        with turns.take_cell(run, fold) as lease:
            if lease is None:
                continue
            try:
                _train_cell(run, fold, workspace, devices[run.config.device], lease)
            except NotApplicableError as reason:
                run.record_not_applicable(reason)
            except Exception as error:
                if refusal(error):  # the disk is full, say: no other cell could be stored either
                    raise
                if lease.is_ours:
                    run.record_failure(fold, error)


def _train_cell(
    run: Prepared, fold: Fold, workspace: Workspace, device: torch.device, lease: Lease
) -> None:
    """Adapt the run's backbone on one fold, and store predictions, history and cost.

    Raises
    ------
    NotApplicableError
        If the strategy cannot be applied to this backbone.
    TrainingError
        If training cannot go on.
    """
    run.folder.describe_now()  # so that tables show what is being trained
    config, cohort, recipe = run.config, run.cohort, run.config.train
    axes = name_axes(config.training_seed, fold)
    torch.manual_seed(derive("initial weights", *axes))
    backbone = run.source.load()
    adapted = run.adapt(backbone)
    pixels, labels = workspace.load_pixels(config).array, cohort.table["label"].to_numpy(copy=True)
    loss = run.make_loss(fold)
    facts = workspace.once(
        partial(_account, adapted, backbone.preprocessing, recipe.batch_size),
        *("costs", run.source.fingerprint, asdict(config.strategy), len(run.classes)),
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

    where = f"{cohort.name}, {config.model.name}, {config.strategy.name}, cell {fold.name}"
    train = partial(fit, loss=loss, device=device, where=where, progress=workspace.progress)
    fitted = train(
        adapted,
        loader(fold.train, True),
        loader(fold.validation, False),
        recipe=recipe,
        keep=partial(_keep_epoch, run, fold, adapted),
    )
    more: dict[str, float] = {}
    fitted_on = fold
    if recipe.refit and len(fold.validation):
        fitted_on, head = join_parts(fold), chosen_head(adapted.model)
        torch.manual_seed(derive("initial weights", *axes))
        adapted, recipe = _limit_epochs(run.adapt(run.source.load()), recipe, fitted.best_epoch)
        choose_head(adapted.model, head)  # of the first fit: the second has no validation part
        parts = loader(fitted_on.train, True), loader(fitted_on.validation, False)
        seconds = train(adapted, *parts, recipe=recipe).cost["seconds_train"]
        more = {"seconds_refit": seconds, "seconds_train": seconds + fitted.cost["seconds_train"]}
    start = time.perf_counter()
    tested = predict(
        adapted.model,
        loader(fold.test, False),
        device=device,
        precision=recipe.precision,
        speedups=recipe.speedups,
    )
    cost = {
        **fitted.cost,
        **more,
        "seconds_inference": time.perf_counter() - start,
        "best_epoch": fitted.best_epoch,
        **describe_shift(loss, run.count_images(fitted_on)),
        **facts,
        "notes": [*backbone.report, *adapted.notes],
        "strategy_notes": list(adapted.notes),
    }
    save = adapted.save if recipe.save != "none" else None
    # This process may have been stopped for so long that another computes the cell. Should it be
    # stopped just here, both store the cell, and their predictions are equal.
    if not lease.is_ours:
        return
    predictions = tabulate_predictions(run, fold, np.concatenate([fitted.validation, tested]))
    run.folder.write_cell(fold.name, predictions, fitted.history, cost, save)


def _limit_epochs(adapted: Adapted, recipe: Train, epochs: int) -> tuple[Adapted, Train]:
    """Return the model and recipe of so many epochs, those of the head alone among them."""
    first = min(adapted.head_first_epochs, epochs)
    return replace(adapted, head_first_epochs=first), replace(recipe, epochs=epochs - first)


def _keep_epoch(run: Prepared, fold: Fold, adapted: Adapted, epoch: int) -> None:
    if run.config.train.save == "all" and adapted.save is not None:
        run.folder.write_epoch(fold.name, epoch, adapted.save)


def _account(adapted: Adapted, preprocessing: Preprocessing, batch_size: int) -> dict[str, Any]:
    """Return what an adapted model costs, whatever the fold: parameters, operations, storage."""
    return {
        **parameter_counts(adapted),
        "flops_per_step": step_flops(adapted, preprocessing, batch_size),
        "storage_bytes": stored_bytes(adapted),
    }
