"""What is written of a run and of its cells: all but the training history and the model."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench import __version__
from prognobench.errors import TrainingError
from prognobench.files import HIDDEN
from prognobench.folds import export_folds
from prognobench.registry import GROUPS
from prognobench.runs.hiding import describe_names, hide_config
from prognobench.store import describe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prognobench.files import Table
    from prognobench.records import Fold, RunConfig
    from prognobench.runs.prepare import Prepared

LIBRARIES = (
    *("torch", "torchvision", "timm", "peft", "transformers", "scikit-learn", "pandas", "numpy"),
    *("scipy", "albumentations", "hydra-core"),
)
"""Whose versions are recorded with a run."""


def describe_run(run: Prepared) -> dict[str, Any]:
    """Return what ``run.json`` says of a run before its first cell."""
    config, hiding = run.config, run.hiding
    described = describe(config)
    warnings, notes = list(run.warnings), list(run.cohort.notes)
    more: dict[str, Any] = {}
    if folders := _list_components(config):
        more["components"] = [HIDDEN for _ in folders] if hiding else folders
    if hiding:
        described = hide_config(config, described)
        warnings, notes = hiding.hide_values(warnings), hiding.hide_values(notes)
        more["privacy"] = describe_names(hiding.pseudonyms)
    return {
        "key": run.key,
        **{group: getattr(config, group).name for group in ("dataset", "model", "strategy")},
        **{group: getattr(config, group).name for group in ("regime", "cv", "loss")},
        "seed": config.seed,
        "train_seed": config.training_seed,
        "classes": list(run.classes),
        "synthetic": run.cohort.synthetic,
        "reads": list(run.reads),
        "cells": [fold.name for fold in run.folds],
        "weights": run.source.origin,
        "warnings": warnings,
        "notes": notes,
        "left_out": list(run.left_out),
        "not_applicable": None,
        "fingerprints": run.fingerprints,
        "config": described,
        **more,
    }


def _list_components(config: RunConfig) -> list[str]:
    """Return the folders of own components that a run is built from; of datasets also the parts."""
    parts = config.dataset.settings.get("parts")
    within = parts.values() if isinstance(parts, Mapping) else ()
    built = [(group, getattr(config, group).builder) for group in GROUPS]
    built += [("dataset", str(part["builder"])) for part in within if "builder" in part]
    homes = {GROUPS[group][builder].home for group, builder in built}
    return sorted(str(home) for home in homes if home is not None)


def tabulate_run(run: Prepared) -> dict[str, Any]:
    """Return the tables that a run stores beside its cells: cohort, exclusions, folds."""
    import pandas as pd

    cohort = run.cohort.table.copy(deep=False)
    if run.cohort.risk is not None:
        for column, name in enumerate(run.cohort.classes):
            cohort[f"risk_{name}"] = run.cohort.risk[:, column]
    exclusions = run.cohort.exclusions
    if exclusions is None:
        exclusions = pd.DataFrame({"item": [], "reason": []}, dtype=str)
    folds = export_folds(run.folds, run.cohort)
    if hiding := run.hiding:
        cohort, folds = hiding.hide_table(cohort), hiding.hide_table(folds)
        exclusions = hiding.hide_exclusions(exclusions)
    return {"cohort": cohort, "exclusions": exclusions, "folds": folds}


def tabulate_predictions(run: Prepared, fold: Fold, probabilities: NDArray[np.float64]) -> Table:
    """Return predictions as they are stored, by column.

    Parameters
    ----------
    probabilities
        ``(validation and test images, classes)``, in the fold's order.

    Raises
    ------
    TrainingError
        If any is not finite: such a cell has no predictions.
    """
    if wrong := int((~np.isfinite(probabilities)).any(axis=1).sum()):
        raise TrainingError(
            f"the predictions of {wrong} of {len(probabilities)} images are not finite; "
            "check the weights of the backbone, or lower the learning rates"
        )
    rows = np.concatenate([fold.validation, fold.test])
    parts = np.repeat(["validation", "test"], [len(fold.validation), len(fold.test)])
    scores = {f"score_{name}": probabilities[:, i] for i, name in enumerate(run.classes)}
    return {"part": parts, **{name: of[rows] for name, of in run.images.items()}, **scores}


def describe_environment(device: str) -> dict[str, Any]:
    """Return what a run's numbers may depend on beside its config: machine and versions."""
    import torch

    return {
        "prognobench": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "libraries": {name: version for name in LIBRARIES if (version := _version(name))},
    }


@cache
def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [
                line.partition(":")[2].strip() for line in lines if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


@cache
def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
