"""Run folders with invented predictions of a known skill, as the runner would leave them."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prognobench.files import read_sealed, write_bytes, write_json, write_sealed
from prognobench.metrics.probability import shift_log_odds
from prognobench.seeds import derive, generator
from prognobench.store import RunFolder


def make_cohort(
    dataset: str,
    *,
    patients: int,
    images: float,
    prevalence: float,
    classes: Sequence[str],
    risk: bool,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a cohort's table, and the latent severity of each of its rows."""
    rng = generator("cohort", dataset, patients)
    severity = rng.normal(size=patients)
    shift = np.log(prevalence / (1 - prevalence)) - 0.8
    if len(classes) == 2:
        dead = 1 / (1 + np.exp(-(shift + 2 * severity)))
        risks = np.stack([1 - dead, dead], axis=1)
    else:
        centres = np.linspace(-1, 1, len(classes))
        risks = np.exp(-2 * (severity[:, None] - centres) ** 2)
        risks /= risks.sum(axis=1, keepdims=True)
    labels = (rng.random(patients)[:, None] > risks.cumsum(axis=1)[:, :-1]).sum(axis=1)
    images = 1 + rng.poisson(max(images - 1, 0), patients)
    row = np.repeat(np.arange(patients), images)
    table = pd.DataFrame(
        {
            "patient_id": [f"{p:04d}" for p in row],
            "image": [f"{p:04d}-{i}.png" for i, p in enumerate(row)],
            "source": "images",
            "label": labels[row],
            "centre": np.array(list("ABC"))[row % 3],
            "order": np.nan,
            "age": (40 + 40 * rng.random(patients)).round()[row],
            "sex": np.where(rng.random(patients) < 0.5, "F", "M")[row],
        }
    )
    if risk:
        for c, name in enumerate(classes):
            table[f"risk_{name}"] = risks[row, c]
    return table, severity[row]


def make_folds(table: pd.DataFrame, repeats: int, folds: int, draws: int, seed: int) -> Any:
    """Yield cell name, axes and the patients of each part: thirds of 3/1/1, stratified."""
    labels = table.groupby("patient_id")["label"].first()
    for repeat in range(repeats):
        rng = generator("folds", seed, repeat)
        order = labels.sample(frac=1, random_state=rng).sort_values(kind="stable").index
        number = np.arange(len(order)) % folds
        for fold in range(folds):
            for draw in range(max(1, draws)):
                parts = np.full(len(order), "train", dtype=object)
                parts[number == fold] = "test"
                parts[number == (fold + 1) % folds] = "validation"
                suffix = f"-d{draw}" if draws else ""
                axes = {"repeat": repeat, "fold": fold, "draw": draw if draws else None}
                yield f"r{repeat}-f{fold}{suffix}", axes, dict(zip(order, parts, strict=True))


