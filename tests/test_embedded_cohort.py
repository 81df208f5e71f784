"""The embedded cohort: reproducible, prevalence and risk as stated, severity on the images."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from prognobench.datasets.synthetic.patients import ImageGenerator
from prognobench.records import Rendered
from prognobench.registry import DATASETS

build = DATASETS["embedded"]
TASKS = {"mortality": 0.15, "icu": 0.20, "severity": 0.47}


def patient_risks(cohort):
    first = ~cohort.table["patient_id"].duplicated()
    return cohort.table.loc[first, "label"].to_numpy(), cohort.risk[first, 1]


@pytest.fixture(scope="module", params=sorted(TASKS))
def large(request):
    return build(task=request.param, prevalence=TASKS[request.param], patients=3000)


def test_the_cohort_is_a_sound_record():
    cohort = build(task="mortality", prevalence=0.15, patients=60)
    table = cohort.table
    assert cohort.synthetic
    assert cohort.name == "mortality"
    assert table["image"].is_unique
    assert table["patient_id"].nunique() == 60
    assert (table.groupby("patient_id")["label"].nunique() == 1).all()
    assert set(table["source"]) <= set(cohort.sources)
    assert set(cohort.covariates) <= set(table.columns)
    assert table["age"].between(20, 95).all()
    assert cohort.risk.shape == (len(table), 2)
    assert np.allclose(cohort.risk.sum(1), 1)
    first = table.groupby("patient_id")["order"].first()
    assert (first == 0).all()


def test_prevalence_is_as_asked(large):
    labels, risk = patient_risks(large)
    prevalence = TASKS[large.name]
    sd = np.sqrt(prevalence * (1 - prevalence) / len(labels))
    assert abs(risk.mean() - prevalence) < 3 * risk.std() / np.sqrt(len(risk))
    assert abs(labels.mean() - prevalence) < 3 * sd


def test_risk_is_calibrated_and_leaves_a_ceiling_below_one(large):
    from sklearn.metrics import average_precision_score, roc_auc_score

    labels, risk = patient_risks(large)
    assert risk.min() > 0
    assert risk.max() < 1
    for part in np.array_split(np.argsort(risk), 10):
        sd = np.sqrt((risk[part] * (1 - risk[part])).mean() / len(part))
        assert abs(labels[part].mean() - risk[part].mean()) < 4 * sd
    assert 0.87 < roc_auc_score(labels, risk) < 0.93
    if large.name == "mortality":
        assert 0.6 < average_precision_score(labels, risk) < 0.75


def test_images_do_not_follow_the_outcome_in_number(large):
    images = large.table.groupby("patient_id").agg(label=("label", "first"), n=("image", "size"))
    per_class = images.groupby("label")["n"]
    error = np.sqrt((per_class.var() / per_class.size()).sum())
    assert abs(per_class.mean().diff().iloc[-1]) < 3 * error
    assert images["n"].mean() == pytest.approx(1.3, abs=0.05)


def test_full_label_noise_leaves_chance():
    cohort = build(task="icu", prevalence=0.2, patients=50, label_noise=1.0)
    assert np.allclose(cohort.risk[:, 1], 0.2)


def test_a_larger_cohort_begins_with_the_smaller_one():
    small = build(task="icu", prevalence=0.2, patients=20, seed=3)
    large = build(task="icu", prevalence=0.2, patients=40, seed=3)
    shared = large.table.iloc[: len(small)]
    assert shared.equals(small.table)
    assert np.array_equal(large.risk[: len(small)], small.risk)
    assert small.sources["images"].recipe == large.sources["images"].recipe


def test_tasks_of_one_seed_share_their_images():
    cohorts = [build(task=task, prevalence=0.3, patients=5) for task in TASKS]
    assert len({cohort.sources["images"].recipe for cohort in cohorts}) == 1
    assert len({tuple(cohort.table["image"]) for cohort in cohorts}) == 1


def test_the_same_image_in_another_process():
    images = ImageGenerator(seed=5, image_size=48)
    code = (
        "import hashlib; from prognobench.datasets.synthetic.patients import ImageGenerator; "
        "image = ImageGenerator(seed=5, image_size=48)('P00007-2'); "
        "print(hashlib.sha256(image.tobytes()).hexdigest())"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert hashlib.sha256(images("P00007-2").tobytes()).hexdigest() == there


def test_images_are_pictures_and_differ_by_name_seed_and_namespace():
    images = ImageGenerator(seed=1)
    image = images("P00001-1")
    assert image.dtype == np.uint8
    assert image.shape == (96, 96)
    assert image.std() > 30
    others = [
        images("P00001-2"),
        images("P00002-1"),
        ImageGenerator(seed=2)("P00001-1"),
        ImageGenerator(seed=1, namespace="pretraining")("P00001-1"),
    ]
    assert not any(np.array_equal(image, other) for other in others)


def test_the_recipe_names_every_setting():
    base = ImageGenerator(seed=1)
    changed = [
        dataclasses.replace(base, **change)
        for change in (
            {"seed": 2},
            {"image_size": 64},
            {"centres": 3},
            {"centre_effect": 0.5},
            {"namespace": "other"},
        )
    ]
    assert len({images.recipe for images in [base, *changed]}) == 6


def test_the_renderer_goes_to_worker_processes():
    source = build(task="icu", prevalence=0.2, patients=2, image_size=64).sources["images"]
    assert isinstance(source, Rendered)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        image = pool.submit(source.render, "P00001-1").result()
    assert np.array_equal(image, source.render("P00001-1"))


@pytest.mark.parametrize("image_size", [48, 64, 200])
def test_another_side_shows_the_same_image(image_size):
    import cv2

    image, other = (
        cv2.resize(
            ImageGenerator(seed=1, image_size=s)("P00003-1"), (32, 32), interpolation=cv2.INTER_AREA
        )
        for s in (96, image_size)
    )
    assert np.corrcoef(image.ravel(), other.ravel())[0, 1] > 0.95


def test_severity_shows_in_the_lungs_and_nowhere_else():
    images = ImageGenerator(seed=4)
    patients = [images.patient(f"P{i}") for i in range(30)]
    mild, severe = (
        np.stack(
            [images.draw(dataclasses.replace(p, severity=s), f"{p.name}-1") for p in patients]
        ).astype(float)
        for s in (-1.0, 2.0)
    )
    change = np.abs(severe - mild).mean(0)
    lung, belly, corner = change[30:55, 18:36], change[85:, 30:66], change[:8, :8]
    assert lung.mean() > 25
    assert lung.mean() > 8 * belly.mean()
    assert lung.mean() > 8 * corner.mean()


def test_opacities_tell_severity_better_than_age():
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import cross_val_predict

    images = ImageGenerator(seed=0, image_size=32)
    patients = [images.patient(f"P{i}") for i in range(500)]
    pixels = np.stack([images(f"{p.name}-1") for p in patients]).reshape(500, -1) / 255
    severity = np.array([p.severity for p in patients])
    seen = cross_val_predict(RidgeCV((10, 100, 1000)), pixels, severity, cv=5)
    assert np.corrcoef(seen, severity)[0, 1] > 0.5
    age = [p.age for p in patients]
    assert abs(np.corrcoef(age, severity)[0, 1]) < 0.15


def test_centres_differ_only_when_asked():
    def spread(effect):
        images = ImageGenerator(seed=2, image_size=48, centre_effect=effect)
        patient = images.patient("P1")
        drawn = [
            images.draw(dataclasses.replace(patient, centre=centre), "P1-1").mean()
            for centre in range(images.centres)
        ]
        return np.ptp(drawn), np.ptp(images.case_mix)

    (plain, plain_mix), (strong, strong_mix) = spread(0.0), spread(1.0)
    assert plain < 3
    assert strong > 8
    assert plain_mix == 0 < strong_mix


@pytest.mark.parametrize("prevalence", [0.02, 0.5, 0.9])
@pytest.mark.parametrize("centres", [1, 4])
def test_any_prevalence_and_number_of_centres(prevalence, centres):
    cohort = build(task="mortality", prevalence=prevalence, patients=1500, centres=centres)
    _, risk = patient_risks(cohort)
    assert risk.mean() == pytest.approx(prevalence, abs=0.03)
    assert cohort.table["centre"].nunique() == centres
