"""What linear heads see: features of layers, and which images are looked at together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

EPSILON = 1e-8
"""A feature that deviates by less is constant, and is not divided by its deviation."""

SMALL, LARGEST_TOGETHER = 2**19, 2**22
"""Numbers: validation parts below the first are looked at together, as many as the second holds."""


POWERS_UP_TO = 16
"""Images: fewer are filled up to a power of two, more by an eighth of one at most."""


def filled(images: int) -> int:
    """Return to how many images a part is filled up with others that do not count.

    That depends on the part alone: products over another number of rows are summed in another
    order, and what a head learns would depend, by rounding, on which are trained beside it.
    """
    power = 1 << (images - 1).bit_length()
    step = power if power <= POWERS_UP_TO else power // 8
    return math.ceil(images / step) * step


class Scaling(NamedTuple):
    """Mean and deviation of each column over each training part, ``(parts, 1, columns)``."""

    mean: Tensor
    deviation: Tensor


class Inputs:
    """Features of several layers.

    Feature layers contain one another: the last block is one of the last four. What is contained is
    neither held nor gathered a second time.

    Parameters
    ----------
    layers
        Of each layer its views, each ``(images, width)`` in fp32.

    Attributes
    ----------
    widths
        Of the layers.
    columns
        Of all layers together.
    views
        Of each view the columns of all layers ``(images, columns)``.
    """

    def __init__(self, layers: Sequence[Sequence[Tensor]]) -> None:
        self.widths = [views[0].shape[1] for views in layers]
        self._starts = [0] * len(layers)
        own: list[int] = []
        self.columns = 0
        for layer in sorted(range(len(layers)), key=lambda layer: -self.widths[layer]):
            found = ((wide, _place(layers[layer], layers[wide])) for wide in own)
            wide, place = next(((w, at) for w, at in found if at is not None), (None, 0))
            if wide is None:
                own.append(layer)
                self._starts[layer] = self.columns
                self.columns += self.widths[layer]
            else:
                self._starts[layer] = self._starts[wide] + place
        self.views = [
            torch.cat([layers[layer][v] for layer in own], 1) for v in range(len(layers[0]))
        ]

    def of_layers(self, columns: Tensor) -> Sequence[Tensor]:
        """Return each layer's part of the last axis."""
        places = zip(self._starts, self.widths, strict=True)
        return [columns[..., start : start + width] for start, width in places]

    def gather(self, rows: Tensor, view: int = 0, scaling: Scaling | None = None) -> Tensor:
        """Return the columns of some images ``(parts, images, columns)``."""
        # Several times faster than indexing, which copies number by number.
        x = self.views[view].index_select(0, rows.flatten()).view(*rows.shape, self.columns)
        return (x - scaling.mean) / scaling.deviation if scaling else x

    def scaling(self, parts: Sequence[NDArray[np.intp]]) -> Scaling:
        """Return what brings the columns to mean 0 and deviation 1 over each part's images."""
        means, deviations = [], []
        for part in parts:
            x = torch.cat([view[torch.tensor(part)] for view in self.views])
            means.append(x.mean(0))
            deviations.append(x.std(0, correction=0))
        deviation = torch.stack(deviations).unsqueeze(1)
        return Scaling(
            torch.stack(means).unsqueeze(1), deviation.masked_fill(deviation < EPSILON, 1)
        )


def _place(narrow: Sequence[Tensor], wide: Sequence[Tensor]) -> int | None:
    """Where in the wider layer the columns of the narrower one stand, in every view."""
    width = narrow[0].shape[1]
    of_first_image = (wide[0][0].unfold(0, width, 1) == narrow[0][0]).all(-1)
    for start in of_first_image.nonzero().flatten().tolist():
        views = zip(narrow, wide, strict=True)
        if all(torch.equal(n, w[:, start : start + width]) for n, w in views):
            return int(start)
    return None


class Together(NamedTuple):
    """Parts whose images are looked at together.

    Attributes
    ----------
    members
        Numbers of the parts.
    rows, mask
        ``(parts, images)``, or ``(1, images)`` where all have the same; 0 in ``mask`` fills up a
        smaller part.
    """

    members: Tensor
    rows: Tensor
    mask: Tensor


def looked_at_together(
    parts: Sequence[NDArray[np.intp]], columns: int, device: torch.device
) -> list[Together]:
    """Group parts that have the same rows, and small ones of one size when filled up."""
    sharing: dict[bytes, list[int]] = {}
    for i, rows in enumerate(parts):
        sharing.setdefault(rows.tobytes(), []).append(i)
    groups, small = [], list[int]()
    for members in sharing.values():
        if len(members) > 1 or len(parts[members[0]]) * columns > SMALL:
            groups.append(_filled(parts, members[:1], members, device))
        else:
            small += members
    small.sort(key=lambda i: len(parts[i]))
    start = 0
    for end in range(1, len(small) + 1):
        size = filled(len(parts[small[start]]))
        next_size = filled(len(parts[small[end]])) if end < len(small) else math.inf
        if next_size > size or (end + 1 - start) * size * columns > LARGEST_TOGETHER:
            chunk = small[start:end]
            groups.append(_filled(parts, chunk, chunk, device))
            start = end
    return groups


def _filled(
    parts: Sequence[NDArray[np.intp]],
    which: Sequence[int],
    members: Sequence[int],
    device: torch.device,
) -> Together:
    size = filled(max(len(parts[i]) for i in which))
    rows, mask = np.zeros((len(which), size), np.int64), np.zeros((len(which), size), np.float32)
    for row, i in enumerate(which):
        rows[row, : len(parts[i])], mask[row, : len(parts[i])] = parts[i], 1
    return Together(*(torch.from_numpy(a).to(device) for a in (np.array(members), rows, mask)))
