"""What a metric declares about itself, and how one is found by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import update_wrapper
from typing import Any, Literal

import numpy as np

from prognobench.errors import ConfigError
from prognobench.metrics.sample import Floats, Sample
from prognobench.registry import METRICS, near

Chance = Callable[[Floats], float]
"""Shares of the classes -> the value of a forecast that knows nothing but them."""


@dataclass(eq=False)
class Metric:
    """A score of a sample.

    Attributes
    ----------
    function
        Sample -> ``(batch,)`` values; 0 / 0 is NaN.
    title
        As tables and axes call it.
    best
        The perfect value: the upper bound where more is better, the lower where less is, and 1
        for the calibration slope.
    bounds
        Smallest and largest possible value.
    needs
        ``decisions`` depend on a threshold, ``scores`` do not.
    undefined
        Why the value may be missing although every class occurs.
    chance
        The value of a forecast without skill, where there is one.
    of_risk
        Whether it asks that probabilities are right, not only their order or the decisions.
    overlap
        How much more strongly two splits of the same patients agree than by the patients that both
        test: factor on the correlation that the test of strategies assumes.
    """

    function: Callable[[Sample], Floats] = field(repr=False)
    name: str
    title: str
    best: float
    bounds: tuple[float, float]
    needs: Literal["decisions", "scores"]
    undefined: str
    chance: Chance | None = field(repr=False)
    of_risk: bool = False
    overlap: float = 1.0

    def __call__(self, sample: Sample) -> Floats:
        """Return ``(batch,)`` values; NaN where a class or a denominator is missing."""
        # A fold of one class has no comparable score, whatever a formula would give: blank.
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.where(sample.complete, self.function(sample), np.nan)
        return values

    def distance(self, values: Floats) -> Floats:
        """Return how far values are from the best: the smaller, the better."""
        return np.abs(values - self.best)


def metric(
    name: str,
    title: str,
    *,
    needs: Literal["decisions", "scores"],
    bounds: tuple[float, float] = (0.0, 1.0),
    best: float = 1.0,
    undefined: str = "",
    chance: Chance | None = None,
    of_risk: bool = False,
    overlap: float = 1.0,
) -> Callable[[Callable[[Sample], Floats]], Metric]:
    """Register a function of a :class:`Sample` as a metric.

    Parameters are the attributes of :class:`Metric`. By default values lie in [0, 1] and 1 is best.
    """

    def register(function: Callable[[Sample], Floats]) -> Metric:
        new = Metric(
            function, name, title, best, bounds, needs, undefined, chance, of_risk, overlap
        )
        update_wrapper(new, function)
        METRICS.register(name)(new)
        return new

    return register


def find_metric(name: str) -> Metric:
    """Return a metric by its name or title, however it is spelt (``PR-AUC``, ``roc auc``).

    Raises
    ------
    ConfigError
        If there is none; near names are suggested.
    """
    known = all_metrics()
    spellings = {_plain(each.title): each for each in known}
    spellings |= {_plain(each.name): each for each in known}
    if _plain(name) not in spellings:
        raise ConfigError(
            f"unknown metric {name!r}{near(name, [*METRICS, *(each.title for each in known)])} "
            f"(known: {', '.join(METRICS)})"
        )
    return spellings[_plain(name)]


def all_metrics() -> list[Metric]:
    """Return every registered metric."""
    builders: list[Any] = [METRICS[name].builder for name in METRICS]
    return [each for each in builders if isinstance(each, Metric)]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
