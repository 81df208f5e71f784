"""Runs, from configs to stored predictions: only the cells that are not done are computed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial

from prognobench.errors import ConfigError, PrognobenchError, StoreError
from prognobench.records import Progress, RunConfig
from prognobench.runs.baselines import add_baselines
from prognobench.runs.dispatch import WORK
from prognobench.runs.prepare import Prepared, prepare
from prognobench.runs.recording import describe_environment, describe_run, tabulate_run
from prognobench.runs.shortcut import store_shortcuts
from prognobench.runs.turns import Turns, find_computing, wait_for_others
from prognobench.runs.workspace import Workspace
from prognobench.store import RunFolder
from prognobench.workers import keep_freed_memory


@dataclass(frozen=True)
class Outcome:
    """How one run ended.

    Attributes
    ----------
    computed, found
        Cells finished now, here or by a process on the same sweep, and those complete before.
    failed
        Cell -> what went wrong.
    elsewhere
        How many cells other processes still compute.
    """

    config: RunConfig
    folder: RunFolder
    computed: tuple[str, ...]
    found: tuple[str, ...]
    failed: Mapping[str, str]
    not_applicable: str | None
    elsewhere: int = 0


def run(
    configs: Sequence[RunConfig],
    progress: Progress | None = None,
    *,
    sweep: bool = False,
    wait: bool = True,
) -> list[Outcome]:
    """Compute and store the cells of these runs that are not done yet.

    A cell that fails is recorded, and the others are still computed.

    Parameters
    ----------
    sweep
        Also compute the baselines that join sweeps: see :func:`.baselines.add_baselines`.
    wait
        Also wait for the cells that other processes compute, and compute those that they leave.

    Raises
    ------
    ConfigError
        With every fault of every run, before anything is started.
    """
    workspace = Workspace(progress)
    runs = prepare(configs, workspace, look=True)
    if sweep:
        runs = add_baselines(runs)
    left = {str(run.folder.path): {fold.name for fold in run.list_unfinished()} for run in runs}
    if todo := [run for run in runs if left[str(run.folder.path)] or not run.folder.is_described]:
        _compute(todo, workspace, wait)
    return [_outcome(run, left[str(run.folder.path)]) for run in runs]


def _compute(runs: Sequence[Prepared], workspace: Workspace, wait: bool) -> None:
    # Imported here since torch takes seconds, and a finished sweep needs none of it.
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
        weights = {"origin": run.source.origin, "fingerprint": run.source.fingerprint}
        environment = describe_environment(str(devices[run.config.device]))
        run.folder.create(describe_run(run), {**environment, "weights": weights}, tabulate_run(run))
    store_shortcuts(runs, workspace)
    turns = Turns(runs)

    def compute() -> None:
        for kind, work in WORK.items():
            work.compute([run for run in runs if run.kind is kind], workspace, devices, turns)

    wait_for_others(compute, runs, turns, wait=wait)


def check_strategies(runs: Sequence[Prepared], workspace: Workspace) -> None:
    """Try the strategy of every run on its backbone, each pair once, without training.

    Raises
    ------
    ConfigError
        With what the strategies of all runs refuse (a rank that is larger than a matrix, a feature
        that the backbone lacks), and the weights that cannot be loaded.
    """
    faults: dict[str, None] = {}
    for run in runs:
        strategy, augmentation = asdict(run.config.strategy), run.config.train.augmentation
        pair = (run.source.fingerprint, strategy, augmentation, len(run.classes))
        refusals = workspace.once(partial(_refusals, run, workspace), "refusals", *pair)
        faults |= dict.fromkeys(refusals)
    if faults:
        raise ConfigError(faults)


def _refusals(run: Prepared, workspace: Workspace) -> list[str]:
    config = run.config
    try:
        WORK[run.kind].check(run, workspace)
    except ConfigError as error:
        return [f"{config.model.name}, {config.strategy.name}: {fault}" for fault in error.faults]
    except PrognobenchError as error:
        return [str(error)]
    return []


def _warn_of_two_precisions(run: Prepared, precision: str) -> None:
    """Warn if done cells were computed on a machine where ``auto`` is another precision."""
    done = run.folder.done_cells() if run.folder.is_described else []
    before = None
    with suppress(StoreError):  # a damaged file is reported by whoever reads it
        before = run.folder.cost(done[0]).get(run.kind.precision_entry) if done else None
    if before not in (None, precision):
        config = run.config
        warnings.warn(
            f"{config.dataset.name} / {config.model.name} / {config.strategy.name}: the done cells "
            f"were computed in {before}, the others will be in {precision}, because "
            f"train.precision={config.train.precision} means {precision} here; their numbers "
            f"differ by rounding (train.precision={before} computes all cells alike)",
            stacklevel=2,
        )


def _outcome(run: Prepared, left: set[str]) -> Outcome:
    done = run.folder.done_cells()
    return Outcome(
        config=run.config,
        folder=run.folder,
        computed=tuple(cell for cell in done if cell in left),
        found=tuple(cell for cell in done if cell not in left),
        failed={
            cell: failure["message"]
            for cell, failure in run.folder.failures().items()
            if cell not in done
        },
        not_applicable=run.folder.not_applicable,
        elsewhere=sum(
            find_computing(run.folder, fold.name) is not None for fold in run.list_unfinished()
        ),
    )
