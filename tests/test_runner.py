"""Runs end to end on the embedded cohort: resuming, failing, sharing, and the same numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_runs import store_instead
from PIL import Image
from safetensors.torch import save_file

from prognobench.analysis.scores import score
from prognobench.cli.compose import compose
from prognobench.errors import ConfigError, StoreError, TrainingError
from prognobench.files import read_json
from prognobench.imaging import content
from prognobench.models import source as sources
from prognobench.registry import load_components
from prognobench.runs.execute import Outcome, run
from prognobench.store import RunFolder
from prognobench.workers import LEASE, Lease

SMALL = (
    "dataset=severity",
    "dataset.patients=40",
    "dataset.image_size=64",
    "model.weights=random",
    "train=quick",
    "train.epochs=1",
    "cv.folds=3",
    "device=cpu",
)


@pytest.fixture
def here(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    cache = tmp_path_factory.getbasetemp() / "cache"
    return (f"paths.results={tmp_path / 'results'}", f"paths.cache={cache}")


def run_sweep(*overrides: str) -> list[Outcome]:
    return run(compose([*SMALL, *overrides], multirun=True))


def predictions(outcomes: Sequence[Outcome]) -> dict[tuple[str, str], pd.DataFrame]:
    return {
        (outcome.folder.path.name, cell): outcome.folder.predictions(cell)
        for outcome in outcomes
        for cell in outcome.folder.cells
    }


def test_a_sweep_stores_every_cell_and_is_found_done(here: tuple[str, ...]) -> None:
    sweep = ("model=vit,cnn", "strategy=linear_probe,lora", *here)
    outcomes = run_sweep(*sweep)
    assert [len(outcome.computed) for outcome in outcomes] == [3] * 4
    for outcome in outcomes:
        assert not outcome.failed
        folder = outcome.folder
        assert folder.meta["synthetic"] is True
        assert folder.meta["reads"] == ["image"]
        tested = []
        for cell in folder.cells:
            table = folder.predictions(cell)
            scores = table[[f"score_{name}" for name in folder.meta["classes"]]]
            assert scores.sum(axis=1).sub(1).abs().max() < 1e-6
            tested += table.loc[table["part"] == "test", "patient_id"].unique().tolist()
            assert folder.cost(cell)["parameters_trainable"] > 0
            assert len(folder.history(cell)) > 0
        assert sorted(tested) == sorted(folder.cohort()["patient_id"].unique())
    again = run_sweep(*sweep)
    assert [len(outcome.computed) for outcome in again] == [0] * 4
    assert [len(outcome.found) for outcome in again] == [3] * 4


def test_files_are_looked_at_once_however_many_runs_share_them(
    here: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        image = np.full((40, 40), 8 * number, dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    rows = [f"p{number},{number}.png,{('alive', 'dead')[number % 2]}" for number in range(30)]
    (tmp_path / "t.csv").write_text("\n".join(["patient_id,image,outcome", *rows]) + "\n")
    table = (
        *("dataset=table", f"dataset.table={tmp_path / 't.csv'}", f"dataset.images={tmp_path}"),
        *("dataset.label=outcome", "dataset.positive=dead", "model.weights=random"),
        *(
            "train=quick",
            "train.epochs=1",
            "cv.folds=3,4",
            "model=vit,cnn",
            "strategy=linear_probe,prior",
        ),
    )
    looked: list[str] = []
    stamp, digest = content._stamp, content._digest
    monkeypatch.setattr(content, "_stamp", lambda path: looked.append(path) or stamp(path))
    monkeypatch.setattr(content, "_digest", lambda path: looked.append(str(path)) or digest(path))
    cache = f"paths.cache={tmp_path / 'cache'}"
    outcomes = run(compose([*table, here[0], cache], multirun=True))
    assert len(outcomes) == 8
    assert not any(outcome.failed for outcome in outcomes)
    assert len(looked) == 2 * 30  # the time of change and the content of each file
    assert set(looked) == {str(tmp_path / f"{number}.png") for number in range(30)}


def test_numbers_do_not_depend_on_the_order_or_company_of_cells(here: tuple[str, ...]) -> None:
    together = predictions(run_sweep("model=vit", "strategy=linear_probe,bitfit", *here))
    for strategy in ("bitfit", "linear_probe"):
        results = f"{here[0]}_{strategy}"
        apart = predictions(run_sweep("model=vit", f"strategy={strategy}", results, here[1]))
        for cell, table in apart.items():
            pd.testing.assert_frame_equal(table, together[cell])


def test_runs_that_differ_in_their_views_alone_do_not_share_them(here: tuple[str, ...]) -> None:
    views = ("model=vit", "strategy=linear_probe", "strategy.views=1", here[1])
    together = predictions(run_sweep(*views, "train.horizontal_flip=true,false", here[0]))
    for flip in ("true", "false"):
        results = f"{here[0]}_{flip}"
        apart = predictions(run_sweep(*views, f"train.horizontal_flip={flip}", results))
        for cell, table in apart.items():
            pd.testing.assert_frame_equal(table, together[cell])


def test_runs_that_show_images_in_other_ways_do_not_share_features(here: tuple[str, ...]) -> None:
    model = ("model=timm", "model.name=resnet10t", "model.image_size=32", "model.std=[0.2,0.2,0.2]")
    means = ("[0.5,0.5,0.5]", "[0.1,0.1,0.1]")
    probes = (*model, "strategy=linear_probe", here[1])
    together = predictions(run_sweep(*probes, f"model.mean={','.join(means)}", here[0]))
    assert len(together) == 6
    for number, mean in enumerate(means):
        apart = predictions(run_sweep(*probes, f"model.mean={mean}", f"{here[0]}_{number}"))
        for cell, table in apart.items():
            pd.testing.assert_frame_equal(table, together[cell], rtol=1e-5)
    first, *_, last = together.values()
    assert not first.equals(last)


def test_a_run_whose_description_was_lost_is_described_again(here: tuple[str, ...]) -> None:
    chosen = ("model=vit", "strategy=linear_probe", *here)
    (outcome,) = run_sweep(*chosen)
    file = outcome.folder.path / "run.json"
    described = file.read_bytes()
    file.write_text("{")
    with pytest.raises(StoreError, match="the same 'prognobench run' writes it again"):
        score(file.parents[5])
    file.unlink()
    (again,) = run_sweep(*chosen)
    assert (len(again.computed), len(again.found)) == (0, 3)
    assert file.read_bytes() == described


def test_damaged_files_are_computed_and_written_again(here: tuple[str, ...]) -> None:
    chosen = ("model=vit", "strategy=linear_probe", "train.save=best", *here)
    (outcome,) = run_sweep(*chosen)
    folder, cells = outcome.folder, outcome.folder.cells
    before = [folder.predictions(cell) for cell in cells]
    tables = {file: file.read_bytes() for file in folder.path.glob("*.csv")}
    for file in (
        folder.path / "folds.csv",
        folder.path / "cells" / cells[0] / "predictions.csv",
        folder.path / "cells" / cells[1] / "adapted" / "classifier.safetensors",
        folder.path / "cells" / cells[2] / "done.json",
    ):
        content = file.read_bytes()
        file.write_bytes(content[:-100] + bytes(100))
    (again,) = run_sweep(*chosen)
    assert (len(again.computed), len(again.found)) == (3, 0)
    for cell, table in zip(cells, before, strict=True):
        pd.testing.assert_frame_equal(again.folder.predictions(cell), table)
    assert {file: file.read_bytes() for file in folder.path.glob("*.csv")} == tables


def test_training_whose_validation_diverges_says_so(here: tuple[str, ...]) -> None:
    wild = ("strategy=full", "strategy.lr=1e38", "train.schedule=constant", "train.batch_size=99")
    (outcome,) = run_sweep("model=vit", *wild, "train.warmup_epochs=0", *here)
    assert len(outcome.failed) == 3
    assert all("validation loss is not finite in any" in text for text in outcome.failed.values())


@pytest.mark.parametrize("monitor", ["loss", "mcc"])
@pytest.mark.parametrize("strategy", ["linear_probe", "logistic", "bitfit"])
def test_a_backbone_that_gives_no_numbers_gives_no_predictions(
    here: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, strategy: str, monitor: str
) -> None:
    made = sources._backbone

    def broken(network, *more):
        with torch.no_grad():
            next(network.parameters()).fill_(torch.nan)
        return made(network, *more)

    monkeypatch.setattr(sources, "_backbone", broken)
    monkeypatch.setattr(sources, "_masters", OrderedDict())
    results, cache = (place.partition("=")[2] for place in here)
    # A cache of its own: other tests must not find what broken weights give.
    sweep = ("model=vit", f"strategy={strategy},prior", f"train.monitor={monitor}", here[0])
    outcome, baseline = run_sweep(*sweep, f"paths.cache={results}_{Path(cache).name}")

    assert len(baseline.computed) == 3
    assert not outcome.computed
    assert len(outcome.failed) == 3
    assert all("finite" in said or "nan" in said for said in outcome.failed.values())


def test_a_loss_that_a_classifier_cannot_follow_is_not_applicable(here: tuple[str, ...]) -> None:
    sweep = ("model=vit", "strategy=logistic,knn,linear_probe", "loss=balanced_sampler", *here)
    logistic, knn, probe = run_sweep(*sweep)

    for outcome in (logistic, knn):
        assert "draws no batches" in outcome.not_applicable
        assert not outcome.computed
    assert len(probe.computed) == 3


def test_metrics_in_bf16_lie_within_the_noise_of_folds(here: tuple[str, ...]) -> None:
    settings = ("dataset=mortality", "dataset.patients=60", "model=vit", "cv.folds=3")
    settings += ("strategy=linear_probe", "device=cpu", *here)
    found = {}
    for precision in ("fp32", "bf16"):
        (done,) = run(compose([*settings, f"train.precision={precision}"]))
        costs = map(done.folder.cost, done.computed)
        assert {cost["precision_features"] for cost in costs} == {precision}
        score(done.config.paths.results)
        scores = pd.read_csv(done.config.paths.results / "scores.csv")
        own = (scores["key"] == done.folder.path.name) & (scores["level"] == "patient")
        folds = scores[own & scores["threshold"].isin(["0.5", "none"]) & scores["fold"].notna()]
        found[precision] = folds.pivot_table(index="metric", columns="fold", values="value")
    for metric in ("mcc", "average_precision", "roc_auc"):
        fp32, bf16 = (found[precision].loc[metric] for precision in ("fp32", "bf16"))
        assert len(fp32) == 3
        assert (fp32 - bf16).abs().max() < fp32.std()


def own_strategy(tmp_path: Path, name: str, code: str, settings: str = "") -> Path:
    """Lay out and load a user's own strategy; return the folder of its config."""
    for file, text in (
        (f"components/{name}.py", code),
        (f"configs/strategy/{name}.yaml", f"name: {name}\nbuilder: {name}\n{settings}\n"),
    ):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(text)
    load_components(tmp_path / "components")
    return tmp_path / "configs"


