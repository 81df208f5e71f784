"""A stored run as a command: the choices and settings that give the same run again.

A run's ``run.json`` holds its whole config. Here it becomes overrides again: of each group the
choice that differs least from what is stored, then each setting that differs.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from prognobench.cli.config_files import CONFIG_GROUPS, options, read_config, shorthands
from prognobench.cli.overrides import section_of
from prognobench.config import BESIDE, default_cache, schema_of
from prognobench.errors import ConfigError, StoreError
from prognobench.files import HIDDEN, json_form
from prognobench.records import Checks, ImageOptions, Train
from prognobench.registry import ENGINES, GROUPS, LOSSES
from prognobench.store import RunFolder

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*", re.ASCII)
"""Text that Hydra's grammar takes for text without quotes, but for :data:`WORDS`."""

WORDS = ("null", "true", "false", "yes", "no", "on", "off", "inf", "nan")
"""Text that would be read as a value of another type."""

MISSING = "???"
SHORTEST_PREFIX = 4

STORED = tuple(group for group in GROUPS if group != ENGINES.kind)
"""The groups whose choices a run stores: not where it was computed."""


def write_command(meta: Mapping[str, Any]) -> str | None:
    """Return the command that gives a run again, quoted for a shell.

    Parameters
    ----------
    meta
        The content of ``run.json``.

    Returns
    -------
    ``None`` if what is stored does not hold every setting, as in an archive that was handed on, or
    where paths are hidden.
    """
    config = meta.get("config", {})
    if not {*STORED, "train", "image", "paths"} <= set(config):
        return None
    settings = [value for group in STORED for value in config[group]["settings"].values()]
    if HIDDEN in settings or HIDDEN in meta.get("components", ()):
        return None
    folders = [part for folder in meta.get("components", ()) for part in ("--components", folder)]
    return shlex.join(["prognobench", "run", *folders, *write_overrides(config), *_names(meta)])


def _names(meta: Mapping[str, Any]) -> list[str]:
    """Return the override of a run that is stored under pseudonyms; the key stays with its user."""
    return [f"privacy.ids={meta['privacy']['ids']}"] if meta.get("privacy") else []


def write_public_command(meta: Mapping[str, Any]) -> str | None:
    """As :func:`write_command`, but ``None`` also if the command would name a patient or a file."""
    command, config = write_command(meta), meta.get("config", {})
    if command is None or meta.get("components"):
        return None
    named = [_name_privately(group, config[group]) for group in STORED]
    places = _differ("paths", _usual_paths(), _usual_paths() | config["paths"])
    return None if any(chain(places, *named)) else command


def _usual_paths() -> dict[str, str]:
    return {"results": "results", "cache": str(default_cache())}


def _name_privately(group: str, component: Mapping[str, Any]) -> Iterator[Any]:
    """Yield what settings of a stored choice, and of its parts, name patients and files with."""
    settings, builder = component.get("settings", component), str(component.get("builder"))
    if builder in GROUPS[group]:
        part = GROUPS[group][builder]
        for name in (*part.private, *part.locations):
            if settings.get(name) and settings[name] != part.settings[name].default:
                yield settings[name]
    for inner in (settings.get("parts") or {}).values():
        yield from _name_privately(group, inner)


def write_overrides(config: Mapping[str, Any]) -> list[str]:
    """Return the overrides that compose a stored config again.

    Parameters
    ----------
    config
        As :func:`.store.describe` writes it.
    """
    loss = config["loss"]
    stored: dict[str, dict[str, Any]] = {}
    for group in STORED:
        component = config[group]
        stored[group] = {
            "name": component["name"],
            "builder": component["builder"],
            **component["settings"],
        }
    stored["strategy"]["name"] = _without_loss(stored["strategy"]["name"], loss)
    stored["train"] = dict(config["train"])
    chosen = {group: _choose(group, json.dumps(values)) for group, values in stored.items()}
    overrides = [f"{group}={name}" for group, (name, _) in chosen.items()]
    overrides += [line for _, lines in chosen.values() for line in lines]
    dataset = config["dataset"]
    overrides += _write_pixels(chosen["dataset"][0], dataset["settings"], config["image"])
    overrides += _differ("checks", json_form(asdict(Checks())), config.get("checks", {}))
    overrides += _differ("", {"device": "auto"}, {"device": config.get("device", "auto")})
    # Under pseudonyms no path is stored.
    overrides += _differ("paths", _usual_paths(), _usual_paths() | config["paths"])
    return [*overrides, f"seed={config['seed']}"]


