"""SimpleShot."""

from __future__ import annotations

from functools import partial
from typing import Any

from prognobench.records import Estimator
from prognobench.registry import STRATEGIES
from prognobench.strategies.settings import PositiveNumber


def _simple_shot(sharpness: float, centre: bool, seed: int) -> Any:
    from prognobench.strategies.layers.estimators import SimpleShot

    return SimpleShot(sharpness=sharpness, centre=centre)


@STRATEGIES.register("nearest_centroid")
def nearest_centroid(
    *, sharpness: PositiveNumber = 10.0, centre: bool = True, layer: str = ""
) -> Estimator:
    """Nearest class centre of centred, normalised features: SimpleShot (Wang et al. 2019).

    Parameters
    ----------
    sharpness
        Of the softmax that turns distances into scores; it changes no order of two classes.
    centre
        Take off the training part's mean before normalising.
    """
    return Estimator("features", {"centres": partial(_simple_shot, sharpness, centre)}, layer)
