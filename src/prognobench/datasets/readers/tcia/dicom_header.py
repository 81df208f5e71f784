"""What the header of a DICOM image says, read without its pixels."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prognobench.datasets.readers.dates import days_since_1970
from prognobench.imaging.dicom_files import DicomFile, read_dataset

RADIOGRAPHY = ("CR", "DX", "RG")
"""Computed, digital and film radiography."""

NOT_FRONTAL = r"\bLAT|\b(LL|RL|LLD|RLD|LLO|RLO|LAO|RAO|LPO|RPO)\b|OBLIQUE|DECUB"

TAGS = ("Modality", "StudyDescription", "SeriesDescription", "ViewPosition", "BodyPartExamined")
REFERENCE = "ReferencedImageSequence"
DATES = ("AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate")
TIMES = ("AcquisitionTime", "ContentTime", "SeriesTime", "StudyTime")


@dataclass(frozen=True)
class Header:
    """Text as the file gives it, empty where it gives none; ``day`` counts from 1970, NaN without
    a date, its fraction is the time of day. ``refers`` is whether it was made from another image.
    """

    modality: str
    study: str
    series: str
    view: str
    body_part: str
    refers: bool
    day: float

    @property
    def fault(self) -> str:
        """Why this is no frontal chest X-ray, or nothing.

        An image is frontal unless its view, or without one its series, says otherwise.
        """
        return (
            not_a_radiograph(self.modality)
            or not_chest(self.study, self.series, self.body_part)
            or not_frontal(self.view or self.series)
            or ("a processed copy of another image" if self.refers else "")
        )


def read_header(path: Path) -> Header:
    """Read the header of one file; raises what :func:`.read_dataset` does."""
    with DicomFile(path) as file:
        dataset = read_dataset(file, pixels=False, tags=[*TAGS, REFERENCE, *DATES, *TIMES])
    modality, study, series, view, body_part = (_text(dataset, tag) for tag in TAGS)
    refers = bool(dataset.get(REFERENCE))
    return Header(modality, study, series, view, body_part, refers, _day(dataset))


def not_a_radiograph(modality: str) -> str:
    return (
        "" if modality.upper() in RADIOGRAPHY else f"modality {modality or '(none)'}, no radiograph"
    )


def not_chest(*descriptions: str) -> str:
    """An image that no description calls a chest is none, unless they say nothing at all."""
    said = " / ".join(filter(None, descriptions))
    known = not said or re.search(r"CHEST|THORA|\bCXR\b", said, re.IGNORECASE)
    return "" if known else f"not a chest X-ray ({said})"


def not_frontal(description: str) -> str:
    """What a view or series is called that is lateral or oblique; "PA and lateral" may be both."""
    text = description.upper()
    frontal = re.search(r"\b(AP|PA)\b", text) or not re.search(NOT_FRONTAL, text)
    return "" if frontal else f"not a frontal view ({description})"


def _text(dataset: Any, tag: str) -> str:
    return str(dataset.get(tag) or "").strip()


def _day(dataset: Any) -> float:
    """The day and time at which the image was taken, as closely as the header says."""
    days = (days_since_1970(_text(dataset, tag), "%Y%m%d") for tag in DATES)
    day = next((day for day in days if not math.isnan(day)), math.nan)
    clock = next(filter(None, (_text(dataset, tag) for tag in TIMES)), "")
    if not re.fullmatch(r"\d{4,6}(\.\d*)?", clock):
        return day
    hours, minutes, seconds = int(clock[:2]), int(clock[2:4]), int(clock[4:6] or 0)
    return day + (hours * 3600 + minutes * 60 + seconds) / 86400