def _without_loss(name: str, loss: Mapping[str, Any]) -> str:
    """Take an unusual loss from a strategy's name, which gets it again."""
    usual = loss["builder"] in LOSSES and LOSSES[loss["builder"]].facts["usual"]
    if usual and loss["name"] == loss["builder"]:
        return name
    return name.removesuffix(f"+{loss['name']}")


@cache
def _choose(group: str, text: str) -> tuple[str, tuple[str, ...]]:
    """Return the choice of a group that needs the fewest settings, and these settings."""
    stored = json.loads(text)
    found = {name: tuple(_differ_from(group, name, stored)) for name in options(group)}
    name = min(found, key=lambda name: (len(found[name]), name != stored.get("name"), name))
    return name, found[name]


def _differ_from(group: str, choice: str, stored: Mapping[str, Any]) -> Iterator[str]:
    """Yield what has to be set, and deleted, after a choice."""
    _, values = read_config(group, choice)
    written = {key: value for key, value in values.items() if key not in BESIDE.get(group, ())}
    if group == "train":
        defaults = json_form(asdict(Train()))
    else:
        same = written.get("builder") == stored["builder"]
        defaults = _list_defaults(group, stored["builder"]) if same else {}
    # What a YAML leaves to its builder needs no line where it is as usual.
    unsaid = {
        key: value
        for key, value in stored.items()
        if key in written or key not in defaults or defaults[key] != value
    }
    yield from _differ(group, written, unsaid)


def _list_defaults(group: str, builder: str) -> dict[str, Any]:
    fields = schema_of(GROUPS[group][builder]).fields
    known = {name: default for name, (_, default) in fields.items() if default is not ...}
    plain: dict[str, Any] = json_form(known)
    return plain


def _write_pixels(
    choice: str, settings: Mapping[str, Any], image: Mapping[str, Any]
) -> Iterator[str]:
    """Yield how images are prepared, where that differs from the dataset's choice."""
    usual = json_form(asdict(ImageOptions()))
    if settings.get("parts"):  # each part may say how; what is said of the whole counts
        yield f"dataset.pixels={write_value(image)}"
        return
    pixels = read_config("dataset", choice)[1].get("pixels") or {}
    yield from _differ("dataset.pixels", {**usual, **pixels}, image)


def _differ(where: str, base: Mapping[str, Any], stored: Mapping[str, Any]) -> Iterator[str]:
    """Yield an override for each setting that differs, and a deletion for each that is gone."""
    for name, value in stored.items():
        key = f"{where}.{name}" if where else name
        before = base.get(name, MISSING)
        if before == value:
            continue
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            yield from _differ(key, before, value)
        else:
            yield f"{key}={write_value(value)}"
    for name in sorted(base.keys() - stored.keys()):
        yield f"~{where}.{name}"


def write_value(value: Any) -> str:
    """Return a plain value in Hydra's grammar."""
    if isinstance(value, Mapping):
        inner = (f"{_write_key(str(key))}:{write_value(each)}" for key, each in value.items())
        return "{" + ",".join(inner) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(write_value, value)) + "]"
    if not isinstance(value, str):
        return json.dumps(value)
    if PLAIN.fullmatch(value) and value.lower() not in WORDS:
        return value
    # Backslashes before a quote, or at the end, are doubled; a quote gets one.
    escaped = re.sub(r"(\\*)('|$)", lambda at: 2 * at[1] + ("\\'" if at[2] else ""), value)
    return f"'{escaped}'"


