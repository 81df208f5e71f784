"""Commands that read stored predictions only: score, table, compare, claims, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prognobench.cli import console
from prognobench.cli.options import (
    BY,
    FORMATS,
    LEVEL,
    METRIC,
    OWN_METRICS,
    RESULTS,
    THRESHOLD,
    filter_options,
    resampling_of,
    resampling_options,
    split,
    where_of,
)

if TYPE_CHECKING:
    from prognobench.analysis.tables import Made


def print_tables(
    results: Path, where: Mapping[str, Sequence[str]] | None = None, **choices: Any
) -> None:
    """Score, make tables, print them on stdout and say where their files are."""
    from prognobench.analysis.statistics.score_tables import make_table

    _print_made(make_table(results, where=where, **choices))


def _print_made(made: Made) -> None:
    from prognobench.analysis.tables import plain_rows, terminal

    for table in made.tables:
        if console.is_watched():
            console.draw(terminal(table))
        else:
            console.print_rows(*plain_rows(table), title=table.title, notes=table.notes)
    for file in made.files:
        console.say(f"written: {file}")


@click.command()
@RESULTS
@click.option(
    "--scaling",
    type=click.Choice(["none", "temperature", "platt"]),
    default="none",
    show_default=True,
    help="Calibrate on validation first.",
)
@click.option(
    "--sensitivity",
    "sensitivities",
    type=click.FloatRange(0, 1, min_open=True),
    multiple=True,
    help="Also decide at the threshold that reaches this on validation.",
)
@click.option(
    "--threshold",
    "thresholds",
    type=click.FloatRange(0, 1),
    multiple=True,
    help="Also decide at this threshold.",
)
@BY
@OWN_METRICS
def score(
    results: Path, sensitivities: Sequence[float], thresholds: Sequence[float], **settings: Any
) -> None:
    """Score stored predictions anew: RESULTS/scores.csv and runs.csv.

    \b
    prognobench score
    prognobench score --scaling platt --by sex --by age:50:65:80
    prognobench score --sensitivity 0.9 --threshold 0.2
    """
    from prognobench.analysis.decisions import HALF, SENSITIVITY, VALIDATION
    from prognobench.analysis.scores import Settings
    from prognobench.analysis.scores import score as score_all

    wanted = [f"{SENSITIVITY} {value:g}" for value in sensitivities]
    rules = dict.fromkeys([HALF, VALIDATION, *wanted, *(f"{value:g}" for value in thresholds)])
    with console.progress_bars() as progress:
        file = score_all(results, progress, Settings(rules=tuple(rules), **settings))
    console.say(f"written: {file}")


@click.command()
@RESULTS
@click.option(
    "--rows", callback=split, default="model", show_default=True, help="Dimensions (several)."
)
@click.option("--columns", default="strategy", show_default=True, help="One dimension.")
@click.option(
    "--metric",
    "metrics",
    callback=split,
    default="mcc,average_precision",
    show_default=True,
    help="See 'prognobench list metrics'.",
)
@THRESHOLD
@LEVEL
@FORMATS
@click.option("--efficiency", is_flag=True, help="Score against cost, by model and strategy.")
@click.option(
    "--intervals", is_flag=True, help="Pooled scores with intervals over patients, by run."
)
@BY
@resampling_options
@filter_options
@OWN_METRICS
def table(results: Path, efficiency: bool, intervals: bool, **options: Any) -> None:
    """Make tables of scores, for the terminal and in RESULTS/tables.

    Dimensions: dataset, model, strategy, regime, k, cv, metric, threshold, level.

    \b
    prognobench table --metric mcc --dataset mortality
    prognobench table --rows dataset,model --columns strategy --format csv,md,tex
    prognobench table --rows model,strategy --columns k --regime few_shot
    prognobench table --efficiency
    prognobench table --intervals --interval bca --by sex --by age:50:65:80
    """
    where = where_of(options)
    if intervals or options["by"]:
        from prognobench.analysis.statistics.intervals import Wanted, make_intervals

        chosen = {name: options[name] for name in ("metrics", "threshold", "level", "by")}
        wanted = Wanted(where=where, resampling=resampling_of(options), **chosen)
        _print_made(make_intervals(results, wanted, options["formats"]))
        return
    if efficiency:
        from prognobench.analysis.statistics.costs import make_costs

        _print_made(make_costs(results, options["metrics"], where, options["formats"]))
        return
    names = ("rows", "columns", "metrics", "threshold", "level", "formats")
    print_tables(results, where=where, **{name: options[name] for name in names})


@click.command()
@RESULTS
@click.option("--by", default="strategy", show_default=True, help="The name in which runs differ.")
@click.option("--against", help="Compare all with this one; by default every pair.")
@METRIC
@THRESHOLD
@LEVEL
@FORMATS
@click.option("--rope", default=0.01, show_default=True, help="Half-width of practical equality.")
@resampling_options
@click.option("--ranks", is_flag=True, help="Mean ranks of all choices over all datasets.")
@click.option(
    "--posthoc",
    type=click.Choice(["nemenyi", "conover"]),
    default="nemenyi",
    show_default=True,
    help="Test of the pairs of ranks.",
)
@filter_options
@OWN_METRICS
def compare(results: Path, ranks: bool, posthoc: Any, **options: Any) -> None:
    """Compare runs on the same patients: intervals, corrected tests, probabilities.

    \b
    prognobench compare --by strategy --against linear_probe --metric average_precision
    prognobench compare --by model --dataset mortality --interval bca --rope 0.02
    prognobench compare --ranks --metric mcc --posthoc conover
    """
    where, metric, formats = where_of(options), options["metric"], options["formats"]
    if ranks:
        from prognobench.analysis.statistics.ranks import make_ranks

        _print_made(make_ranks(results, metric, where, posthoc, formats))
        return
    from prognobench.analysis.statistics.comparisons import Question, make_comparison

    names = ("by", "against", "metric", "threshold", "level", "rope")
    question = Question(
        resampling=resampling_of(options), **{name: options[name] for name in names}
    )
    _print_made(make_comparison(results, question, where, formats))


@click.command()
@RESULTS
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="Your own claims.")
@FORMATS
@OWN_METRICS
def claims(results: Path, file: Path | None, formats: Sequence[str]) -> None:
    """Check the study's five findings, or your own claims, against the results.

    \b
    prognobench claims
    prognobench claims --file mine.yaml
    """
    from prognobench.analysis.statistics.claims import make_claims

    _print_made(make_claims(results, file, formats))


@click.command()
@RESULTS
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where to write it.")
@click.option(
    "--metric", default="mcc", show_default=True, help="What maps, curves and comparisons show."
)
@click.option("--figures", is_flag=True, help="Also write figures as SVG, PNG and PDF, with data.")
@OWN_METRICS
def report(results: Path, out: Path | None, metric: str, figures: bool) -> None:
    """Write one self-contained HTML page about all results.

    \b
    prognobench report
    prognobench report elsewhere/results --metric average_precision --figures
    """
    from prognobench.analysis.report.page import write_report

    with console.progress_bars() as progress:
        file = write_report(results, out, metric=metric, figures=figures, progress=progress)
    console.say(f"written: {file}")
