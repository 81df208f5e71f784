"""Commands that compute: run, plan, which says what a run would cost, and status, how far it is."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prognobench.cli import console
from prognobench.cli.ending import FAILED_CELLS
from prognobench.cli.options import FOLDER, RESULTS, compose_configs, takes_overrides
from prognobench.cli.results import print_answer
from prognobench.errors import ConfigError

if TYPE_CHECKING:
    from prognobench.records import RunConfig
    from prognobench.registry import Part
    from prognobench.runs.execute import Outcome
    from prognobench.runs.status import Status
    from prognobench.runs.sweeps import Command, Sweep


@click.command(short_help="Train and evaluate models, fold by fold.")
@takes_overrides
@click.option("--no-table", is_flag=True, help="Only compute and store; print no table.")
@click.option(
    "--no-wait",
    is_flag=True,
    help="End when no cell is free, without waiting for those that other processes compute.",
)
@click.option("--worker", type=FOLDER, hidden=True)
@click.pass_context
def run(
    context: click.Context, /, no_table: bool, no_wait: bool, worker: Path | None, **composing: Any
) -> None:
    """Train and evaluate a model on a dataset, fold by fold, and print its table.

    With -m every combination of the given values is run, and the baseline 'metadata' where the
    cohort has covariates (baselines=false leaves it out). Cells that are done already are skipped,
    so the same command goes on where it stopped. Several processes can share the work:
    engine=local, engine=slurm and engine=dask start them, and so does the same command in another
    terminal or on another machine with the same results folder.

    --from repeats a stored run. Its done cells are skipped, so give another results folder to
    compute all of it again.

    \b
    Examples:
      prognobench run dataset=mortality model=vit lora=true
      prognobench run -m model=vit,cnn strategy=full,lora seed=1,2,3
      prognobench run -m experiment=embedded
      prognobench run train.epochs=30 strategy=lora strategy.rank=16
      prognobench run --from 3f2a9c paths.results=again
      prognobench run -m model=vit,cnn strategy=full,lora engine=local engine.workers=2
    """
    from prognobench.runs.engines.order import Order

    joined = None if worker is None else _begin_work(worker)
    configs = compose_configs(**composing)
    engine = _choose_engine(configs)
    with console.progress_bars() as progress:
        order = Order(configs, _as_command(**composing), progress, not no_wait, joined)
        ended = engine(order, **configs[0].engine.settings)
    if joined is not None:
        joined.tell("ended")
        return
    if ended.message:
        console.say(ended.message)
        return
    outcomes = ended.outcomes
    _say_remarks(outcomes)
    _say_outcomes(outcomes)
    if elsewhere := sum(outcome.elsewhere for outcome in outcomes):
        console.say(
            f"other processes still compute {elsewhere:,} of these cells; the same command shows "
            "their scores when they are done"
        )
    if not no_table:
        _print_scores(outcomes)
    if any(outcome.failed or outcome.refusal for outcome in outcomes):
        context.exit(FAILED_CELLS)


def _begin_work(folder: Path) -> Sweep:
    """Join a sweep as a worker, which ends with the engine that started it."""
    from prognobench.runs.sweeps import join_sweep
    from prognobench.workers import PARENT, watch_parent

    if parent := os.environ.get(PARENT):
        watch_parent(int(parent))
    return join_sweep(folder)


def _choose_engine(configs: Sequence[RunConfig]) -> Part:
    from prognobench.registry import ENGINES

    names = dict.fromkeys(config.engine.name for config in configs)
    if len({repr(config.engine) for config in configs}) > 1:
        raise ConfigError(
            f"one engine computes all of a sweep, and this one names several ({', '.join(names)}); "
            "give engine and its settings one value each"
        )
    return ENGINES[configs[0].engine.builder]


def _as_command(
    overrides: Sequence[str],
    multirun: bool,
    config_dir: Path | None,
    components: Path | None,
    stored: str | None = None,
) -> Command:
    from prognobench.cli.repeating import repeat_run
    from prognobench.runs.sweeps import Command

    if stored is not None:
        overrides = repeat_run(stored, overrides)
    return Command(tuple(overrides), multirun, config_dir, components, Path.cwd())


def _say_remarks(outcomes: Sequence[Outcome]) -> None:
    """Say on stderr, once for all runs, how tables were read and who was left out."""
    from prognobench.runs.workspace import describe_left_out

    remarks: list[str] = []
    for outcome in outcomes:
        if outcome.refusal is not None:
            continue
        name, meta = outcome.config.dataset.name, outcome.folder.meta
        remarks += [f"{name}: {note}" for note in meta.get("notes", ())]
        remarks += describe_left_out(name, meta.get("left_out", ()))
    for remark in dict.fromkeys(remarks):
        console.say(remark)


def _say_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Say on stderr what became of each run."""
    for outcome in outcomes:
        config = outcome.config
        name = " / ".join((config.dataset.name, config.model.name, config.strategy.name))
        if outcome.refusal is not None:
            console.complain(f"{name}, seed {config.seed}: {outcome.refusal}")
            continue
        cells = {
            "computed": len(outcome.computed),
            "done before": len(outcome.found),
            "failed": len(outcome.failed),
            "computed elsewhere": outcome.elsewhere,
        }
        counts = ", ".join(f"{number:,} {what}" for what, number in cells.items() if number)
        reason = outcome.not_applicable
        console.say(f"{name}: {f'not applicable: {reason}' if reason else f'cells {counts}'}")
        console.say(f"    {outcome.folder.path}")
        for cell, message in outcome.failed.items():
            where = name if f"cell {cell}" in message else f"{name}, cell {cell}"
            console.complain(f"{where}: {message}")


