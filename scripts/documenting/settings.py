"""What can be set, read from builders, records and YAML files, as rows of Markdown tables."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types as bounds
import yaml

from prognobench.config import BESIDE
from prognobench.registry import GROUPS, Part

CONFIGS = Path(__file__).parents[2] / "configs"
"""Keys of a YAML that are no settings of its builder."""

MEANINGS: Mapping[str, str] = yaml.safe_load(
    Path(__file__).with_name("settings.yaml").read_text(encoding="utf-8")
)
"""What code and YAML do not say: ``setting``, ``group.setting`` or ``group/builder.setting``."""


@dataclass(frozen=True)
class Setting:
    """One setting: its allowed values, its default, and what it does."""

    name: str
    kind: str
    default: str
    meaning: str

    @property
    def row(self) -> str:
        cells = (f"`{self.name}`", self.kind, self.default, self.meaning)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(settings: Iterator[Setting] | list[Setting]) -> list[str]:
    """Return the lines of a Markdown table of settings."""
    rows = [setting.row for setting in settings]
    return ["| setting | values | default | meaning |", "| --- | --- | --- | --- |", *rows]


def settings_of_part(group: str, part: Part) -> list[Setting]:
    """Return what the YAML of a builder may set."""
    told = {**_comments_of(group, part.name), **explained(part.builder)}
    return [
        Setting(
            name,
            spell_type(part.annotations[name]),
            "*must be given*" if parameter.default is parameter.empty else spell(parameter.default),
            MEANINGS.get(f"{group}/{part.name}.{name}") or _meaning(group, name, told),
        )
        for name, parameter in part.settings.items()
    ]


def settings_of_record(record: type, group: str, text: str = "") -> list[Setting]:
    """Return the fields of a record as settings; ``text`` is a YAML of defaults and comments."""
    hints = get_type_hints(record, include_extras=True)
    defaults: dict[str, Any] = yaml.safe_load(text) or {}
    told = {**explained(record), **comments(text)}
    return [
        Setting(
            field.name,
            spell_type(hints[field.name]),
            spell(defaults.get(field.name, None if field.default is MISSING else field.default)),
            _meaning(group, field.name, told),
        )
        for field in fields(record)
    ]


def read(name: str) -> str:
    """Return the text of a YAML, ``group/choice``."""
    return (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")


def _meaning(group: str, name: str, told: Mapping[str, str]) -> str:
    meaning = MEANINGS.get(f"{group}.{name}") or told.get(name) or MEANINGS.get(name, "")
    meaning = meaning[:1].upper() + meaning[1:]
    return meaning if not meaning or meaning.endswith((".", ")")) else f"{meaning}."


@cache
def choices(group: str) -> dict[str, dict[str, Any]]:
    """Return the YAML files of a group by name."""
    files = sorted((CONFIGS / group).glob("*.yaml"))
    return {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}


def differences(group: str, choice: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a YAML sets to another value than its builder's default."""
    part = GROUPS[group][choice["builder"]]
    skipped = ("name", "builder", *BESIDE.get(group, ()))
    return {
        name: value
        for name, value in choice.items()
        if name not in skipped and spell(value) != spell(part.settings[name].default)
    }


def _comments_of(group: str, builder: str) -> dict[str, str]:
    """Return the comments beside the settings of a builder's YAML files."""
    told: dict[str, str] = {}
    for name, choice in choices(group).items():
        if choice["builder"] == builder:
            told = {**comments(read(f"{group}/{name}")), **told}
    return told


def comments(text: str) -> dict[str, str]:
    """Return the comment beside each top-level key of a YAML, with the lines that continue it."""
    told: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if match := re.match(r"(\w+):[^#]*\s# ?(.*)", line):
            last, told[match[1]] = match[1], match[2].strip()
        elif (match := re.match(r"\s+# ?(.*)", line)) and last:
            told[last] += " " + match[1].strip()
        else:
            last = ""
    return told


def explained(documented: Callable[..., Any] | type) -> dict[str, str]:
    """Return what a docstring's sections Parameters and Attributes say of each name."""
    told: dict[str, str] = {}
    lines = iter((inspect.getdoc(documented) or "").splitlines())
    names: list[str] = []
    inside = False
    for line in lines:
        if re.fullmatch(r"(Parameters|Attributes|Raises|Notes|Returns|References)", line):
            inside, names = line in ("Parameters", "Attributes"), []
        elif inside and line and not line.startswith((" ", "-")):
            names = [name.strip() for name in line.split(",")]
        elif inside and line.strip() and not line.startswith("-"):
            for name in names:
                told[name] = f"{told.get(name, '')} {line.strip()}".strip()
    return {name: _plain(text) for name, text in told.items()}


def summary(documented: Callable[..., Any]) -> str:
    """Return the first paragraph of a docstring."""
    paragraph = (inspect.getdoc(documented) or "").split("\n\n")[0]
    return _plain(" ".join(paragraph.split()))


def _plain(text: str) -> str:
    """Turn the marks of docstrings into those of Markdown."""
    text = re.sub(r":\w+:`[.~]*([^`]+)`", lambda match: f"`{match[1].split('.')[-1]}`", text)
    return text.replace("``", "`")


# ------------------------------------------------------------------ types and values

BOUNDS = {
    bounds.Gt: ("above", "gt"),
    bounds.Ge: ("at least", "ge"),
    bounds.Lt: ("below", "lt"),
    bounds.Le: ("at most", "le"),
}
WORDS = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`"}
WORDS |= {Path: "path", NoneType: "`null`", Any: "anything"}


def spell_type(kind: Any) -> str:
    """Say in words which values a setting of this type takes."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return f"{spell_type(arguments[0])}{_spell_bounds(arguments[1:])}"
    if origin is Literal:
        return _either([f"`{spell(value).strip('`')}`" for value in arguments])
    if origin in (Union, UnionType):
        return _either(list(dict.fromkeys(map(spell_type, arguments))))
    if origin is tuple or origin is list:
        return f"list of: {spell_type(arguments[0])}"
    if origin is not None or kind is dict:
        return "group of settings"
    return WORDS.get(kind, str(kind))


def _spell_bounds(marks: tuple[Any, ...]) -> str:
    said = [
        f"{BOUNDS[type(mark)][0]} {getattr(mark, BOUNDS[type(mark)][1])}"
        for mark in marks
        if type(mark) in BOUNDS
    ]
    said += [f"{mark.min_length} or more" for mark in marks if isinstance(mark, bounds.MinLen)]
    return ", " + ", ".join(said) if said else ""


def _either(words: list[str]) -> str:
    if all(word.startswith("`") for word in words):
        return " ".join(words) if len(words) > 2 else " or ".join(words)
    return " or ".join(words)


def spell(value: Any) -> str:
    """Write a value as it stands in a YAML."""
    if isinstance(value, str) and not value:
        return '`""`'
    return f"`{_literal(value)}`"


def _literal(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)
