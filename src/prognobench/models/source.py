"""One way from a recipe for a network and a place of weights to a backbone."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prognobench.errors import WeightsError
from prognobench.models.weights import Weights
from prognobench.records import Backbone, BackboneSource, Preprocessing
from prognobench.seeds import derive

if TYPE_CHECKING:
    from prognobench.models.encoders.network import NetworkEncoder

_masters: OrderedDict[str, Backbone] = OrderedDict()
KEPT = 2
"""How many loaded backbones stay in memory, so that a sweep reads each file once."""


def backbone_source(
    build: Callable[[], NetworkEncoder],
    weights: Weights,
    preprocessing: Preprocessing,
    settings: tuple[Any, ...],
) -> BackboneSource:
    """Make a source whose first ``load`` builds and fills the network; later ones copy it.

    Parameters
    ----------
    build
        Makes the encoder with random weights.
    weights
        From :func:`prognobench.models.weights.locate`.
    settings
        Whatever else the loaded weights and features depend on (architecture, side, ...), with
        a stable ``repr``; goes into the fingerprint.
    """
    content = repr((settings, weights.digest))
    fingerprint = hashlib.sha256(content.encode()).hexdigest()[:32]

    def load() -> Backbone:
        master = _masters.get(fingerprint)
        if master is None:
            master = _load(build, weights, preprocessing, fingerprint)
            _masters[fingerprint] = master
            while len(_masters) > KEPT:
                _masters.popitem(last=False)
        _masters.move_to_end(fingerprint)
        return replace(master, module=deepcopy(master.module), preprocessing=preprocessing)

    return BackboneSource(fingerprint, preprocessing, load, weights.origin)


def _load(
    build: Callable[[], NetworkEncoder],
    weights: Weights,
    preprocessing: Preprocessing,
    fingerprint: str,
) -> Backbone:
    import torch

    from prognobench.models.encoders import checkpoint

    report: tuple[str, ...]
    if weights.path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(weights.digest, "weights"))
            encoder = build()
        report = (weights.origin,)
    else:
        with checkpoint.WithoutInitialisation():
            encoder = build()
        try:
            state = checkpoint.read(weights.path)
            report = checkpoint.fill(encoder.network, state)
        except WeightsError as error:
            raise WeightsError(f"{weights.origin}: {error}") from error
    encoder.float().eval()
    return Backbone(
        module=encoder,
        width=next(iter(encoder.taps.values())),
        preprocessing=preprocessing,
        roles=encoder.roles,
        blocks=encoder.blocks,
        taps=encoder.taps,
        fingerprint=fingerprint,
        report=report,
    )
