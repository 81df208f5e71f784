"""Settings put into a composed config, and references such as ``${model.name}`` replaced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from prognobench.cli.config_files import foreign_calls
from prognobench.cli.overrides import Assignment
from prognobench.errors import ConfigError

DATA = "paths.data"
"""Setting that names the folder of the cohorts' folders, or these folders one by one."""

EVERYWHERE = ""
"""Key of the first, where there are both."""


def set_value(composed: Mapping[str, Any], assignment: Assignment) -> Mapping[str, Any]:
    """Return a config with one more setting, whether or not its YAML lists it.

    As in Hydra a group of settings is merged into what is there, and a list replaces it.

    Raises
    ------
    ConfigError
        If there is nothing to delete, or the key leads through a plain value.
    """
    return _changed(composed, assignment.key.split("."), assignment)


def _changed(
    values: Mapping[str, Any], path: list[str], assignment: Assignment
) -> Mapping[str, Any]:
    name, *rest = path
    changed = dict(values)  # what is not on the path stays shared between jobs
    if rest:
        inner = values.get(name)
        if isinstance(inner, str) and assignment.key.startswith(f"{DATA}."):
            inner = {EVERYWHERE: inner}  # paths.data=DATA beside paths.data.NAME=FOLDER
        if not isinstance(inner, Mapping | None):
            above = assignment.key.removesuffix("." + ".".join(rest))
            raise ConfigError(f"{assignment.text}: {above} is a value, and has no settings")
        changed[name] = _changed(inner or {}, rest, assignment)
    elif assignment.deleted:
        if name not in values:
            raise ConfigError(f"{assignment.text}: there is no {assignment.key} to delete")
        del changed[name]
    else:
        changed[name] = _merged(values.get(name), assignment.value)
    return changed


def _merged(before: Any, value: Any) -> Any:
    if not (isinstance(before, Mapping) and isinstance(value, Mapping)):
        return value
    return {**before, **{key: _merged(before.get(key), inner) for key, inner in value.items()}}


def resolve(written: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config with every reference replaced by what it names.

    Missing values (``???``) are left out, so that the check names them.

    Raises
    ------
    ConfigError
        If a reference names nothing, names a missing value, or would call a function.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

    if calls := sorted(set(foreign_calls(written, environment=True))):
        raise ConfigError(
            f"{call!r}: only values as in ${{model.name}} and environment variables as in "
            "${oc.env:NAME} are read"
            for call in calls
        )
    plain: Any = written
    if _refers(written):
        try:
            plain = OmegaConf.to_container(OmegaConf.create(dict(written)), resolve=True)
        except InterpolationToMissingValueError as error:
            missing = _missing(written)
            raise ConfigError(
                f"{key} is missing: give it as {key}=VALUE" for key in missing
            ) from error
        except OmegaConfBaseException as error:
            raise ConfigError(str(error).strip().partition("\n")[0]) from error
    return cast("Mapping[str, Any]", _without_missing(plain))


def _refers(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_refers(inner) for inner in value.values())
    if isinstance(value, list):
        return any(_refers(inner) for inner in value)
    return isinstance(value, str) and "${" in value


def _missing(value: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _missing(inner, f"{prefix}.{key}" if prefix else key)
    elif value == "???":
        yield prefix


def _without_missing(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_missing(inner) for key, inner in value.items() if inner != "???"}
    return value
