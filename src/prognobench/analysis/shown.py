"""Which runs are shown, and under which names: two that differ in a setting never share a name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from prognobench.analysis.catalogue import filter_runs, find_newest, plain_text
from prognobench.analysis.predictions import ORACLE
from prognobench.analysis.scores import CHANCE, Scored
from prognobench.errors import ConfigError
from prognobench.registry import GROUPS

if TYPE_CHECKING:
    import pandas as pd

COMPLETED = ("dataset", "model", "strategy", "regime", "cv")
"""The names that are completed by settings."""

NO_DIFFERENCE = ("train.save", "train.speedups", "train.seed")
"""Settings that change no number beyond rounding, and the seed, over which rows are means."""

SAME_ROW = ("dataset", "model", "strategy", "regime", "k", "cv")
"""Runs that share these names share a row."""

SIZES = ("regime.k", "regime.patients")
"""Settings that have a column of their own."""


@dataclass(frozen=True)
class Scope:
    """Settings that complete a name.

    Attributes
    ----------
    sections
        Of the config, whose settings these are.
    within
        Runs that share these names have to have the same settings, or their names say which.
    """

    name: str
    sections: tuple[str, ...]
    within: tuple[str, ...]


SCOPES = (
    Scope("dataset", ("image",), ("dataset",)),
    Scope("model", ("model",), ("model",)),
    Scope("strategy", ("strategy", "loss"), ("strategy",)),
    Scope("strategy", ("train",), SAME_ROW),
    Scope("regime", ("regime",), ("dataset", "regime", "k")),
    Scope("cv", ("cv",), ("dataset", "cv")),
)
"""A strategy means one thing on all datasets; a recipe may well suit one of them, and so counts
among runs that would share a row."""

TABLE = ("dataset.table", "dataset.label")
"""Settings that tell datasets of people's own tables apart; others only where these do not."""


def show_runs(
    scored: Scored,
    where: Mapping[str, Sequence[str]] | None = None,
    everything: bool = False,
) -> Scored:
    """Return the runs that are shown, with complete names, and their scores.

    Names are completed by exactly the settings in which the shown runs differ: ``lora (rank=8)``.
    Of runs that then still have the same names (their settings are equal, and the data or the
    version changed) the newest is shown; :attr:`.Scored.hidden` lists the keys of the others.

    Parameters
    ----------
    where
        Name -> values to keep: names as they are stored, or complete ones.
    everything
        Hide nothing: runs of equal names and settings get their keys as names.

    Raises
    ------
    ConfigError
        For a column or value that does not occur.
    """
    if scored.is_shown:
        return replace(scored, runs=filter_runs(scored.runs, where or {}))
    runs = _keep(scored, where or {})
    named = _complete(runs, scored)
    real = named["model"] != ORACLE
    newest = find_newest(named[real])
    hidden: list[str] = []
    if everything:
        again = named.index.isin(_sharing(named[real]).index)
        named.loc[again, "strategy"] += " [" + named.loc[again, "key"].str[:6] + "]"
    else:
        hidden = sorted(named.loc[real & ~named.index.isin(newest), "key"])
        named = named[~real | named.index.isin(newest)]
    named, folders = _name_oracles(named, runs, scored)
    scores = _rename_scores(scored.scores, runs, named)
    return replace(
        scored, runs=named, scores=scores, folders=folders, hidden=tuple(hidden), is_shown=True
    )


