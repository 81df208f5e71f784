"""Tables as people write them: read with the right value, or refused with row and way out."""

from __future__ import annotations

import bz2
import datetime
import gzip
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_cohorts import write_csv
from made_tables import fails, folder_of, read, rows_of
from openpyxl import Workbook

from prognobench.audit import audit
from prognobench.datasets.readers.covariates import covariate
from prognobench.datasets.readers.spreadsheet import read_sheet
from prognobench.errors import DataError
from prognobench.registry import DATASETS


@pytest.mark.parametrize(
    ("cells", "values", "rule"),
    [
        (
            "1.734,5|1.201,5|950,5",
            [1734.5, 1201.5, 950.5],
            "'.' between thousands and a decimal comma: '1.234,5' is",
        ),
        (
            "1,734.5|1,201.5|1,890",
            [1734.5, 1201.5, 1890],
            "',' between thousands: '1,234' is read as 1234",
        ),
        ("1.734.567|950|1.201", [1734567, 950, 1201], "'.' between thousands"),
        ("1 734|1 201|950", [1734, 1201, 950], "' ' between thousands: '1 234' is read as 1234"),
        ("1'734.5|1\u2019201.5|950", [1734.5, 1201.5, 950], "between thousands"),
        ("36,6|38,1|0,950", [36.6, 38.1, 0.95], "a decimal comma: '1,5' is read as 1.5"),
        ("71.0%|94.5 %|88%", [71, 94.5, 88], "the unit '%': '1%' is read as 1"),
        ("80.0 years|71 Years|6  years", [80, 71, 6], "the unit 'years'"),
        ("80y|71y|59y", [80, 71, 59], "the unit 'y'"),
        ("080Y|006M|365D", [80, 0.5, 365 / 365.25], "in years: '006M' is read as 0.5"),
        ("5,5 mg/dl|7 mg/dl|12 mg/dl", [5.5, 7, 12], "a decimal comma and the unit 'mg/dl'"),
        ("36,6 \u00b0C|-0,5 \u00b0C|37 \u00b0C", [36.6, -0.5, 37], "the unit '\u00b0c'"),
        ("\u22121.5|\u22120.5|2", [-1.5, -0.5, 2], "an unusual notation"),
        ("1.2D+03|2.5D-01|1", [1200, 0.25, 1], "an unusual notation (1.5D+03"),
        ("1,5E-3|2,5e3|1", [0.0015, 2500, 1], "a decimal comma: '1,5' is read"),
        (".5 l|,5 l|2 l", None, ""),
        ("1.734,5|1,201.5|950,5", None, "'1,201.5' in table.csv row 3 is no"),
        ("36,6|38.1|37,5", None, "lab': '38.1' in table.csv row 3 is no"),
        ("71%|0.9|88%", None, "one decimal mark, one unit"),
        ("80 years|6 months|44 years", None, "lab': '6 months' in table.csv row 3 is no"),
        ("1,734|950|1,201", None, "(2 such rows), and no other cell tells which; write 1734"),
        ("1,734|950.5|1,201", None, "'1,734' in table.csv row 2 may be thousands or decimals"),
        ("1.734|36,6|950", None, "'1.734' in table.csv row 2 may be thousands or decimals"),
        ("1A|2A|3A", None, "dataset.codes"),
        ("3+|2|1", None, "'3+' in table.csv row 2"),
        ("71%|>90%|88%", None, "lab': '>90%' in table.csv row 3 is no"),
    ],
)
def test_written_numbers_are_read_by_one_convention_or_refused(
    tmp_path: Path, cells: str, values: list[float] | None, rule: str
) -> None:
    texts = [*cells.split("|"), ""]
    rows = [{**row, "lab": cell} for row, cell in zip(rows_of(4), texts, strict=True)]
    if values is None:
        fails(tmp_path, rows, "column 'lab'", rule, covariates=("lab",))
    else:
        cohort = read(tmp_path, rows, covariates=("lab",))
        assert cohort.table["lab"].tolist()[:3] == pytest.approx(values)
        assert cohort.table["lab"].isna().tolist() == [False, False, False, True]
        assert rule in cohort.notes[0]
        assert texts[0] not in cohort.notes[0]
        assert audit(cohort).notes[0] == f"table: {cohort.notes[0]}"
    named = read(tmp_path / "named", rows, covariates=("lab",), codes=("lab",))
    assert named.table["lab"].tolist() == texts
    assert not named.notes


@given(
    numbers=st.lists(
        st.decimals(-(10**6), 10**6, places=2, allow_nan=False), min_size=2, max_size=6
    ),
    marks=st.sampled_from([".,", ",.", ". ", ", ", ".'", ",'"]),
    unit=st.sampled_from(["", "%", " mg/l", " years"]),
)
def test_what_a_spreadsheet_writes_is_read_back(
    numbers: list[Decimal], marks: str, unit: str
) -> None:
    swap = str.maketrans(",.", marks[::-1])
    cells = pd.Series([f"{number:,.2f}".translate(swap) + unit for number in numbers], name="lab")
    places = cells.index.to_series().map("row {}".format)
    read_back = covariate(cells, places, missing=())
    assert read_back.tolist() == pytest.approx([float(number) for number in numbers])


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


