"""Tables as people write them: read with the right value, or refused with row and way out."""

from __future__ import annotations

import bz2
import datetime
import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_cohorts import write_csv
from made_tables import fails, folder_of, read, rows_of
from openpyxl import Workbook

from prognobench.datasets.readers.spreadsheet import read_sheet
from prognobench.errors import DataError
from prognobench.registry import DATASETS


@pytest.mark.parametrize(
    "cells",
    [
        ["1.734,5", "1.201,5", "1.890,0", "950,5", "1.001,5", "1.100,0"],
        ["1,734.5", "1,201.5", "1,890", "950.5", "1,001.5", "1,100"],
        ["1 734", "1 201", "1 890", "950", "1 001", "1 100"],
        ["1'734.5", "1'201.5", "1'890", "950.5", "1'001", "1'100"],
        ["71.0%", "94.5%", "88%", "90 %", "79.1%", "92%"],
        ["80.0 years", "71.0 years", "6 months", "65.5 years", "70 years", "44 years"],
        ["80y", "71y", "59y", "65y", "70y", "44y"],
        ["5 mg/dl", "7 mg/dl", "12 mg/dl", "3 mg/dl", "4 mg/dl", "5,5 mg/dl"],
        ["\u22121.5", "\u22120.5", "\u22122", "\u22121", "\u22123", "\u22124"],
        ["36,6 \u00b0C", "38,1 \u00b0C", "", "37,0 \u00b0C", "39,4 \u00b0C", "36 \u00b0C"],
    ],
)
def test_written_numbers_are_never_names(tmp_path: Path, cells: list[str]) -> None:
    rows = [{**row, "lab": cell} for row, cell in zip(rows_of(), cells, strict=True)]
    fails(tmp_path, rows, "column 'lab'", f"{cells[0]!r} in table.csv row 2", covariates=("lab",))
    named = read(tmp_path / "named", rows, covariates=("lab",), codes=("lab",))
    assert named.table["lab"].tolist() == cells


@pytest.mark.parametrize(
    "cells",
    [
        ["1A", "1B", "2A", "2B", "3A", "1A"],
        ["I21.0", "J18.9", "I21.0", "J12.8", "A41", "J18.9"],
        ["(18,59]", "(59,74]", "(74,90]", "(18,59]", "(59,74]", "(59,74]"],
        ["18-59", "59-74", "74-90", "18-59", "59-74", "18-59"],
        ["2020-03-01", "2020-03-02", "2020-03-01", "2020-03-04", "2020-03-01", "2020-03-01"],
    ],
)
def test_names_with_digits_stay_names(tmp_path: Path, cells: list[str]) -> None:
    rows = [{**row, "stage": cell} for row, cell in zip(rows_of(), cells, strict=True)]
    assert read(tmp_path, rows, covariates=("stage",)).table["stage"].tolist() == cells


@pytest.mark.parametrize("missing", ["-999", "-99", "-9999.0"])
def test_a_number_that_means_missing(tmp_path: Path, missing: str) -> None:
    rows = [{**row, "lab": str(40 + at)} for at, row in enumerate(rows_of())]
    rows[3]["lab"] = missing
    fails(tmp_path, rows, f"{missing!r} in table.csv row 5", "blank", covariates=("lab",))
    rows[2]["lab"] = "-12"  # a base excess, say
    assert read(tmp_path / "negative", rows, covariates=("lab",)).table["lab"][3] == float(missing)


@pytest.mark.parametrize("positive", [None, True, 1, "TRUE"])
def test_true_and_1_are_one_outcome(tmp_path: Path, positive: Any) -> None:
    words = ["TRUE", "0", "1", "FALSE", "true", "0.0"]
    rows = [{**row, "outcome": word} for row, word in zip(rows_of(), words, strict=True)]
    cohort = read(tmp_path, rows, positive=positive)
    assert cohort.classes == ("0", "1")
    assert cohort.table["label"].tolist() == [1, 0, 1, 0, 1, 0]


def test_a_gzipped_table(tmp_path: Path) -> None:
    plain = read(tmp_path, rows_of())
    packed = tmp_path / "table.csv.gz"
    packed.write_bytes(gzip.compress((tmp_path / "table.csv").read_bytes()))
    cohort = read(tmp_path, rows_of(), table=packed)
    assert cohort.name == plain.name == "table"
    assert cohort.table.drop(columns="where").equals(plain.table.drop(columns="where"))
    packed.write_bytes(bz2.compress((tmp_path / "table.csv").read_bytes()))
    fails(tmp_path, rows_of(), "is compressed (bzip2)", "gzip", table=packed)


