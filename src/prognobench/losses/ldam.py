"""Label-distribution-aware margins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prognobench.losses.weighting import Beta, NonNegative, Weighting, class_weights
from prognobench.records import Loss
from prognobench.registry import LOSSES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@LOSSES.register("ldam")
def ldam(
    class_counts: NDArray[np.int64],
    *,
    max_margin: NonNegative = 0.5,
    weighting: Weighting = "none",
    beta: Beta = 0.999,
    balanced_sampling: bool = False,
    weights_and_sampling: bool = False,
) -> Loss:
    """Ask for a margin of each class that grows as it is rarer: ``n ** -1/4`` (Cao et al. 2019).

    Two parts of the paper are left out. Its scale of 30 belongs to a head of normalised weights and
    features, which gives cosines; heads here are plain linear ones, whose logits have their own
    scale. Its deferred re-weighting (DRW) changes the loss at a fixed epoch, after which validation
    losses are no longer those that early stopping compares; ``weighting`` weights from the start.

    Parameters
    ----------
    class_counts
        Patients (or images) per class in the training part, ``(classes,)``.
    max_margin
        Margin of the rarest class, in logits.
    weighting, beta, balanced_sampling, weights_and_sampling
        As in :func:`prognobench.losses.weighting.class_weights`.
    """
    import numpy as np

    weights = class_weights(class_counts, weighting, beta, balanced_sampling, weights_and_sampling)
    rarity = np.asarray(class_counts, dtype=np.float64) ** -0.25
    return Loss(
        class_weights=weights,
        offset=np.zeros_like(weights),
        margin=max_margin * rarity / rarity.max(),
        balanced_sampling=balanced_sampling,
    )
