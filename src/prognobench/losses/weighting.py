"""Class weights from class counts, shared by the losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Lt

from prognobench.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Weighting = Literal["balanced", "inverse_sqrt", "effective_number", "none"]
Beta = Annotated[float, Ge(0), Lt(1)]
NonNegative = Annotated[float, Ge(0)]


def checked_counts(class_counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the counts as floats; every class must occur.

    Raises
    ------
    DataError
        If a class does not occur: no weight, margin or prior can be made for it.
    """
    import numpy as np

    counts = np.asarray(class_counts, dtype=np.float64)
    absent = np.flatnonzero(counts == 0)
    if len(absent):
        raise DataError(
            f"class {', '.join(map(str, absent))} does not occur in the training part "
            f"(of each class: {', '.join(f'{n:.0f}' for n in counts)}); "
            "use fewer folds, another cv or a larger few-shot k"
        )
    return counts


def class_weights(
    class_counts: NDArray[np.int64],
    weighting: Weighting,
    beta: float = 0.999,
    balanced_sampling: bool = False,
    weights_and_sampling: bool = False,
) -> NDArray[np.float64]:
    """Return one weight per class, of mean 1 over the training part.

    Parameters
    ----------
    class_counts
        Patients (or images) per class in the training part, ``(classes,)``.
    weighting
        ``balanced``: proportional to 1 / n, as scikit-learn's ``class_weight="balanced"``;
        ``inverse_sqrt``: to 1 / sqrt(n); ``effective_number``: to (1 - beta) / (1 - beta**n)
        (Cui et al. 2019); ``none``: all 1.
    balanced_sampling, weights_and_sampling
        Weights and a balanced sampler each undo the imbalance; together they overdo it, so that
        both at once need ``weights_and_sampling=True``.

    Raises
    ------
    ConfigError
        If weights and sampler are both in use without ``weights_and_sampling``.
    DataError
        If a class does not occur.
    """
    import numpy as np

    if balanced_sampling and weighting != "none" and not weights_and_sampling:
        raise ConfigError(
            f"loss: balanced_sampling=true and weighting={weighting} both correct the "
            "imbalance; set loss.weighting=none, or loss.weights_and_sampling=true to use both"
        )
    counts = checked_counts(class_counts)
    raw = {
        "balanced": 1 / counts,
        "inverse_sqrt": 1 / np.sqrt(counts),
        "effective_number": (1 - beta) / (1 - beta**counts),
        "none": np.ones_like(counts),
    }[weighting]
    # Of mean 1 over what is counted: the loss keeps its size, and learning rates their meaning.
    weights: NDArray[np.float64] = raw * counts.sum() / (raw * counts).sum()
    return weights