def test_a_title_above_the_header(tmp_path: Path) -> None:
    rows = rows_of()
    text = "Export of 2024-03-31\npatient,image,outcome\n"
    text += "".join(",".join(row.values()) + "\n" for row in rows)
    fails(tmp_path, rows, "dataset.header_row", text=text)
    assert len(read(tmp_path, rows, text=text, header_row=2)) == 6


def _workbook(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    book = Workbook()
    book.active.append(["notes"])
    book.active.title = "Read me"
    sheet = book.create_sheet("Patients")
    for row in [header, *rows]:
        sheet.append(row)
    book.save(path)
    return path


def test_the_second_sheet_of_a_workbook(tmp_path: Path) -> None:
    rows = rows_of()
    table = _workbook(tmp_path / "t.xlsx", list(rows[0]), [list(row.values()) for row in rows])
    chosen = {"table": table, "images": folder_of(tmp_path, rows), "label": "outcome"}
    chosen |= {"positive": "dead"}
    assert len(DATASETS["table"](sheet="Patients", **chosen)) == 6
    with pytest.raises(DataError, match="no rows below its header"):
        DATASETS["table"](**chosen)
    with pytest.raises(DataError, match=r"no sheet 'patients'.*'Read me', 'Patients'"):
        DATASETS["table"](sheet="patients", **chosen)
    fails(tmp_path, rows, "is for workbooks", sheet="Patients")


def test_a_missing_column_names_the_other_sheets(tmp_path: Path) -> None:
    book = Workbook()
    book.active.append(["a", "b"])
    book.active.append([1, 2])
    book.create_sheet("Patients").append(["patient"])
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(DataError, match=r"other sheets: 'Patients'; choose one with dataset.sheet"):
        read_sheet(tmp_path / "t.xlsx").select({"label": "outcome"})


def test_formulas_that_were_never_computed(tmp_path: Path) -> None:
    book = Workbook()
    book.active.append(["patient", "outcome", "other"])
    for at in range(3):
        book.active.append([f"p{at}", '=IF(1=1,"dead","")', '=""'])
    book.save(tmp_path / "t.xlsx")
    sheet = read_sheet(tmp_path / "t.xlsx")
    assert sheet.select({"patient": "patient"})["patient"].tolist() == ["p0", "p1", "p2"]
    with pytest.raises(DataError, match=r"'outcome' holds formulas .* the first in row 2; open"):
        sheet.select({"label": "outcome"})


def test_times_of_day_and_bytes(tmp_path: Path) -> None:
    book = Workbook()
    book.active.append(["patient", "at"])
    book.active.append(["p1", datetime.time(8, 30)])
    book.save(tmp_path / "t.xlsx")
    assert read_sheet(tmp_path / "t.xlsx").frame["at"].tolist() == ["08:30:00"]
    pd.DataFrame({"patient": ["p1"], "raw": [b"\xff\x00"]}).to_parquet(tmp_path / "t.parquet")
    assert read_sheet(tmp_path / "t.parquet").frame["patient"].tolist() == ["p1"]


def test_paths_that_begin_with_the_folder_itself(tmp_path: Path) -> None:
    rows = rows_of()
    images = folder_of(tmp_path, rows)
    rows = [{**row, "image": f"images/{row['image']}"} for row in rows]
    table = write_csv(tmp_path / "table.csv", rows)
    chosen = {"table": table, "label": "outcome", "positive": "dead"}
    above = "begins with images: set dataset.images to the folder above"
    with pytest.raises(DataError, match=above):
        DATASETS["table"](images=images, **chosen)
    assert len(DATASETS["table"](images=tmp_path, **chosen)) == 6


def test_thousands_that_look_like_decimals(tmp_path: Path) -> None:
    def rows(*cells: str) -> list[dict[str, Any]]:
        return [{**row, "lab": cell} for row, cell in zip(rows_of(4), cells, strict=True)]

    words = ("'1.734' in table.csv row 2 beside '950' in table.csv row 3", "1734")
    fails(tmp_path, rows("1.734", "950", "", "1.201"), *words, covariates=("lab",))
    for number, cells in enumerate([("1.734", "9.5", "", "120"), ("0.734", "950", "", "0.201")]):
        lab = read(tmp_path / str(number), rows(*cells), covariates=("lab",)).table["lab"]
        assert lab[0] == float(cells[0])