def _print_scores(outcomes: Sequence[Outcome]) -> None:
    """Print the verdict and the table of what was run, from the stored predictions."""
    if not any(outcome.computed or outcome.found for outcome in outcomes):
        return
    configs = [outcome.config for outcome in outcomes]
    where = {
        group: sorted({getattr(config, group).name for config in configs})
        for group in ("dataset", "model", "strategy", "regime", "cv")
    }
    print_answer(configs[0].paths.results, where)


@click.command(short_help="Estimate how long a run takes.")
@takes_overrides
def plan(**composing: Any) -> None:
    """Estimate how long a run or sweep takes, from a short measurement on this machine.

    Takes the same arguments as 'prognobench run'. Nothing is trained and nothing is stored.

    \b
    Examples:
      prognobench plan -m experiment=embedded
      prognobench plan -m model=vit,cnn strategy=full,lora train=study
    """
    from prognobench.runs.plan import plan as plan_all

    configs = compose_configs(**composing)
    with console.progress_bars() as progress:
        planned = plan_all(configs, progress, sweep=composing["multirun"])
    console.print_frame(planned.table)
    usual = float(planned.table["seconds_usual"].sum())
    ours, theirs = map(console.describe_duration, (planned.seconds, usual))
    console.say(
        f"{int(planned.table['left'].sum()):,} cells left: about {ours}; cell by cell, as a script "
        f"would train them, {theirs}"
    )
    for assumption in planned.assumptions:
        console.say(f"assumed: {assumption}")


REFRESH = 5.0
"""Seconds between two looks of ``status --watch``."""

SHOWN = 5
"""Running cells and failures that are listed; the others are counted."""


@click.command(short_help="Say how far the runs are, while they are computed.")
@RESULTS
@click.option("--watch", is_flag=True, help="Look again every few seconds, until Ctrl-C.")
@click.option("--runs", is_flag=True, help="Also list the runs that are finished.")
def status(results: Path, watch: bool, runs: bool) -> None:
    """Say how far the runs of RESULTS are, from the stored files alone.

    Works on any machine that sees the folder, whatever computes the cells.

    \b
    Examples:
      prognobench status
      prognobench status /shared/results --watch
    """
    from prognobench.runs.status import read_status

    while True:
        if watch and console.is_watched():
            click.clear()
        _print_status(read_status(results), runs)
        if not watch:
            return
        time.sleep(REFRESH)


def _print_status(now: Status, runs: bool) -> None:
    from prognobench.runs.status import STATES

    table = now.table
    if not runs:
        table = table[
            (table[["running", "failed", "left"]].sum(axis=1) > 0) | (table["remark"] != "")
        ]
    if len(table):
        console.print_frame(table)
    total = sum(now.count(state) for state in STATES)
    parts = [f"{now.count(state):,} {state}" for state in STATES if now.count(state)]
    console.say(f"{total:,} cells: {', '.join(parts) or 'none'}")
    for cell, holder in [*now.running.items()][:SHOWN]:
        since = datetime.fromtimestamp(holder.since).astimezone()
        console.say(f"running: {cell} by process {holder.pid} on {holder.host} since {since:%H:%M}")
    if len(now.running) > SHOWN:
        console.say(f"running: {len(now.running) - SHOWN:,} more")
    for refusal in now.refusals[:SHOWN]:
        console.complain(refusal)
    for failure in now.failures[:SHOWN]:
        console.complain(f"{failure.where}: {failure.message}")
    if len(now.failures) > SHOWN:
        console.say(
            f"{len(now.failures) - SHOWN:,} more cells failed; 'prognobench report' lists all"
        )
    if now.expected_end is not None:
        console.say(f"{now.rate:,.0f} cells an hour; done about {now.expected_end:%Y-%m-%d %H:%M}")
