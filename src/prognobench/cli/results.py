"""Commands that read stored predictions only: score, table, compare, claims, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prognobench.cli import console
from prognobench.cli.options import (
    ALL,
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
    from prognobench.analysis.summaries.verdict import Verdict
    from prognobench.analysis.tables import Made


def print_tables(
    results: Path, where: Mapping[str, Sequence[str]] | None = None, **choices: Any
) -> None:
    """Score, make tables, print them on stdout and say where their files are."""
    from prognobench.analysis.summaries.score_tables import make_table

    _print_made(make_table(results, where=where, **choices))


def print_answer(results: Path, where: Mapping[str, Sequence[str]]) -> None:
    """Print the verdict on each data set, then the tables of scores."""
    from prognobench.analysis.scores import read_scores
    from prognobench.analysis.summaries.verdict import reach_verdicts

    scored = read_scores(results)
    _print_verdicts(reach_verdicts(scored, where=where))
    print_tables(results, where, scored=scored)


def _print_verdicts(verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        console.print_text(*verdict.lines)


def _print_made(made: Made) -> None:
    from prognobench.analysis.tables import plain_rows, terminal

    for table in made.tables:
        if console.is_watched():
            console.draw(terminal(table, console.measure_width()))
        else:
            console.print_rows(*plain_rows(table), title=table.title, notes=table.notes)
    for file in made.files:
        console.say(f"written: {file}")


@click.command(short_help="Score the stored predictions again.")
@RESULTS
@click.option(
    "--scaling",
    type=click.Choice(["none", "temperature", "platt"]),
    default="none",
    show_default=True,
    help="Calibrate the scores first, on each fold's validation part.",
)
@click.option(
    "--sensitivity",
    "sensitivities",
    type=click.FloatRange(0, 1, min_open=True),
    multiple=True,
    metavar="SHARE",
    help="Also decide at the threshold that reaches this sensitivity on the validation part.",
)
@click.option(
    "--threshold",
    "thresholds",
    type=click.FloatRange(0, 1),
    multiple=True,
    metavar="NUMBER",
    help="Also decide at this threshold.",
)
@BY
@OWN_METRICS
def score(
    results: Path, sensitivities: Sequence[float], thresholds: Sequence[float], **settings: Any
) -> None:
    """Score the stored predictions again, and write RESULTS/scores.csv and RESULTS/runs.csv.

    The other commands score by themselves. Use this one for other thresholds, calibration or
    subgroups.

    \b
    Examples:
      prognobench score
      prognobench score --scaling platt --by sex --by age:50:65:80
      prognobench score --sensitivity 0.9 --threshold 0.2
    """
    from prognobench.analysis.scores import Settings
    from prognobench.analysis.scores import score as score_all
    from prognobench.analysis.thresholds import HALF, SENSITIVITY, VALIDATION

    wanted = [f"{SENSITIVITY} {value:g}" for value in sensitivities]
    rules = dict.fromkeys([HALF, VALIDATION, *wanted, *(f"{value:g}" for value in thresholds)])
    with console.progress_bars() as progress:
        file = score_all(results, progress, Settings(rules=tuple(rules), **settings))
    console.say(f"written: {file}")


@click.command(short_help="Print tables of scores.")
@RESULTS
@click.option(
    "--rows",
    callback=split,
    default="model",
    show_default=True,
    help="What rows are (one or more).",
)
@click.option("--columns", default="strategy", show_default=True, help="What columns are (one).")
@click.option(
    "--metric",
    "metrics",
    callback=split,
    default="mcc,average_precision",
    show_default=True,
    help="Which scores (one or more); 'prognobench list metrics' explains them.",
)
@THRESHOLD
@LEVEL
@FORMATS
@click.option(
    "--efficiency", is_flag=True, help="Show scores beside what they cost, by model and strategy."
)
@click.option(
    "--intervals", is_flag=True, help="Show each run's pooled scores with intervals over patients."
)
@BY
@resampling_options
@filter_options
@ALL
@OWN_METRICS
def table(results: Path, efficiency: bool, intervals: bool, **options: Any) -> None:
    """Print tables of scores, and write them to RESULTS/tables.

    Rows and columns can be: dataset, model, strategy, regime, k, cv, metric, threshold, level.

    \b
    Examples:
      prognobench table --metric mcc --dataset mortality
      prognobench table --rows dataset,model --columns strategy --format csv,md,tex
      prognobench table --rows model,strategy --columns k --regime few_shot
      prognobench table --efficiency
      prognobench table --intervals --interval bca --by sex --by age:50:65:80
    """
    where, everything = where_of(options), options["everything"]
    if intervals or options["by"]:
        from prognobench.analysis.summaries.intervals import Wanted, make_intervals

        chosen = {
            name: options[name] for name in ("metrics", "threshold", "level", "by", "everything")
        }
        wanted = Wanted(where=where, resampling=resampling_of(options), **chosen)
        _print_made(make_intervals(results, wanted, options["formats"]))
        return
    if efficiency:
        from prognobench.analysis.summaries.costs import make_costs

        _print_made(make_costs(results, options["metrics"], where, options["formats"], everything))
        return
    names = ("rows", "columns", "metrics", "threshold", "level", "formats", "everything")
    print_tables(results, where=where, **{name: options[name] for name in names})


@click.command(short_help="Compare runs on the same patients.")
@RESULTS
@click.option(
    "--by", default="strategy", show_default=True, help="What the compared runs differ in."
)
@click.option("--against", help="Compare all others with this one; default: every pair.")
@METRIC
@THRESHOLD
@LEVEL
@FORMATS
@click.option("--rope", default=0.01, show_default=True, help="Smaller differences count as equal.")
@resampling_options
@click.option("--ranks", is_flag=True, help="Show mean ranks over datasets instead.")
@click.option(
    "--posthoc",
    type=click.Choice(["nemenyi", "conover"]),
    default="nemenyi",
    show_default=True,
    help="The test of pairs of ranks.",
)
@filter_options
@ALL
@OWN_METRICS
def compare(results: Path, ranks: bool, posthoc: Any, **options: Any) -> None:
    """Say which choice is best and how sure that is, then compare pairs on the same patients.

    Pairs are shown with differences, intervals, corrected tests and probabilities. Every choice is
    also compared with the baselines, which see no image.

    \b
    Examples:
      prognobench compare --by strategy --against linear_probe --metric average_precision
      prognobench compare --by model --dataset mortality --interval bca --rope 0.02
      prognobench compare --ranks --metric mcc --posthoc conover
    """
    where, metric, formats = where_of(options), options["metric"], options["formats"]
    if ranks:
        from prognobench.analysis.summaries.ranks import make_ranks

        _print_made(
            make_ranks(
                results,
                metric,
                where,
                posthoc=posthoc,
                formats=formats,
                everything=options["everything"],
            )
        )
        return
    from prognobench.analysis.scores import read_scores
    from prognobench.analysis.summaries.comparer import Question
    from prognobench.analysis.summaries.comparisons import make_comparison
    from prognobench.analysis.summaries.verdict import reach_verdicts

    names = ("by", "against", "metric", "threshold", "level", "rope", "everything")
    question = Question(
        resampling=resampling_of(options), **{name: options[name] for name in names}
    )
    scored = read_scores(results)
    made = make_comparison(results, question, where, formats, scored)
    choices = {name: options[name] for name in ("metric", "threshold", "level", "everything")}
    _print_verdicts(reach_verdicts(scored, where=where, **choices))
    _print_made(made)


@click.command(short_help="Check claims against the results.")
@RESULTS
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Your own claims, in the form of configs/claims/study.yaml.",
)
@FORMATS
@OWN_METRICS
def claims(results: Path, file: Path | None, formats: Sequence[str]) -> None:
    """Say which of the study's findings, or of your own claims, your results support.

    \b
    Examples:
      prognobench claims
      prognobench claims --file mine.yaml
    """
    from prognobench.analysis.claims.tables import make_claims

    _print_made(make_claims(results, file, formats))


COMMANDS = "commands.sh"
"""The complete command of each run, beside the report, which names no file of its user's."""


