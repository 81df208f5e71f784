"""The pages that are written from code: choices, settings and columns."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from documenting.settings import (
    choices,
    differences,
    read,
    settings_of_part,
    settings_of_record,
    spell,
    summary,
    table,
)
from prognobench.cli.discover import listing
from prognobench.metrics.metric import all_metrics
from prognobench.records import Checks, ImageOptions, Paths, Privacy, Train
from prognobench.registry import GROUPS

ROOT = Path(__file__).parents[2]
COLUMNS = Path(__file__).with_name("columns.yaml")
BEGIN = "<!-- columns: written by scripts/write-docs -->"
END = "<!-- end of columns -->"
NOTICE = "<!-- Written by scripts/write-docs from code and configs: change these, then run it. -->"

CHOICES = """\
# What to choose from

`prognobench list` prints the same; [configuration.md](configuration.md) has the settings.
"""
METRICS = """\
`chance` is the value of a forecast that knows nothing but the shares of the classes, here 0.8 and
0.2.

"""
SETTINGS = """\
# Settings

`group=choice` chooses a YAML of `configs/<group>/`; `group.setting=value` sets one value of it.
[choices.md](choices.md) lists the choices. An unknown name, or a value that a type or bound
forbids, is an error before anything starts.

The defaults in the tables are those of the builders. Below each table stand the choices that use
the builder, with what they set otherwise.
"""

HEADINGS = {
    "dataset": "Datasets",
    "model": "Models",
    "strategy": "Strategies",
    "loss": "Losses",
    "cv": "Cross-validation",
    "regime": "Regimes",
    "engine": "Engines",
}
PRODUCES = {
    "Adapted": "trains the backbone",
    "Probe": "trains heads on frozen features",
    "Estimator": "fits a classifier on frozen features or covariates",
}


def pages() -> dict[Path, str]:
    """Return every generated page's text by its path."""
    results = ROOT / "docs" / "results.md"
    return {
        ROOT / "docs" / "choices.md": _page(_choices()),
        ROOT / "docs" / "configuration.md": _page(_configuration()),
        results: _between_marks(results.read_text(encoding="utf-8"), "\n".join(_columns())),
    }


def _page(lines: Iterator[str]) -> str:
    return "\n".join([NOTICE, "", *lines]).rstrip() + "\n"


def _between_marks(text: str, written: str) -> str:
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{written.strip()}\n\n{END}{after}"


# ------------------------------------------------------------------ choices


def _choices() -> Iterator[str]:
    yield from CHOICES.splitlines()
    for group, heading in HEADINGS.items():
        columns, rows = listing(group)
        yield from ("", f"## {heading}: `{group}=...`", "")
        if group == "model":  # which weights are here differs from machine to machine
            here = columns.index("here")
            columns, rows = _without(columns, here), [_without(row, here) for row in rows]
        yield from _table(columns, rows)
    yield from ("", "## Training recipes: `train=...`", "")
    yield from _table(*listing("train"))
    yield from ("", "## Experiments: `experiment=...`", "")
    yield from _table(*listing("experiment"))
    yield from ("", "## Metrics", "")
    yield from METRICS.splitlines()
    yield from _table(["metric", "in tables", "range", "best", "chance", "what it is"], _metrics())


def _without(row: list[Any], at: int) -> list[Any]:
    return [*row[:at], *row[at + 1 :]]


def _metrics() -> list[list[Any]]:
    import numpy as np

    shares = np.array([0.8, 0.2])
    return [
        [
            f"`{metric.name}`",
            metric.title,
            f"{metric.bounds[0]:g} to {metric.bounds[1]:g}",
            f"{metric.best:g}",
            "none" if metric.chance is None else f"{metric.chance(shares):.3g}",
            summary(metric.function),
        ]
        for metric in sorted(all_metrics(), key=lambda metric: metric.name)
    ]


