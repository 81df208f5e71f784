"""The arguments of every command that composes configs, and their completion in the shell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from prognobench.records import RunConfig

FOLDER = click.Path(path_type=Path)


def complete_override(
    _context: click.Context, _argument: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a group, a setting of a group, or a choice: ``tr``, ``train.ep``, ``train=qu``."""
    from prognobench.cli.config_files import CONFIG_GROUPS, options
    from prognobench.cli.settings import keys_by_section, top_keys

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
    ):
        command = decorate(command)
    return command


def compose_configs(
    overrides: Sequence[str], multirun: bool, config_dir: Path | None, components: Path | None
) -> list[RunConfig]:
    """Return what the arguments of a command ask for; nothing is started."""
    from prognobench.cli.compose import compose
    from prognobench.registry import load_components

    if components is not None:
        load_components(components)
    return compose(overrides, multirun=multirun, config_dir=config_dir)