FRAGILE = """
from pathlib import Path
from prognobench.records import Adapted
from prognobench.registry import STRATEGIES

@STRATEGIES.register("fragile")
def fragile(backbone, num_classes: int, *, countdown: str) -> Adapted:
    "BitFit that breaks when the number in a file has come down to one."
    left = int(Path(countdown).read_text())
    Path(countdown).write_text(str(left - 1))
    if left == 1:
        raise RuntimeError("this cell breaks")
    return STRATEGIES["bitfit"](backbone, num_classes)
"""


def test_a_users_own_strategy_that_fails_in_one_cell_costs_no_other(
    here: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "countdown").write_text("2")
    own = own_strategy(tmp_path, "fragile", FRAGILE, f"countdown: {tmp_path / 'countdown'}")
    configs = compose([*SMALL, "strategy=fragile", *here], config_dir=own)
    (outcome,) = run(configs)
    assert len(outcome.computed) == 2
    assert list(outcome.failed.values()) == ["this cell breaks"]
    (outcome,) = run(configs)
    assert len(outcome.computed) == 1
    assert not outcome.failed


UNSAID = """
from prognobench.registry import STRATEGIES

@STRATEGIES.register("unsaid")
def unsaid(backbone, num_classes: int):
    "BitFit that does not say what it returns."
    return STRATEGIES["bitfit"](backbone, num_classes)
"""