@click.command(short_help="Write one HTML page about all results.")
@RESULTS
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to write the page; default: RESULTS/report.html.",
)
@click.option(
    "--metric", default="mcc", show_default=True, help="The metric of maps, curves and comparisons."
)
@click.option(
    "--figures", is_flag=True, help="Also write the figures as SVG, PNG and PDF, with data."
)
@click.option(
    "--claims",
    metavar="FILE",
    help="Also check these claims; 'study' checks the study's findings also on other data than the "
    "study's.",
)
@click.option(
    "--appendix",
    is_flag=True,
    help="Also write RESULTS/appendix.md and .html: TRIPOD+AI and CLAIM 2024, filled with what is "
    "known, with blanks for the authors.",
)
@ALL
@OWN_METRICS
def report(results: Path, out: Path | None, appendix: bool, **options: Any) -> None:
    """Write one HTML page about all results, which needs no network and no other file.

    \b
    Examples:
      prognobench report
      prognobench report elsewhere/results --metric average_precision --figures
      prognobench report --appendix
    """
    from prognobench.analysis.report.page import write_report
    from prognobench.analysis.report.sections import list_commands
    from prognobench.analysis.scores import read_scores
    from prognobench.analysis.shown import show_runs
    from prognobench.cli.repeating import write_command, write_public_command
    from prognobench.files import write_text

    with console.progress_bars() as progress:
        scored = read_scores(results)
        options |= {"write_command": write_public_command, "progress": progress}
        file = write_report(results, out, scored=scored, **options)
    console.say(f"written: {file}")
    shown = show_runs(scored, everything=options["everything"])
    commands = "\n".join(list_commands(shown, write_command))
    write_text(results / COMMANDS, f"{commands}\n")
    console.say(f"written: {results / COMMANDS} (names your files; not for handing on)")
    if appendix:
        from prognobench.analysis.report.appendix import write_appendix

        for file in write_appendix(results, shown, options["metric"]):
            console.say(f"written: {file}")
