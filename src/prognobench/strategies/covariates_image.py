"""Late fusion of image and covariates."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from annotated_types import Ge, Le, MinLen

from prognobench.records import Estimator
from prognobench.registry import STRATEGIES
from prognobench.strategies import factories
from prognobench.strategies.settings import PositiveNumber

Share = Annotated[float, Ge(0), Le(1)]


def _fusion(share: float, strength: float, class_weight: factories.ClassWeight, seed: int) -> Any:
    from prognobench.strategies.layers.fusion import LateFusion

    return LateFusion(
        factories.logistic(strength, class_weight, True, seed),
        factories.covariate_logistic(1.0, class_weight, seed),
        share,
    )


@STRATEGIES.register("covariates_image")
def covariates_image(
    *,
    shares: Annotated[tuple[Share, ...], MinLen(1)] = (0.25, 0.5, 0.75, 1.0),
    strengths: Annotated[tuple[PositiveNumber, ...], MinLen(1)] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    class_weight: factories.ClassWeight = "balanced",
    layer: str = "",
) -> Estimator:
    """Average two logistic regressions, on frozen features and on covariates (late fusion).

    Both are fitted on the training part by themselves, so that the image's scores of patients
    whom it was fitted on teach the fusion nothing; validation chooses the image's share.
    """
    candidates = {
        f"image={share:g}, C={c:g}": partial(_fusion, share, c, class_weight)
        for share in shares
        for c in strengths
    }
    return Estimator("both", candidates, layer)
