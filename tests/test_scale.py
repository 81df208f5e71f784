"""Sweeps of many runs: prepared in parts, described when they store something, found done."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_runs import make_run

from prognobench.cli.compose import compose
from prognobench.errors import ConfigError
from prognobench.registry import load_components
from prognobench.runs import execute
from prognobench.runs.execute import run, split_sweep

SMALL = (
    *("dataset=mortality", "dataset.patients=40", "dataset.image_size=48", "model=vit"),
    *("cv.folds=3", "device=cpu"),
)

MOODY = """
from prognobench.errors import DataError
from prognobench.folds.cv import k_fold
from prognobench.registry import CVS

@CVS.register("moody")
def moody(cohort, seed, *, folds: int = 3, repeats: int = 1, bad: int = 3):
    if seed == bad:
        raise DataError(f"seed {seed} splits badly")
    return k_fold(cohort, seed, folds=folds)
"""


def test_the_first_part_of_a_sweep_has_every_choice_and_few_splits() -> None:
    sweep = ("strategy=prior,lora", "seed=range(0,300)")
    configs = compose([*SMALL, *sweep], multirun=True)
    first, *others = split_sweep(configs)
    assert [len({config.seed for config in part}) for part in (first, *others)] == [
        *(16, 48, 192, 44)
    ]
    assert len(first) == 16 * 2
    assert [config for part in (first, *others) for config in part] == sorted(
        configs, key=lambda config: [16, 64, 256, 300].index(min(
            bound for bound in (16, 64, 256, 300) if config.seed < bound
        ))
    )  # fmt: skip


def test_a_split_that_is_refused_once_work_began_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "moody.py").write_text(MOODY)
    load_components(tmp_path / "parts")
    monkeypatch.setattr(execute, "PARTS", (1, 2))
    here = (f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}")
    split = ("cv.builder=moody", "strategy=prior")
    configs = compose([*SMALL, *split, "seed=1,2,3,4", *here], multirun=True)
    for computed in (3, 0):
        outcomes = {outcome.config.seed: outcome for outcome in run(configs)}
        assert outcomes.pop(3).refusal == "seed 3 splits badly"
        assert {len(each.computed) for each in outcomes.values()} == {computed}
        assert {len(each.computed + each.found) for each in outcomes.values()} == {3}
        assert all(each.folder.is_described for each in outcomes.values())
    with pytest.raises(ConfigError, match="seed 3 splits badly"):
        run(compose([*SMALL, *split, "seed=3", *here]))


def test_a_run_is_described_before_its_first_cell_and_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path, done=0)
    calls = []
    folder.describe_later(lambda: calls.append(1))
    assert not calls
    folder.write_failure("r0-f0", RuntimeError("no"))
    folder.write_failure("r0-f1", RuntimeError("no"))
    folder.describe_now()
    assert calls == [1]
