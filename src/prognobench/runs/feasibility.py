"""Strategies tried without computing anything: what cannot be is said before anything trains."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial

import torch

from prognobench.errors import ConfigError, PrognobenchError
from prognobench.frozen.bank import backbone_facts
from prognobench.frozen.estimators import reads_features
from prognobench.records import Backbone, BackboneSource, Probe
from prognobench.registry import STRATEGIES
from prognobench.runs.prepare import Prepared, Workspace


def check_strategies(runs: Sequence[Prepared], workspace: Workspace) -> None:
    """Apply the strategy of every run to its backbone, each pair once.

    A strategy that trains the backbone is tried on tensors that have a shape and no content; of
    one that reads features, what it reads is looked up.

    Raises
    ------
    ConfigError
        With what the strategies of all runs refuse (a rank that is larger than a matrix, a feature
        that there is not), and the weights that cannot be loaded.
    """
    faults: dict[str, None] = {}
    for run in runs:
        strategy, augmentation = asdict(run.config.strategy), run.config.train.augmentation
        pair = (run.source.fingerprint, strategy, augmentation, len(run.cohort.classes))
        refusals = workspace.once(partial(_refusals, run, workspace), "refusals", *pair)
        faults |= dict.fromkeys(refusals)
    if faults:
        raise ConfigError(faults)


def _refusals(run: Prepared, workspace: Workspace) -> list[str]:
    config = run.config
    try:
        if run.produces == "Adapted":
            _try_on_shapes(run, workspace)
        else:
            _try_layers(run)
    except ConfigError as error:
        return [f"{config.model.name}, {config.strategy.name}: {fault}" for fault in error.faults]
    except PrognobenchError as error:
        return [str(error)]
    return []


def _try_on_shapes(run: Prepared, workspace: Workspace) -> None:
    source, strategy = run.source, run.config.strategy
    shapes = workspace.once(partial(_shapes, source), "shapes", source.fingerprint)
    backbone = replace(shapes, module=deepcopy(shapes.module))
    try:
        with torch.device("meta"):
            STRATEGIES[strategy.builder](backbone, len(run.cohort.classes), **strategy.settings)
    except ConfigError:
        raise
    except Exception:
        # A pair that cannot be is recorded with its run; what only content shows, its cells say.
        return


def _shapes(source: BackboneSource) -> Backbone:
    backbone = source.load()
    return replace(backbone, module=backbone.module.to("meta"))


def _try_layers(run: Prepared) -> None:
    spec = run.classifier
    if isinstance(spec, Probe):
        wanted = spec.layers
        if spec.views and run.config.train.augmentation == "none":
            raise ConfigError(
                f"strategy.views={spec.views} are augmented, and train.augmentation=none gives "
                "only the image itself; take light or strong"
            )
    else:
        wanted = (spec.layer,) if reads_features(spec) and spec.layer else ()
    if not wanted:
        return
    known = backbone_facts(run.source, run.config.paths.cache).layers
    if not set(wanted) & set(known):
        raise ConfigError(
            f"no feature {' or '.join(wanted)} in this backbone; it has {', '.join(known)}"
        )
