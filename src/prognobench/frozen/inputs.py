"""What linear heads see: features of layers, and batches of rows padded to common sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prognobench.records import Loss, Train
from prognobench.seeds import generator
from prognobench.training.loader import draw_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

EPSILON = 1e-8
"""A feature whose deviation is smaller is constant, and is not divided by its deviation."""

SMALL, LARGEST_TOGETHER = 2**19, 2**22
"""Numbers: validation parts below the first share a group, as many as the second holds. Larger
parts fill the processor by themselves, and together they would leave its cache.
"""

POWERS_UP_TO = 16
"""Images: smaller sizes are padded to a power of two, larger ones by at most an eighth of one."""


@dataclass(frozen=True)
class Part:
    """What one group of heads is trained and stopped on: rows of the features, and the loss."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    loss: Loss
    seed: int


def stack_image_weights(parts: Sequence[Part], labels: Tensor) -> Tensor | None:
    """Return how much each image counts for each part ``(parts, images)``; ``None`` for 1 each."""
    weights = [part.loss.image_weights for part in parts]
    if all(of_part is None for of_part in weights):
        return None
    ones = np.ones(len(labels))
    stacked = np.stack([ones if of_part is None else of_part for of_part in weights])
    return torch.as_tensor(stacked, dtype=torch.float32, device=labels.device)


class Batch(NamedTuple):
    """What every part sees in one step.

    Attributes
    ----------
    inputs
        Of each layer ``(parts, batch, width)``.
    rows, mask
        ``(parts, batch)``; 0 in ``mask`` pads a part's smaller batch.
    """

    inputs: Sequence[Tensor]
    rows: Tensor
    mask: Tensor


def padded_size(images: int) -> int:
    """Return the number of rows to which so many images are padded.

    It depends on this number alone, never on the parts beside it: products over another number of
    rows are summed in another order, and a head would then depend, by rounding, on its company.
    """
    power = 1 << (images - 1).bit_length()
    step = power if power <= POWERS_UP_TO else power // 8
    return math.ceil(images / step) * step


def batches_per_epoch(images: int, recipe: Train) -> tuple[int, int]:
    """Return how many optimiser steps an epoch has, and the rows to which each is padded."""
    most = recipe.batch_size * recipe.accumulate
    steps = math.ceil(images / most)
    return steps, min(most, padded_size(math.ceil(images / steps)))


# ------------------------------------------------------------------ features of layers


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
        # The widest first, since a layer can only be contained in one that is as wide.
        for layer in sorted(range(len(layers)), key=lambda layer: -self.widths[layer]):
            found = ((wide, _find_columns(layers[layer], layers[wide])) for wide in own)
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


def _find_columns(narrow: Sequence[Tensor], wide: Sequence[Tensor]) -> int | None:
    """Return where in the wider layer the columns of the narrower one are, in every view."""
    width = narrow[0].shape[1]
    # unfold views every run of `width` neighbouring columns without copying them. The first image
    # leaves few candidates, which are then compared over all images.
    of_first_image = (wide[0][0].unfold(0, width, 1) == narrow[0][0]).all(-1)
    for start in of_first_image.nonzero().flatten().tolist():
        views = zip(narrow, wide, strict=True)
        if all(torch.equal(n, w[:, start : start + width]) for n, w in views):
            return int(start)
    return None


# ------------------------------------------------------------------ training


