"""From command-line overrides to configs: the only module that imports Hydra.

The way: Hydra's grammar reads each override, several values become one job for each combination,
Hydra composes the config files that a job chooses, then its settings are put in, and
:mod:`prognobench.config` checks the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from prognobench.cli.config_files import check_config_dir, config_root, options
from prognobench.cli.overrides import (
    Assignment,
    Job,
    Override,
    Reader,
    check_shorthands,
    describe_unreadable,
    expand,
    split_shorthands,
)
from prognobench.cli.values import resolve, set_value
from prognobench.config import Known, from_mapping
from prognobench.errors import ConfigError
from prognobench.records import RunConfig

WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})", re.ASCII)
"""What Hydra's grammar reads as a whole number, but for signs and underscores."""


def compose(
    overrides: Sequence[str], *, multirun: bool = False, config_dir: Path | None = None
) -> list[RunConfig]:
    """Compose what the overrides ask for and check all of it before anything starts.

    Parameters
    ----------
    overrides
        In Hydra's grammar. ``lora=true`` stands for ``strategy=lora``, as that declares.
    multirun
        Expand several values (``a,b``, ``range``, ``choice``, ``glob``) and an experiment's sweep.
    config_dir
        A user's own config folder, searched beside the built-in one.

    Returns
    -------
    One config for each combination of values, the last key varying fastest.

    Raises
    ------
    ConfigError
        With every fault of every run.
    """
    from hydra import initialize_config_dir

    if config_dir is not None:
        check_config_dir(config_dir)
    composer = _Composer(config_dir)
    reader = Reader(composer.parse, config_dir, multirun, faults=[])
    given = reader.read(overrides)
    configs: list[RunConfig] = []
    with initialize_config_dir(str(config_root()), version_base="1.3"):
        try:
            jobs = expand(given, lambda experiment: _read_sweep(experiment, reader, composer))
            configs = _checked(jobs, composer)
        except ConfigError as error:
            reader.faults.extend(error.faults)
    if reader.faults:
        raise ConfigError(dict.fromkeys(reader.faults))
    return configs


def _read_sweep(experiment: Assignment, reader: Reader, composer: _Composer) -> list[Override]:
    """Return ``hydra.sweeper.params`` of an experiment."""
    name = experiment.text.lstrip("+")
    params = composer.sweep_params(experiment)
    if params and not reader.multirun:
        raise ConfigError(f"{name} is a sweep: add -m")
    return reader.read([f"{key}={value}" for key, value in params.items()], source=f"{name}: ")


def _checked(jobs: Iterable[Job], composer: _Composer) -> list[RunConfig]:
    configs: list[RunConfig] = []
    faults: dict[str, None] = {}
    known: Known = {}
    for job in jobs:
        try:
            configs.append(from_mapping(composer.compose(job), known))
        except ConfigError as error:
            faults |= dict.fromkeys(error.faults)
    if faults:
        raise ConfigError(faults)
    return configs


