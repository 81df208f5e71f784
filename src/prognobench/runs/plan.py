"""What a run or sweep would do and cost, from a short measurement on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from prognobench.errors import NotApplicableError
from prognobench.records import Fold, Progress, RunConfig
from prognobench.runs.cells.baselines import add_baselines
from prognobench.runs.dispatch import WORK
from prognobench.runs.execute import check_strategies
from prognobench.runs.measure import Passes, Rates
from prognobench.runs.prepare import Prepared, prepare
from prognobench.runs.workspace import Workspace
from prognobench.workers import keep_freed_memory

ASSUMPTIONS = (
    "seconds: every cell trains all epochs of the recipe; early stopping makes it less",
    "images are already decoded; features of frozen backbones are computed once for all runs that "
    "share images and weights, and count for the first of them",
    "seconds_usual: every cell passes its images through the backbone in every epoch, in fp32",
)


@dataclass(frozen=True)
class Plan:
    """What is left to do.

    Attributes
    ----------
    table
        One row per run: ``dataset``, ``model``, ``strategy``, ``regime``, ``cv``, ``cells``,
        ``done``, ``left``, ``parameters_trainable``, ``parameters_total``, ``seconds`` (of what is
        left), ``seconds_usual`` (the same work by a script that trains cell by cell),
        ``memory_bytes`` (peak of the process or device), ``remark``.
    assumptions
        What the numbers rest on, one sentence each.
    """

    table: pd.DataFrame
    assumptions: tuple[str, ...] = ASSUMPTIONS

    @property
    def seconds(self) -> float:
        """Of everything that is left."""
        return float(self.table["seconds"].sum())


def plan(
    configs: Sequence[RunConfig], progress: Progress | None = None, *, sweep: bool = False
) -> Plan:
    """Return what these runs would do and cost; no result is written.

    Each pair of backbone and strategy that has cells left is measured for a few batches.

    Parameters
    ----------
    sweep
        As in :func:`.execute.run`.

    Raises
    ------
    ConfigError
        With every fault of every run.
    """
    workspace = Workspace(progress)
    runs = prepare(configs, workspace)
    if sweep:
        runs = add_baselines(runs)
    check_strategies([run for run in runs if run.list_unfinished()], workspace)
    measured: dict[str, Rates | str] = {}
    counted: set[tuple[str, str]] = set()
    rows = []
    for number, run in enumerate(runs, start=1):
        left = run.list_unfinished()
        row: dict[str, Any] = {
            **{g: getattr(run.config, g).name for g in ("dataset", "model", "strategy")},
            **{g: getattr(run.config, g).name for g in ("regime", "cv")},
            **{"cells": len(run.folds), "done": len(run.folds) - len(left), "left": len(left)},
            **{"parameters_trainable": None, "parameters_total": None, "memory_bytes": None},
            **{"seconds": 0.0, "seconds_usual": 0.0, "remark": ""},
        }
        if reason := run.folder.not_applicable:
            row |= {"done": 0, "remark": f"not applicable: {reason}"}
        if left:
            rates = _measure(run, left, measured)
            row |= {"remark": rates} if isinstance(rates, str) else _cost(run, left, rates, counted)
        rows.append(row)
        if progress:
            progress("planning", number, len(runs))
    return Plan(pd.DataFrame(rows))


def _measure(run: Prepared, left: Sequence[Fold], measured: dict[str, Rates | str]) -> Rates | str:
    """Measure a run, or return what a run like it gave; a text says why it cannot be."""
    config = run.config
    pair = (run.source.fingerprint, asdict(config.strategy), len(run.classes), config.device)
    key = repr((pair, WORK[run.kind].identify_costs(run)))
    if key not in measured:
        try:
            keep_freed_memory()  # as a run does
            measured[key] = WORK[run.kind].measure(run, left)
        except NotApplicableError as reason:
            measured[key] = f"not applicable: {reason}"
    return measured[key]


def _count_usual_passes(run: Prepared, left: Sequence[Fold]) -> Passes:
    """Count the images that pass through the backbone where each cell is trained by itself."""
    recipe = run.config.train
    evaluations = -(-recipe.epochs // recipe.evaluate_every)  # rounded up: the last epoch counts
    return Passes(
        recipe.epochs * sum(_count_epoch(fold, recipe.refit) for fold in left),
        evaluations * sum(len(fold.validation) for fold in left)
        + sum(len(fold.validation) + len(fold.test) for fold in left),
    )


def _count_epoch(fold: Fold, refit: bool) -> int:
    """Count the images of an epoch; with a second fit, those of that fit's epoch too."""
    again = len(fold.train) + len(fold.validation)
    return len(fold.train) + (again if refit and len(fold.validation) else 0)


def _cost(
    run: Prepared, left: Sequence[Fold], rates: Rates, counted: set[tuple[str, str]]
) -> dict[str, Any]:
    """Return what is left of a run, in the columns of the plan."""
    usual = _count_usual_passes(run, left)
    passes = WORK[run.kind].count_passes(run, usual, counted)
    seconds = passes.train * rates.train + passes.infer * rates.infer + len(left) * rates.cell
    return {
        "parameters_trainable": rates.parameters_trainable,
        "parameters_total": rates.parameters_total,
        "memory_bytes": rates.memory_bytes,
        "seconds": seconds,
        "seconds_usual": usual.train * rates.usual_train + usual.infer * rates.usual_infer,
    }
