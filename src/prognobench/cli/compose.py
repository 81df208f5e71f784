"""From command-line overrides to configs: the only module that imports Hydra.

The way: Hydra's grammar reads each override, several values become one job for each combination,
Hydra composes the config files that a job chooses, then its settings are put in, and
:mod:`prognobench.config` checks the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from prognobench.cli.config_files import (
    check_config_dir,
    chooses,
    config_root,
    list_included,
    options,
)
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
from prognobench.cli.places import AbsentError, place_dataset
from prognobench.cli.values import DATA, resolve, set_value
from prognobench.config import Known, from_mapping
from prognobench.errors import ConfigError
from prognobench.records import RunConfig

WHOLE_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})", re.ASCII)
"""What Hydra's grammar reads as a whole number, but for signs and underscores."""


Sections = dict[str, list[str]]
"""Section -> its choices, as Hydra reads them."""


class Composed(NamedTuple):
    """What overrides ask for.

    Attributes
    ----------
    configs
        One for each combination of values, the last key varying fastest.
    absent
        Name of a dataset that an experiment asks for and that is not there -> what is missing.
    """

    configs: list[RunConfig]
    absent: Mapping[str, str]


def compose(
    overrides: Sequence[str], *, multirun: bool = False, config_dir: Path | None = None
) -> list[RunConfig]:
    """As :func:`compose_present`, without what it says of absent datasets."""
    return compose_present(overrides, multirun=multirun, config_dir=config_dir).configs


def compose_present(
    overrides: Sequence[str], *, multirun: bool = False, config_dir: Path | None = None
) -> Composed:
    """Compose what the overrides ask for and check all of it before anything starts.

    Parameters
    ----------
    overrides
        In Hydra's grammar. ``lora=true`` stands for ``strategy=lora``, as that declares.
    multirun
        Expand several values (``a,b``, ``range``, ``choice``, ``glob``) and an experiment's sweep.
    config_dir
        A user's own config folder, searched beside the built-in one.

    Raises
    ------
    ConfigError
        With every fault of every run; also if a dataset is absent that is asked for by name.
    """
    from hydra import initialize_config_dir

    if config_dir is not None:
        check_config_dir(config_dir)
    composer = _Composer(config_dir, multirun)
    reader = Reader(composer.parse, config_dir, multirun, faults=[])
    given = reader.read(overrides)
    composed = Composed([], {})
    by_name = any(override.key == "dataset" for override in given)
    with initialize_config_dir(str(config_root()), version_base="1.3"):
        try:
            jobs = expand(given, lambda experiment: _read_sweep(experiment, reader, composer))
            composed = _checked(jobs, composer, by_name)
        except ConfigError as error:
            reader.faults.extend(error.faults)
    if reader.faults:
        raise ConfigError(dict.fromkeys(reader.faults))
    return composed


def _read_sweep(experiment: Assignment, reader: Reader, composer: _Composer) -> list[Override]:
    """Return ``hydra.sweeper.params`` of an experiment."""
    name = experiment.text.lstrip("+")
    params = composer.sweep_params(experiment)
    if params and not reader.multirun:
        raise ConfigError(f"{name} is a sweep: add -m")
    return reader.read([f"{key}={value}" for key, value in params.items()], source=f"{name}: ")


def _checked(jobs: Iterable[Job], composer: _Composer, by_name: bool) -> Composed:
    configs: list[RunConfig] = []
    absent: dict[str, str] = {}
    faults: dict[str, None] = {}
    known: Known = {}
    for job in jobs:
        try:
            written = composer.compose(job)
            try:
                configs.append(from_mapping(place_dataset(written), known))
            except AbsentError as error:
                absent[str(written["dataset"]["name"])] = str(error)
        except ConfigError as error:
            faults |= dict.fromkeys(error.faults)
    if absent and (by_name or not configs):
        faults |= {f"dataset {name} is not there: {why}": None for name, why in absent.items()}
    if faults:
        raise ConfigError(faults)
    return Composed(configs, absent)


