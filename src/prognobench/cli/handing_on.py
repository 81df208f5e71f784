"""Commands for a results folder as a whole: results pack, merge, check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from prognobench.cli import console


@click.group("results", short_help="Check, merge or hand on a results folder.")
def results_() -> None:
    """Look after a results folder as a whole."""


@results_.command(short_help="Write an archive that can be handed on.")
@click.argument("results", type=click.Path(path_type=Path, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The key of the pseudonyms, created if it is missing. Default: in your settings folder.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="COLUMN",
    help="Also pack this covariate's values (age, sex); all others are left out.",
)
def pack(results: Path, out: Path, key: Path | None, keep: Sequence[str]) -> None:
    """Write a zip archive OUT in which patients, images and centres are pseudonyms.

    The key of the pseudonyms stays with you: the same key gives the same pseudonyms again. Paths,
    warnings, reasons, covariates that you do not keep, and saved models are left out.

    \b
    Examples:
      prognobench results pack results handed-on.zip
      prognobench results pack results handed-on.zip --keep age --keep sex
    """
    import platformdirs

    from prognobench.analysis.packing import pack as pack_all
    from prognobench.files import Pseudonyms

    key = key or platformdirs.user_config_path("prognobench") / "pseudonyms.key"
    with console.progress_bars() as progress:
        file = pack_all(results, out, Pseudonyms.of(key), keep, progress)
    console.say(f"written: {file}")
    console.say(f"the key of its pseudonyms, which stays with you: {key}")


@results_.command(short_help="Make one results folder of several.")
@click.argument(
    "sources",
    metavar="RESULTS...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
)
@click.option(
    "--into",
    required=True,
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False),
    help="A new folder, or a results folder that gets what it lacks.",
)
def merge(sources: Sequence[Path], into: Path) -> None:
    """Copy the runs of several RESULTS into one folder, such as two halves of a sweep.

    A cell that several folders have must have the same predictions in all; otherwise every conflict
    is listed and nothing is copied.

    \b
    Examples:
      prognobench results merge mine theirs --into results
      prognobench results merge theirs --into results
    """
    from prognobench.analysis.merging import merge as merge_all

    with console.progress_bars() as progress:
        merged = merge_all(sources, into, progress)
    console.say(
        f"{into}: {merged.runs:,} new runs, {merged.cells:,} new cells; {merged.equal:,} cells are "
        "equal in several folders"
    )


DAMAGED = 1


@results_.command(short_help="Compare stored files with their checksums.")
@click.argument("results", type=click.Path(path_type=Path, file_okay=False), default="results")
@click.option(
    "--repair",
    is_flag=True,
    help="Move what is damaged, torn or foreign into RESULTS/set-aside; nothing is deleted.",
)
@click.pass_context
def check(context: click.Context, results: Path, repair: bool) -> None:
    """List the stored files of RESULTS that are damaged, torn, foreign or stale.

    Nothing is changed without --repair, after which the same 'prognobench run' computes the cells
    that were damaged again. The exit code is 1 if a file is damaged.

    \b
    Examples:
      prognobench results check
      prognobench results check elsewhere/results --repair
    """
    from prognobench.analysis.checking import check_results, repair_results

    found = check_results(results)
    if repair:
        repaired = repair_results(results)
        for before, after in repaired.moved:
            console.say(f"moved: {before} -> {after}")
        for place in repaired.in_use:
            console.say(f"in use: {place}: another process computes it; repair it when that ends")
        found = check_results(results)
    if not found:
        console.say(f"{results}: all stored files are as they were written")
        return
    console.print_rows(("run", "state", "what to do"), found)
    if any(state == "damaged" for _, state, _ in found):
        context.exit(DAMAGED)
