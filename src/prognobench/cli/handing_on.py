"""Commands for a results folder as a whole: results pack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from prognobench.cli import console


@click.group("results", short_help="Hand on a results folder.")
def results_() -> None:
    """Look after a results folder as a whole."""


@results_.command(short_help="Write an archive that can be handed on.")
@click.argument("results", type=click.Path(path_type=Path, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The key of the pseudonyms; made where it is missing. Default: in your settings folder.",
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

    from prognobench.analysis.packing import Pseudonyms
    from prognobench.analysis.packing import pack as pack_all

    key = key or platformdirs.user_config_path("prognobench") / "pseudonyms.key"
    with console.progress_bars() as progress:
        file = pack_all(results, out, Pseudonyms.of(key), keep, progress)
    console.say(f"written: {file}")
    console.say(f"the key of its pseudonyms, which stays with you: {key}")
