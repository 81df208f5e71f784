"""Commands that read stored predictions only: score, table, compare, claims, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prognobench.cli import console

if TYPE_CHECKING:
    from prognobench.analysis.tables import Made

FILTERS = ("dataset", "model", "strategy", "regime", "cv")

RESULTS = click.argument(
    "results", type=click.Path(path_type=Path, file_okay=False), default=Path("results")
)


def print_tables(
    results: Path, where: Mapping[str, Sequence[str]] | None = None, **choices: Any
) -> None:
    """Score, make tables, print them on stdout and say where their files are."""
    from prognobench.analysis.tables import make_table

    _print_made(make_table(results, where=where, **choices))


def _print_made(made: Made) -> None:
    from prognobench.analysis import render

    for table in made.tables:
        if console.is_watched():
            console.draw(render.terminal(table))
        else:
            console.print_rows(*render.rows(table), title=table.title, notes=table.notes)
    for file in made.files:
        console.say(f"written: {file}")


def _bands(
    _context: click.Context, _option: click.Parameter, columns: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    """``("age:50:65", "sex")`` as column -> edges of its bands."""
    by = {}
    for column, *edges in (text.split(":") for text in columns):
        try:
            by[column] = tuple(float(edge) for edge in edges)
        except ValueError as error:
            raise click.BadParameter(f"{column}: bands are numbers, as in age:50:65:80") from error
    return by


@click.command()
@RESULTS
@click.option(
    "--scaling",
    type=click.Choice(["none", "temperature", "platt"]),
    default="none",
    help="Calibrate on validation first.",
)
@click.option(
    "--sensitivity",
    type=click.FloatRange(0, 1, min_open=True),
    help="Also decide at the threshold that reaches this on validation.",
)
@click.option(
    "--by",
    multiple=True,
    callback=_bands,
    help="Also score subgroups of a column: sex, or age:50:65:80 for bands.",
)
def score(results: Path, **settings: Any) -> None:
    """Score stored predictions anew: RESULTS/scores.csv and runs.csv.

    \b
    prognobench score
    prognobench score --scaling platt --by sex --by age:50:65:80
    """
    from prognobench.analysis.scoring import Settings
    from prognobench.analysis.scoring import score as score_all

    with console.progress_bars() as progress:
        file = score_all(results, progress, Settings(**settings))
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
@click.option("--efficiency", is_flag=True, help="Score against cost, by model and strategy.")
@_filters
def table(results: Path, efficiency: bool, **options: Any) -> None:
    """Make tables of scores, for the terminal and in RESULTS/tables.

    \b
    prognobench table --metric mcc --dataset mortality
    prognobench table --rows dataset,model --columns strategy --format csv,md,tex
    prognobench table --rows model,strategy --columns k --regime few_shot
    """
    where = _where(options)
    if efficiency:
        from prognobench.analysis.listings import make_efficiency

        _print_made(make_efficiency(results, options["metrics"], where, options["formats"]))
        return
    choices = {name: value for name, value in options.items() if name not in FILTERS}
    print_tables(results, where=where, **choices)


@click.command()
@RESULTS
@click.option("--by", default="strategy", show_default=True, help="The name in which runs differ.")
@click.option("--against", help="Compare all with this one; by default every pair.")
@click.option("--metric", default="mcc", show_default=True)
@click.option("--threshold", default="0.5", show_default=True, help="0.5 or validation.")
@click.option("--level", type=click.Choice(["patient", "image"]), default="patient")
@click.option("--rope", default=0.01, show_default=True, help="Half-width of practical equality.")
@click.option("--ranks", is_flag=True, help="Mean ranks of all choices over all datasets.")
@_filters
def compare(results: Path, ranks: bool, **options: Any) -> None:
    """Compare runs on the same patients: intervals, corrected tests, probabilities.

    \b
    prognobench compare --by strategy --against linear_probe --metric average_precision
    prognobench compare --by model --dataset mortality
    prognobench compare --ranks --metric mcc
    """
    if ranks:
        from prognobench.analysis.listings import make_ranks

        _print_made(make_ranks(results, options["metric"], _where(options)))
        return
    from prognobench.analysis.comparisons import Question
    from prognobench.analysis.comparisons import compare as compare_all
    from prognobench.analysis.listings import comparison_table
    from prognobench.analysis.tables import Made
    from prognobench.files import write_table

    question = Question(**{name: options[name] for name in options if name not in FILTERS})
    compared = compare_all(results, question, _where(options))
    file = results / "tables" / f"comparisons_{question.metric}_by_{question.by}.csv"
    write_table(file, compared)
    _print_made(Made((comparison_table(compared, question.by),), (file,)))


@click.command()
@RESULTS
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="Your own claims.")
def claims(results: Path, file: Path | None) -> None:
    """Check the study's five findings, or your own claims, against the results.

    \b
    prognobench claims
    prognobench claims --file mine.yaml
    """
    from prognobench.analysis.claims import check_claims

    findings = check_claims(results, file)
    rows = [[one.claim.name, one.verdict, one.claim.says, one.reason] for one in findings]
    console.print_rows(["claim", "verdict", "says", "because"], rows)
    evidence = [
        [one.claim.name, e.context, f"{e.value:+.3f}", f"{e.low:+.3f}", f"{e.high:+.3f}", e.folds]
        for one in findings
        for e in one.evidence
    ]
    if evidence:
        columns = ["claim", "evidence", "value", "low", "high", "folds"]
        console.print_rows(columns, evidence)


@click.command()
@RESULTS
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where to write it.")
@click.option("--metric", default="mcc", show_default=True)
@click.option("--figures", is_flag=True, help="Also write figures as SVG, PNG and PDF, with data.")
def report(results: Path, out: Path | None, metric: str, figures: bool) -> None:
    """Write one self-contained HTML page about all results.

    \b
    prognobench report
    prognobench report elsewhere/results --metric average_precision --figures
    """
    from prognobench.analysis.report import report as write_report

    with console.progress_bars() as progress:
        file = write_report(results, out, metric=metric, figures=figures, progress=progress)
    console.say(f"written: {file}")
