"""Focal loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prognobench.losses.weighting import Beta, NonNegative, Weighting, class_weights
from prognobench.records import Loss
from prognobench.registry import LOSSES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@LOSSES.register("focal")
def focal(
    class_counts: NDArray[np.int64],
    *,
    gamma: NonNegative = 2.0,
    weighting: Weighting = "balanced",
    beta: Beta = 0.999,
    balanced_sampling: bool = False,
    weights_and_sampling: bool = False,
) -> Loss:
    """Cross-entropy times ``(1 - p[y]) ** gamma``: easy samples count less (Lin et al. 2017).

    From 0, which is best, without an upper bound.

    Parameters
    ----------
    class_counts
        Patients (or images) per class in the training part, ``(classes,)``.
    gamma
        0 is plain cross-entropy; the larger, the less easy samples count.
    weighting, beta, balanced_sampling, weights_and_sampling
        As in :func:`prognobench.losses.weighting.class_weights`.
    """
    import numpy as np

    weights = class_weights(class_counts, weighting, beta, balanced_sampling, weights_and_sampling)
    return Loss(
        class_weights=weights,
        offset=np.zeros_like(weights),
        margin=np.zeros_like(weights),
        focal_gamma=gamma,
        balanced_sampling=balanced_sampling,
    )
