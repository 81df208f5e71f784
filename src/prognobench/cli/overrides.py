"""Overrides of the command line: what is wrong with them, and the runs that they ask for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prognobench.cli.config_files import (
    CONFIG_GROUPS,
    PLAIN_KEYS,
    SECTIONS,
    options,
    shorthands,
    suggest_key,
    unknown_choice,
)
from prognobench.errors import ConfigError


@dataclass(frozen=True)
class Assignment:
    """One value of one key."""

    key: str
    text: str
    """As Hydra reads it: ``strategy=lora``, ``~loss``, ``+dataset@dataset.parts.a=icu``."""
    value: Any
    deleted: bool = False

    @property
    def section(self) -> str:
        return section_of(self.key)

    @property
    def is_choice(self) -> bool:
        """Whether it chooses a config file, rather than sets a value in it."""
        return self.key.partition("@")[0] in CONFIG_GROUPS


Job = Sequence[Assignment]
"""What one run is asked for."""


@dataclass(frozen=True)
class Override:
    """One ``key=value`` of the command line or of an experiment's sweep, with all its values."""

    text: str
    key: str
    assignments: tuple[Assignment, ...]
    swept: bool

    @property
    def section(self) -> str:
        return section_of(self.key)


def section_of(override: str) -> str:
    """Return what stands before the first dot: ``dataset`` of ``+dataset@dataset.parts.a=x``."""
    key = override.partition("=")[0].lstrip("+~")
    return key.partition(".")[0].partition("@")[0].partition("/")[0]


@dataclass(frozen=True)
class Reader:
    """Reads overrides and collects what is wrong with them in ``faults``."""

    parse: Callable[[str], Override]
    config_dir: Path | None
    multirun: bool
    faults: list[str]

    def read(self, texts: Sequence[str], source: str = "") -> list[Override]:
        """Return the overrides of all sections without a fault.

        The others are left out, so that faults of their values come in the same message.

        Parameters
        ----------
        source
            Begins each message, where it is not the command line.
        """
        given: list[Override] = []
        wrong: set[str] = set()
        for text in texts:
            try:
                override = self.parse(text)
                self._check(override)
                given.append(override)
            except ConfigError as error:
                self.faults.extend(f"{source}{fault}" for fault in error.faults)
                wrong.add(section_of(text))
        return [override for override in given if override.section not in wrong]

    def _check(self, override: Override) -> None:
        """Refuse an unknown key or choice, and several values where no sweep was asked for."""
        text, key = override.text, override.key
        if override.section == "hydra":
            raise ConfigError(_about_hydra(text))
        if override.swept and not self.multirun:
            raise ConfigError(
                f"{text} gives several values: add -m to sweep over them, or write one list as "
                f"{key}=[...]"
            )
        group = key.partition("@")[0]
        if group in CONFIG_GROUPS:
            self._check_choices(group, override)
        elif override.section not in (*SECTIONS, *PLAIN_KEYS, *shorthands()):
            raise ConfigError(f"unknown key '{key}'{suggest_key(key)}")

    def _check_choices(self, group: str, override: Override) -> None:
        known = options(group, self.config_dir)
        names = [name for each in override.assignments for name in _names(each)]
        faults = [unknown_choice(group, name, known) for name in names if name not in known]
        if override.swept and not names:
            faults = [f"{override.text} matches no {group} (known: {', '.join(known)})"]
        if faults:
            raise ConfigError(faults)


def _names(assignment: Assignment) -> list[str]:
    """Return the files that a choice names; a group may be given a list of several."""
    if assignment.deleted:
        return []
    value = assignment.value
    return [str(name) for name in (value if isinstance(value, list) else [value])]


def _about_hydra(text: str) -> str:
    if "launcher" in text:
        return (
            f"{text}: prognobench does not use Hydra's launchers. Start the same command several "
            "times, here or on other machines: each process computes the cells that are left"
        )
    return f"{text}: settings of Hydra have no effect; remove it"


def describe_unreadable(text: str, reason: str, config_dir: Path | None) -> str:
    """Return the message for text that is not an override."""
    if "=" in text:
        return (
            f"cannot read {text!r}: {reason}. Put values with special characters in quotes, as in "
            "'key=\"value\"'"
        )
    meant = [f"{group}={text}" for group in CONFIG_GROUPS if text in options(group, config_dir)]
    if text in shorthands():
        meant = [f"{text}=true"]
    hint = f". Did you mean {' or '.join(meant[:3])}?" if meant else ""
    return f"cannot read {text!r}: overrides look like key=value{hint}"


def expand(
    given: Sequence[Override], read_sweep: Callable[[Assignment], Sequence[Override]]
) -> Iterator[Job]:
    """Yield one job for each combination of values, the last key varying fastest.

    As in Hydra's own sweeper an experiment's sweep comes first. The command line replaces keys of
    that sweep; where it gives a key twice, the last one counts.

    Parameters
    ----------
    read_sweep
        Called with the choice of an experiment; returns what that sweeps over.
    """
    by_key = {override.key: override for override in given}
    experiments = by_key.pop("experiment", None)
    # A shorthand on the command line chooses a strategy, and so replaces the experiment's.
    replaced = {"strategy"} if by_key.keys() & set(shorthands()) else set()
    for experiment in [[each] for each in experiments.assignments] if experiments else [[]]:
        swept = [override for each in experiment for override in read_sweep(each)]
        keys = {override.key: override for override in swept if override.key not in replaced}
        axes = [override.assignments for override in (keys | by_key).values()]
        for job in itertools.product(*axes):
            yield [*experiment, *job]


def split_shorthands(job: Job) -> tuple[Job, Mapping[str, bool]]:
    """Replace ``NAME=true`` by ``strategy=NAME``, unless the job chooses a strategy itself.

    Returns
    -------
    The other assignments, and what each shorthand was set to.
    """
    known = shorthands()
    said = {each.key: each.value for each in job if each.key in known}
    for name, value in said.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name} must be true or false, not {value!r}")
    others = [each for each in job if each.key not in said]
    if "strategy" not in {each.key for each in others}:
        chosen = [name for name, value in said.items() if value]
        others += [Assignment("strategy", f"strategy={name}", name) for name in chosen]
    return others, said


def check_shorthands(said: Mapping[str, bool], composed: Mapping[str, Any]) -> None:
    """Refuse a shorthand that contradicts the strategy beside it."""
    strategy = composed.get("strategy", {})
    for name, value in said.items():
        # Another YAML of the same builder, with other settings, does not contradict it.
        if value != (strategy.get("builder") == name):
            raise ConfigError(
                f"{name}={str(value).lower()} contradicts strategy={strategy.get('name')}: "
                "give one of them"
            )