class _Composer:
    """Composes jobs: Hydra what they choose, :mod:`prognobench.cli.values` what they set.

    Hydra takes 40 to 90 ms a job, so a sweep of 1,000 runs would take a minute. But a section
    (``model``, say) depends on that section's choices alone, unless a config file writes into
    another section. So each section is composed once per choice, and used again where nothing else
    changed with it.
    """

    def __init__(self, config_dir: Path | None, multirun: bool) -> None:
        self._config_dir, self._multirun = config_dir, multirun
        self._search_path = _search_path(config_dir)
        self._first: dict[str, Sections] = {}
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
            if key == "experiment" and not parsed.is_delete():
                values = [each for value in values for each in self._include(value)]
        except HydraException as error:
            reason = _first_lines(error)
            raise ConfigError(describe_unreadable(text, reason, self._config_dir)) from error
        return Override(text, key, tuple(values), parsed.is_sweep_override())

    def _include(self, experiment: Assignment) -> list[Assignment]:
        """Return an experiment, or those that it includes."""
        if experiment.value not in options("experiment", self._config_dir):
            return [experiment]  # is refused with the other unknown names
        names = list_included(str(experiment.value), self._config_dir)
        if names != [experiment.value] and not self._multirun:
            raise ConfigError(f"{experiment.text.lstrip('+')} is a sweep: add -m")
        return [Assignment("experiment", f"experiment={name}", name) for name in names]

    def compose(self, job: Job) -> Mapping[str, Any]:
        """Return a job's config as plain values.

        Raises
        ------
        ConfigError
            If it cannot be composed, or a shorthand contradicts the strategy beside it.
        """
        others, said = split_shorthands(job)
        choices = [each for each in others if each.is_choice]
        written = self._choose(choices)
        suited = (written.get("dataset") or {}).get("cv")
        if suited and not any(self._chooses_cv(each) for each in choices):
            # The split that suits the dataset, where nobody asks for another.
            written = self._choose([*choices, Assignment("cv", f"cv={suited}", suited)])
        # A folder of all cohorts first, then the folders of some.
        for each in sorted(others, key=lambda other: other.key != DATA):
            if not each.is_choice:
                written = set_value(written, each)
        composed = resolve(written)
        check_shorthands(said, composed)
        return composed

    def _chooses_cv(self, choice: Assignment) -> bool:
        if choice.key == "experiment" and not choice.deleted:
            return chooses(str(choice.value), "cv", self._config_dir)
        return choice.section == "cv"

    def sweep_params(self, experiment: Assignment) -> Mapping[str, str]:
        """Return what an experiment sweeps over."""
        from omegaconf import OmegaConf

        config = self._hydra([_hydra_text(experiment)], with_hydra=True)
        params = config.hydra.sweeper.params
        return cast("Mapping[str, str]", OmegaConf.to_container(params)) if params else {}

    def _choose(self, choices: Job) -> Mapping[str, Any]:
        """Return what the choices say, references such as ``${model.name}`` as they are written."""
        sections: Sections = {}
        for choice in choices:
            sections.setdefault(choice.section, []).append(_hydra_text(choice))
        experiment = sections.pop("experiment", [])
        plain = self._put_together(sections)
        if not experiment:
            return plain
        # An experiment writes into some sections, as its first job shows; the others are shared
        # with jobs of other experiments and of none.
        beside = self._first.setdefault(str(experiment), sections)
        first = self._load({**beside, "experiment": experiment})
        before = self._put_together(beside)
        chosen = dict(plain)
        for section in {**first, **before}:
            if first.get(section) == before.get(section):
                continue
            asked = {**beside, section: sections.get(section, []), "experiment": experiment}
            varied = self._load(asked)
            if any(varied.get(key) != first.get(key) for key in {*varied, *first} - {section}):
                return self._load({**sections, "experiment": experiment})
            if section in varied:
                chosen[section] = varied[section]
        return chosen

    def _put_together(self, sections: Sections) -> Mapping[str, Any]:
        """Compose choices one section at a time, where none writes into another section."""
        usual = self._load({})
        chosen = dict(usual)
        for section, texts in sections.items():
            alone = self._load({section: texts})
            if any(alone.get(key) != usual.get(key) for key in {*alone, *usual} - {section}):
                return self._load(sections)
            if section in alone:
                chosen[section] = alone[section]
        return chosen

    def _load(self, sections: Sections) -> Mapping[str, Any]:
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
