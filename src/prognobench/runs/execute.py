"""Runs, from start to stored predictions: what is not done yet is computed, and only that."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from prognobench import __version__
from prognobench.errors import NotApplicableError, StoreError
from prognobench.records import Fold, RunConfig
from prognobench.runs.prepare import Prepared, Progress, Workspace, prepare, run_meta, run_tables
from prognobench.store import RunFolder
from prognobench.workers import keep_freed_memory

LIBRARIES = (
    *("torch", "torchvision", "timm", "peft", "transformers", "scikit-learn", "pandas", "numpy"),
    *("scipy", "albumentations", "hydra-core"),
)
"""Whose versions are recorded with a run."""


@dataclass(frozen=True)
class Outcome:
    """How one run ended.

    Attributes
    ----------
    computed, found
        Cells finished now, here or by a process on the same sweep, and those complete before.
    failed
        Cell -> what went wrong.
    """

    config: RunConfig
    folder: RunFolder
    computed: tuple[str, ...]
    found: tuple[str, ...]
    failed: Mapping[str, str]
    not_applicable: str | None


def run(configs: Sequence[RunConfig], progress: Progress | None = None) -> list[Outcome]:
    """Compute and store whatever cells of these runs are not done yet.

    A cell that fails is recorded and costs no other cell.

    Raises
    ------
    ConfigError
        With every fault of every run, before anything is started.
    """
    workspace = Workspace(progress)
    runs = prepare(configs, workspace, look=True)
    left = {str(run.folder.path): {fold.name for fold in run.unfinished()} for run in runs}
    if todo := [run for run in runs if left[str(run.folder.path)] or not run.folder.exists]:
        _compute(todo, workspace)
    return [_outcome(run, left[str(run.folder.path)]) for run in runs]


def _compute(runs: Sequence[Prepared], workspace: Workspace) -> None:
    # Imported here since torch takes seconds, and a finished sweep needs none of it.
    from prognobench.runs.cells import train_cell
    from prognobench.runs.feasibility import check_strategies
    from prognobench.runs.frozen_cells import feature_cells
    from prognobench.training.hardware import require_compiler, resolve_device, resolve_precision

    keep_freed_memory()
    if any(run.config.train.compile for run in runs):
        require_compiler()
    check_strategies(runs, workspace)
    devices = {run.config.device: resolve_device(run.config.device) for run in runs}
    for run in runs:
        precision = resolve_precision(run.config.train.precision, devices[run.config.device])
        _warn_of_two_precisions(run, precision)
    for run in runs:
        device = devices[run.config.device]
        weights = {"origin": run.source.origin, "fingerprint": run.source.fingerprint}
        surroundings = environment(str(device)) | {"weights": weights}
        run.folder.create(run_meta(run), surroundings, run_tables(run))
    for group in _sharing_features(runs):
        feature_cells(group, workspace, devices[group[0].config.device])
    for run, fold in _unleased([run for run in runs if run.produces == "Adapted"]):
        try:
            train_cell(run, fold, workspace, devices[run.config.device])
        except NotApplicableError as reason:
            run.folder.mark_not_applicable(reason)
        except Exception as error:
            run.folder.write_failure(fold.name, error)


def _unleased(runs: Sequence[Prepared]) -> Iterator[tuple[Prepared, Fold]]:
    """Yield the cells that no other process computes, each leased while it is worked on.

    At the end those are waited for that others compute; what one of them died over is yielded.
    """
    cells = [(r, fold, r.folder.failure(fold.name)) for r in runs for fold in r.unfinished()]
    for wait in (False, True):
        for run, fold, failure in cells:
            if not _is_open(run, fold, failure):
                continue
            with run.folder.leased(fold.name, wait=wait) as ours:
                if ours and _is_open(run, fold, failure):  # now that nobody else can end it
                    yield run, fold
        elsewhere = sum(_is_open(*cell) for cell in cells)
        if elsewhere and not wait:
            warnings.warn(
                f"other processes compute {elsewhere} of these cells; waiting for them",
                stacklevel=2,
            )


def _is_open(run: Prepared, fold: Fold, failure: bytes) -> bool:
    """Whether a cell is unfinished, and has not failed since ``failure`` was all that it had."""
    return run.is_unfinished(fold) and run.folder.failure(fold.name) == failure


def _warn_of_two_precisions(run: Prepared, precision: str) -> None:
    """Say so if cells of a run were computed elsewhere, where ``auto`` meant something else."""
    done = run.folder.done_cells() if run.folder.exists else []
    of_cell = "precision" if run.produces == "Adapted" else "precision_features"
    before = None
    with suppress(StoreError):  # a damaged file: told where it is read
        before = run.folder.cost(done[0]).get(of_cell) if done else None
    if before not in (None, precision):
        config = run.config
        warnings.warn(
            f"{config.dataset.name} / {config.model.name} / {config.strategy.name}: cells that are "
            f"done were computed in {before}, the others will be in {precision}, which is what "
            f"train.precision={config.train.precision} means here; their numbers differ by "
            f"rounding (train.precision={before} computes all anew and alike)",
            stacklevel=2,
        )


def _sharing_features(runs: Iterable[Prepared]) -> Iterable[list[Prepared]]:
    """Group the runs that read features by what they share: images and how they are shown,
    weights, precision, device.
    """
    groups: dict[tuple[str, ...], list[Prepared]] = defaultdict(list)
    for run in runs:
        if run.produces != "Adapted":
            config, prints = run.config, run.fingerprints
            train = config.train
            views = (train.augmentation, str(train.horizontal_flip))
            shown = (str(asdict(config.image)), str(asdict(run.source.preprocessing)), *views)
            how = (*shown, train.precision, config.device)
            groups[prints["cohort"], prints["weights"], *how].append(run)
    return groups.values()


def _outcome(run: Prepared, left: set[str]) -> Outcome:
    done = run.folder.done_cells()
    return Outcome(
        config=run.config,
        folder=run.folder,
        computed=tuple(cell for cell in done if cell in left),
        found=tuple(cell for cell in done if cell not in left),
        failed={cell: failure["message"] for cell, failure in run.folder.failures().items()},
        not_applicable=run.folder.meta["not_applicable"],
    )


def environment(device: str) -> dict[str, Any]:
    """Return what a run's numbers may depend on beside its config: machine and versions."""
    import torch

    return {
        "prognobench": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [
                line.partition(":")[2].strip() for line in lines if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
