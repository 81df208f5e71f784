"""A composed mapping becomes a :class:`RunConfig`, or one message with every fault in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from prognobench.errors import ConfigError
from prognobench.records import Checks, Component, ImageOptions, Paths, Privacy, RunConfig, Train
from prognobench.registry import GROUPS, LOSSES, Part, near

if TYPE_CHECKING:
    from pydantic import BaseModel

SECTIONS = (*GROUPS, "train", "checks", "privacy", "paths")

BESIDE = {"dataset": ("pixels", "folder", "cv"), "model": ("card",)}
"""Entries of a choice's YAML that are no settings of its builder."""

Known = dict[tuple[str, str], Any]
"""Name of a section and its text -> what it was checked to be."""


def from_mapping(composed: Mapping[str, Any], known: Known | None = None) -> RunConfig:
    """Check a composed config as a whole and return its frozen form.

    Parameters
    ----------
    composed
        Plain values by group, as Hydra composes them from ``configs/``.
    known
        Sections that were checked already: the jobs of a sweep share most of theirs. What is
        checked now is added.

    Raises
    ------
    ConfigError
        With every fault: unknown keys (with near names), missing or mistyped values, values out
        of bounds, unknown builders.
    """
    faults: list[str] = []
    known = {} if known is None else known
    keys = {*SECTIONS, *_PLAIN.fields}
    faults += [
        f"unknown key '{key}'{near(key, sorted(keys))}" for key in composed if key not in keys
    ]
    components = {
        kind: _once(known, kind, composed.get(kind), faults, partial(_component, kind))
        for kind in GROUPS
    }
    pixels = _pixels(composed.get("dataset"), faults)
    components["strategy"] = _named_with_loss(components["strategy"], components["loss"])
    return _checked(components, pixels, composed, faults, known)


def _once(
    known: Known, where: str, value: Any, faults: list[str], check: Callable[[Any, list[str]], Any]
) -> Any:
    """Check a section, or return what the same text was checked to be; faults are not kept."""
    text = where, repr(value)
    if text not in known:
        before = len(faults)
        checked = check(value, faults)
        if len(faults) > before:
            return checked
        known[text] = checked
    return known[text]


def read_config(described: Mapping[str, Any], built: Collection[str] = tuple(GROUPS)) -> RunConfig:
    """Return the config that :func:`.store.describe` wrote into a run's ``run.json``.

    Parameters
    ----------
    described
        As JSON holds it: lists for tuples, text for paths.
    built
        The groups whose components are to be built again, and so have to be known here and have
        settings of the right types. The others are taken as they are stored.

    Raises
    ------
    ConfigError
        With everything that this version does not take.
    """
    faults: list[str] = []
    components = {}
    for kind in (kind for kind in GROUPS if kind in described):  # no engine is stored
        stored = Component(**described[kind])
        whole = {**stored.settings, "name": stored.name, "builder": stored.builder}
        components[kind] = _component(kind, whole, faults) if kind in built else stored
    return _checked(components, described["image"], described, faults, {})


def _checked(
    components: Mapping[str, Any],
    pixels: Any,
    rest: Mapping[str, Any],
    faults: list[str],
    known: Known,
) -> RunConfig:
    """Check everything but the components; raise an error for all faults found so far."""
    plain = _check("", _PLAIN, _pick(rest), faults)
    given: dict[str, tuple[Any, Callable[[Any, list[str]], Any]]] = {
        "train": (rest.get("train", {}), partial(_record, "train", Train)),
        "checks": (rest.get("checks", {}), partial(_record, "checks", Checks)),
        "privacy": (rest.get("privacy", {}), partial(_record, "privacy", Privacy)),
        "image": (pixels, partial(_record, "dataset.pixels", ImageOptions)),
        "paths": (rest.get("paths", {}), _paths),
    }
    sections: dict[str, Any] = {
        name: _once(known, name, value, faults, check) for name, (value, check) in given.items()
    }
    if faults:
        raise ConfigError(faults)
    return RunConfig(**components, **sections, **plain)


def _named_with_loss(strategy: Component, loss: Component) -> Component:
    """Add an unusual loss to the strategy's name, so that tables compare it as a strategy."""
    is_known = loss.builder in LOSSES
    if not is_known or (loss.name == loss.builder and LOSSES[loss.builder].facts["usual"]):
        return strategy
    return replace(strategy, name=f"{strategy.name}+{loss.name}")


def _pixels(dataset: Any, faults: list[str]) -> Any:
    """How the dataset's images are prepared; a union's as all its parts say, or it itself."""
    if not isinstance(dataset, Mapping):
        return {}
    parts = dataset.get("parts")
    if dataset.get("pixels") is not None or not isinstance(parts, Mapping):
        return dataset.get("pixels") or {}
    found = [part.get("pixels") or {} for part in parts.values() if isinstance(part, Mapping)]
    if any(pixels != found[0] for pixels in found):
        told = "; ".join(f"{name}: {pixels}" for name, pixels in zip(parts, found, strict=False))
        faults.append(
            f"dataset.parts: the parts prepare their images differently ({told}); say how all of "
            "them are prepared, as in dataset.pixels.equalise=true"
        )
    return found[0] if found else {}


