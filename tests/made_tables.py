"""Small tables with a folder of images, and reading them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_cohorts import write_csv, write_image

from prognobench.errors import DataError
from prognobench.records import Cohort
from prognobench.registry import DATASETS

Row = dict[str, Any]


def rows_of(count: int = 6) -> list[Row]:
    """Patients with leading zeros, one image each, every other one dead."""
    return [
        {"patient": f"{at:03d}", "image": f"{at}.png", "outcome": ("alive", "dead")[at % 2]}
        for at in range(1, count + 1)
    ]


def folder_of(path: Path, rows: list[Row]) -> Path:
    for at, name in enumerate(sorted({row["image"] for row in rows})):
        write_image(path / "images" / name, at)
    return path / "images"


def read(path: Path, rows: list[Row], text: str | bytes | None = None, **chosen: Any) -> Cohort:
    """Write rows (or text, for the same images) as CSV, and read them."""
    folder = folder_of(path, rows)
    table = path / "table.csv"
    if text is None:
        write_csv(table, rows)
    else:
        table.write_bytes(text.encode() if isinstance(text, str) else text)
    cohort: Cohort = DATASETS["table"](
        **{"table": table, "images": folder, "label": "outcome", "positive": "dead", **chosen}
    )
    return cohort


def fails(path: Path, rows: list[Row], *words: str, **chosen: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(path, rows, **chosen)
    for word in words:
        assert word in str(caught.value)
    return list(caught.value.faults)
