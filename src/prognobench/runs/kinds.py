"""The two kinds of strategies, as far as a run that is being prepared has to know.

A strategy either trains the backbone, or fits a classifier on what a frozen backbone gives. Its
builder says which, by the record that it returns; nobody else asks. What is computed for each kind
is in :mod:`prognobench.runs.dispatch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prognobench.errors import ConfigError
from prognobench.registry import STRATEGIES

if TYPE_CHECKING:
    from prognobench.records import Component, Estimator, Probe


@dataclass(frozen=True, eq=False)
class Kind:
    """What is true of every strategy of one kind.

    Attributes
    ----------
    saved
        ``train.save`` -> the folders that a complete cell then has.
    precision_entry
        Entry of a cell's ``cost.json``: the precision that its numbers were computed in.
    reads
        Returns what of a patient a strategy looks at: ``image``, ``covariates``.
    """

    saved: Mapping[str, tuple[str, ...]]
    precision_entry: str
    reads: Callable[[Component], tuple[str, ...]]


def build_classifier(strategy: Component) -> Probe | Estimator:
    """Return what a strategy that trains no backbone fits."""
    spec: Probe | Estimator = STRATEGIES[strategy.builder](**strategy.settings)
    return spec


TRAINED = Kind(
    saved={"none": (), "best": ("adapted",), "all": ("adapted", "epochs")},
    precision_entry="precision",
    reads=lambda strategy: ("image",),
)
"""Strategies that train a part of the backbone, cell by cell."""

FROZEN = Kind(
    # There are no epochs to keep.
    saved={"none": (), "best": ("adapted",), "all": ("adapted",)},
    precision_entry="precision_features",
    reads=lambda strategy: build_classifier(strategy).reads,
)
"""Strategies that fit classifiers on features or covariates, all cells of all runs at once."""

KINDS: Mapping[str, Kind] = {"Adapted": TRAINED, "Probe": FROZEN, "Estimator": FROZEN}
"""By the record that a strategy's builder returns."""


def find_kind(strategy: Component) -> Kind:
    """Return the kind of a strategy.

    Raises
    ------
    ConfigError
        If its builder does not say what it returns.
    """
    produces = STRATEGIES[strategy.builder].produces
    if produces not in KINDS:
        raise ConfigError(
            f"strategy builder {strategy.builder!r} does not say what it returns; annotate it "
            f"with one of {', '.join(KINDS)}"
        )
    return KINDS[produces]
