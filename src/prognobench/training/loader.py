"""Batches of images, gathered and augmented; beside a GPU in threads, while it computes."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from prognobench.imaging.augment import Augmentation
from prognobench.records import Preprocessing
from prognobench.seeds import Axis, derive, generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

AHEAD = 3
"""Number of batches that are prepared before they are needed."""


@dataclass(frozen=True)
class Batch:
    """Normalised images ``(batch, channels, size, size)``, labels and cohort rows ``(batch,)``.

    Images and labels lie on the loader's device.
    """

    images: Tensor
    labels: Tensor
    rows: NDArray[np.intp]


@cache
def _threads() -> ThreadPoolExecutor:
    """The threads that prepare batches, shared by all loaders."""
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="batches")


class Loader:
    """Batches of some rows of a cohort.

    The order of an epoch and the augmentation of each image depend on the seed, the epoch's number
    and the image alone, so they are the same whatever ran before or beside.

    Parameters
    ----------
    pixels
        uint8 ``(images of the cohort, size, size, channels)``, memory-mapped or not. One channel
        stands for as many as the preprocessing wants.
    labels
        Class indices ``(images of the cohort,)``.
    rows
        Which images, in the order in which they come unless shuffled.
    preprocessing
        Normalisation that the backbone's weights expect.
    batch_size
        At most; batches of an epoch have nearly equal sizes.
    augmentation
        Applied to every image, anew in each epoch.
    seed
        Named axes: seed, fold, draw.
    shuffle
        Another order in each epoch.
    balanced
        Draw every class equally often, so that rare images repeat; as many images an epoch.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        rows: NDArray[np.intp],
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        augmentation: Augmentation | None = None,
        seed: tuple[Axis, ...] = (),
        shuffle: bool = False,
        balanced: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.pixels = pixels
        self.labels = np.asarray(labels, dtype=np.int64)
        self.rows = np.asarray(rows)
        self.batch_size = batch_size
        self.augmentation = augmentation if augmentation and augmentation.active else None
        self.seed = seed
        self.shuffle = shuffle
        self.balanced = balanced
        self.device = torch.device(device)
        # (x / 255 - mean) / std as one product and one sum.
        mean, std = (torch.tensor(v) for v in (preprocessing.mean, preprocessing.std))
        self._scale = (1 / (255 * std)).to(self.device).view(1, -1, 1, 1)
        self._shift = (-mean / std).to(self.device).view(1, -1, 1, 1)

    @property
    def channels(self) -> int:
        """Number of channels of the images that it yields."""
        return int(self._scale.shape[1])

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return math.ceil(len(self.rows) / self.batch_size)

    def order(self, epoch: int) -> NDArray[np.intp]:
        """Return the rows of an epoch in their order."""
        if not (self.shuffle or self.balanced):
            return self.rows
        labels = self.labels[self.rows] if self.balanced else None
        return self.rows[draw_order(len(self.rows), labels, (*self.seed, "order", epoch))]

    def epoch(
        self, n: int, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Iterator[Batch]:
        """Yield the batches of epoch ``n``."""
        if not len(self.rows):
            return
        batches = np.array_split(self.order(n), len(self))
        for rows, images in self._ahead(batches, n):
            yield self._batch(rows, images, memory_format)

    def _ahead(
        self, batches: Sequence[NDArray[np.intp]], epoch: int
    ) -> Iterator[tuple[NDArray[np.intp], Tensor]]:
        """Gather images while the device computes on those before."""
        if self.device.type == "cpu":
            # The model computes on every core; threads beside it take turns with its own, which
            # wait for each other at every operation: measured twenty times slower on two cores.
            yield from ((rows, self._gather(rows, epoch)) for rows in batches)
            return
        waiting = iter(batches)
        ready: deque[tuple[NDArray[np.intp], Future[Tensor]]] = deque()
        try:
            while True:
                while len(ready) < AHEAD and (rows := next(waiting, None)) is not None:
                    ready.append((rows, _threads().submit(self._gather, rows, epoch)))
                if not ready:
                    return
                rows, gathered = ready.popleft()
                yield rows, gathered.result()
        finally:
            for _, future in ready:
                future.cancel()

    def _gather(self, rows: NDArray[np.intp], epoch: int) -> Tensor:
        """Return the rows' images as uint8 ``(batch, size, size, channels)`` on the CPU."""
        if self.augmentation is None:
            images = self.pixels[rows]
        else:
            images = np.stack(
                [
                    self.augmentation(
                        np.asarray(self.pixels[row]), derive(*self.seed, "image", epoch, int(row))
                    )
                    for row in rows
                ]
            )
        gathered = torch.from_numpy(images)
        # Only pinned memory is copied to a GPU while it computes.
        return gathered.pin_memory() if self.device.type == "cuda" else gathered

    def _batch(
        self, rows: NDArray[np.intp], images: Tensor, memory_format: torch.memory_format
    ) -> Batch:
        labels = torch.from_numpy(self.labels[rows])
        if self.device.type == "cuda":
            labels = labels.pin_memory()
        # As uint8, a quarter of the bytes of fp32; widened and normalised on the device, in one
        # pass that also repeats a single channel and lays the memory out as the model wants it.
        images = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        shape = (len(rows), self.channels, *images.shape[2:])
        normalised = torch.empty(shape, device=self.device, memory_format=memory_format)
        torch.mul(images, self._scale, out=normalised)
        normalised += self._shift
        labels = labels.to(self.device, non_blocking=True)
        return Batch(normalised, labels, rows)


def draw_order(
    size: int, labels: NDArray[np.int64] | None, seed: tuple[Axis, ...]
) -> NDArray[np.intp]:
    """Return ``size`` positions in random order.

    Each comes once, or, given labels ``(size,)``, so often that every class is drawn equally often.
    """
    random = generator(*seed)
    if labels is None:
        return random.permutation(size)
    # Every class fills the same quota, by as many whole permutations of its members as that takes:
    # a rare image comes once more at most than another of its class.
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    quota = math.ceil(size / len(members))
    drawn = [
        np.concatenate([random.permutation(m) for _ in range(math.ceil(quota / len(m)))])[:quota]
        for m in members
    ]
    return random.permutation(np.concatenate(drawn))[:size]
