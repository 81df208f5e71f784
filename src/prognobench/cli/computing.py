"""Commands that compose configs: run, plan, predict, and list, which says what there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from prognobench.cli import console
from prognobench.cli.reading import print_tables
from prognobench.files import write_table

if TYPE_CHECKING:
    from prognobench.records import RunConfig
    from prognobench.runs.execute import Outcome

FAILED_CELLS = 1
FOLDER = click.Path(path_type=Path)


def _complete(
    _context: click.Context, _argument: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete an override from the config folders."""
    from prognobench.cli.config_files import CONFIG_GROUPS, options
    from prognobench.cli.settings import top_keys

    group, chosen, start = incomplete.partition("=")
    if not chosen:
        return [CompletionItem(f"{key}=") for key in top_keys() if key.startswith(group)]
    done, comma, start = start.rpartition(",")
    names = options(group) if group in CONFIG_GROUPS else []
    prefix = f"{group}={done}{comma}"
    return [CompletionItem(prefix + name) for name in names if name.startswith(start)]


def takes_overrides(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the arguments of :func:`composed`."""
    for decorate in (
        click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=_complete),
        click.option("-m", "--multirun", is_flag=True, help="Sweep over comma-separated values."),
        click.option("--config-dir", type=FOLDER, help="Your own configs, beside the built-in."),
        click.option(
            "--components",
            type=FOLDER,
            envvar="PROGNOBENCH_COMPONENTS",
            help="A folder of Python files with your own datasets, models or strategies.",
        ),
    ):
        command = decorate(command)
    return command


def composed(
    overrides: Sequence[str],
    multirun: bool,
    config_dir: Path | None,
    components: Path | None,
) -> list[RunConfig]:
    from prognobench.cli.compose import compose
    from prognobench.registry import load_components

    if components is not None:
        load_components(components)
    return compose(overrides, multirun=multirun, config_dir=config_dir)


@click.command()
@takes_overrides
@click.option("--no-table", is_flag=True, help="Only compute and store; print no table.")
@click.pass_context
def run(context: click.Context, /, no_table: bool, **composing: Any) -> None:
    """Compute a run, or a sweep with -m; cells that are done are skipped.

    \b
    prognobench run dataset=mortality model=vit lora=true
    prognobench run -m model=vit,cnn strategy=full,lora seed=1,2,3
    prognobench run -m +experiment=embedded
    """
    configs = composed(**composing)
    if not configs:
        return
    from prognobench.runs.execute import run as run_all

    with console.progress_bars() as progress:
        outcomes = run_all(configs, progress)
    _tell(outcomes)
    if not no_table:
        _print_scores(outcomes)
    if any(outcome.failed for outcome in outcomes):
        context.exit(FAILED_CELLS)


def _tell(outcomes: Sequence[Outcome]) -> None:
    """Say on stderr what became of each run."""
    for outcome in outcomes:
        config = outcome.config
        name = " / ".join((config.dataset.name, config.model.name, config.strategy.name))
        cells = {
            "computed": len(outcome.computed),
            "done before": len(outcome.found),
            "failed": len(outcome.failed),
        }
        counts = ", ".join(f"{number:,} {what}" for what, number in cells.items() if number)
        reason = outcome.not_applicable
        console.say(f"{name}: {f'not applicable: {reason}' if reason else f'cells {counts}'}")
        console.say(f"    {outcome.folder.path}")
        for cell, message in outcome.failed.items():
            where = name if f"cell {cell}" in message else f"{name}, cell {cell}"
            console.complain(f"{where}: {message}")


def _print_scores(outcomes: Sequence[Outcome]) -> None:
    """Print the table of what was run, from the stored predictions."""
    if not any(outcome.computed or outcome.found for outcome in outcomes):
        return
    configs = [outcome.config for outcome in outcomes]
    where = {
        group: sorted({getattr(config, group).name for config in configs})
        for group in ("dataset", "model", "strategy", "regime", "cv")
    }
    print_tables(configs[0].paths.results, where=where)


@click.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path, exists=True))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--cell", default="r0-f0", show_default=True, help="Which of the run's models.")
@click.option("--weights", help="Where the backbone's weights lie now.")
def export(run_folder: Path, file: Path, cell: str, weights: str | None) -> None:
    """Write one of a run's saved models as plain weights, its adapters merged into them.

    \b
    prognobench export results/runs/mortality/vit/lora/KEY merged.safetensors
    """
    from prognobench.runs.predict import export_merged

    export_merged(run_folder, cell, file, weights)
    console.say(f"written: {file}")


@click.command("list")
@click.argument("what", required=False)
@click.option("--config-dir", type=FOLDER, help="Your own configs, beside the built-in.")
def list_(what: str | None, config_dir: Path | None) -> None:
    """List datasets, models, strategies, losses, metrics, experiments and the other choices.

    \b
    prognobench list
    prognobench list models
    """
    from prognobench.cli.listing import listing, overview

    if what is None:
        console.print_rows(["group", "choices"], overview(config_dir))
    else:
        console.print_rows(*listing(what, config_dir))


@click.command()
@takes_overrides
def plan(**composing: Any) -> None:
    """Say what a run or sweep would do and cost, from a short measurement; nothing is stored.

    \b
    prognobench plan -m +experiment=embedded
    prognobench plan -m model=vit,cnn strategy=full,lora train=study
    """
    configs = composed(**composing)
    from prognobench.runs.plan import plan as plan_all

    with console.progress_bars() as progress:
        planned = plan_all(configs, progress)
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


@click.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path, exists=True))
@click.argument("images", type=click.Path(path_type=Path, exists=True))
@click.option("--cell", "cells", multiple=True, help="Which of the run's models; default: all.")
@click.option("--images-folder", "folder", type=FOLDER, help="What a table's names start from.")
@click.option("--weights", help="Where the backbone's weights lie now.")
@click.option("--device", default="auto", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A CSV to write.")
def predict(run_folder: Path, images: Path, out: Path | None, device: str, **options: Any) -> None:
    """Apply a run's saved models to new images: the mean over the folds' models.

    IMAGES is an image, a folder, or a table with a column image and, where the strategy reads
    covariates, these.

    \b
    prognobench run dataset=mortality model=vit lora=true train.save=best
    prognobench predict results/runs/mortality/vit/lora/KEY images/ --out risk.csv
    """
    from prognobench.config import default_cache
    from prognobench.runs.predict import predict_images
    from prognobench.training.hardware import resolve_device

    with console.progress_bars() as progress:
        table = predict_images(
            run_folder,
            images,
            cache=default_cache(),
            device=resolve_device(device),
            progress=progress,
            **options,
        )
    if out is None:
        console.print_frame(table)
    else:
        write_table(out, table)
        console.say(f"written: {out}")
