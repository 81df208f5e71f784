"""Commands that say what there is: list.

They read the config files alone, so that they answer at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from prognobench.cli import console
from prognobench.cli.options import CONFIG_DIR
from prognobench.errors import ConfigError

# The registry and the config files are imported where they are read: no other command's --help
# should wait for them.


@click.command("list", short_help="List what can be chosen.")
@click.argument("what", required=False)
@CONFIG_DIR
def list_(what: str | None, config_dir: Path | None) -> None:
    """List what can be chosen: datasets, models, strategies, losses, metrics, experiments ...

    Without WHAT every group is listed by its names; with it, one group with a sentence for each.

    \b
    Examples:
      prognobench list
      prognobench list models
      prognobench list metrics
    """
    if what is None:
        console.print_rows(["group", "choices"], overview(config_dir))
    else:
        console.print_rows(*listing(what, config_dir))


def overview(config_dir: Path | None = None) -> list[tuple[str, str]]:
    """Return every config group with its choices."""
    from prognobench.cli.config_files import CONFIG_GROUPS, options

    rows = [(group, ", ".join(options(group, config_dir))) for group in CONFIG_GROUPS]
    return [*rows, ("metric", "see 'prognobench list metrics'")]


def listing(what: str, config_dir: Path | None = None) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows for one group, singular or plural.

    Raises
    ------
    ConfigError
        If there is no such group.
    """
    from prognobench.cli.config_files import CONFIG_GROUPS, options, read_config
    from prognobench.registry import near

    plurals = {"strategies": "strategy", "losses": "loss"}
    plurals |= {f"{group}s": group for group in CONFIG_GROUPS if group not in plurals.values()}
    group = plurals.get(what, what)
    if group in ("metric", "metrics"):
        return _metrics()
    if group not in CONFIG_GROUPS:
        known = [*sorted(plurals), "metrics"]
        names = ", ".join(known)
        raise ConfigError(f"cannot list {what!r}{near(what, known)} (known: {names})")
    documents = {name: read_config(group, name, config_dir) for name in options(group, config_dir)}
    if group == "model":
        return _models(documents)
    rows = [[name, _first_comment(text)] for name, (text, _) in documents.items()]
    return [group, "what it is"], rows


def _first_comment(text: str) -> str:
    """A YAML's opening comment up to its first full stop: what the choice is."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    if lines and lines[0].startswith("@package"):
        lines.pop(0)
    return " ".join(lines).partition(". ")[0].rstrip(".")


def _models(documents: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    from prognobench.models.weights import weights_here

    rows = []
    for name, (_, settings) in documents.items():
        card = settings.pop("card", {})
        # Which weights a nameless choice means is said with the run.
        here = None if settings.get("name") == "???" else weights_here(settings)
        rows.append(
            [
                name,
                card.get("parameters", ""),
                settings.get("image_size") or "",
                {True: "yes", False: "no", None: ""}[here],
                card.get("licence", ""),
                card.get("source", ""),
            ]
        )
    return ["model", "size (M)", "image", "here", "licence", "source"], rows


def _metrics() -> tuple[list[str], list[list[Any]]]:
    from prognobench.registry import METRICS

    return ["metric", "what it is"], [[name, METRICS[name].summary] for name in METRICS]