@pytest.mark.parametrize("missing", ["-999", "-99", "-9999.0", "-999,0"])
@pytest.mark.parametrize("other", ["42", "-12"])  # a base excess, say
def test_a_number_that_means_missing(tmp_path: Path, missing: str, other: str) -> None:
    rows = [{**row, "lab": str(40 + at)} for at, row in enumerate(rows_of())]
    rows[2]["lab"], rows[3]["lab"], rows[4]["lab"] = other, missing, "41,5"[: 4 * ("," in missing)]
    number = float(missing.replace(",", "."))
    said = f"{missing!r} in table.csv row 5 is far below all other numbers (1 such rows)"
    fails(tmp_path, rows, said, "blank", "dataset.missing", covariates=("lab",))
    named = read(tmp_path / "named", rows, covariates=("lab",), missing=(int(number), "n.d."))
    assert named.table["lab"].isna().sum() == 1 + (not rows[4]["lab"])
    assert pd.isna(named.table["lab"][3])
    meant = read(tmp_path / "meant", rows, covariates=("lab",), missing=())
    assert meant.table["lab"][3] == number
    rows[2]["lab"] = str(number / 2).replace(".", "," if "," in missing else ".")
    near = read(tmp_path / "near", rows, covariates=("lab",))
    assert near.table["lab"][3] == number


def test_999_far_above_all_others_is_noted(tmp_path: Path) -> None:
    rows = [{**row, "age": str(40 + at)} for at, row in enumerate(rows_of())]
    rows[3]["age"] = "999"
    cohort = read(tmp_path, rows, covariates=("age",))
    assert "'999' (1 rows) is far above all other numbers" in cohort.notes[0]
    assert cohort.table["age"][3] == 999
    rows[2]["age"] = "400"
    assert not read(tmp_path / "near", rows, covariates=("age",)).notes


def test_names_that_stand_once_are_noted(tmp_path: Path) -> None:
    rows = [{**row, "pressure": f"{100 + at}/80"} for at, row in enumerate(rows_of(30))]
    cohort = read(tmp_path, rows, covariates=("pressure",))
    assert "30 different names in 30 rows" in cohort.notes[0]
    assert "100/80" not in cohort.notes[0]


@pytest.mark.parametrize("positive", [None, True, 1, "TRUE"])
def test_true_and_1_are_one_outcome(tmp_path: Path, positive: Any) -> None:
    words = ["TRUE", "0", "1,0", "FALSE", "true", "0.0"]
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
    fails(tmp_path, rows, "seems to be a title", "dataset.header_row=2", text=text)
    assert len(read(tmp_path, rows, text=text, header_row=2)) == 6


def test_two_header_rows(tmp_path: Path) -> None:
    rows = rows_of()
    body = "".join(",".join(row.values()) + ",1,2\n" for row in rows)
    groups = "Who,,Course,Laboratory,\npatient,image,outcome,crp,ldh\n"
    said = "row 2 holds 3 of these names, row 1 0; set dataset.header_row=2"
    fails(tmp_path, rows, said, text=groups + body)
    assert len(read(tmp_path, rows, text=groups + body, header_row=2)) == 6
    parts = "patient,image,lab,lab,lab\n,,outcome,crp,ldh\n"  # as pandas writes two levels
    fails(tmp_path, rows, "stand in rows 1 and 2; write them in one row", text=parts + body)
    units = "patient,image,outcome,crp,ldh\n(id),(file),(0/1),mg/l,U/l\n"
    fails(tmp_path, rows, "'(0/1)' (once, in row 2)", text=units + body)


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


def test_what_cannot_be_seen_is_no_part_of_a_cell(tmp_path: Path) -> None:
    rows = rows_of()
    text = "\ufeff\u200bpatient,image\u200b,\u00a0outcome\n"
    text += "".join(f"{r['patient']},\u200e{r['image']},{r['outcome']}\u200b\n" for r in rows)
    plain = read(tmp_path / "plain", rows)
    assert read(tmp_path, rows, text=text).table.equals(plain.table)


def test_names_that_differ_in_case_are_noted(tmp_path: Path) -> None:
    rows = [{**row, "sex": sex} for row, sex in zip(rows_of(4), "FMmF", strict=True)]
    (note,) = read(tmp_path, rows, covariates=("sex",)).notes
    assert "1 of 3 names differ from another one only in case" in note


def test_a_day_and_a_time_are_no_number(tmp_path: Path) -> None:
    rows = [{**row, "stay": f"{at} days 02:00:00"} for at, row in enumerate(rows_of(4))]
    assert read(tmp_path, rows, covariates=("stay",)).table["stay"][1] == "1 days 02:00:00"


def test_what_a_workbook_hides(tmp_path: Path) -> None:
    rows = rows_of()
    book = Workbook()
    book.active.title = "old"
    book.active.append(["patient"])
    book.active.sheet_state = "hidden"
    sheet = book.create_sheet("now & here")
    for row in [list(rows[0]), *(list(row.values()) for row in rows)]:
        sheet.append(row)
    sheet.row_dimensions[3].hidden = sheet.row_dimensions[9].hidden = True
    book.active = 1
    book.save(tmp_path / "t.xlsx")
    chosen = {"images": folder_of(tmp_path, rows), "label": "outcome", "positive": "dead"}
    cohort = DATASETS["table"](table=tmp_path / "t.xlsx", **chosen)
    assert len(cohort) == 6
    assert cohort.notes == ("t.xlsx: 1 rows that the workbook hides are read too",)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.xls", "<html><table><tr><td>patient</td></tr></table></html>", "is a web page"),
        ("t.xlsx", "patient,image,outcome\n1,1.png,dead\n", "is text under the name of a wo"),
        ("t.csv", "patient,image\n1,p1,1.png\n2,p2,2.png\n", "name the first column too (R lea"),
        ("t.csv", "# by X\n# units mg\npatient,image,n\np1,1.png,1\n", "dataset.header_row=3"),
    ],
)
def test_files_that_are_not_what_they_are_called(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read_sheet(tmp_path / name)
    assert reason in str(caught.value)