def _table(columns: list[str], rows: list[list[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "| " + " | ".join("---" for _ in columns) + " |"
    for first, *rest in rows:
        name = first if first.startswith("`") else f"`{first}`"
        yield "| " + " | ".join(_cell(cell) for cell in (name, *rest)) + " |"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|")


# ------------------------------------------------------------------ settings


def _configuration() -> Iterator[str]:
    yield from SETTINGS.splitlines()
    yield from ("", "## Of a run", "")
    yield from _table(["setting", "default", "meaning"], _plain_settings())
    yield from ("", "## `train`: the training recipe", "")
    yield "Times are in epochs. The defaults are those of `train=default`."
    yield ""
    yield from table(settings_of_record(Train, "train", read("train/default")))
    yield ""
    yield from _recipes()
    yield from ("", "## `dataset.pixels`: how images become squares", "")
    yield "Any dataset may set these, as in `dataset.pixels.equalise=true`."
    yield ""
    yield from table(settings_of_record(ImageOptions, "dataset.pixels"))
    yield from ("", "## `checks`: findings that a run accepts", "")
    yield from table(settings_of_record(Checks, "checks"))
    yield from ("", "## `privacy`: under which names results hold patients", "")
    yield from table(settings_of_record(Privacy, "privacy"))
    yield from ("", "## `paths`", "")
    yield from table(settings_of_record(Paths, "paths", _section("paths")))
    for group, heading in HEADINGS.items():
        yield from ("", f"## `{group}`: {heading.lower()}")
        for builder, part in GROUPS[group].items():
            if part.builder.__module__.startswith("prognobench."):
                yield from _builder(group, builder)


def _section(name: str) -> str:
    """Return one section of the configs' root as a YAML of its own."""
    return yaml.safe_dump(yaml.safe_load(read("config"))[name])


def _plain_settings() -> list[list[str]]:
    return [
        ["seed", "`42`", "Of folds, draws, initial heads, augmentation: of everything random."],
        ["device", "`auto`", "`auto`, `cpu`, `cuda`, `cuda:1` or `mps`."],
        [
            "baselines",
            "`true`",
            "Whether a sweep (`-m`) also runs `strategy=metadata` on cohorts with covariates, once "
            "for each of their folds.",
        ],
        ["lora", "`null`", "`true` is short for `strategy=lora`."],
    ]


def _recipes() -> Iterator[str]:
    usual = choices("train")["default"]
    for name, recipe in choices("train").items():
        changed = {key: value for key, value in recipe.items() if value != usual[key]}
        if changed:
            yield f"- `{name}`: {_spelled(changed)}"


def _builder(group: str, builder: str) -> Iterator[str]:
    part = GROUPS[group][builder]
    kind = PRODUCES.get(part.produces, "") if group == "strategy" else ""
    yield from ("", f"### `{builder}`", "")
    yield summary(part.builder) + (f" *It {kind}.*" if kind else "")
    if part.settings:
        yield ""
        yield from table(settings_of_part(group, part))
    using = {n: each for n, each in choices(group).items() if each["builder"] == builder}
    yield ""
    for name, choice in using.items():
        yield f"- `{group}={name}`: {_spelled(differences(group, choice)) or 'as in the table'}"


def _spelled(values: dict[str, Any]) -> str:
    shown = {name: "..." if value == "???" else spell(value) for name, value in values.items()}
    return ", ".join(f"`{name}={value.strip('`')}`" for name, value in shown.items())


# ------------------------------------------------------------------ columns


def columns() -> list[dict[str, Any]]:
    """Return what is declared of each file: its name, its rows, and its columns' meanings."""
    declared: list[dict[str, Any]] = yaml.safe_load(COLUMNS.read_text(encoding="utf-8"))
    return declared


def names_of(file: str) -> list[str]:
    """Return the declared columns of a file, in their order."""
    (found,) = (each for each in columns() if each["file"] == file)
    return [name for names in found["columns"] for name in names.split()]


def _columns() -> Iterator[str]:
    for each in columns():
        yield f"`{each['file']}`, {each['rows']}:"
        yield ""
        yield f"| {each.get('kind', 'column')} | meaning |"
        yield "| --- | --- |"
        for names, meaning in each["columns"].items():
            listed = " ".join(f"`{name}`" for name in names.split())
            yield f"| {listed} | {meaning} |"
        yield ""
