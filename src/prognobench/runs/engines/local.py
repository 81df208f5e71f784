"""Workers on this machine: own processes, one for each graphics card or share of processors."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Gt

from prognobench.errors import ConfigError
from prognobench.records import RunConfig
from prognobench.registry import ENGINES
from prognobench.runs.engines.order import Ended, Order, Watch, prepare_sweep
from prognobench.runs.sweeps import Sweep, worker_arguments
from prognobench.workers import PARENT

Count = Annotated[int, Gt(0)]

MEMORY = 3e9
"""Bytes that a worker without a graphics card may need: libraries, a backbone, its gradients."""

CARD_MEMORY = 20e9
"""Bytes of a graphics card that a worker may need."""

MOST_PER_CARD = 4
"""Workers on one card: each brings its own context, and more no longer fill gaps of the others."""


@dataclass
class Process:
    """A worker as a process of this machine; its messages go to a file."""

    process: subprocess.Popen[bytes]
    log: Path

    def poll(self) -> int | None:
        return self.process.poll()

    def complaint(self) -> str:
        return last_lines(self.log.read_text(encoding="utf-8", errors="replace"))

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def last_lines(text: str, most: int = 3) -> str:
    """Return what a worker said last, without what the terminal adds."""
    lines = [line.removeprefix("error: ") for line in text.splitlines() if line.strip()]
    return " ".join(lines[-most:]) or "nothing"


@ENGINES.register("local")
def local(
    order: Order,
    *,
    workers: Count | Literal["auto"] = "auto",
    workers_per_gpu: Count | Literal["auto"] = 1,
) -> Ended:
    """Start workers on this machine, and another where one dies.

    Processors are divided among them, and so are graphics cards.

    Parameters
    ----------
    workers
        How many; ``auto``: as many as cards, or processors and memory, allow.
    workers_per_gpu
        How many share a graphics card; ``auto``: as many as its memory allows, up to four.
    """
    cards = list_cards(order.configs)
    per_card = _count_per_card(cards) if workers_per_gpu == "auto" else workers_per_gpu
    most = len(cards) * per_card
    asked = (most or _count_for_processors()) if workers == "auto" else workers
    if cards and asked > most:
        raise ConfigError(
            f"engine.workers={asked}, but there are {len(cards)} graphics cards with "
            f"engine.workers_per_gpu={per_card}; set engine.workers_per_gpu="
            f"{-(-asked // len(cards))}, or fewer workers"
        )
    ready, sweep = prepare_sweep(order, "local")
    if sweep is None:
        return Ended(ready.outcomes())
    count = max(1, min(asked, sum(map(len, ready.left.values()))))
    environments = {str(number): _environment(number, count, cards) for number in range(count)}
    Watch(
        ready,
        sweep,
        lambda: [*environments],
        lambda place: _start(sweep, place, environments[place]),
        order.progress,
    ).keep()
    return Ended(ready.outcomes())


def list_cards(configs: Sequence[RunConfig]) -> list[str]:
    """Return the graphics cards that these runs may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    if not any(config.device in ("auto", "cuda") for config in configs):
        return []
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    cards = named.split(",") if named else [str(number) for number in range(count)]
    return cards[:count]


def _count_per_card(cards: Sequence[str]) -> int:
    if not cards:
        return 1
    import torch

    memory = torch.cuda.get_device_properties(0).total_memory
    return max(1, min(MOST_PER_CARD, int(memory / CARD_MEMORY)))


def _count_for_processors() -> int:
    from joblib import cpu_count

    if not hasattr(os, "sysconf"):  # Windows does not say so how much memory there is
        return 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(int(cpu_count()), int(memory / MEMORY)))


def _environment(number: int, workers: int, cards: Sequence[str]) -> dict[str, str]:
    """Return what gives a worker its share of processors, and its card."""
    from joblib import cpu_count

    share = str(max(1, cpu_count() // workers))
    threads = {name: share for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LOKY_MAX_CPU_COUNT")}
    card = {"CUDA_VISIBLE_DEVICES": cards[number % len(cards)]} if cards else {}
    return {**os.environ, **threads, **card, PARENT: str(os.getpid())}


def _start(sweep: Sweep, place: str, environment: dict[str, str]) -> Process:
    log = sweep.path / f"worker-{place}.log"
    with open(log, "ab") as messages:
        process = subprocess.Popen(
            worker_arguments(sweep),
            cwd=sweep.content["folder"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=messages,
        )
    return Process(process, log)
