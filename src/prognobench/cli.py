"""The command line: the only module that knows click. Each command is one call, then printing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from prognobench import __version__, console
from prognobench.errors import PrognobenchError

EXIT_FAILED_CELLS, EXIT_WRONG = 1, 2

HELP = """
Which backbone, adapted how, predicts a patient's outcome from a medical image, and how sure is
that?

\b
  prognobench run dataset=mortality model=vit lora=true
  prognobench run -m model=vit,cnn strategy=full,linear_probe,lora,bitfit
  prognobench run dataset=table dataset.table=cohort.csv dataset.images=films \\
      dataset.label=outcome dataset.positive=dead
  prognobench table --metric mcc

Choices and settings are given as key=value: group=name chooses ('prognobench list' shows what there
is), group.key=value sets. Results go to ./results, or paths.results=FOLDER. Nothing is sent
anywhere.

Exit codes: 0 all done, 1 some cells failed (the others are stored), 2 the command or config is
wrong (nothing was started).

Completion: eval "$(_PROGNOBENCH_COMPLETE=bash_source prognobench)" (or zsh_source, fish_source).
"""


class _Overrides(click.ParamType):
    """Hydra overrides, completed from the config folders."""

    name = "key=value"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from prognobench.compose import CONFIG_GROUPS, options

        group, chosen, start = incomplete.partition("=")
        if not chosen:
            keys = (*CONFIG_GROUPS, "lora", "seed", "device")
            return [CompletionItem(f"{key}=") for key in keys if key.startswith(group)]
        done, comma, start = start.rpartition(",")
        names = options(group) if group in CONFIG_GROUPS else []
        prefix = f"{group}={done}{comma}"
        return [CompletionItem(prefix + name) for name in names if name.startswith(start)]


def _takes_overrides(command: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        click.argument("overrides", nargs=-1, type=_Overrides()),
        click.option("-m", "--multirun", is_flag=True, help="Sweep over comma-separated values."),
        click.option("--config-dir", type=click.Path(path_type=Path), help="Your own configs."),
        click.option(
            "--components",
            type=click.Path(path_type=Path),
            envvar="PROGNOBENCH_COMPONENTS",
            help="A folder of Python files with your own datasets, models or strategies.",
        ),
    ):
        command = decorate(command)
    return command


def _results_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    folder = click.Path(path_type=Path, file_okay=False)
    return click.argument("results", type=folder, default=Path("results"))(command)


class _Group(click.Group):
    """Commands in the order of work."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_Group, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    pass


def _configs(
    overrides: Sequence[str],
    multirun: bool,
    config_dir: Path | None,
    components: Path | None,
    run_job: Callable[[Any], None] | None = None,
) -> list[Any]:
    from prognobench.compose import compose
    from prognobench.registry import load_components

    if components is not None:
        load_components(components)
    return compose(overrides, multirun=multirun, config_dir=config_dir, run_job=run_job)


@cli.command()
@_takes_overrides
@click.option("--no-table", is_flag=True, help="Only compute and store; print no table.")
def run(no_table: bool, **composing: Any) -> None:
    """Compute a run, or a sweep with -m; cells that are done are skipped.

    \b
    prognobench run dataset=mortality model=vit lora=true
    prognobench run -m model=vit,cnn strategy=full,lora seed=1,2,3
    prognobench run -m +experiment=embedded
    """
    from prognobench.runner import run as run_all

    configs = _configs(**composing, run_job=lambda config: _finish(run_all([config])))
    if not configs:
        return
    with console.progress_bars() as progress:
        outcomes = run_all(configs, progress)
    failed = _finish(outcomes)
    if not no_table and any(outcome.computed or outcome.found for outcome in outcomes):
        _print_scores(outcomes)
    if failed:
        sys.exit(EXIT_FAILED_CELLS)


def _finish(outcomes: Sequence[Any]) -> bool:
    """Say on stderr what was done; return whether any cell failed."""
    for outcome in outcomes:
        config = outcome.config
        name = " / ".join((config.dataset.name, config.model.name, config.strategy.name))
        counts = {"computed": len(outcome.computed), "found done": len(outcome.found)}
        text = console.join_counts({**counts, "FAILED": len(outcome.failed)}) or "no cell done"
        if outcome.not_applicable:
            text = f"not applicable: {outcome.not_applicable}"
        console.say(f"{name}: {text} ({outcome.folder.path})")
        for cell, message in outcome.failed.items():
            console.complain(f"cell {cell}: {message}")
    return any(outcome.failed for outcome in outcomes)


def _print_scores(outcomes: Sequence[Any]) -> None:
    raise NotImplementedError


@cli.command("list")
@click.argument("what", required=False)
@click.option("--config-dir", type=click.Path(path_type=Path), help="Your own configs.")
def list_(what: str | None, config_dir: Path | None) -> None:
    """List datasets, models, strategies, losses, metrics, experiments and the other choices."""
    from prognobench.listing import listing, overview

    if what is None:
        console.print_rows(["group", "choices"], overview(config_dir))
    else:
        columns, rows = listing(what, config_dir)
        console.print_rows(columns, rows)


def main() -> None:
    """Run the command line; errors for the user end without a traceback."""
    try:
        cli.main(standalone_mode=False)
    except PrognobenchError as error:
        console.complain(str(error))
        sys.exit(EXIT_WRONG)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_WRONG)
    except (click.Abort, KeyboardInterrupt):
        console.say("interrupted; what was finished is stored, the same command goes on from there")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED_CELLS)
