"""How far weights, samplers and offsets shift the log odds: recorded here, undone in analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prognobench.losses.weighting import checked_counts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prognobench.records import Loss

SHIFT, REASON = "log_odds_shift", "log_odds_shift_missing"
"""Entries of a cell's ``cost.json``."""


def describe_shift(loss: Loss, images: NDArray[np.int64]) -> dict[str, Any]:
    """Return how far a loss shifts the log odds of each class, as a cell's costs record it.

    Parameters
    ----------
    images
        Images of each class in the training part, ``(classes,)``.

    Returns
    -------
    The entry ``log_odds_shift``: one number per class, 0 for the first. Where no shift undoes the
    loss exactly it is ``None``, and ``log_odds_shift_missing`` says why.

    Notes
    -----
    Cross-entropy with class weights ``w`` is least where the softmax of ``z + offset`` is
    proportional to ``w[y] p(y|x)`` (King and Zeng 2001; Menon et al. 2021). A balanced sampler
    multiplies the weight of a class by ``1 / images[y]``. So ``z`` is the log probability plus
    ``log w[y] - offset[y]``, minus ``log images[y]`` with the sampler.
    """
    import numpy as np

    if missing := _inexact(loss):
        return {SHIFT: None, REASON: missing}
    shift = np.log(loss.class_weights) - loss.offset
    if loss.balanced_sampling:
        shift = shift - np.log(checked_counts(images))
    return {SHIFT: (shift - shift[0]).tolist()}


def describe_inverse_shift(images: NDArray[np.int64]) -> dict[str, Any]:
    """Return the entry for class weights proportional to ``1 / images``."""
    import numpy as np

    shift = -np.log(checked_counts(images))
    return {SHIFT: (shift - shift[0]).tolist()}


def _inexact(loss: Loss) -> str:
    if loss.focal_gamma:
        return "the focal exponent distorts probabilities, and no shift undoes it"
    if loss.margin.any():
        return "margins (LDAM) distort probabilities, and no shift undoes them"
    if loss.label_smoothing:
        return "label smoothing distorts probabilities, and no shift undoes it"
    return ""
