"""Linear heads side by side on one backbone, of which validation chooses one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from prognobench.records import Backbone

RATES = (1e-2, 1e-3, 1e-4)
"""Learning rates of the grid of arXiv 2506.18434, as in DINOv2's linear evaluation."""

NONE_CHOSEN = -1


class GridPoint(NamedTuple):
    """The feature layer that a head of the grid reads, and its learning rate."""

    layer: str
    lr: float


def list_grid(backbone: Backbone) -> tuple[GridPoint, ...]:
    """Return a head for each feature layer of a backbone and each learning rate."""
    return tuple(GridPoint(layer, lr) for layer in backbone.layers for lr in RATES)


class HeadGrid(nn.Module):
    """Feature layers -> logits ``(batch, heads, classes)``, or ``(batch, classes)`` of one head.

    The heads learn together, each at its own rate, from the mean of their losses: so the step of
    the backbone is as long as under a single head.

    Parameters
    ----------
    points
        One head for each.
    widths
        Of the feature layers.
    make_head
        Width -> a head.

    Attributes
    ----------
    chosen
        Number of the head that answers in evaluation mode; all of them before one was chosen.
    """

    chosen: Tensor

    def __init__(
        self,
        points: Sequence[GridPoint],
        widths: Mapping[str, int],
        make_head: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.points = tuple(points)
        self.layers = tuple(dict.fromkeys(point.layer for point in points))
        self.heads = nn.ModuleList(make_head(widths[point.layer]) for point in points)
        self.register_buffer("chosen", torch.tensor(NONE_CHOSEN))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        # A tensor without content, on which operations are counted, has chosen nothing.
        open_ = self.training or self.chosen.is_meta
        if not open_ and (chosen := int(self.chosen)) != NONE_CHOSEN:
            logits: Tensor = self.heads[chosen](features[self.points[chosen].layer])
            return logits
        pairs = zip(self.points, self.heads, strict=True)
        return torch.stack([head(features[point.layer]) for point, head in pairs], 1)

    def rate(self, name: str) -> float:
        """Return the learning rate of a parameter of the grid, by its name in it."""
        return self.points[int(name.split(".")[1])].lr


def choose_head(model: nn.Module, number: int) -> None:
    """Let one head of a model's grid answer; a model with a single head stays as it is."""
    if grid := find_grid(model):
        grid.chosen.fill_(number)


def chosen_head(model: nn.Module) -> int:
    """Return the number of the head that answers; ``NONE_CHOSEN`` where there is no choice."""
    grid = find_grid(model)
    return int(grid.chosen) if grid else NONE_CHOSEN


def describe_choice(model: nn.Module) -> dict[str, object]:
    """Return layer and learning rate of the chosen head; nothing where there is no choice."""
    grid, number = find_grid(model), chosen_head(model)
    if grid is None or number == NONE_CHOSEN:
        return {}
    return {"chosen": grid.points[number]._asdict()}


def find_grid(model: nn.Module) -> HeadGrid | None:
    """Return the grid of heads of a classifier that has one."""
    head = getattr(model, "head", None)
    return head if isinstance(head, HeadGrid) else None
