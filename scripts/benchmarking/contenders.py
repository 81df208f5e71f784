"""Starts contenders as processes, takes their time, and keeps the table."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import pandas as pd

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """Seconds of wall clock and of processor, peak memory, and what the process said of itself."""

    wall: float
    processor: float
    memory: int
    inside: dict[str, Any] = field(default_factory=dict)


class Bench:
    """The contenders on one set of images."""

    def __init__(self, scratch: Path, out: Path, rounds: int, python_of_eva: str | None) -> None:
        self.scratch, self.out, self.rounds = scratch, out, rounds
        self.python_of_eva = python_of_eva
        self.architecture = ""
        self.lines: list[dict[str, Any]] = []
        self.source = scratch / "images" / "table.csv"

    # ------------------------------------------------------------------ images

    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.source)

    def write_images(self, number: int, root: Path | None) -> None:
        """Lay out a table and a folder of PNG: real images, or those of the embedded cohort."""
        from prognobench.imaging.decode import read_image
        from prognobench.records import Files
        from prognobench.registry import DATASETS

        if root is None:
            cohort = DATASETS["embedded"](task="mortality", prevalence=0.3, patients=number)
        else:
            settings = {"images": "all", "before_outcome": False, "on_missing": "drop"}
            cohort = DATASETS["covid_chestxray"](root=root, task="icu", **settings)
        rows = cohort.table.head(number)
        folder = self.source.parent
        folder.mkdir(parents=True)
        names = []
        for i, row in enumerate(rows.itertuples()):
            source = cohort.sources[row.source]
            is_file = isinstance(source, Files)
            image = read_image(source.root / row.image) if is_file else source.render(row.image)
            names.append(f"{i}.png")
            cv2.imwrite(str(folder / names[-1]), cv2.resize(image, (512, 512)))
        columns = {"patient": rows["patient_id"], "image": names, "outcome": rows["label"]}
        pd.DataFrame(columns).to_csv(self.source, index=False)

    # ------------------------------------------------------------------ processes

    def process(self, command: Sequence[str]) -> Run:
        """Run a command and its children to their end."""
        with (self.scratch / "log").open("w") as log:
            begin = time.perf_counter()
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
            assert child.stdout is not None
            output = child.stdout.read()
            _, status, usage = os.wait4(child.pid, 0)
            wall = time.perf_counter() - begin
        if status:
            said = (self.scratch / "log").read_text()[-2000:]
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{output[-1000:]}{said}")
        last = output.strip().splitlines()[-1] if output.strip() else ""
        inside = json.loads(last) if last.startswith("{") else {}
        memory = usage.ru_maxrss * 1024
        return Run(wall, usage.ru_utime + usage.ru_stime, memory, inside)

    def script(
        self, name: str, inside: str = "", python: str = sys.executable, **settings: Any
    ) -> Run:
        """Run a contender; with ``inside``, what counts is the time that it took for that."""
        given = {
            **{"table": str(self.source), "architecture": self.architecture},
            **{"precision": "fp32" if name.startswith("usual") else precision()},
            **{"rounds": self.rounds, **settings},
        }
        run = self.process([python, str(HERE / f"{name}.py"), json.dumps(given)])
        if not inside:
            return run
        return replace(run, wall=run.inside[inside], processor=run.inside[f"{inside}_processor"])

    def usual(self, name: str, strategy: str, folds: int, epochs: int) -> Run:
        """One epoch of one fold, and what all of them take: start once, each epoch as this one."""
        run = self.script(name, strategy=strategy, folds=1, epochs=1)
        more = run.inside["epoch"] * (folds * epochs - 1)
        return replace(run, wall=run.wall + more, processor=run.processor * (1 + more / run.wall))

    # ------------------------------------------------------------------ prognobench

    def ours(self, *arguments: str) -> Run:
        return self.process([str(Path(sys.executable).with_name("prognobench")), *arguments])

    def probe(self, *overrides: str, fresh: bool = False, table: Path | None = None) -> Run:
        """Linear probes; ``fresh`` forgets all features and pixels, results are always new."""
        if fresh:
            shutil.rmtree(self.scratch / "cache", ignore_errors=True)
        return self._run("strategy=linear_probe", *overrides, table=table)

    def adapt(self, strategy: str) -> Run:
        return self._run(f"strategy={strategy}", "cv=holdout", "train.epochs=1")

    def _run(self, *overrides: str, table: Path | None = None) -> Run:
        shutil.rmtree(self.scratch / "results", ignore_errors=True)
        return self.ours("run", *self._common(table), *overrides)

    def again(self, *overrides: str) -> Run:
        """The same run once more, its results being there."""
        return self.ours("run", *self._common(), "strategy=linear_probe", *overrides)

    def prepare(self, fresh: bool) -> Run:
        if fresh:
            shutil.rmtree(self.scratch / "cache", ignore_errors=True)
        return self.ours("data", "prepare", *self._common())

    def subset(self, images: int) -> Run:
        """A first run on the first so many images."""
        part = self.source.with_name(f"{images}.csv")
        self.table().head(images).to_csv(part, index=False)
        return self.probe(fresh=True, table=part)

    def _common(self, table: Path | None = None) -> list[str]:
        return [
            *("dataset=table", f"dataset.table={table or self.source}", "dataset.label=outcome"),
            *(f"dataset.images={self.source.parent}", "dataset.positive=1"),
            *("model=timm", f"model.name={self.architecture}", "model.weights=random"),
            # As the YAML of any named model says it, so that timm need not be asked.
            *("model.image_size=224", "model.interpolation=bicubic"),
            *("model.mean=[0.5,0.5,0.5]", "model.std=[0.5,0.5,0.5]"),
            # Synthetic images, made larger, are all details of one template.
            "checks.leaks=allow",
            f"paths.results={self.scratch / 'results'}",
            f"paths.cache={self.scratch / 'cache'}",
        ]

    # ------------------------------------------------------------------ table

    def line(self, name: str, ours: Callable[[], Run], **others: Callable[[], Run]) -> None:
        """Measure contenders in turns, and add a line: medians, and how often ours fits in each."""
        rounds = [
            {"ours": ours(), **{k: run() for k, run in others.items()}} for _ in range(self.rounds)
        ]
        median = statistics.median
        found: dict[str, float] = {}
        for key in ("ours", *others):
            found[key] = median(r[key].wall for r in rounds)
            found[f"{key}_processor"] = median(r[key].processor for r in rounds)
            found[f"{key}_memory_mb"] = max(r[key].memory for r in rounds) / 2**20
        for key in others:
            found[f"{key}/ours"] = median(r[key].wall / r["ours"].wall for r in rounds)
            busy = (r[key].processor / r["ours"].processor for r in rounds)
            found[f"{key}/ours_processor"] = median(busy)
        self.note(name, **found)

    def note(self, name: str, **found: Any) -> None:
        self.lines.append({"what": name, **found})
        shown = ", ".join(
            f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items()
        )
        print(f"{name}: {shown}", file=sys.stderr, flush=True)


def precision() -> str:
    """What prognobench takes here, for the contenders that are to be its equals."""
    import torch

    from prognobench.training.hardware import resolve_precision

    return resolve_precision("auto", torch.device("cpu"))
