"""From command-line overrides to configs: the only module that knows Hydra, beside its plug-in."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from prognobench.config import from_mapping
from prognobench.errors import ConfigError
from prognobench.records import RunConfig
from prognobench.registry import near

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

CONFIG_GROUPS = ("dataset", "model", "strategy", "regime", "cv", "train", "loss", "experiment")
OPEN_SECTIONS = (*CONFIG_GROUPS[:-1], "checks", "paths")
"""Sections whose keys are checked by :mod:`prognobench.config`, which knows what may stand there,
and so may be set whether or not their YAML lists them."""

_collected: list[Mapping[str, Any]] = []


def config_root() -> Path:
    """The folder of the configs that come with prognobench."""
    installed = Path(__file__).parents[1] / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "configs"


def options(group: str, config_dir: Path | None = None) -> list[str]:
    """Return the names that can be chosen in a config group."""
    roots = [config_root(), *([config_dir] if config_dir else [])]
    return sorted({file.stem for root in roots for file in (root / group).glob("*.yaml")})


def compose(
    overrides: Sequence[str],
    *,
    multirun: bool = False,
    config_dir: Path | None = None,
    run_job: Callable[[RunConfig], None] | None = None,
) -> list[RunConfig]:
    """Compose what the overrides ask for and check all of it before anything starts.

    Parameters
    ----------
    overrides
        In Hydra's grammar. ``lora=true`` stands for ``strategy=lora``.
    multirun
        Expand comma-separated values and an experiment's sweep.
    config_dir
        A user's own config folder, searched beside the built-in one.
    run_job
        Called in each job when the user chose one of Hydra's other launchers
        (``hydra/launcher=joblib``); such jobs are not in the returned list.

    Raises
    ------
    ConfigError
        With every fault of every run.
    """
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError(f"--config-dir: no folder {config_dir}")
    faults, unknown = _faulty_choices(overrides, config_dir, multirun)
    if faults:
        # What is wrong in the other sections is said in the same message; nothing is launched.
        left_out = {*unknown, "hydra"}
        others = [override for override in overrides if _section(override) not in left_out]
        try:
            compose(others, multirun=multirun, config_dir=config_dir)
        except ConfigError as error:
            faults += error.faults
        raise ConfigError(dict.fromkeys(faults))
    arguments = [_opened(override) for override in overrides]
    arguments = ["--multirun", *arguments] if multirun else _resolve_lora(arguments)
    if config_dir is not None:
        arguments = ["--config-dir", str(config_dir), *arguments]
    with TemporaryDirectory() as scratch:
        if not any(argument.startswith("hydra") for argument in arguments):
            # Hydra notes each sweep in a folder; a sweep that is refused must not leave one.
            arguments.append(f"hydra.sweep.dir={scratch}")
        _run_hydra(arguments, run_job)
    return _checked(_collected)


def _checked(composed: Sequence[Mapping[str, Any]]) -> list[RunConfig]:
    configs: list[RunConfig] = []
    faults: list[str] = []
    for mapping in composed:
        try:
            configs.append(from_mapping(mapping))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    return configs


def collect(loader: SweepLoader, job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Compose each job of a sweep and keep it; called by the launcher plug-in."""
    from hydra.core.utils import JobReturn, JobStatus

    _collected.extend(map(loader.compose, job_overrides))
    return [JobReturn(overrides=job, status=JobStatus.COMPLETED) for job in job_overrides]


