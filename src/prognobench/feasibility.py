"""Strategies tried on the shapes of a backbone: what cannot be is said before anything trains."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial

import torch

from prognobench.errors import ConfigError, PrognobenchError
from prognobench.preparation import Prepared, Workspace
from prognobench.records import Backbone, BackboneSource
from prognobench.registry import STRATEGIES


def check_strategies(runs: Sequence[Prepared], workspace: Workspace) -> None:
    """Apply the strategy of every run to its backbone without computing anything.

    Each backbone is loaded once, each pair tried once, on tensors that have a shape and no content.

    Raises
    ------
    ConfigError
        With what the strategies of all runs refuse (a rank that is larger than a matrix, more
        blocks than there are), and the weights that cannot be loaded.
    """
    faults: dict[str, None] = {}
    for run in runs:
        if run.produces == "Adapted":
            pair = (run.source.fingerprint, asdict(run.config.strategy), len(run.cohort.classes))
            faults |= dict.fromkeys(
                workspace.once(partial(_refusals, run, workspace), "refusals", *pair)
            )
    if faults:
        raise ConfigError(faults)


def _refusals(run: Prepared, workspace: Workspace) -> list[str]:
    config, source = run.config, run.source
    try:
        shapes = workspace.once(partial(_shapes, source), "shapes", source.fingerprint)
    except PrognobenchError as error:
        return [str(error)]
    backbone = replace(shapes, module=deepcopy(shapes.module))
    build = STRATEGIES[config.strategy.builder]
    try:
        with torch.device("meta"):
            build(backbone, len(run.cohort.classes), **config.strategy.settings)
    except ConfigError as error:
        return [f"{config.model.name}, {config.strategy.name}: {fault}" for fault in error.faults]
    except Exception:
        # A pair that cannot be is recorded with its run; what only content shows, its cells say.
        return []
    return []


def _shapes(source: BackboneSource) -> Backbone:
    backbone = source.load()
    return replace(backbone, module=backbone.module.to("meta"))