def _keep(scored: Scored, where: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Keep the runs with the wanted names, stored or complete."""
    runs = scored.runs
    complete: dict[str, Sequence[str]] = {}
    stored: dict[str, Sequence[str]] = {}
    for name, values in where.items():
        known = set(runs[name].map(plain_text)) if name in runs else set()
        unknown = [value for value in values if str(value) not in known]
        (complete if unknown and name in COMPLETED else stored)[name] = values
    runs = filter_runs(runs, stored)
    if not complete:
        return runs
    named = _complete(runs, scored)
    both = named.copy()
    for name, values in complete.items():
        is_stored = runs[name].isin([str(value) for value in values])
        both[name] = runs[name].where(is_stored, named[name])
    return runs.loc[filter_runs(both, complete).index]


# ------------------------------------------------------------------ names


def _complete(runs: pd.DataFrame, scored: Scored) -> pd.DataFrame:
    """Return the runs with complete names."""
    settings = {row: _flatten(scored.folders[row].meta.get("config", {})) for row in runs.index}
    real = runs[runs["model"] != ORACLE]
    added: dict[tuple[int, str], list[str]] = {}

    def add(rows: Sequence[int], name: str, keys: Sequence[str], short: bool = False) -> None:
        for row in rows:
            texts = added.setdefault((row, name), [])
            texts += [_describe(key, settings[row][key], name, short) for key in keys]

    for _, group in real.groupby("dataset", sort=False):
        keys = _dataset_differences(group, settings)
        add(list(group.index), "dataset", keys, short=set(keys) <= set(TABLE))
    for scope in SCOPES:
        for _, group in real.groupby(scope.name, sort=False):
            found: dict[str, None] = {}
            for _, rows in group.groupby(list(scope.within), dropna=False, sort=False):
                own = [settings[row] for row in rows.index]
                found |= dict.fromkeys(_differences(own, scope.sections))
            add(list(group.index), scope.name, list(found))
    named = runs.copy()
    for name in COMPLETED:
        texts = [added.get((row, name)) for row in runs.index]
        named[name] = [
            f"{stored} ({', '.join(more)})" if more else stored
            for stored, more in zip(runs[name], texts, strict=True)
        ]
    return named


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return a stored config as ``strategy.rank`` -> value; the settings of a component only."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    if not value and prefix:
        return {}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if key == "settings" and "." not in prefix:
            flat |= _flatten(inner, prefix)
        elif not (key == "name" and "builder" in value):
            flat |= _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _differences(all_settings: Sequence[Mapping[str, Any]], sections: Sequence[str]) -> list[str]:
    """Return the settings of some sections that differ; one that a version lacks tells nothing."""
    first = all_settings[0]
    return [
        key
        for key in first
        if key.partition(".")[0] in sections
        and key not in NO_DIFFERENCE
        and key not in SIZES
        and all(key in each for each in all_settings)
        and any(each[key] != first[key] for each in all_settings)
        and not _is_location(key, first)
    ]


def _is_location(key: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting only says where content lies; content that differs has other digests."""
    group, _, name = key.partition(".")
    if group == "dataset" or group not in GROUPS:
        return False
    with suppress(ConfigError):  # a component that is not here: its settings all count
        return name in GROUPS[group][settings[f"{group}.builder"]].locations
    return False


def _dataset_differences(
    group: pd.DataFrame, settings: Mapping[int, Mapping[str, Any]]
) -> list[str]:
    """Return the settings that tell the cohorts of one dataset's name apart."""
    # A moved folder has the same content, so settings count between different contents only.
    first = group.drop_duplicates("cohort").index
    cohorts = [settings[row] for row in first]
    keys = _differences(cohorts, ("dataset",))
    short = [key for key in keys if key in TABLE]
    apart = len({tuple(str(each[key]) for key in short) for each in cohorts})
    everything = len({tuple(str(each[key]) for key in keys) for each in cohorts})
    return short if apart == everything else keys


def _describe(key: str, value: Any, name: str, short: bool) -> str:
    """Return a setting in words, as in ``rank=8``; that of another section with its name."""
    section, _, setting = key.partition(".")
    if isinstance(value, str) and ("/" in value or "\\" in value):
        value = PurePath(value.replace("\\", "/")).name
    text = value if isinstance(value, str) else _write(value)
    if short:
        return text
    written = {"image": f"pixels.{setting}", name: setting}.get(section, key)
    return f"{written}={text}"


def _write(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _sharing(named: pd.DataFrame) -> pd.DataFrame:
    return named[named.duplicated([*SAME_ROW, "seed", "train_seed"], keep=False)]


# ------------------------------------------------------------------ references and scores


def _reference_sets(runs: pd.DataFrame, named: pd.DataFrame) -> pd.DataFrame:
    """Return stored and complete names of each set of folds; references stand beside all."""
    real = named[named["model"] != ORACLE]
    sets = runs.loc[real.index, ["dataset", "regime", "k", "cv", "folds"]]
    shown = real[["dataset", "regime", "cv"]].add_suffix("_shown")
    return sets.join(shown).drop_duplicates()


def _name_oracles(
    named: pd.DataFrame, runs: pd.DataFrame, scored: Scored
) -> tuple[pd.DataFrame, tuple[Any, ...]]:
    """Give an oracle the names of the runs on its folds, once for each of their names."""
    import pandas as pd

    oracle = named["model"] == ORACLE
    if not oracle.any():
        return named, scored.folders
    folders = list(scored.folders)
    sets = _reference_sets(runs, named)
    rows: list[pd.Series[Any]] = []
    for row in named.index[oracle]:
        own = named.loc[row]
        same = (sets[["dataset", "folds", "k"]] == own[["dataset", "folds", "k"]]).all(axis=1)
        for number, of in enumerate(sets[same].to_dict("records")):
            copy = own.copy()
            for name in ("dataset", "regime", "cv"):
                copy[name] = of[f"{name}_shown"]
            if number:
                folders.append(folders[row])
            copy.name = len(folders) - 1 if number else row
            rows.append(copy)
    oracles = pd.DataFrame(rows, columns=named.columns).astype(named.dtypes.to_dict())
    return pd.concat([named[~oracle], oracles]), tuple(folders)


def _rename_scores(scores: pd.DataFrame, runs: pd.DataFrame, named: pd.DataFrame) -> pd.DataFrame:
    """Return the scores under the complete names."""
    import pandas as pd

    real = named.index[(named["model"] != ORACLE)]
    own, stored = named.loc[real, list(COMPLETED)], runs.loc[real, list(COMPLETED)]
    if own.equals(stored):
        return scores
    reference = scores["model"].isin([ORACLE, CHANCE])
    by = ["dataset", "model", "strategy", "key"]
    names = runs.loc[real, by].join(own.add_suffix("_shown"))
    of_runs = scores[~reference].merge(names, on=by, how="inner")
    sets = _reference_sets(runs, named)
    sets["key"] = sets["folds"].str[:12]
    on = ["dataset", "regime", "k", "cv", "key"]
    of_references = scores[reference].merge(sets.drop(columns="folds"), on=on, how="inner")
    renamed = pd.concat([of_runs, of_references], ignore_index=True)
    for name in COMPLETED:
        shown = renamed[f"{name}_shown"]
        renamed[name] = shown.where(shown.notna(), renamed[name])
    return renamed[list(scores.columns)]