def test_a_users_own_strategy_has_to_say_what_it_returns(
    here: tuple[str, ...], tmp_path: Path
) -> None:
    own = own_strategy(tmp_path, "unsaid", UNSAID)
    with pytest.raises(ConfigError, match="with one of Adapted, Probe, Estimator"):
        run(compose([*SMALL, "strategy=unsaid", *here], config_dir=own))


LISTED = """
from prognobench.records import Probe
from prognobench.registry import STRATEGIES

@STRATEGIES.register("listed")
def listed() -> Probe:
    "A probe whose rates, in a list, cannot be grouped with those of others."
    return Probe(layers=("last1",), learning_rates=[0.01])
"""


def test_a_users_own_probe_that_cannot_be_trained_costs_no_other(
    here: tuple[str, ...], tmp_path: Path
) -> None:
    own = own_strategy(tmp_path, "listed", LISTED)
    sweep = [*SMALL, "strategy=listed,linear_probe", *here]
    wrong, right = run(compose(sweep, multirun=True, config_dir=own))
    assert len(wrong.failed) == 3
    assert not wrong.computed
    assert len(right.computed) == 3
    assert not right.failed


def test_a_pair_that_cannot_be_is_recorded_with_its_reason(here: tuple[str, ...]) -> None:
    (outcome,) = run_sweep("model=cnn", "strategy=vera", *here)
    assert outcome.not_applicable
    assert not outcome.failed
    assert outcome.folder.meta["not_applicable"] == outcome.not_applicable
    mark = outcome.folder.path / "run.json"
    before = mark.stat().st_mtime_ns
    (again,) = run_sweep("model=cnn", "strategy=vera", *here)
    assert again.not_applicable == outcome.not_applicable
    assert mark.stat().st_mtime_ns == before


