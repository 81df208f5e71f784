"""Training steps of prognobench's engine against a bare loop on preloaded tensors.

Both train the same adapted model in the same precision, one round after the other; so does the
engine without its speed-ups (train.speedups=false).
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from images import IMAGE_SIZE, arguments
from torch import nn

from prognobench.imaging.augment import Augmentation
from prognobench.records import Adapted, Loss, Preprocessing, Train
from prognobench.registry import MODELS, STRATEGIES
from prognobench.training.hardware import PeakMemory, autocast, memory_format, resolve_precision
from prognobench.training.loader import Loader
from prognobench.training.loop import fit

CPU = torch.device("cpu")
BATCH = 16


@dataclass
class Rate:
    """Images a second, of the wall clock and of processor time, and memory above the start's."""

    wall: list[float]
    processor: list[float]
    memory: int = 0

    def add(self, images: int, wall: float, processor: float, memory: int) -> None:
        self.wall.append(images / wall)
        self.processor.append(images / processor)
        self.memory = max(self.memory, memory)


def adapted(architecture: str, strategy: str) -> tuple[Adapted, Preprocessing]:
    backbone = MODELS["timm"](
        architecture=architecture, weights="random", image_size=IMAGE_SIZE
    ).load()
    return STRATEGIES[strategy](backbone, 2), backbone.preprocessing


def bare(made: Adapted, images: torch.Tensor, labels: torch.Tensor, precision: str) -> None:
    """Forward, backward and optimiser, and nothing else."""
    model = made.model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, 1e-4, fused=True)
    criterion = nn.CrossEntropyLoss(torch.tensor([0.6, 3.0]))
    for batch, targets in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        optimiser.zero_grad()
        with autocast(precision, CPU):
            logits = model(batch)
        criterion(logits.float(), targets).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()


def compare(architecture: str, strategy: str, steps: int, rounds: int) -> dict[str, float]:
    made, preprocessing = adapted(architecture, strategy)
    precision = resolve_precision("auto", CPU)
    random = np.random.default_rng(0)
    size = BATCH * steps
    pixels = random.integers(0, 256, (size, IMAGE_SIZE, IMAGE_SIZE, 1)).astype(np.uint8)
    labels = random.integers(0, 2, size)
    layout = memory_format(made.model)
    images = torch.randn(size, preprocessing.channels, IMAGE_SIZE, IMAGE_SIZE).to(
        memory_format=layout
    )
    loaders = [
        Loader(
            pixels,
            labels,
            rows,
            preprocessing,
            batch_size=BATCH,
            augmentation=Augmentation("light"),
            shuffle=True,
        )
        for rows in (np.arange(size), np.arange(0))
    ]
    loss = Loss(np.array([0.6, 3.0]), np.zeros(2), np.zeros(2))
    made.model.to(memory_format=layout)
    targets = torch.from_numpy(labels)
    rates = {name: Rate([], []) for name in ("bare", "engine", "engine_plain")}
    for n in range(rounds + 1):
        for name, rate in rates.items():
            recipe = Train(epochs=1, speedups=name == "engine")
            # What the engine's speed-ups put into the model's layers must not speed up the others.
            for layer in made.model.modules():
                vars(layer).pop("forward", None)
            memory = PeakMemory(CPU)
            wall, processor = time.perf_counter(), time.process_time()
            if name == "bare":
                bare(made, images, targets, precision)
            else:
                fit(made, *loaders, loss, recipe, device=CPU, where="bench")
            if n:  # the first round warms up
                spent = (time.perf_counter() - wall, time.process_time() - processor)
                rate.add(size, *spent, memory.bytes)
    median = statistics.median
    return {
        "precision": precision,
        "bare": median(rates["bare"].wall),
        "engine": median(rates["engine"].wall),
        "ratio": median(
            e / b for e, b in zip(rates["engine"].wall, rates["bare"].wall, strict=True)
        ),
        "ratio_processor": median(
            e / b for e, b in zip(rates["engine"].processor, rates["bare"].processor, strict=True)
        ),
        "speedups": median(
            e / p
            for e, p in zip(rates["engine"].processor, rates["engine_plain"].processor, strict=True)
        ),
        "memory_ratio": rates["engine"].memory / rates["bare"].memory,
    }


if __name__ == "__main__":
    given = arguments()
    result = compare(given["architecture"], given["strategy"], given["steps"], given["rounds"])
    print(json.dumps(result))
