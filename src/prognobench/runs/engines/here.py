"""The engine that starts no workers: this process computes."""

from __future__ import annotations

from prognobench.registry import ENGINES
from prognobench.runs.engines.order import Ended, Order
from prognobench.runs.execute import run


@ENGINES.register("here")
def here(order: Order) -> Ended:
    """Compute in this process; other processes with the same results folder share the cells."""
    outcomes = run(
        order.configs,
        order.progress,
        sweep=order.command.multirun,
        wait=order.wait,
        joined=order.joined,
    )
    return Ended(outcomes)
