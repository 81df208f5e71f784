"""Weighted cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Lt

from prognobench.losses.weighting import Beta, Weighting, class_weights
from prognobench.records import Loss
from prognobench.registry import LOSSES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@LOSSES.register("cross_entropy", usual=True)
def cross_entropy(
    class_counts: NDArray[np.int64],
    *,
    weighting: Weighting = "balanced",
    beta: Beta = 0.999,
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0,
    balanced_sampling: bool = False,
    weights_and_sampling: bool = False,
) -> Loss:
    """Cross-entropy with class weights, and with label smoothing on request (Szegedy et al. 2016).

    From 0, which is best, without an upper bound.

    Parameters
    ----------
    class_counts
        Patients (or images) per class in the training part, ``(classes,)``.
    weighting, beta, balanced_sampling, weights_and_sampling
        As in :func:`prognobench.losses.weighting.class_weights`.
    label_smoothing
        Share of the target that is spread over all classes.
    """
    import numpy as np

    weights = class_weights(class_counts, weighting, beta, balanced_sampling, weights_and_sampling)
    return Loss(
        class_weights=weights,
        offset=np.zeros_like(weights),
        margin=np.zeros_like(weights),
        label_smoothing=label_smoothing,
        balanced_sampling=balanced_sampling,
    )
