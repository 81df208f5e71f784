"""The features of a frozen backbone that several runs read, and what is still to be computed."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from prognobench.errors import TrainingError
from prognobench.frozen.bank import Features, backbone_facts, embed, not_embedded, view_of
from prognobench.imaging.cache import pixel_digests
from prognobench.records import Probe
from prognobench.runs.prepare import Prepared
from prognobench.runs.workspace import Workspace
from prognobench.training.hardware import resolve_device, resolve_precision


@dataclass(frozen=True)
class Embedded:
    """What a frozen backbone gave for a group of runs.

    Attributes
    ----------
    features
        Of every image: plain, then in each augmented view; no layers where no run reads any.
    parameters
        Of the backbone.
    cost
        Entries for the ``cost.json`` of every cell.
    """

    features: Sequence[Features] = (Features(),)
    parameters: int = 0
    cost: Mapping[str, Any] = field(default_factory=dict)


def share_features(runs: Iterable[Prepared]) -> Iterable[list[Prepared]]:
    """Group the runs by what features depend on: images and how they are shown, weights,
    precision, device.
    """
    groups: dict[tuple[str, ...], list[Prepared]] = defaultdict(list)
    for run in runs:
        train, prints = run.config.train, run.fingerprints
        shown = (str(asdict(run.config.image)), str(asdict(run.source.preprocessing)))
        views = (train.augmentation, str(train.horizontal_flip))
        how = (train.precision, run.config.device)
        groups[prints["cohort"], prints["weights"], *shown, *views, *how].append(run)
    return groups.values()


def embed_group(runs: Sequence[Prepared], workspace: Workspace, device: torch.device) -> Embedded:
    """Return the layers that any of the runs reads, in as many views as any of them wants."""
    start = time.perf_counter()
    layers: dict[str, None] = {}
    views = 0
    for spec in (run.classifier for run in runs):
        if isinstance(spec, Probe):
            layers.update(dict.fromkeys(spec.layers or ("",)))
            views = max(views, spec.views)
        elif "image" in spec.reads:
            layers[spec.layer] = None
    first, recipe = runs[0], runs[0].config.train
    features = [
        embed(
            first.source,
            workspace.load_pixels(first.config),
            tuple(layers),
            folder=first.config.paths.cache,
            device=device,
            precision=recipe.precision,
            view=view_of(number, recipe),
            progress=workspace.progress,
        )
        for number in range(1 + views)
    ]
    _require_finite(features)
    cost = {
        "seconds_embedding_shared": time.perf_counter() - start,
        "precision_features": resolve_precision(recipe.precision, device),
    }
    facts = backbone_facts(first.source, first.config.paths.cache)
    return Embedded(features, facts.parameters, cost)


def _require_finite(features: Iterable[Features]) -> None:
    """Raise an error if the backbone gives any image a feature that is not finite."""
    wrong = {
        int(row)
        for view in features
        for of_images in view.values()
        for row in np.flatnonzero(~np.isfinite(of_images).all(axis=1))
    }
    if wrong:
        raise TrainingError(
            f"the backbone gives features that are not finite for {len(wrong)} images (the first "
            f"in row {min(wrong) + 1} of the cohort); check its weights, or set "
            "train.precision=fp32"
        )


def images_to_embed(run: Prepared) -> set[tuple[str, str]]:
    """Return the images, in each view, whose features the backbone must still compute."""
    if "image" not in run.reads:
        return set()
    config, recipe = run.config, run.config.train
    found = (
        not_embedded(
            run.source,
            pixel_digests(run.cohort, run.recipe, config.paths.cache),
            folder=config.paths.cache,
            device=resolve_device(config.device),
            precision=recipe.precision,
            view=view_of(number, recipe),
        )
        for number in range(1 + getattr(run.classifier, "views", 0))
    )
    return set().union(*found)
