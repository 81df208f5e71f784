"""Commands that compute: run, and plan, which says what a run would cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from prognobench.cli import console
from prognobench.cli.ending import FAILED_CELLS
from prognobench.cli.options import compose_configs, takes_overrides
from prognobench.cli.results import print_answer

if TYPE_CHECKING:
    from prognobench.runs.execute import Outcome


@click.command(short_help="Train and evaluate models, fold by fold.")
@takes_overrides
@click.option("--no-table", is_flag=True, help="Only compute and store; print no table.")
@click.option(
    "--no-wait",
    is_flag=True,
    help="End when no cell is free, without waiting for those that other processes compute.",
)
@click.pass_context
def run(context: click.Context, /, no_table: bool, no_wait: bool, **composing: Any) -> None:
    """Train and evaluate a model on a dataset, fold by fold, and print its table.

    With -m every combination of the given values is run, and the baseline 'metadata' where the
    cohort has covariates (baselines=false leaves it out). Cells that are done already are skipped,
    so the same command goes on where it stopped. Several processes can share the work: start the
    command again in another terminal or on another machine with the same results folder.

    --from repeats a stored run. Its done cells are skipped, so give another results folder to
    compute all of it again.

    \b
    Examples:
      prognobench run dataset=mortality model=vit lora=true
      prognobench run -m model=vit,cnn strategy=full,lora seed=1,2,3
      prognobench run -m experiment=embedded
      prognobench run train.epochs=30 strategy=lora strategy.rank=16
      prognobench run --from 3f2a9c paths.results=again
    """
    from prognobench.runs.execute import run as run_all

    configs = compose_configs(**composing)
    with console.progress_bars() as progress:
        outcomes = run_all(configs, progress, sweep=composing["multirun"], wait=not no_wait)
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
    console.say(
        f"{int(planned.table['left'].sum()):,} cells left: about {_duration(planned.seconds)}; "
        f"cell by cell, as a script would train them, {_duration(usual)}"
    )
    for assumption in planned.assumptions:
        console.say(f"assumed: {assumption}")


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} seconds"