class TrainingBatches:
    """The batches of each epoch, the same for a part whatever parts are trained beside it.

    Parameters
    ----------
    labels
        Class indices ``(images,)``.
    scaling
        Standardises the features of each part.
    dropout
        Share of the features that is dropped at random.
    """

    def __init__(
        self,
        inputs: Inputs,
        parts: Sequence[Part],
        labels: Tensor,
        recipe: Train,
        *,
        scaling: Scaling | None,
        dropout: float,
    ) -> None:
        self.inputs, self.parts, self.labels = inputs, parts, labels
        self.scaling, self.dropout = scaling, dropout
        # Parts are of one number of batches; the largest part's padded size holds the others.
        self.steps, self._size = batches_per_epoch(max(len(p.train) for p in parts), recipe)
        drawn = any(part.loss.balanced_sampling for part in parts)
        one = self.steps == len(inputs.views) == 1
        # Every epoch is one and the same batch, for which an order means nothing.
        self._unchanging = one and not dropout and not drawn
        self._only: Batch | None = None

    def epoch(self, n: int) -> Iterable[Batch]:
        """Return the batches of epoch ``n``."""
        if not self._unchanging:
            return self._draw(n)
        if self._only is None:
            self._only = next(self._draw(n))
        return (self._only,)

    def _draw(self, epoch: int) -> Iterator[Batch]:
        # Where a part has fewer images, row 0 stands in and the mask takes its loss out.
        rows = np.zeros((self.steps, len(self.parts), self._size), dtype=np.int64)
        mask = np.zeros(rows.shape, dtype=np.float32)
        labels = self.labels.cpu().numpy()
        for i, part in enumerate(self.parts):
            of_part = labels[part.train] if part.loss.balanced_sampling else None
            order = draw_order(len(part.train), of_part, (part.seed, "order", epoch))
            # Batches of nearly one size: a small last one would have a noisier gradient.
            for step, batch in enumerate(np.array_split(part.train[order], self.steps)):
                rows[step, i, : len(batch)], mask[step, i, : len(batch)] = batch, 1
        for step in range(self.steps):
            at = torch.from_numpy(rows[step]).to(self.labels.device)
            shown = torch.from_numpy(mask[step]).to(self.labels.device)
            yield Batch(self._gather(at, shown, epoch, step), at, shown)

    def _gather(self, rows: Tensor, mask: Tensor, epoch: int, step: int) -> Sequence[Tensor]:
        view = epoch % len(self.inputs.views)
        of_layers = self.inputs.of_layers(self.inputs.gather(rows, view, self.scaling))
        if not self.dropout:
            return of_layers
        axes = ("dropout", epoch, step)
        return [self._drop(x, mask, (*axes, layer)) for layer, x in enumerate(of_layers)]

    def _drop(self, x: Tensor, mask: Tensor, axes: Sequence[str | int]) -> Tensor:
        """Drop features of a layer; what is drawn depends on the part alone."""
        kept = torch.zeros_like(x)
        for i, part in enumerate(self.parts):
            size = int(mask[i].sum())
            drawn = generator(part.seed, *axes).random((size, x.shape[-1]), dtype=np.float32)
            kept[i, :size] = torch.from_numpy(drawn >= self.dropout)
        return x * kept.div_(1 - self.dropout)


# ------------------------------------------------------------------ validation


class Group(NamedTuple):
    """Parts that are validated together.

    Attributes
    ----------
    members
        Numbers of the parts.
    rows, mask
        ``(parts, images)``, or ``(1, images)`` where all have the same; 0 in ``mask`` pads a
        smaller part.
    """

    members: Tensor
    rows: Tensor
    mask: Tensor


def group_parts(
    parts: Sequence[NDArray[np.intp]], columns: int, device: torch.device
) -> list[Group]:
    """Group parts that have the same rows, and small ones of one padded size."""
    sharing: dict[bytes, list[int]] = {}
    for i, rows in enumerate(parts):
        sharing.setdefault(rows.tobytes(), []).append(i)
    groups, small = [], list[int]()
    # Rows that many parts share, as few-shot draws with validation=full, are gathered once.
    for members in sharing.values():
        if len(members) > 1 or len(parts[members[0]]) * columns > SMALL:
            groups.append(_pad(parts, members[:1], members, device))
        else:
            small += members
    # In order of size, so that neighbours have the same padded size.
    small.sort(key=lambda i: len(parts[i]))
    start = 0
    for end in range(1, len(small) + 1):
        size = padded_size(len(parts[small[start]]))
        next_size = padded_size(len(parts[small[end]])) if end < len(small) else math.inf
        if next_size > size or (end + 1 - start) * size * columns > LARGEST_TOGETHER:
            chunk = small[start:end]
            groups.append(_pad(parts, chunk, chunk, device))
            start = end
    return groups


def _pad(
    parts: Sequence[NDArray[np.intp]],
    which: Sequence[int],
    members: Sequence[int],
    device: torch.device,
) -> Group:
    # A tensor has one length: shorter parts are filled with row 0, which their mask takes out.
    size = padded_size(max(len(parts[i]) for i in which))
    rows, mask = np.zeros((len(which), size), np.int64), np.zeros((len(which), size), np.float32)
    for row, i in enumerate(which):
        rows[row, : len(parts[i])], mask[row, : len(parts[i])] = parts[i], 1
    return Group(*(torch.from_numpy(a).to(device) for a in (np.array(members), rows, mask)))