def make_run(
    results: Path,
    dataset: str = "toy",
    model: str = "cnn",
    strategy: str = "full",
    *,
    skill: float = 1.0,
    patients: int = 100,
    images: float = 1.4,
    prevalence: float = 0.3,
    classes: Sequence[str] = ("alive", "dead"),
    repeats: int = 1,
    folds: int = 5,
    draws: int = 0,
    k: int | None = None,
    seed: int = 42,
    risk: bool = True,
    done: int | None = None,
    failed: Collection[str] = (),
    not_applicable: str | None = None,
    parameters: int = 1000,
    meta: dict[str, Any] | None = None,
    version: str = "0.1.0",
    settings: dict[str, dict[str, Any]] | None = None,
    data: str = "",
    notes: Sequence[str] = (),
    shift: float = 0.0,
) -> RunFolder:
    """Store a run whose scores follow the latent severity as closely as ``skill`` (0 to 1) says.

    ``settings`` are sections of its config, ``data`` names another content of its cohort, and
    ``notes`` are its strategy's. ``shift`` is what class weights add to the log odds of the last
    class.
    """
    table, severity = make_cohort(
        dataset, patients=patients, images=images, prevalence=prevalence, classes=classes, risk=risk
    )
    cells = list(make_folds(table, repeats, folds, draws, seed))
    identity = (dataset, model, strategy, seed, k or 0, patients, folds)
    if settings or data:
        identity = (*identity, json.dumps(settings, sort_keys=True), data)
    key = f"{derive(*identity):012x}"[:12]
    folder = RunFolder(results / "runs" / dataset / model / strategy / key)
    listed = [
        {**axes, "part": part, "patient_id": patient}
        for _, axes, parts in cells
        for patient, part in parts.items()
    ]
    regime = {"name": "few_shot" if k else "full", "settings": {"k": k} if k else {}}
    folder.create(
        {
            "key": key,
            **{"dataset": dataset, "model": model, "strategy": strategy},
            **{"regime": regime["name"], "cv": "five_fold", "loss": "cross_entropy", "seed": seed},
            "classes": list(classes),
            "synthetic": risk,
            "reads": {"metadata": ["covariates"], "prior": []}.get(strategy, ["image"]),
            "cells": [name for name, _, _ in cells],
            "weights": f"random ({model})",
            "warnings": ["two images are the same"],
            "not_applicable": not_applicable,
            "fingerprints": {
                "cohort": f"{derive(dataset, patients, *([data] if data else [])):016x}",
                "folds": f"{derive(dataset, seed, repeats, folds, draws, patients, k or 0):016x}",
                "weights": model,
            },
            "config": {
                "regime": regime,
                "strategy": {"builder": strategy, "settings": {}},
                **(settings or {}),
            },
            **(meta or {}),
        },
        {"prognobench": version, "python": "3.11", "device": "cpu", "libraries": {}},
        {
            "cohort": table,
            "exclusions": pd.DataFrame({"item": ["0099"], "reason": ["no image"]}),
            "folds": pd.DataFrame(listed)[["repeat", "fold", "draw", "part", "patient_id"]],
        },
    )
    if not_applicable:
        return folder
    for number, (name, _, parts) in enumerate(cells):
        if name in failed:
            folder.write_failure(name, RuntimeError("loss is not finite"))
        elif done is None or number < done:
            rng = generator("scores", *identity, name)
            predictions = _predict(
                table,
                severity,
                parts,
                skill=skill,
                prevalence=prevalence,
                classes=classes,
                rng=rng,
            )
            cost = {"parameters_trainable": parameters, "parameters_total": 10 * parameters}
            cost |= {"seconds_train": parameters / 100, "seconds_inference": 0.5}
            cost |= {"strategy_notes": list(notes)}
            if shift:
                scores = [name for name in predictions if str(name).startswith("score_")]
                moved = np.array([0.0] * (len(classes) - 1) + [shift])
                predictions[scores] = shift_log_odds(predictions[scores].to_numpy(), -moved)
                cost |= {"log_odds_shift": moved.tolist()}
            folder.write_cell(name, predictions, [{"epoch": 1, "validation_loss": 0.5}], cost)
    return folder


def store_instead(folder: RunFolder, name: str, content: bytes) -> None:
    """Store another file of a run, or of a cell (``cells/r0-f0/cost.json``), with its checksum."""
    file = folder.path / name
    home = folder.path / "/".join(name.split("/")[:2]) if name.startswith("cells/") else folder.path
    index = home / ("run.json" if home == folder.path else "done.json")
    described, _ = read_sealed(index)
    described["files"][file.relative_to(home).as_posix()] = write_bytes(file, content)
    described.pop("stamps", None)
    write_sealed(index, described)
    folder.__dict__.pop("meta", None)


def forget_checksums(folder: RunFolder) -> None:
    """Leave a run as an older version stored it."""
    for index in (folder.path / "run.json", *folder.path.glob("cells/*/done.json")):
        described, _ = read_sealed(index)
        for name in ("files", "stamps"):
            described.pop(name, None)
        write_json(index, described)
    folder.__dict__.pop("meta", None)


def _predict(
    table: pd.DataFrame,
    severity: np.ndarray,
    parts: dict[str, str],
    *,
    skill: float,
    prevalence: float,
    classes: Sequence[str],
    rng: np.random.Generator,
) -> pd.DataFrame:
    part = table["patient_id"].map(parts)
    noise = rng.normal(size=len(table))
    seen = skill * severity + np.sqrt(1 - skill**2) * noise
    if len(classes) == 2:
        dead = 1 / (1 + np.exp(-(np.log(prevalence / (1 - prevalence)) - 0.8 + 2 * seen)))
        scores = np.stack([1 - dead, dead], axis=1)
    else:
        scores = np.exp(-2 * (seen[:, None] - np.linspace(-1, 1, len(classes))) ** 2)
        scores /= scores.sum(axis=1, keepdims=True)
    predictions = table[["patient_id", "image", "label"]].copy()
    predictions.insert(0, "part", part)
    for c, name in enumerate(classes):
        predictions[f"score_{name}"] = scores[:, c]
    held_out = predictions[part != "train"]
    return held_out.sort_values("part", ascending=False, kind="stable")
