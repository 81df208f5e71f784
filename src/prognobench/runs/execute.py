"""Runs, from configs to stored predictions: only the cells that are not done are computed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from prognobench.errors import ConfigError, PrognobenchError, StoreError
from prognobench.records import Progress, RunConfig
from prognobench.runs.cells.baselines import add_baselines
from prognobench.runs.cells.recording import describe_environment, describe_run, tabulate_run
from prognobench.runs.cells.shortcut import store_shortcuts
from prognobench.runs.cells.turns import Turns, find_computing, wait_for_others
from prognobench.runs.dispatch import WORK
from prognobench.runs.prepare import Prepared, prepare
from prognobench.runs.sweeps import Sweep
from prognobench.runs.workspace import Workspace
from prognobench.store import RunFolder, run_folder
from prognobench.workers import keep_freed_memory

PARTS = (16, 64, 256)
"""A sweep of more splits than the first is prepared in parts, which end at so many splits."""


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
    refusal
        Why the patients could not be split so, where others of the sweep could.
    """

    config: RunConfig
    folder: RunFolder
    computed: tuple[str, ...]
    found: tuple[str, ...]
    failed: Mapping[str, str]
    not_applicable: str | None
    elsewhere: int = 0
    refusal: str | None = None


def run(
    configs: Sequence[RunConfig],
    progress: Progress | None = None,
    *,
    sweep: bool = False,
    wait: bool = True,
    joined: Sweep | None = None,
) -> list[Outcome]:
    """Compute and store the cells of these runs that are not done yet.

    A cell that fails is recorded, and the others are still computed.

    Parameters
    ----------
    sweep
        Also compute the baselines that join sweeps: see :func:`.baselines.add_baselines`.
    wait
        Also wait for the cells that other processes compute, and compute those that they leave.
    joined
        The sweep of workers that this process belongs to, if it does.

    Raises
    ------
    ConfigError
        With every fault of every run, before anything is started. In a sweep of many seeds the
        later splits are made while the first are computed: of these a fault is an outcome.
    """
    workspace = Workspace(progress)
    outcomes: list[Callable[[], Outcome]] = []
    waiting: list[Callable[[bool], int]] = []
    known: set[Path] = set()
    parts = [*split_sweep(configs)]
    for part in parts:
        runs, refused = _prepare_part(part, workspace, raises=not outcomes)
        outcomes += [partial(_refuse, config, fault) for config, fault in refused]
        if sweep:
            runs = add_baselines(runs)
        runs = [run for run in runs if run.folder.path not in known]
        known |= {run.folder.path for run in runs}
        todo = []
        for run in runs:
            left = {fold.name for fold in run.list_unfinished()}
            is_finished = not left and run.folder.is_described
            todo += [] if is_finished else [run]
            outcomes.append(
                partial(_report_finished, run)
                if is_finished
                else partial(report_outcome, run, left)
            )
        work = _begin(todo, workspace, joined) if todo else None
        # Of finished runs too: their baseline may be missing or damaged.
        store_shortcuts(runs, workspace)
        # What others compute now is waited for when nothing else is left to do.
        if work is not None and work(wait and len(parts) == 1):
            waiting.append(work)
    for work in waiting:
        work(wait)
    return [tell() for tell in outcomes]


def split_sweep(configs: Sequence[RunConfig]) -> Iterator[list[RunConfig]]:
    """Split a sweep into parts that are prepared, and then computed, one after the other.

    The first part has every choice of the sweep, so that all faults of configs are found before
    anything is computed; the others hold the same choices with more seeds.
    """
    splits: dict[tuple[object, ...], int] = {}
    choices: dict[tuple[object, ...], int] = {}
    parts: dict[int, list[RunConfig]] = {}
    for config in configs:
        # The jobs of a sweep share the sections that they do not differ in.
        splitting = (id(config.dataset), id(config.cv), id(config.regime))
        number = splits.setdefault((*splitting, config.seed), len(splits))
        rest = map(id, (config.model, config.loss, config.train, config.checks, config.paths))
        choice = (*splitting, *rest, repr(config.strategy), config.device, config.baselines)
        first = choices.setdefault(choice, number) == number
        bounds = (bound for bound, size in enumerate(PARTS) if first or number < size)
        parts.setdefault(next(bounds, number // PARTS[-1] + len(PARTS)), []).append(config)
    for number in sorted(parts):
        yield parts[number]


def _prepare_part(
    configs: Sequence[RunConfig], workspace: Workspace, *, raises: bool
) -> tuple[list[Prepared], list[tuple[RunConfig, ConfigError]]]:
    """Make the runs of a part ready; once work began, a split that is refused costs no other."""
    try:
        return prepare(configs, workspace, look=True), []
    except ConfigError:
        if raises:
            raise
    runs, refused = [], []
    for config in configs:
        try:
            runs += prepare([config], workspace, look=True)
        except ConfigError as error:
            refused.append((config, error))
    return runs, refused


def _begin(
    runs: Sequence[Prepared], workspace: Workspace, joined: Sweep | None
) -> Callable[[bool], int]:
    """Check the machine and the strategies; return what computes these runs, waiting or not.

    It returns the number of cells that other processes still compute.
    """
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
        # A run is described when it has something to store: a sweep of thousands starts at once.
        run.folder.describe_later(partial(_describe, run, str(devices[run.config.device])))
    store_shortcuts(runs, workspace)
    name, since = (joined.name, joined.file) if joined else ("", None)
    turns = Turns(runs, name, since, workspace.progress)
    ordered = joined.order(runs) if joined else runs

    def compute() -> None:
        for kind, work in WORK.items():
            work.compute([run for run in ordered if run.kind is kind], workspace, devices, turns)

    def work(wait: bool) -> int:
        left = wait_for_others(compute, runs, turns, wait=wait)
        for run in runs:
            run.folder.describe_now()
        return left

    return work


def _describe(run: Prepared, device: str) -> None:
    weights = {"origin": run.source.origin, "fingerprint": run.source.fingerprint}
    environment = {**describe_environment(device), "weights": weights}
    run.folder.create(describe_run(run), environment, tabulate_run(run))


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


def _report_finished(run: Prepared) -> Outcome:
    reason = run.folder.not_applicable
    found = () if reason else tuple(fold.name for fold in run.folds)
    return Outcome(run.config, run.folder, (), found, {}, reason)


def report_outcome(run: Prepared, left: Collection[str]) -> Outcome:
    """Return how a run ended, as the store has it; ``left`` are the cells that were unfinished."""
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


def _refuse(config: RunConfig, fault: ConfigError) -> Outcome:
    return Outcome(config, run_folder(config, ""), (), (), {}, None, refusal=str(fault))