def _pick(composed: Mapping[str, Any]) -> dict[str, Any]:
    return {key: composed[key] for key in _PLAIN.fields if key in composed}


def _component(kind: str, value: Any, faults: list[str]) -> Component:
    """Check one group's choice; after a fault an empty component takes its place."""
    if not isinstance(value, Mapping):
        faults.append(f"{kind} is missing: choose one, as in {kind}=NAME")
        return Component("", "")
    settings = dict(value)
    name, builder = settings.pop("name", None), settings.pop("builder", None)
    for handled_elsewhere in BESIDE.get(kind, ()):
        settings.pop(handled_elsewhere, None)
    if not isinstance(builder, str):
        faults.append(f"{kind}.builder is missing: the name of a registered {kind} builder")
        return Component("", "")
    if name is None:
        faults.append(f"{kind}.name is missing: give it as {kind}.name=VALUE")
        name = ""
    try:
        part = GROUPS[kind][builder]
    except ConfigError as error:
        faults += error.faults
        return Component(str(name), "")
    return Component(str(name), builder, _check(kind, schema_of(part), settings, faults))


def _record(where: str, record: type, value: Any, faults: list[str]) -> Any:
    before = len(faults)
    values = _check(where, _fields_of_record(record), value, faults)
    return record(**values) if len(faults) == before else None


def _paths(value: Any, faults: list[str]) -> Paths:
    checked = _check("paths", _PATHS, value, faults)
    results, cache = checked.get("results", "results"), checked.get("cache")
    return Paths(Path(results).expanduser(), Path(cache or default_cache()).expanduser())


def default_cache() -> Path:
    """Return ``PROGNOBENCH_CACHE`` if it is set, or the user's cache folder."""
    if chosen := os.environ.get("PROGNOBENCH_CACHE"):
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("prognobench", appauthor=False)


# ------------------------------------------------------------------ schemas


@dataclass(frozen=True)
class Schema:
    """What settings there may be: name -> (type, default), ``...`` where one must be given."""

    fields: Mapping[str, tuple[Any, Any]]

    @cached_property
    def model(self) -> type[BaseModel]:
        from pydantic import ConfigDict, create_model

        # Aliases keep settings called like pydantic's own methods ("copy", "json") possible.
        options = ConfigDict(
            extra="forbid",
            allow_inf_nan=False,
            arbitrary_types_allowed=True,
            alias_generator=lambda name: name.removeprefix("field_"),
        )
        fields: dict[str, Any] = {f"field_{name}": kind for name, kind in self.fields.items()}
        return create_model("Settings", __config__=options, **fields)


_PLAIN = Schema({"seed": (int, 42), "device": (str, "auto"), "baselines": (bool, True)})
_PATHS = Schema({"results": (str, "results"), "cache": (str | None, None)})


@cache
def schema_of(part: Part) -> Schema:
    """What the YAML of this part may set."""
    defaults = {
        name: ... if parameter.default is parameter.empty else parameter.default
        for name, parameter in part.settings.items()
    }
    return Schema({name: (part.annotations[name], defaults[name]) for name in defaults})


@cache
def _fields_of_record(record: type) -> Schema:
    hints = get_type_hints(record, include_extras=True)
    return Schema({field.name: (hints[field.name], field.default) for field in fields(record)})


def _check(where: str, schema: Schema, value: Any, faults: list[str]) -> dict[str, Any]:
    """Return values converted to their types, defaults filled in; add what is wrong to faults."""
    from pydantic import ValidationError

    if not isinstance(value, Mapping):
        faults.append(f"{where} is a group of settings, not {value!r}")
        return {}
    try:
        checked = schema.model.model_validate(dict(value))
    except ValidationError as error:
        faults += [_fault(where, schema, details) for details in _innermost(error.errors())]
        return {}
    return {name: getattr(checked, f"field_{name}") for name in schema.fields}


def _innermost(errors: Sequence[Any]) -> list[Any]:
    """Leave out what is wrong with a whole only because of what is wrong inside it."""
    places = [details["loc"] for details in errors]
    return [
        details
        for details, place in zip(errors, places, strict=True)
        if not any(other != place and other[: len(place)] == place for other in places)
    ]


def _fault(where: str, schema: Schema, details: Any) -> str:
    location = [str(part) for part in details["loc"]]
    key = ".".join(filter(None, [where, *location]))
    if details["type"] == "extra_forbidden":
        known = sorted(schema.fields)
        listed = f"allowed keys: {', '.join(known)}" if known else "it has no settings"
        return f"unknown key '{key}'{near(location[-1], known)} ({listed})"
    if details["type"] == "missing":
        return f"{key} is missing: give it as {key}=VALUE"
    if details["type"] in ("list_type", "tuple_type"):
        return f"{key}={details['input']!r}: give a list, as in {key}=[{details['input']}]"
    if details["type"] == "too_short":
        return f"{key}={details['input']!r}: give at least {details['ctx']['min_length']}"
    said = f"{key}={details['input']!r}: {details['msg'][0].lower()}{details['msg'][1:]}"
    if details["type"] == "string_type" and isinstance(details["input"], int | float):
        said += f"; quote a name that looks like a number twice: \"{key}='NAME'\""
    return said
