"""Arguments and options that several commands share, and their completion in the shell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from prognobench.analysis.statistics.resampling import Resampling
    from prognobench.records import RunConfig

FOLDER = click.Path(path_type=Path)

FILTERS = ("dataset", "model", "strategy", "regime", "k", "cv")

# ------------------------------------------------------------------ commands that compose configs


def complete_override(
    _context: click.Context, _argument: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a group, a setting of a group, or a choice: ``tr``, ``train.ep``, ``train=qu``."""
    from prognobench.cli.config_files import CONFIG_GROUPS, keys_by_section, options, top_keys

    key, equals, start = incomplete.partition("=")
    if equals:
        done, comma, start = start.rpartition(",")
        names = options(key) if key in CONFIG_GROUPS else []
        return [CompletionItem(f"{key}={done}{comma}{n}") for n in names if n.startswith(start)]
    section, dot, _ = key.partition(".")
    known = top_keys()
    if dot:
        known = [f"{section}.{name}" for name in keys_by_section().get(section, ())]
    return [CompletionItem(f"{name}=") for name in known if name.startswith(key)]


CONFIG_DIR = click.option(
    "--config-dir",
    type=FOLDER,
    metavar="FOLDER",
    help="Your own config files, beside the built-in ones: FOLDER/model/mine.yaml is model=mine.",
)


def takes_overrides(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the arguments of :func:`compose_configs`."""
    for decorate in (
        click.argument(
            "overrides", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=complete_override
        ),
        click.option(
            "-m",
            "--multirun",
            is_flag=True,
            help="Run every combination of values: model=vit,cnn or 'seed=range(1,6)'.",
        ),
        CONFIG_DIR,
        click.option(
            "--components",
            type=FOLDER,
            metavar="FOLDER",
            envvar="PROGNOBENCH_COMPONENTS",
            help="Python files with your own datasets, models, strategies, losses or metrics.",
        ),
        click.option(
            "--from",
            "stored",
            metavar="RUN",
            help="Begin with the settings of a stored run, given by its folder or the beginning of "
            "its key; settings beside it replace its own.",
        ),
    ):
        command = decorate(command)
    return command


def compose_configs(
    overrides: Sequence[str],
    multirun: bool,
    config_dir: Path | None,
    components: Path | None,
    stored: str | None = None,
) -> list[RunConfig]:
    """Return what the arguments of a command ask for; nothing is started."""
    from prognobench.cli import console
    from prognobench.cli.compose import compose_present
    from prognobench.cli.repeating import repeat_run
    from prognobench.registry import load_components

    if components is not None:
        load_components(components)
    if stored is not None:
        overrides = repeat_run(stored, overrides)
    composed = compose_present(overrides, multirun=multirun, config_dir=config_dir)
    for name, why in composed.absent.items():
        console.say(f"dataset {name} is absent and left out: {why}")
    return composed.configs


# ------------------------------------------------------------------ commands that read results

RESULTS = click.argument(
    "results",
    metavar="[RESULTS]",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
)


def _bands(
    _context: click.Context, _option: click.Parameter, columns: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    """Return ``("age:50:65", "sex")`` as column -> edges of its bands."""
    by = {}
    for column, *edges in (text.split(":") for text in columns):
        try:
            by[column] = tuple(float(edge) for edge in edges)
        except ValueError as error:
            raise click.BadParameter(
                f"{column}: give bands as numbers, as in age:50:65:80"
            ) from error
    return by


def split(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",")) if value else ()


def _load_components(
    _context: click.Context, _option: click.Parameter, folder: Path | None
) -> None:
    from prognobench.registry import load_components

    if folder is not None:
        load_components(folder)


OWN_METRICS = click.option(
    "--components",
    type=click.Path(path_type=Path),
    envvar="PROGNOBENCH_COMPONENTS",
    callback=_load_components,
    expose_value=False,
    metavar="FOLDER",
    help="Python files with your own metrics.",
)


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add options that keep only some datasets, models and so on."""
    for name in reversed(FILTERS):
        text = f"Only runs with this {name} (or several: a,b)."
        command = click.option(f"--{name}", callback=split, help=text)(command)
    return command


def where_of(options: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: options[name] for name in FILTERS if options[name]}


THRESHOLD = click.option(
    "--threshold",
    default="0.5",
    show_default=True,
    help="The threshold for decisions: a number, 'validation' (largest MCC there), or "
    "'sensitivity 0.9'.",
)
LEVEL = click.option(
    "--level",
    type=click.Choice(["patient", "image"]),
    default="patient",
    show_default=True,
    help="Score patients (the mean of their images) or single images.",
)
ALL = click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Also show runs hidden by newer runs with the same names and settings.",
)
METRIC = click.option(
    "--metric",
    default="mcc",
    show_default=True,
    help="Which score; see 'prognobench list metrics'.",
)
FORMATS = click.option(
    "--format",
    "formats",
    callback=split,
    default="csv,md",
    show_default=True,
    help="Formats of the files in RESULTS/tables: csv, md, tex, html.",
)
BY = click.option(
    "--by",
    multiple=True,
    callback=_bands,
    metavar="COLUMN",
    help="Also score subgroups by a column: sex, or age:50:65:80 for bands.",
)


def resampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the bootstrap over patients."""
    options = (
        click.option(
            "--interval",
            "method",
            type=click.Choice(["percentile", "bca"]),
            default="percentile",
            show_default=True,
            help="The kind of bootstrap interval over patients.",
        ),
        click.option(
            "--stratified/--unstratified",
            default=False,
            show_default=True,
            help="Resample each class by itself, or all patients together.",
        ),
        click.option(
            "--resamples",
            type=click.IntRange(1),
            default=2000,
            show_default=True,
            help="How many bootstrap samples of patients are drawn.",
        ),
        click.option(
            "--resampling-seed",
            "seed",
            default=0,
            show_default=True,
            help="The same seed draws the same patients.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def resampling_of(options: Mapping[str, Any]) -> Resampling:
    """Return how to resample, by the options of :func:`resampling_options`."""
    from prognobench.analysis.statistics.resampling import Resampling

    return Resampling(**{name: options[name] for name in Resampling.__dataclass_fields__})
