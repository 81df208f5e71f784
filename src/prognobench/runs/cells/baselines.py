"""The baselines that join a sweep by themselves: what an image has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from prognobench.config import schema_of
from prognobench.records import Component
from prognobench.registry import LOSSES, STRATEGIES, Part
from prognobench.runs.prepare import Prepared
from prognobench.store import RunFolder, run_folder, run_key

Identity = tuple[str, str, str]
"""Strategy, and the digests of cohort and folds: a baseline is the same beside every model."""


def add_baselines(runs: Sequence[Prepared]) -> list[Prepared]:
    """Return the runs, then the baselines that they lack, once for each cohort and its folds.

    A strategy declares that it joins sweeps (``joins_sweeps``). It is left out where the cohort
    lacks what it reads, where ``baselines=false``, and where such a run is stored already.
    """
    known = {
        _identify(run, run.config.strategy.builder) for run in runs if "image" not in run.reads
    }
    added: list[Prepared] = []
    for run in runs:
        if not run.config.baselines or "image" not in run.reads:
            continue
        for name in STRATEGIES.declaring("joins_sweeps"):
            if _identify(run, name) in known:
                continue
            known.add(_identify(run, name))
            beside = _put_beside(run, name)
            stored = _list_stored(beside)
            if _has_inputs(beside) and not any(_is_like(folder, beside) for folder in stored):
                added.append(beside)
    return [*runs, *added]


def _identify(run: Prepared, strategy: str) -> Identity:
    return strategy, run.fingerprints["cohort"], run.fingerprints["folds"]


def _put_beside(run: Prepared, name: str) -> Prepared:
    """Return the run of a strategy with its defaults, on the cohort and folds of another run."""
    usual = LOSSES[LOSSES.declaring("usual")[0]]
    strategy, loss = _with_defaults(STRATEGIES[name]), _with_defaults(usual)
    config = replace(run.config, strategy=strategy, loss=loss)
    key = run_key(config, **run.fingerprints)
    return replace(run, config=config, folder=run_folder(config, key))


def _with_defaults(part: Part) -> Component:
    settings = {name: default for name, (_, default) in schema_of(part).fields.items()}
    return Component(part.name, part.name, settings)


def _has_inputs(run: Prepared) -> bool:
    return "covariates" not in run.reads or bool(run.cohort.covariates)


def _list_stored(run: Prepared) -> Iterator[RunFolder]:
    """Yield the stored runs of a strategy on a data set beside other models, but not this run."""
    own = run.folder.path
    for path in own.parents[2].glob(f"*/{own.parent.name}/*/run.json"):
        if path.parent != own:
            yield RunFolder(path.parent)


def _is_like(folder: RunFolder, run: Prepared) -> bool:
    prints = folder.meta.get("fingerprints", {})
    same = all(prints.get(name) == run.fingerprints[name] for name in ("cohort", "folds"))
    return same and len(folder.done_cells()) == len(folder.cells)
