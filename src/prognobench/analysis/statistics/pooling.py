"""One test over several data sets: each is a unit, and tasks on the same patients are one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.analysis.statistics.paired_tests import CONFIDENCE, TINY, Difference

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Pooled(Difference):
    """A mean difference over data sets.

    Attributes
    ----------
    blocks
        Independent groups of data sets behind it.
    spread
        Standard deviation of the true difference between blocks.
    """

    blocks: int = 0
    spread: float = float("nan")


def merge_blocks(
    values: ArrayLike, errors: ArrayLike, blocks: Sequence[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean difference and standard error of each block, in the order of first appearance.

    Data sets of a block share patients. Their errors are taken as fully correlated, so the error
    of a mean is the mean error: more tasks on the same patients are no more evidence.
    """
    value, error = np.asarray(values, float), np.asarray(errors, float)
    names = list(dict.fromkeys(blocks))
    place = np.array([names.index(block) for block in blocks])
    size = np.bincount(place)
    return np.bincount(place, value) / size, np.bincount(place, error) / size


def pool_blocks(
    values: NDArray[np.float64],
    errors: NDArray[np.float64],
    group: NDArray[np.bool_] | None = None,
    *,
    margin: float = 0.0,
    confidence: float = CONFIDENCE,
) -> Pooled:
    """Test the mean difference over independent blocks: random effects, Hartung-Knapp.

    The true difference may vary between blocks; the test asks for its mean over blocks like
    these. The spread is estimated by Paule & Mandel (1982). The standard error comes from the
    blocks' scatter about the mean (Hartung & Knapp 2001), so it does not rely on the error that
    few folds give; with ``blocks - 1`` degrees of freedom it keeps the nominal level with few
    blocks (IntHout, Ioannidis & Borm 2014). Simulated: ``scripts/simulate-tests``.

    Parameters
    ----------
    values, errors
        ``(blocks,)``: differences and their standard errors.
    group
        ``(blocks,)``: with it, the difference is the mean of these blocks minus that of the others
        (a meta-regression with one moderator).
    margin
        Added to the difference: above 0, the first may be that much behind.

    Returns
    -------
    Difference
        NaN beside the value with fewer than two blocks, or three with a group.

    References
    ----------
    J. Hartung, G. Knapp: A refined method for the meta-analysis of controlled clinical trials
    with binary outcome. Statistics in Medicine 20, 2001.
    J. IntHout, J. Ioannidis, G. Borm: The Hartung-Knapp-Sidik-Jonkman method for random effects
    meta-analysis is straightforward. BMC Medical Research Methodology 14, 2014.
    """
    from scipy.special import stdtr, stdtrit

    design = np.ones((len(values), 1))
    if group is not None:
        design = np.column_stack([group, ~group]).astype(np.float64)
    contrast = np.array([1.0]) if group is None else np.array([1.0, -1.0])
    freedom = len(values) - design.shape[1]
    variances = np.maximum(errors**2, TINY)
    between = _spread_between(values, variances, design) if freedom > 0 else 0.0
    means, scatter, inverse = _fit(values, variances + between, design)
    value = float(contrast @ means) + margin
    if freedom < 1:
        blank = float("nan")
        return Pooled(value, blank, blank, blank, blocks=len(values))
    error = float(np.sqrt(scatter / freedom * (contrast @ inverse @ contrast)))
    if error < TINY:
        p = 1.0 if abs(value) < TINY else 0.0
        return Pooled(value, value, value, p, blocks=len(values), spread=float(np.sqrt(between)))
    reach = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    p = float(2 * stdtr(freedom, -abs(value) / error))
    spread = float(np.sqrt(between))
    return Pooled(value, value - reach, value + reach, p, blocks=len(values), spread=spread)


def _fit(
    values: NDArray[np.float64], variances: NDArray[np.float64], design: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Weighted means, the weighted sum of squares about them, and the inverse of the weights."""
    weighted = design / variances[:, None]
    inverse = np.asarray(np.linalg.inv(design.T @ weighted), dtype=np.float64)
    means = inverse @ (weighted.T @ values)
    scatter = float((((values - design @ means) ** 2) / variances).sum())
    return means, scatter, inverse


def _spread_between(
    values: NDArray[np.float64], variances: NDArray[np.float64], design: NDArray[np.float64]
) -> float:
    """Paule & Mandel's variance between blocks: it makes the weighted scatter what is expected."""
    freedom = len(values) - design.shape[1]
    low, high = 0.0, float(np.ptp(values)) ** 2 * len(values) + TINY
    if _fit(values, variances, design)[1] <= freedom:
        return 0.0
    # The scatter falls as the variance between blocks grows, so halving finds the one solution.
    for _ in range(100):
        middle = (low + high) / 2
        over = _fit(values, variances + middle, design)[1] > freedom
        low, high = (middle, high) if over else (low, middle)
    return (low + high) / 2


def combine_all(p_values: ArrayLike) -> float:
    """Return the p-value that all of several statements hold: the largest (Berger 1982)."""
    p = np.asarray(p_values, float)
    return float(p.max()) if len(p) else float("nan")


def combine_any(p_values: ArrayLike) -> float:
    """Return the p-value that at least one of several statements holds (Bonferroni)."""
    p = np.asarray(p_values, float)
    p = p[~np.isnan(p)]
    return float(min(1.0, len(p) * p.min())) if len(p) else float("nan")
