"""The embedded cohort: synthetic patients whose true risk is known. No clinical data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Lt

from prognobench.datasets.synthetic.patients import ImageGenerator, Patient
from prognobench.records import Cohort, Rendered
from prognobench.registry import DATASETS
from prognobench.seeds import generator


@dataclass(frozen=True)
class Outcome:
    """How an outcome depends on the patient: log odds per unit of severity and of age score."""

    classes: tuple[str, str]
    severity: float
    age: float


OUTCOMES = {
    "mortality": Outcome(("alive", "dead"), severity=2.6, age=0.8),
    "icu": Outcome(("ward", "icu"), severity=2.8, age=0.3),
    "severity": Outcome(("mild", "severe"), severity=3.0, age=0.3),
}


@DATASETS.register("embedded")
def embedded(
    *,
    task: Literal["mortality", "severity", "icu"],
    prevalence: Annotated[float, Gt(0), Lt(1)],
    patients: Annotated[int, Ge(2)] = 300,
    images_per_patient: Annotated[float, Ge(1)] = 1.3,
    image_size: Annotated[int, Ge(48), Le(1024)] = 96,
    centres: Annotated[int, Ge(1), Le(26)] = 6,
    centre_effect: Annotated[float, Ge(0), Le(2)] = 1.0,
    label_noise: Annotated[float, Ge(0), Le(1)] = 0.05,
    seed: Annotated[int, Ge(0)] = 0,
) -> Cohort:
    """Synthetic chest X-rays with an outcome whose true probability is known.

    Each patient has a latent severity, which shows on the images as opacities, and an age. The
    outcome is drawn with log odds linear in both; the intercept is solved so that its expected
    prevalence is the one asked for. Tasks of the same seed share patients and images, and a larger
    cohort begins with the patients of a smaller one.

    Parameters
    ----------
    task
        Which outcome: they differ in the weight of severity and age.
    prevalence
        Expected share of patients with the outcome.
    images_per_patient
        Mean number of images; it does not depend on the outcome.
    image_size
        Width and height of an image in pixels.
    centres, centre_effect
        How many centres, and how much they differ in device and case mix (0 not at all).
    label_noise
        Share of patients whose outcome is drawn by prevalence alone, without regard to their risk.
    """
    import pandas as pd

    images = ImageGenerator(
        seed=seed, image_size=image_size, centres=centres, centre_effect=centre_effect
    )
    outcome = OUTCOMES[task]
    base = intercept(outcome, images, prevalence)
    rows, risks = [], []
    for number in range(1, patients + 1):
        patient = images.patient(f"P{number:05d}")
        log_odds = base + outcome.severity * patient.severity + outcome.age * patient.age_score
        risk = (1 - label_noise) / (1 + np.exp(-log_odds)) + label_noise * prevalence
        label = int(generator(seed, "outcome", task, patient.name).random() < risk)
        for row in _images_of(patient, images_per_patient, seed):
            rows.append({**row, "label": label})
            risks.append((1 - risk, risk))
    return Cohort(
        name=task,
        table=pd.DataFrame(rows),
        classes=outcome.classes,
        sources={"images": Rendered(images.recipe, images)},
        covariates=("age", "sex"),
        risk=np.array(risks),
        synthetic=True,
    )


def _images_of(patient: Patient, mean: float, seed: int) -> list[dict[str, object]]:
    """The table rows of one patient, one an image, the first on the day of admission."""
    random = generator(seed, "visits", patient.name)
    days = np.cumsum([0, *random.integers(1, 5, size=random.poisson(mean - 1))])
    return [
        {
            "patient_id": patient.name,
            "image": f"{patient.name}-{number}",
            "source": "images",
            "centre": chr(ord("A") + patient.centre),
            "order": float(day),
            "age": patient.age,
            "sex": "F" if patient.female else "M",
        }
        for number, day in enumerate(days, start=1)
    ]


def intercept(outcome: Outcome, images: ImageGenerator, prevalence: float) -> float:
    """Solve for the log odds at severity and age zero that give the expected prevalence.

    Within a centre the linear predictor is normal, so the expectation is a Gauss-Hermite sum over
    it, weighted by the centres' shares; it rises with the intercept, so bisection finds it.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    spread = np.hypot(outcome.severity, outcome.age)
    predictor = outcome.severity * images.case_mix[:, None] + spread * nodes[None, :]
    low, high = -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        expected = images.centre_shares @ (1 / (1 + np.exp(-middle - predictor))) @ weights
        low, high = (middle, high) if expected < prevalence else (low, middle)
    return (low + high) / 2
