"""From a function that builds a network, and weights that were located, to a backbone."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from prognobench.errors import ConfigError, NotApplicableError, WeightsError
from prognobench.models.weights import Weights
from prognobench.records import Backbone, BackboneSource, Preprocessing
from prognobench.seeds import derive

if TYPE_CHECKING:
    from torch import nn

KEPT = 2
"""How many loaded backbones stay in memory, so that a sweep reads each file once."""

_masters: OrderedDict[str, Backbone] = OrderedDict()
"""Loaded backbones by fingerprint, the one used last at the end."""


def backbone_source(
    build: Callable[[], nn.Module],
    weights: Weights,
    preprocessing: Preprocessing,
    settings: tuple[Any, ...],
    *,
    pooling: Literal["auto", "own"] = "auto",
    qkv: Literal["fused", "separate"] = "fused",
) -> BackboneSource:
    """Return a source whose first ``load`` builds and fills the network; later ones copy it.

    Parameters
    ----------
    build
        Returns a timm network with random weights and without a classifier.
    weights
        From :func:`prognobench.models.weights.locate`.
    settings
        Whatever else the loaded weights depend on (architecture, image size, ...), with a stable
        ``repr``; goes into the fingerprint.
    pooling, qkv
        As in :func:`prognobench.models.timm.timm`.
    """
    content = repr((settings, pooling, qkv, weights.digest))
    fingerprint = hashlib.sha256(content.encode()).hexdigest()[:32]

    def lend() -> Backbone:
        master = _masters.get(fingerprint)
        if master is None:
            network, report = _network(build, weights)
            if qkv == "separate":
                _separate(network)
            master = _backbone(network, pooling, preprocessing, fingerprint, report)
            _masters[fingerprint] = master
            while len(_masters) > KEPT:
                _masters.popitem(last=False)
        _masters.move_to_end(fingerprint)
        return replace(master, preprocessing=preprocessing)

    def load() -> Backbone:
        master = lend()
        # LeViT and its relatives cache attention biases in eval mode; train() drops the cache of
        # whoever read the master before.
        return replace(master, module=deepcopy(master.module).train().eval())

    return BackboneSource(fingerprint, preprocessing, load, weights.origin, lend)


def _network(build: Callable[[], nn.Module], weights: Weights) -> tuple[nn.Module, tuple[str, ...]]:
    """Build the network with its weights, and report where they came from."""
    import torch

    from prognobench.models.encoders import checkpoint

    with torch.random.fork_rng(devices=[]):
        if weights.path is None:
            # The digest of random weights holds their seed.
            torch.manual_seed(derive(weights.digest, "weights"))
            return build(), (weights.origin,)
        with checkpoint.WithoutInitialisation():
            network = build()
    try:
        return network, checkpoint.fill(network, checkpoint.read(weights.path))
    except WeightsError as error:
        raise WeightsError(f"{weights.origin}: {error}") from error


def _separate(network: nn.Module) -> None:
    from prognobench.models.encoders.projections import separate_projections

    fused = [name for name, _ in network.named_modules() if name.endswith("attn.qkv")]
    if not fused:
        raise ConfigError("model.qkv=separate: this network has no fused projections; set 'fused'")
    try:
        separate_projections(network, fused)
    except NotApplicableError as error:
        raise ConfigError(f"model.qkv=separate: {error}; set 'fused'") from error


def _backbone(
    network: nn.Module,
    pooling: Literal["auto", "own"],
    preprocessing: Preprocessing,
    fingerprint: str,
    report: tuple[str, ...],
) -> Backbone:
    from prognobench.models.encoders.network import encoder

    module = encoder(network.float(), pooling).eval()
    return Backbone(
        module=module,
        width=next(iter(module.layers.values())),
        preprocessing=preprocessing,
        roles=module.roles,
        blocks=module.blocks,
        layers=module.layers,
        fingerprint=fingerprint,
        report=report,
    )