def test_all_faults_of_a_sweep_come_before_anything_starts(
    here: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        run_sweep("cv.folds=3,30", "model=vit", "model.weights=random,/nowhere.safetensors", *here)
    text = "\n".join(caught.value.faults)
    assert "/nowhere.safetensors" in text
    assert "fewer" in text or "only" in text
    assert not (tmp_path / "results").exists()


def test_every_evaluated_epoch_is_kept_where_it_is_asked_for(here: tuple[str, ...]) -> None:
    sweep = ("model=vit", "strategy=lp_ft", "strategy.head_first_epochs=1", "train.epochs=2")
    (best,) = run_sweep(*sweep, "train.save=best", *here)
    (kept,) = run_sweep(*sweep, "train.save=all", *here)
    assert kept.folder.path == best.folder.path
    assert len(kept.computed) == 3
    for cell in kept.folder.cells:
        folder = kept.folder.path / "cells" / cell
        assert sorted(path.name for path in (folder / "epochs").iterdir()) == ["1", "2", "3"]
        best_epoch = kept.folder.cost(cell)["best_epoch"]
        chosen = (folder / "epochs" / str(best_epoch) / "adapted.safetensors").read_bytes()
        assert chosen == (folder / "adapted" / "adapted.safetensors").read_bytes()
    (again,) = run_sweep(*sweep, "train.save=all", *here)
    assert not again.computed


def test_what_strategies_refuse_of_any_backbone_comes_before_anything_starts(
    here: tuple[str, ...], tmp_path: Path
) -> None:
    sweep = ("model=vit,cnn", "strategy=lora", "strategy.rank=8,200,400")
    with pytest.raises(ConfigError) as caught:
        run_sweep(*sweep, *here)
    faults = caught.value.faults
    assert len(faults) == 4
    assert all("is larger than the rank of" in fault for fault in faults)
    assert [fault.partition(",")[0] for fault in faults] == ["vit", "vit", "cnn", "cnn"]
    assert not (tmp_path / "results").exists()
    with pytest.raises(ConfigError, match="no feature last9 in this backbone; it has last1"):
        run_sweep("model=vit", "strategy=knn", "strategy.layer=last9", *here)
    naive_bayes = ("strategy.classifier=GaussianNB", "+strategy.parameters.priorz=1")
    with pytest.raises(ConfigError, match=r"GaussianNB has no 'priorz'. Did you mean 'priors'"):
        run_sweep("model=vit", "strategy=sklearn", *naive_bayes, *here)
    other = tmp_path / "other.safetensors"
    save_file({"conv1.weight": torch.zeros(2, 2)}, other)
    with pytest.raises(ConfigError, match=r"other\.safetensors"):
        run_sweep("model=vit", "strategy=bitfit", f"model.weights={other}", *here)


@pytest.mark.parametrize("strategy", ["bitfit", "linear_probe"])
def test_a_run_that_goes_on_in_another_precision_says_so(
    strategy: str, here: tuple[str, ...]
) -> None:
    given = ("model=cnn", f"strategy={strategy}", *here)
    (first,) = run_sweep(*given)
    cells = first.folder.path / "cells"
    for number, name in enumerate(first.computed):
        if number:
            (cells / name / "done.json").unlink()
            continue
        cost = read_json(cells / name / "cost.json")
        of_cell = "precision_features" if strategy == "linear_probe" else "precision"
        assert cost[of_cell] in ("fp32", "bf16")
        changed = json.dumps({**cost, of_cell: "tf32"}).encode()
        store_instead(first.folder, f"cells/{name}/cost.json", changed)

    with pytest.warns(UserWarning, match="were computed in tf32, .* train.precision=auto means"):
        (second,) = run_sweep(*given)

    assert second.computed == first.computed[1:]


@contextmanager
def leased_elsewhere(folder: RunFolder, cell: str, end: Callable[[], object]) -> Iterator[None]:
    """Lease a cell until this thread waits for it; then do what ends it."""
    claimed, waited = threading.Event(), threading.Event()
    this, sleep = threading.get_ident(), time.sleep

    def wait(seconds: float) -> None:
        if threading.get_ident() == this:
            waited.set()
        sleep(seconds)

    def compute() -> None:
        lease = Lease.take(folder.path / "cells" / cell, LEASE)
        assert lease is not None
        claimed.set()
        assert waited.wait(120)
        end()
        lease.give_back()

    with ThreadPoolExecutor() as threads, pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", wait)
        computing = threads.submit(compute)
        assert claimed.wait(60)
        yield
        computing.result()


@pytest.mark.parametrize("fails", [False, True])
def test_cells_that_another_process_computes_are_left_to_it_unless_it_dies(
    here: tuple[str, ...], fails: bool
) -> None:
    given = ("model=cnn", "strategy=bitfit", *here)
    (first,) = run_sweep(*given)
    for mark in first.folder.path.glob("cells/*/done.json"):
        mark.unlink()
    cell = first.folder.cells[0]

    def end() -> None:
        if fails:
            first.folder.write_failure(cell, TrainingError("it could not be trained there"))

    with (
        leased_elsewhere(first.folder, cell, end),
        pytest.warns(match="other processes compute 1 "),
    ):
        (second,) = run_sweep(*given)

    assert len(second.computed) == (2 if fails else 3)
    assert list(second.failed) == ([cell] if fails else [])
    assert not list(first.folder.path.glob("cells/*/.lease-*")) or fails


LOGGED = """
from prognobench.records import Adapted
from prognobench.registry import STRATEGIES

@STRATEGIES.register("logged")
def logged(backbone, num_classes: int, *, log: str) -> Adapted:
    "BitFit that leaves a line for each model that it made."
    with open(log, "a") as file:
        print("made", file=file)
    return STRATEGIES["bitfit"](backbone, num_classes)
"""


def test_two_processes_share_the_cells_of_a_run(here: tuple[str, ...], tmp_path: Path) -> None:
    log, cells = tmp_path / "log", 5
    own = own_strategy(tmp_path, "logged", LOGGED, f"log: {log}")
    options = [f"--config-dir={own}", f"--components={tmp_path / 'components'}"]
    given = [*SMALL, "model=cnn", "strategy=logged", f"cv.folds={cells}", *here]
    command = [sys.executable, "-m", "prognobench", "run", *options, *given]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    tried = 2  # each process tries the pair on shapes alone before it starts
    assert log.read_text().split() == ["made"] * (cells + tried)
    assert len(list(tmp_path.glob("results/runs/*/*/*/*/cells/*/done.json"))) == cells


def test_a_killed_run_goes_on_and_ends_with_the_same_scores(
    here: tuple[str, ...], tmp_path: Path
) -> None:
    overrides = [*SMALL, "model=vit", "strategy=lora", "train.epochs=4"]
    command = [sys.executable, "-m", "prognobench", "run", *overrides, *here]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    results = tmp_path / "results"
    deadline = time.monotonic() + 120
    while not list(results.glob("runs/*/*/*/*/cells/*/done.json")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    whole = tmp_path / "whole"
    (resumed,) = run(compose([*overrides, *here]))
    assert 1 <= len(resumed.computed) <= 2
    run(compose([*overrides, f"paths.results={whole}", here[1]]))
    score(results)
    score(whole)
    assert (results / "scores.csv").read_bytes() == (whole / "scores.csv").read_bytes()


def test_progress_keeps_a_line_for_what_has_ended(here, monkeypatch):
    told: list[tuple[str, int, int]] = []
    configs = compose([*SMALL, *here, "strategy=bitfit,prior", "baselines=false"], multirun=True)
    run(configs, progress=lambda *each: told.append(each))
    lines = [label for label, _, total in told if not total]
    assert len(lines) == 4
    assert sorted(line.rpartition(", ")[0] for line in lines) == [
        *(f"severity, vit, bitfit, cell r0-f{fold}" for fold in range(3)),
        "severity, vit, prior: 3 cells",
    ]
    # The progress of a cell has the beginning of its line as its name.
    assert {label for label, _, total in told if total} >= {"severity, vit, bitfit, cell r0-f0"}
    assert [each for each in told if each[0] == "cells"][-1] == ("cells", 6, 6)
