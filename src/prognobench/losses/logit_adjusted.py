"""Logit adjustment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prognobench.losses.weighting import NonNegative, checked_counts
from prognobench.records import Loss
from prognobench.registry import LOSSES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@LOSSES.register("logit_adjusted")
def logit_adjusted(class_counts: NDArray[np.int64], *, tau: NonNegative = 1.0) -> Loss:
    """Train on logits plus ``tau`` times the log prior, predict without it (Menon et al. 2021).

    Parameters
    ----------
    class_counts
        Patients (or images) per class in the training part, ``(classes,)``.
    tau
        1 minimises the balanced error, and probabilities are those of equally frequent classes;
        0 is plain cross-entropy.
    """
    import numpy as np

    counts = checked_counts(class_counts)
    return Loss(
        class_weights=np.ones_like(counts),
        offset=tau * np.log(counts / counts.sum()),
        margin=np.zeros_like(counts),
    )
