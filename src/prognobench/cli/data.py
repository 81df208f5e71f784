"""Commands about a dataset alone: data check looks for faults, data prepare decodes images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prognobench.cli import console
from prognobench.cli.options import FOLDER, compose_configs, takes_overrides
from prognobench.errors import ConfigError, FaultsError, WeightsError

if TYPE_CHECKING:
    from prognobench.audit import Audit
    from prognobench.imaging.cache import Pixels
    from prognobench.records import Cohort, Fold, RunConfig
    from prognobench.runs.workspace import Workspace


REFUSED = 1
"""Exit status of a check that found what a run would refuse."""


@click.group(short_help="Check a dataset, or decode its images.")
def data() -> None:
    """Check a dataset before anything is trained on it, or decode its images ahead of time."""


@data.command(short_help="Look for leaks, duplicates and shortcuts.")
@takes_overrides
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option(
    "--csv", "folder", type=FOLDER, metavar="FOLDER", help="Also write tables and folds as CSV."
)
@click.pass_context
def check(context: click.Context, /, as_json: bool, folder: Path | None, **composing: Any) -> None:
    """Look for leaks, duplicates, broken images and shortcuts in a dataset and its folds.

    The exit code is 1 if a run would refuse the dataset (leaks, broken images), and 2 if it cannot
    be read or split.

    \b
    Examples:
      prognobench data check dataset=cxr_icu dataset.root=covid-chestxray
      prognobench data check dataset=table dataset.table=cohort.csv dataset.images=images \\
          dataset.label=outcome dataset.positive=dead
      prognobench data check dataset=mortality --json
    """
    import json

    from prognobench.runs.workspace import Workspace

    configs = compose_configs(**composing)
    documents = []
    faults: list[str] = []
    refused = False
    for number, config in enumerate(configs, 1):
        with console.progress_bars() as progress:
            workspace = Workspace(progress)
            cohort = workspace.load_cohort(config)
            folds, unsplit = _folds(workspace, config)
            found = workspace.audit_fully(config, folds)
        faults += unsplit
        refused |= bool(found.refusals(config.checks))
        if folder is not None:
            home = folder / str(number) if len(configs) > 1 else folder
            _write_tables(home, found, folds, cohort)
        if as_json:
            documents.append({**found.to_json(), "faults": list(unsplit)})
        else:
            _print(found, split=not unsplit)
    if documents:
        print(json.dumps(documents if len(configs) > 1 else documents[0], indent=2))
    if faults:
        raise ConfigError(dict.fromkeys(faults))
    if refused:
        context.exit(REFUSED)


def _folds(workspace: Workspace, config: RunConfig) -> tuple[Sequence[Fold], Sequence[str]]:
    """Return the folds, or why there can be none: what is found without them says more of it."""
    try:
        return workspace.split_cohort(config), ()
    except FaultsError as error:
        return (), error.faults


def _print(found: Audit, *, split: bool) -> None:
    for title, frame in found.sections():
        console.print_frame(frame, f"{found.cohort}: {title}", most=20)
    for note in found.notes:
        console.say(note)
    for sentence in (*found.duplicates, *found.leaks):
        console.warn(sentence)
    if not split:
        console.say(
            "leaks between the parts of a fold were not checked, because there are no folds"
        )
    elif not (found.duplicates or found.leaks):
        console.say("no leaks and no repeated images were found")


def _write_tables(folder: Path, found: Audit, folds: Sequence[Fold], cohort: Cohort) -> None:
    """Write what was found, the folds, and all that was left out."""
    from prognobench.files import write_table
    from prognobench.folds import export_folds

    tables = dict(found.tables)
    if folds:
        tables["folds"] = export_folds(folds, cohort)
    else:  # those of an earlier check would be taken for these
        _table_file(folder, found, "folds").unlink(missing_ok=True)
    if cohort.exclusions is not None:
        tables["every exclusion"] = cohort.exclusions
    for title, frame in tables.items():
        file = _table_file(folder, found, title)
        write_table(file, frame)
        console.say(f"written: {file}")


def _table_file(folder: Path, found: Audit, title: str) -> Path:
    return folder / f"{found.cohort}-{title.replace(' ', '-')}.csv"


@data.command(short_help="Decode images ahead of a run.")
@takes_overrides
def prepare(**composing: Any) -> None:
    """Decode a dataset's images into the cache, in the size that the chosen models need.

    A run does this by itself. Do it ahead of time where many processes will share the cache.

    \b
    Examples:
      prognobench data prepare dataset=cxr_icu dataset.root=covid-chestxray model=resnet18
    """
    from prognobench.runs.workspace import Workspace

    configs = compose_configs(**composing)
    with console.progress_bars() as progress:
        workspace = Workspace(progress)
        for config in configs:
            shape = _pixels(workspace, config).array.shape
            console.say(f"{config.dataset.name} for {config.model.name}: {shape[0]:,} images ready")


def _pixels(workspace: Workspace, config: RunConfig) -> Pixels:
    """Decode what a model reads; pixels do not depend on its weights, which need not be there."""
    from dataclasses import replace

    try:
        return workspace.load_pixels(config)
    except WeightsError:
        settings = {**config.model.settings, "weights": "random"}
        return workspace.load_pixels(
            replace(config, model=replace(config.model, settings=settings))
        )
