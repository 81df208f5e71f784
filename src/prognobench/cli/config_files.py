"""What can be chosen and set: the config files, the keys, and what a user's own files may contain.

Hydra is not needed here, so ``prognobench list`` and completion answer at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from glob import iglob
from pathlib import Path
from typing import Any

from prognobench.errors import ConfigError
from prognobench.records import Checks, Paths, Privacy, Train
from prognobench.registry import GROUPS, STRATEGIES, near

SECTION_GROUPS = ("dataset", "model", "strategy", "regime", "cv", "train", "loss", "engine")
CONFIG_GROUPS = (*SECTION_GROUPS, "experiment")
SECTIONS = (*SECTION_GROUPS, "checks", "privacy", "paths")

PLAIN_KEYS = ("seed", "device", "baselines")
"""Settings without a section."""

# ${model.name} reads another value. ${oc.env:HOME} calls a function of OmegaConf: anything with a
# colon is one, and so may be a name that is itself put together from values.
_VALUE = re.compile(r"\$\{[\w.\[\]@/-]+\}")
_ENVIRONMENT = re.compile(r"\$\{oc\.env:[^${}]*\}")


DEEPEST, MOST_VALUES = 30, 20_000
"""What a config file may hold."""

UNBOUNDED = (
    f"has more than {DEEPEST} levels or {MOST_VALUES:,} values; write out what repeats itself "
    "through &name and *name"
)


def config_root() -> Path:
    """Return the folder of the configs that come with prognobench."""
    installed = Path(__file__).parents[1] / "configs"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "configs"


def options(group: str, config_dir: Path | None = None) -> list[str]:
    """Return the names that can be chosen in a config group."""
    roots = [config_root(), *([config_dir] if config_dir else [])]
    return sorted({file.stem for root in roots for file in (root / group).glob("*.yaml")})


def read_config(
    group: str, name: str, config_dir: Path | None = None
) -> tuple[str, dict[str, Any]]:
    """Return one choice's YAML as text and as values.

    Raises
    ------
    ConfigError
        If there is no such choice, or its file is not plain YAML.
    """
    roots = [config_root(), *([config_dir] if config_dir else [])]
    for root in roots:
        file = root / group / f"{name}.yaml"
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            return text, _parse(file, text)
    raise ConfigError(unknown_choice(group, name, options(group, config_dir)))


def list_included(
    name: str, config_dir: Path | None = None, above: Sequence[str] = ()
) -> list[str]:
    """Return the experiments that an experiment stands for: itself, or what it includes.

    Raises
    ------
    ConfigError
        If an included experiment does not exist, includes itself, or has settings beside them.
    """
    _, document = read_config("experiment", name, config_dir)
    if "include" not in document:
        return [name]
    where = f"experiment={name}"
    if name in above:
        raise ConfigError(f"{where} includes itself, through {' > '.join([*above, name])}")
    within = document["include"]
    if not isinstance(within, list) or not all(isinstance(each, str) for each in within):
        raise ConfigError(f"{where}: include must be a list of names of experiments")
    if others := sorted(set(document) - {"include"}):
        raise ConfigError(
            f"{where}: {', '.join(others)} would have no effect beside include; write it into the "
            "experiments that are included, or on the command line"
        )
    names = [n for each in within for n in list_included(each, config_dir, [*above, name])]
    return list(dict.fromkeys(names))


def chooses(name: str, group: str, config_dir: Path | None = None) -> bool:
    """Return whether an experiment, or one that it builds on, chooses from a group."""
    _, document = read_config("experiment", name, config_dir)
    if group in (document.get("hydra") or {}).get("sweeper", {}).get("params", {}):
        return True
    known = options("experiment", config_dir)
    return any(
        chooses(entry, group, config_dir)
        if entry in known
        else re.match(rf"(override )?/?{group}: ", entry) is not None
        for entry in _defaults(document)
    )


def unknown_choice(group: str, name: str, known: Sequence[str]) -> str:
    """Return the message for a name that a group does not have."""
    return f"unknown {group} {name!r}{near(name, list(known))} (known: {', '.join(known)})"


def shorthands() -> tuple[str, ...]:
    """Return the strategies for which ``NAME=true`` stands for ``strategy=NAME``."""
    return STRATEGIES.declaring("shorthand")


def top_keys() -> list[str]:
    """Return everything that a key may begin with: groups, sections, settings, shorthands."""
    return [*CONFIG_GROUPS, *SECTIONS[len(CONFIG_GROUPS) - 1 :], *PLAIN_KEYS, *shorthands()]


def keys_by_section() -> Mapping[str, list[str]]:
    """Return every setting of every section, whichever choice has it."""
    records = {"train": Train, "checks": Checks, "privacy": Privacy, "paths": Paths}
    keys = {name: [field.name for field in fields(record)] for name, record in records.items()}
    for group, registry in GROUPS.items():
        settings = {key for part in registry.values() for key in part.settings}
        keys[group] = sorted(settings)
    return keys


def suggest_key(key: str) -> str:
    """Return ". Did you mean train.epochs?" for an unknown key, or an empty string."""
    first, _, rest = key.partition(".")
    if not rest:
        within = [f"{section}.{name}" for section, name in _named(first)]
        if within:
            return f". Did you mean {' or '.join(within)}?"
    return near(first, top_keys())


def _named(name: str) -> Iterator[tuple[str, str]]:
    """Yield section and name of settings with this name; without one, of very similar names."""
    sections = keys_by_section()
    exact = [(section, name) for section, keys in sections.items() if name in keys]
    if exact or near(name, top_keys()):
        yield from exact
        return
    for section, keys in sections.items():
        yield from ((section, close) for close in get_close_matches(name, keys, n=1, cutoff=0.8))


# ------------------------------------------------------------------ what files may contain


def foreign_calls(value: Any, *, environment: bool) -> Iterator[str]:
    """Yield the texts in a config that would call a function when they are resolved.

    Parameters
    ----------
    environment
        Whether ``${oc.env:NAME}``, which reads an environment variable, is allowed.
    """
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from foreign_calls(inner, environment=environment)
    elif isinstance(value, list):
        for inner in value:
            yield from foreign_calls(inner, environment=environment)
    elif isinstance(value, str):
        left = _VALUE.sub("", value)
        if environment:
            left = _ENVIRONMENT.sub("", left)
        if "${" in left:
            yield value


def check_config_dir(folder: Path) -> None:
    """Refuse what a user's own config folder must not contain.

    Config files come from other people, and composing must not run their code, read the
    environment into results, or load files from elsewhere.

    Raises
    ------
    ConfigError
        If there is no such folder, or with each such content.
    """
    if not folder.is_dir():
        raise ConfigError(f"--config-dir: no folder {folder}")
    faults: list[str] = []
    # Unlike Path.rglob this follows links, as Hydra does.
    found = iglob("**/*.yaml", root_dir=folder, recursive=True, include_hidden=True)
    for file in sorted(folder / name for name in found):
        group, name = file.relative_to(folder).parent.as_posix(), file.stem
        if group == "hydra" or group.startswith("hydra/"):
            faults.append(f"{file}: settings of Hydra are not read; remove the folder hydra")
        elif (config_root() / group / f"{name}.yaml").is_file():
            faults.append(f"{file}: a config that comes with prognobench has this name; rename it")
        else:
            faults += [f"{file}: {fault}" for fault in _file_faults(file)]
    if faults:
        raise ConfigError(faults)


def _file_faults(file: Path) -> Iterator[str]:
    try:
        text = file.read_text(encoding="utf-8")
        document = _parse(file, text)
    except UnicodeDecodeError:
        yield "is not UTF-8; save it again as such"
        return
    except ConfigError as error:
        yield str(error).removeprefix(f"{file}: ")
        return
    if package := re.search(r"^\s*#\s*@package\s+(\S*hydra\S*)", text, re.MULTILINE):
        yield f"@package {package[1]} changes settings of Hydra; remove the line"
    hydra = document.get("hydra")
    if "hydra" in document and not _is_sweep(hydra):
        yield "of the key 'hydra' only hydra.sweeper.params is read; remove the rest"
    if _has_key(document, "_target_"):
        yield "a config cannot call code; remove the key '_target_'"
    for entry in _defaults(document):
        if re.search(r"\bhydra\b|\.\.|//", entry):
            yield f"defaults: {entry!r} leaves the groups of prognobench; remove it"
    for call in foreign_calls(document, environment=False):
        yield f"{call!r} calls a function; your own configs may only name values: ${{model.name}}"


def _parse(file: Path, text: str) -> dict[str, Any]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # neither makes objects from tags
    try:
        document = yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{file}: cannot be read as plain YAML: {' '.join(str(error).split())}"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{file}: {UNBOUNDED}") from error
    if not _is_bounded(document):
        raise ConfigError(f"{file}: {UNBOUNDED}")
    if not isinstance(document, dict | None):
        raise ConfigError(f"{file}: a config consists of lines KEY: VALUE")
    return document or {}


def _is_bounded(document: Any) -> bool:
    """Return whether a file is small once its aliases are expanded: one can contain itself."""
    left, count = [(document, 0)], 0
    while left:
        value, depth = left.pop()
        count += 1
        if count > MOST_VALUES or depth > DEEPEST:
            return False
        inner = [*value.values()] if isinstance(value, Mapping) else value
        if isinstance(inner, list):
            left += [(each, depth + 1) for each in inner]
    return True


def _is_sweep(hydra: Any) -> bool:
    return (
        isinstance(hydra, Mapping)
        and set(hydra) <= {"sweeper"}
        and isinstance(hydra.get("sweeper"), Mapping)
        and set(hydra["sweeper"]) <= {"params"}
    )


def _has_key(value: Any, key: str) -> bool:
    if isinstance(value, Mapping):
        return key in value or any(_has_key(inner, key) for inner in value.values())
    return isinstance(value, list) and any(_has_key(inner, key) for inner in value)


def _defaults(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the defaults list, each entry as one text."""
    entries = document.get("defaults")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, Mapping):
            for group, names in entry.items():
                for name in names if isinstance(names, list) else [names]:
                    yield f"{group}: {name}"
        else:
            yield str(entry)
