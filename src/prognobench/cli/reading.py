"""Commands that read stored predictions only: score, table, compare, claims, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from prognobench.cli import console

FILTERS = ("dataset", "model", "strategy", "regime", "cv")

RESULTS = click.argument(
    "results", type=click.Path(path_type=Path, file_okay=False), default=Path("results")
)


def print_tables(
    results: Path, where: Mapping[str, Sequence[str]] | None = None, **choices: Any
) -> None:
    """Score, make tables, print them on stdout and say where their files are."""
    from prognobench import render
    from prognobench.tables import make_table

    made = make_table(results, where=where, **choices)
    for table in made.tables:
        if console.is_watched():
            console.draw(render.terminal(table))
        else:
            console.print_rows(*render.rows(table), title=table.title, notes=table.notes)
    for file in made.files:
        console.say(f"written: {file}")


@click.command()
@RESULTS
def score(results: Path) -> None:
    """Score stored predictions anew: RESULTS/scores.csv and runs.csv.

    \b
    prognobench score
    prognobench score elsewhere/results
    """
    from prognobench.scoring import score as score_all

    with console.progress_bars() as progress:
        file = score_all(results, progress)
    console.say(f"written: {file}")


def _split(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",")) if value else ()


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that keep only some datasets, models and so on."""
    for name in reversed(FILTERS):
        text = f"Only these (comma-separated) of the dimension {name}."
        command = click.option(f"--{name}", callback=_split, help=text)(command)
    return command


def _where(options: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: options[name] for name in FILTERS if options[name]}


@click.command()
@RESULTS
@click.option("--rows", callback=_split, default="model", show_default=True)
@click.option("--columns", default="strategy", show_default=True)
@click.option("--metric", "metrics", callback=_split, default="mcc,average_precision")
@click.option("--threshold", default="0.5", show_default=True, help="0.5 or validation.")
@click.option("--level", type=click.Choice(["patient", "image"]), default="patient")
@click.option("--format", "formats", callback=_split, default="csv,md", help="csv, md, tex, html.")
@_filters
def table(results: Path, **options: Any) -> None:
    """Make tables of scores, for the terminal and in RESULTS/tables.

    \b
    prognobench table --metric mcc --dataset mortality
    prognobench table --rows dataset,model --columns strategy --format csv,md,tex
    prognobench table --rows model,strategy --columns k --regime few_shot
    """
    where = _where(options)
    choices = {name: value for name, value in options.items() if name not in FILTERS}
    print_tables(results, where=where, **choices)