def _write_key(key: str) -> str:
    return re.sub(r"([\\()\[\]{}:=,\s'\"])", r"\\\1", key)


# ------------------------------------------------------------------ repeating a stored run


def repeat_run(run: str, given: Sequence[str]) -> list[str]:
    """Return the overrides of a stored run, and after them those given beside it.

    A choice that is given (``strategy=lora``) replaces all that the run sets in its section.

    Parameters
    ----------
    run
        The folder of a run, or the beginning of its key.

    Raises
    ------
    StoreError
        If there is no such run, or several.
    ConfigError
        If it does not hold every setting, or needs components that are not loaded.
    """
    folder = find_run(run, given)
    config = folder.meta.get("config", {})
    if write_command(folder.meta) is None:
        raise ConfigError(
            f"--from {run}: its run.json does not hold every setting, since it was handed on or "
            "hides paths (privacy.ids=pseudonyms); give the settings as key=value"
        )
    _require_components(run, folder)
    stored = write_overrides({**config, "paths": {**config["paths"], "results": _root(folder)}})
    stored += _names(folder.meta)
    known = shorthands()
    replaced = {"strategy" if section in known else section for section in _choices(given)}
    return [*(each for each in stored if section_of(each) not in replaced), *given]


def _choices(given: Sequence[str]) -> Iterator[str]:
    """Yield the sections in which a whole choice is replaced."""
    for override in given:
        key = override.partition("=")[0].lstrip("+~")
        if key in CONFIG_GROUPS or key in shorthands():
            yield key


def _root(folder: RunFolder) -> str:
    return str(folder.path.parents[4])


def find_run(run: str, given: Sequence[str] = ()) -> RunFolder:
    """Return the run of a folder, or the only one whose key begins so.

    Parameters
    ----------
    given
        Overrides, of which ``paths.results`` says where keys are looked for before ``results``.

    Raises
    ------
    StoreError
        If there is no such run, or several.
    """
    if (Path(run) / "run.json").is_file():
        return RunFolder(Path(run))
    chosen = [o.partition("=")[2].strip("'\"") for o in given if o.startswith("paths.results=")]
    # A run is often repeated into another folder than the one that it lies in.
    places = dict.fromkeys([*chosen[-1:], "results"])
    usable = len(run) >= SHORTEST_PREFIX and re.fullmatch("[0-9a-f]+", run)
    pattern = f"runs/*/*/*/{run}*/run.json"
    matches = (sorted(Path(results).glob(pattern)) if usable else [] for results in places)
    found = next(filter(None, matches), [])
    if not found:
        raise StoreError(
            f"--from {run}: it is neither a run's folder nor the beginning of a key in "
            f"{' or '.join(places)}; "
            "'prognobench report' and RESULTS/runs.csv list the keys"
        )
    if len(found) > 1:
        listed = ", ".join(str(file.parent) for file in found[:4])
        raise StoreError(f"--from {run}: {len(found)} runs begin so ({listed}); give more digits")
    return RunFolder(found[0].parent)


def _require_components(run: str, folder: RunFolder) -> None:
    """Check that all builders of a run are known.

    A stored path is not loaded by itself: results come from other people too, and a folder of
    components is code.
    """
    config, folders = folder.meta["config"], folder.meta.get("components", ())
    missing = [
        f"{group} {config[group]['builder']!r}"
        for group in STORED
        if config[group]["builder"] not in GROUPS[group]
    ]
    if missing:
        where = f" (it was in {', '.join(folders)})" if folders else ""
        raise ConfigError(
            f"--from {run}: it needs {', '.join(missing)}, which is no part of prognobench"
            f"{where}; add --components FOLDER"
        )
