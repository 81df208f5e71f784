"""Synthetic patients and their frontal chest X-rays, drawn from the name of the image alone.

Nothing on an image but the opacities follows the patient's latent severity, and neither patient nor
image depends on how many others there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from prognobench.datasets.synthetic import anatomy
from prognobench.datasets.synthetic.device import Device, expose, hardware
from prognobench.seeds import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 1
"""Part of every recipe: to be raised whenever the same name would give other pixels."""

DAY_TO_DAY = 0.15
"""Standard deviation of an image's severity around its patient's, for a latent of unit variance."""


@dataclass(frozen=True)
class Patient:
    """What one synthetic patient is made of.

    Attributes
    ----------
    severity
        Latent severity of disease, standard normal apart from the centre's case mix.
    age_score
        Standardised age, unbounded; ``age`` in years is cut to 20 to 95.
    habitus
        Body habitus, standard normal; large means much soft tissue.
    """

    name: str
    centre: int
    severity: float
    age_score: float
    female: bool
    habitus: float

    @property
    def age(self) -> int:
        return int(np.clip(round(62 + 16 * self.age_score), 20, 95))


@dataclass(frozen=True)
class ImageGenerator:
    """All synthetic patients of one seed, and their images.

    Calling it with an image's name, ``"<patient>-<number>"``, draws the image: uint8
    ``(size, size)``. The same seed gives the same image at any ``image_size``, up to the grain.

    Parameters
    ----------
    centres
        How many centres there are; each has its own device.
    centre_effect
        How much the centres differ in device and case mix: 0 not at all, 1 plainly.
    namespace
        Patients of two namespaces are unrelated, whatever their seeds.
    """

    seed: int
    image_size: int = 96
    centres: int = 6
    centre_effect: float = 1.0
    namespace: str = "cohort"

    @property
    def recipe(self) -> str:
        return (
            f"films v{VERSION} namespace={self.namespace} seed={self.seed} side={self.image_size} "
            f"centres={self.centres} centre_effect={self.centre_effect:g}"
        )

    @cached_property
    def centre_shares(self) -> NDArray[np.float64]:
        """Expected share of the patients in each centre, mildly unequal."""
        weights = 1 / (4.0 + np.arange(self.centres))
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares

    @cached_property
    def case_mix(self) -> NDArray[np.float64]:
        """Mean severity of each centre; zero on average over patients."""
        draws = [
            self._random("case mix", centre).standard_normal() for centre in range(self.centres)
        ]
        mix = 0.2 * self.centre_effect * np.array(draws)
        centred: NDArray[np.float64] = mix - mix @ self.centre_shares
        return centred

    def _random(self, *axes: str | int) -> np.random.Generator:
        return generator(self.seed, "films", self.namespace, *axes)

    def patient(self, name: str) -> Patient:
        """Return the patient of this name; it depends on the seed and on the name alone."""
        random = self._random("patient", name)
        centre = int(np.searchsorted(self.centre_shares.cumsum(), random.random()))
        centre = min(centre, self.centres - 1)
        severity, age_score, habitus = random.standard_normal(3)
        return Patient(
            name=name,
            centre=centre,
            severity=float(severity + self.case_mix[centre]),
            age_score=float(age_score),
            female=bool(random.random() < 0.45),
            habitus=float(habitus),
        )

    def __call__(self, image: str) -> NDArray[np.uint8]:
        patient = self.patient(image.rpartition("-")[0])
        return self.draw(patient, image)

    def draw(self, patient: Patient, image: str) -> NDArray[np.uint8]:
        """Draw an image of a patient: uint8 ``(size, size)``."""
        body = anatomy.Body.of(
            female=patient.female,
            age_score=patient.age_score,
            habitus=patient.habitus,
            random=self._random("body", patient.name),
        )
        device = Device.of(self._random("device", patient.centre), self.centre_effect)
        day, pattern = self._random("film", image), self._random("pattern", patient.name)
        severity = patient.severity + DAY_TO_DAY * float(day.standard_normal())
        view = anatomy.View.of(body, self.image_size, day)
        attenuation = anatomy.soft_tissue(view, body)
        attenuation += anatomy.bones(view, body)
        attenuation += anatomy.mediastinum(view, body, pattern)
        attenuation += anatomy.opacity(view, severity, pattern, day)
        metal = hardware(self.image_size, device, day)
        return expose(attenuation, metal, body.fat, device, day)