class _Composer:
    """Composes jobs: Hydra what they choose, :mod:`prognobench.cli.values` what they set.

    Hydra takes 40 to 90 ms a job, so a sweep of 1,000 runs would take a minute. But a section
    (``model``, say) depends on that section's choices alone, unless a config file writes into
    another section. So each section is composed once per choice, beside the choices of the first
    job, and used again where nothing else changed with it.
    """

    def __init__(self, config_dir: Path | None) -> None:
        self._config_dir = config_dir
        self._search_path = _search_path(config_dir)
        self._first: dict[str, dict[str, list[str]]] = {}
        self._loaded: dict[tuple[str, ...], Mapping[str, Any]] = {}

    def parse(self, text: str) -> Override:
        """Read one override with Hydra's grammar.

        Raises
        ------
        ConfigError
            If it cannot be read.
        """
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        parse = OverridesParser.create().parse_override
        try:
            parsed = parse(text)
            parsed.config_loader = cast("Any", _Choices(self._config_dir))
            written = parsed.get_key_element()
            key = written.lstrip("+~")
            if parsed.is_delete():
                values = [Assignment(key, text, parsed.value(), deleted=True)]
            else:
                values = []
                for value in _values(parsed):
                    each = f"{written}={value}"
                    # The grammar takes 2 ms a value, and a sweep may have thousands of seeds.
                    plain = WHOLE_NUMBER.fullmatch(value)
                    values.append(
                        Assignment(key, each, int(value) if plain else parse(each).value())
                    )
        except HydraException as error:
            reason = _first_lines(error)
            raise ConfigError(describe_unreadable(text, reason, self._config_dir)) from error
        return Override(text, key, tuple(values), parsed.is_sweep_override())

    def compose(self, job: Job) -> Mapping[str, Any]:
        """Return a job's config as plain values.

        Raises
        ------
        ConfigError
            If it cannot be composed, or a shorthand contradicts the strategy beside it.
        """
        others, said = split_shorthands(job)
        written = self._choose([each for each in others if each.is_choice])
        for each in others:
            if not each.is_choice:
                written = set_value(written, each)
        composed = resolve(written)
        check_shorthands(said, composed)
        return composed

    def sweep_params(self, experiment: Assignment) -> Mapping[str, str]:
        """Return what an experiment sweeps over."""
        from omegaconf import OmegaConf

        config = self._hydra([_hydra_text(experiment)], with_hydra=True)
        params = config.hydra.sweeper.params
        return cast("Mapping[str, str]", OmegaConf.to_container(params)) if params else {}

    def _choose(self, choices: Job) -> Mapping[str, Any]:
        """Return what the choices say, references such as ``${model.name}`` as they are written."""
        sections: dict[str, list[str]] = {}
        for choice in choices:
            sections.setdefault(choice.section, []).append(_hydra_text(choice))
        # An experiment writes into every section, so its jobs have a first job of their own.
        beside = self._first.setdefault(str(sections.get("experiment")), sections)
        first = self._load(beside)
        chosen = dict(first)
        for section in {**beside, **sections}:
            varied = self._load({**beside, section: sections.get(section, [])})
            if any(varied.get(key) != first.get(key) for key in {*varied, *first} - {section}):
                return self._load(sections)
            if section in varied:
                chosen[section] = varied[section]
        return chosen

    def _load(self, sections: Mapping[str, Sequence[str]]) -> Mapping[str, Any]:
        from omegaconf import OmegaConf

        texts = tuple(text for section in sections.values() for text in section)
        if texts not in self._loaded:
            written = OmegaConf.to_container(self._hydra(texts))
            self._loaded[texts] = cast("Mapping[str, Any]", written)
        return self._loaded[texts]

    def _hydra(self, texts: Sequence[str], *, with_hydra: bool = False) -> Any:
        from hydra import compose
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        overrides = [*self._search_path, *texts]
        try:
            return compose("config", overrides=overrides, return_hydra_config=with_hydra)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_first_lines(error)) from error


class _Choices:
    """What ``glob`` looks through: the same choices as everything else."""

    def __init__(self, config_dir: Path | None) -> None:
        self._config_dir = config_dir

    def get_group_options(self, group_name: str, results_filter: object = None) -> list[str]:
        return options(group_name, self._config_dir)


def _hydra_text(choice: Assignment) -> str:
    """Return a choice as Hydra reads it; the defaults name no experiment, so it has to be added."""
    return f"+{choice.text.lstrip('+')}" if choice.key == "experiment" else choice.text


def _values(parsed: Any) -> list[str]:
    """Return each value of an override, in Hydra's grammar."""
    if not parsed.is_sweep_override():
        return [parsed.get_value_element_as_str()]
    if not parsed.is_discrete_sweep():
        raise ConfigError(
            f"{parsed.input_line}: an interval has too many values; write range(start,stop,step)"
        )
    return list(parsed.sweep_string_iterator())


def _search_path(config_dir: Path | None) -> list[str]:
    """Return the override by which Hydra searches a user's folder after the built-in one."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if config_dir is None:
        return []
    folder = QuotedString(f"file://{config_dir.resolve()}", Quote.double).with_quotes()
    return [f"hydra.searchpath=[{folder}]"]


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).strip().splitlines()[:2])
