"""What can be set, and where: for suggestions, completion and descriptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches

from prognobench.cli.config_files import CONFIG_GROUPS, SECTIONS
from prognobench.records import Checks, Paths, Train
from prognobench.registry import GROUPS, STRATEGIES, near

PLAIN_KEYS = ("seed", "device")
"""Settings that stand in no section."""


def shorthands() -> tuple[str, ...]:
    """Return the strategies for which ``NAME=true`` stands for ``strategy=NAME``."""
    return STRATEGIES.declaring("shorthand")


def top_keys() -> list[str]:
    """Return everything that may stand before the first dot or the equals sign."""
    return [*CONFIG_GROUPS, *SECTIONS[len(CONFIG_GROUPS) - 1 :], *PLAIN_KEYS, *shorthands()]


def keys_by_section() -> Mapping[str, list[str]]:
    """Return every setting of every section, whichever choice has it."""
    records = {"train": Train, "checks": Checks, "paths": Paths}
    keys = {name: [field.name for field in fields(record)] for name, record in records.items()}
    for group, registry in GROUPS.items():
        settings = {key for part in registry.values() for key in part.settings}
        keys[group] = sorted(settings)
    return keys


def suggest_key(key: str) -> str:
    """Return ". Did you mean train.epochs?" for a key that stands nowhere, or an empty string."""
    first, _, rest = key.partition(".")
    if not rest:
        within = [f"{section}.{name}" for section, name in _named(first)]
        if within:
            return f". Did you mean {' or '.join(within)}?"
    return near(first, top_keys())


def _named(name: str) -> Iterator[tuple[str, str]]:
    """Yield where a setting of this name stands; without one, settings of very similar names."""
    sections = keys_by_section()
    exact = [(section, name) for section, keys in sections.items() if name in keys]
    if exact or near(name, top_keys()):
        yield from exact
        return
    for section, keys in sections.items():
        yield from ((section, close) for close in get_close_matches(name, keys, n=1, cutoff=0.8))
