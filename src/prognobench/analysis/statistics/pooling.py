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
    """

    blocks: int = 0


def merge_blocks(values: ArrayLike, blocks: Sequence[Any]) -> NDArray[np.float64]:
    """Return the mean of each block, in the order of first appearance.

    Contexts of a block share patients, so together they are one unit: more tasks or numbers of
    shots on the same patients are no more evidence about other patients.
    """
    names = list(dict.fromkeys(blocks))
    place = np.array([names.index(block) for block in blocks], dtype=np.intp)
    return np.bincount(place, np.asarray(values, float)) / np.bincount(place)


def pool_blocks(
    values: NDArray[np.float64],
    group: NDArray[np.bool_] | None = None,
    *,
    margin: float = 0.0,
    confidence: float = CONFIDENCE,
) -> Pooled:
    """Test the mean difference over independent blocks with Student's t.

    The hierarchy has two levels: folds within blocks, and blocks. The true difference may vary
    between blocks; the test asks for its mean over blocks like these, and what scatters within
    a block is part of the scatter between them. Blocks weigh the same, which keeps the level
    whatever their sizes (Follmann & Proschan 1999). Weights from the few folds of each block do
    not: with them a random-effects mean (Hartung & Knapp) rejected 7 to 11 % of true nulls at a
    nominal 5 %, where this test rejected 4 to 5 % with as much power (``scripts/simulate-tests``).

    Parameters
    ----------
    values
        ``(blocks,)``: a difference each.
    group
        ``(blocks,)``: with it, the difference is the mean of these blocks minus that of the
        others, whose scatter is taken as equal.
    margin
        Added to the difference: above 0, the first may be that much behind.

    Returns
    -------
    Pooled
        NaN beside the value with fewer than two blocks, or three with a group.

    References
    ----------
    D. Follmann, M. Proschan: Valid inference in random effects meta-analysis. Biometrics 55, 1999.
    """
    from scipy.special import stdtr, stdtrit

    groups = [values] if group is None else [values[group], values[~group]]
    freedom = len(values) - len(groups)
    means = [float(own.mean()) for own in groups]
    value = margin + means[0] - sum(means[1:])
    blank = float("nan")
    if freedom < 1:
        return Pooled(value, blank, blank, blank, blocks=len(values))
    scatter = sum(float(((own - own.mean()) ** 2).sum()) for own in groups) / freedom
    error = float(np.sqrt(scatter * sum(1 / len(own) for own in groups)))
    if error < TINY:
        p = 1.0 if abs(value) < TINY else 0.0
        return Pooled(value, value, value, p, blocks=len(values))
    reach = float(stdtrit(freedom, (1 + confidence) / 2)) * error
    p = float(2 * stdtr(freedom, -abs(value) / error))
    return Pooled(value, value - reach, value + reach, p, blocks=len(values))


def combine_all(p_values: ArrayLike) -> float:
    """Return the p-value that all of several statements hold: the largest (Berger 1982)."""
    p = np.asarray(p_values, float)
    return float(p.max()) if len(p) else float("nan")


def combine_any(p_values: ArrayLike) -> float:
    """Return the p-value that at least one of several statements holds (Bonferroni)."""
    p = np.asarray(p_values, float)
    p = p[~np.isnan(p)]
    return float(min(1.0, len(p) * p.min())) if len(p) else float("nan")