class SweepLoader:
    """Composes the jobs of a sweep, most of them from parts of other jobs.

    Hydra takes tens of milliseconds a job. A section (``model``, say) of a job depends on that
    section's overrides alone, unless configs refer to each other; so it is composed once per
    variation of these, beside the first job, and taken over where nothing but it changed.
    """

    def __init__(self, loader: Any, config: Any) -> None:
        self._loader, self._config = loader, config
        self._first: dict[str, list[str]] = {}
        self._composed: dict[tuple[str, ...], Mapping[str, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(self, master_config: Any, sweep_overrides: list[str]) -> Any:
        """What the sweeper calls to see whether a job can be composed."""
        return self.compose(sweep_overrides)

    def compose(self, job: Sequence[str]) -> Mapping[str, Any]:
        """Return a job's config as plain values."""
        overrides = _resolve_lora([_opened(override) for override in job])
        sections: dict[str, list[str]] = {}
        for override in overrides:
            sections.setdefault(_section(override), []).append(override)
        self._first = self._first or sections
        if sections.keys() != self._first.keys():
            return self._load(overrides)
        first = self._load(_flat(self._first))
        composed = dict(first)
        for section, chosen in sections.items():
            varied = self._load(_flat({**self._first, section: chosen}))
            if any(varied[key] != first.get(key) for key in varied if key != section):
                return self._load(overrides)
            if section in varied:
                composed[section] = varied[section]
        return composed

    def _load(self, overrides: Sequence[str]) -> Mapping[str, Any]:
        job = tuple(overrides)
        if job not in self._composed:
            config = self._loader.load_sweep_config(self._config, list(job))
            self._composed[job] = _plain(config)
        return self._composed[job]


def _flat(sections: Mapping[str, Sequence[str]]) -> list[str]:
    return [override for overrides in sections.values() for override in overrides]


def _run_hydra(arguments: Sequence[str], run_job: Callable[[RunConfig], None] | None) -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    def job(config: Any) -> None:
        if HydraConfig.get().mode == RunMode.RUN or run_job is None:
            _collected.append(_plain(config))
        else:  # one of Hydra's other launchers, perhaps in a process of its own
            run_job(from_mapping(_plain(_recomposed(config))))

    _collected.clear()
    main = hydra.main(version_base="1.3", config_path=str(config_root()), config_name="config")
    try:
        with _arguments(arguments):
            main(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_first_lines(error)) from error


def _recomposed(config: Any) -> Any:
    """Compose a job anew if it uses ``lora``, whose meaning another launcher does not know."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    overrides = list(HydraConfig.get().overrides.task)
    resolved = _resolve_lora(overrides)
    if resolved == overrides:
        return config
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_root()), version_base="1.3"):
        return hydra_compose("config", overrides=resolved)


@contextmanager
def _arguments(arguments: Sequence[str]) -> Iterator[None]:
    """Hydra reads the command line itself and prints errors unless it is told to raise them."""
    argv, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = [argv[0], *arguments], "1"
    try:
        yield
    finally:
        sys.argv = argv
        os.environ.pop("HYDRA_FULL_ERROR")
        if full_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _plain(config: Any) -> Mapping[str, Any]:
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import InterpolationToMissingValueError

    with open_dict(config):
        config = config.copy()
        config.pop("hydra", None)
    try:
        plain: dict[str, Any] = _without_missing(OmegaConf.to_container(config, resolve=True))
    except InterpolationToMissingValueError as error:
        missing = _missing(OmegaConf.to_container(config))
        raise ConfigError(f"{key} is missing: give it as {key}=VALUE" for key in missing) from error
    return plain


def _missing(value: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _missing(inner, f"{prefix}.{key}" if prefix else key)
    elif value == "???":
        yield prefix


def _without_missing(value: Any) -> Any:
    """Leave out what still stands as ``???``, so that the check names it as missing."""
    if isinstance(value, Mapping):
        return {k: _without_missing(v) for k, v in value.items() if v != "???"}
    return value


def _opened(override: str) -> str:
    """Let a setting be given whether or not its YAML lists it; an experiment likewise."""
    key = override.partition("=")[0]
    if key == "experiment":
        return f"+{override}"
    head, dot, _ = key.partition(".")
    return f"++{override}" if dot and head in OPEN_SECTIONS else override


def _resolve_lora(overrides: Sequence[str]) -> list[str]:
    """Add ``strategy=lora`` where ``lora=true`` asks for it and no strategy is chosen."""
    keys = {override.partition("=")[0] for override in overrides}
    if "lora=true" in (o.lower() for o in overrides) and "strategy" not in keys:
        return ["strategy=lora", *overrides]
    return list(overrides)


def _section(override: str) -> str:
    key = override.partition("=")[0].lstrip("+~")
    return key.partition(".")[0].partition("@")[0].partition("/")[0]


def _faulty_choices(
    overrides: Sequence[str], config_dir: Path | None, multirun: bool
) -> tuple[list[str], set[str]]:
    """Return every unknown key and choice, with near names, and the sections that they stand in."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    faults: list[str] = []
    sections: set[str] = set()
    parser = OverridesParser.create()
    for text in overrides:
        before = len(faults)
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            hint = ' (quote values with special characters: key="value")' if "=" in text else ""
            faults.append(f"{text!r} is no override, as in key=value: {_first_lines(error)}{hint}")
            sections.add(_section(text))
            continue
        if override.is_sweep_override() and not multirun:
            faults.append(
                f"{text} gives several values: add -m to sweep over them, or write one list as "
                f"{override.key_or_group}=[...]"
            )
        group = override.key_or_group.partition("@")[0]
        if group in CONFIG_GROUPS:
            known = options(group, config_dir)
            faults += [
                f"unknown {group} {name!r}{near(name, known)} (known: {', '.join(known)})"
                for name in _names(override)
                if name not in known
            ]
        elif group.partition(".")[0].partition("/")[0] not in (*OPEN_SECTIONS, *_TOP_LEVEL):
            first = group.partition(".")[0]
            faults.append(f"unknown key '{group}'{near(first, [*CONFIG_GROUPS, *_TOP_LEVEL])}")
        if len(faults) > before:
            sections.add(_section(text))
    return faults, sections


_TOP_LEVEL = ("seed", "device", "lora", "hydra")


def _names(override: Any) -> list[str]:
    if override.is_delete():
        return []
    values = override.sweep_string_iterator() if override.is_sweep_override() else None
    chosen = list(values) if values is not None else [override.value()]
    return [
        str(name) for value in chosen for name in (value if isinstance(value, list) else [value])
    ]


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).strip().splitlines()[:2])
