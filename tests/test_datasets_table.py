"""Any table with a folder of images: what is read, and what is refused with file and row."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_cohorts import write_csv, write_image, write_xls, write_xlsx
from made_dicom import film, write_dicom
from openpyxl import Workbook

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


def read(path: Path, rows: list[Row], text: str | bytes | None = None, **settings: Any) -> Cohort:
    """Write rows (or text, for the same images) as CSV, and read them."""
    folder = folder_of(path, rows)
    table = path / "table.csv"
    if text is None:
        write_csv(table, rows)
    else:
        table.write_bytes(text.encode() if isinstance(text, str) else text)
    cohort: Cohort = DATASETS["table"](
        **{"table": table, "images": folder, "label": "outcome", "positive": "dead", **settings}
    )
    return cohort


def fails(path: Path, rows: list[Row], *words: str, **settings: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(path, rows, **settings)
    for word in words:
        assert word in str(caught.value)
    return list(caught.value.faults)


# ------------------------------------------------------------------ what is read


def test_the_plain_case(tmp_path: Path) -> None:
    cohort = read(tmp_path, rows_of())
    assert cohort.classes == ("alive", "dead")
    assert cohort.table["patient_id"].tolist() == ["001", "002", "003", "004", "005", "006"]
    assert cohort.table["label"].tolist() == [1, 0, 1, 0, 1, 0]
    assert cohort.table["order"].isna().all()
    assert set(cohort.table["centre"]) == {"unknown"}
    assert cohort.exclusions is not None
    assert cohort.exclusions.empty


@pytest.mark.parametrize("suffix", ["csv", "semicolon.csv", "tsv", "xlsx", "xls", "parquet"])
def test_kinds_of_tables(tmp_path: Path, suffix: str) -> None:
    rows = rows_of()
    folder, table = folder_of(tmp_path, rows), tmp_path / f"table.{suffix}"
    if suffix in ("xlsx", "xls"):
        write = write_xlsx if suffix == "xlsx" else write_xls
        write(table, [list(rows[0]), *(list(row.values()) for row in rows)])
    elif suffix == "parquet":
        pd.DataFrame(rows).to_parquet(table)
    else:
        separator = {"csv": ",", "semicolon.csv": ";", "tsv": "\t"}[suffix]
        pd.DataFrame(rows).to_csv(table, sep=separator, index=False)
    cohort = DATASETS["table"](table=table, images=folder, label="outcome", positive="dead")
    assert cohort.table["patient_id"].tolist() == [row["patient"] for row in rows]
    assert cohort.table["label"].tolist() == [1, 0, 1, 0, 1, 0]


def test_excel_numbers_dates_and_zeros(tmp_path: Path) -> None:
    book = Workbook()
    sheet = book.active
    sheet.append(["patient", "image", "outcome", "day"])
    for at in range(1, 5):
        sheet.append([at, f"{at}.png", at % 2 == 0, datetime.datetime(2020, 3, at)])
        sheet.cell(at + 1, 1).number_format = "0000"
    for at in range(5, 7):
        sheet.append([float(at * 1000), f"{at}.png", True, datetime.datetime(2020, 3, 31)])
    book.save(tmp_path / "table.xlsx")
    folder = folder_of(tmp_path, rows_of())
    cohort = DATASETS["table"](
        table=tmp_path / "table.xlsx", images=folder, label="outcome", order="day", positive=True
    )
    assert cohort.table["patient_id"].tolist() == ["0001", "0002", "0003", "0004", "5000", "6000"]
    assert cohort.classes == ("false", "true")
    assert np.diff(cohort.table["order"]).tolist() == [1, 1, 1, 27, 0]


@pytest.mark.parametrize(
    ("words", "positive", "classes"),
    [
        (("Y", "N"), "N", ("Y", "N")),
        ((0, 1), 1, ("0", "1")),
        (("0.0", "1.0"), 1, ("0", "1")),
        (("TRUE", "FALSE"), True, ("false", "true")),
        ((0, 1), None, ("0", "1")),
        (("True", "False"), None, ("false", "true")),
        (("mild", "severe", "dead"), None, ("dead", "mild", "severe")),
        ((2, 10, 1), None, ("1", "2", "10")),
    ],
)
def test_labels(tmp_path: Path, words: Any, positive: Any, classes: tuple[str, ...]) -> None:
    rows = [{**row, "outcome": words[at % len(words)]} for at, row in enumerate(rows_of())]
    cohort = read(tmp_path, rows, positive=positive)
    assert cohort.classes == classes
    assert sorted(set(cohort.table["label"])) == list(range(len(classes)))


def test_declared_classes_keep_their_order(tmp_path: Path) -> None:
    rows = [{**row, "outcome": "abc"[at % 3]} for at, row in enumerate(rows_of())]
    cohort = read(tmp_path, rows, positive=None, classes=("c", "a", "b"))
    assert cohort.classes == ("c", "a", "b")
    assert cohort.table["label"].tolist() == [1, 2, 0, 1, 2, 0]


def test_mixed_encodings_line_by_line(tmp_path: Path) -> None:
    lines = [b"patient,image,outcome,centre"]
    lines += [f"{at},{at}.png,{('a', 'd')[at % 2]},Malm\xf6".encode("cp1252") for at in (1, 2)]
    lines += [f"{at},{at}.png,{('a', 'd')[at % 2]},Malm\xf6".encode() for at in (3, 4)]
    for text in (b"\n".join(lines), b"\xef\xbb\xbf" + b"\r\n".join(lines)):
        cohort = read(tmp_path, rows_of(), text=text, positive="d", centre="centre")
        assert set(cohort.table["centre"]) == {"Malm\xf6"}
    utf16 = "\n".join(["patient,image,outcome", "1,1.png,a", "2,2.png,d"]).encode("utf-16")
    assert len(read(tmp_path, rows_of(), text=utf16, positive="d")) == 2


def test_blank_rows_quotes_and_unnamed_columns(tmp_path: Path) -> None:
    text = 'patient,image,outcome,note,\n\n"001", 1.png ,alive,"two\nlines, one cell",\n,,,,\n'
    text += "002,2.png,dead,,x\n"
    cohort = read(tmp_path, rows_of(), text=text)
    assert cohort.table["image"].tolist() == ["1.png", "2.png"]


def test_covariates_centre_and_kept_columns(tmp_path: Path) -> None:
    rows = [
        {
            **row,
            "Age": ("", "50", "61.5")[at % 3],
            "sex": "mf"[at % 2],
            "split": "train",
            "site": "A",
        }
        for at, row in enumerate(rows_of())
    ]
    rows[0]["site"] = ""
    settings = {"covariates": ("Age", "sex"), "keep": ("split",), "centre": "site"}
    cohort = read(tmp_path, rows, **settings)
    assert cohort.covariates == ("Age", "sex")
    assert cohort.table["Age"].tolist()[1:3] == [50, 61.5]
    assert np.isnan(cohort.table["Age"][0])
    assert cohort.table["sex"].tolist()[:2] == ["m", "f"]
    assert cohort.table["split"].tolist() == ["train"] * 6
    assert cohort.table["centre"].tolist() == ["unknown", *["A"] * 5]
    assert list(cohort.table.columns[6:]) == ["Age", "sex", "split"]


def test_images_by_path_name_stem_and_folder(tmp_path: Path) -> None:
    cells = ["a\\1.png", "2.PNG", "3", "./b/4.png", "P5", "6.dcm"]
    folder = tmp_path / "images"
    for name in ("a/1.png", "deep/down/2.png", "3.tif", "b/4.png", "P5/x.png", "P5/y.jpg"):
        write_image(folder / name, len(name))
    write_dicom(folder / "6.dcm", film(), bits=12)
    (folder / "P5" / "notes.txt").write_text("no image")
    rows = [{**row, "image": cell} for row, cell in zip(rows_of(), cells, strict=True)]
    table = write_csv(tmp_path / "table.csv", rows)
    cohort = DATASETS["table"](table=table, images=folder, label="outcome", positive="dead")
    assert cohort.table["image"].tolist() == [
        *("a/1.png", "deep/down/2.png", "3.tif", "b/4.png", "P5/x.png", "P5/y.jpg", "6.dcm")
    ]
    assert cohort.table["patient_id"].tolist()[4:6] == ["005", "005"]


def several_films() -> list[Row]:
    days = {"001": ["2020-03-05", "2020-03-01", ""], "002": ["2020-04-01", "2020-04-02"]}
    rows = [
        {"patient": patient, "image": f"{patient}-{at}.png", "outcome": patient, "day": day}
        for patient, group in days.items()
        for at, day in enumerate(group)
    ]
    return [*rows, {"patient": "003", "image": "003-0.png", "outcome": "001", "day": ""}]


@pytest.mark.parametrize(
    ("films", "taken"),
    [
        ("first", ["001-1.png", "002-0.png", "003-0.png"]),
        ("last", ["001-0.png", "002-1.png", "003-0.png"]),
    ],
)
def test_first_and_last_films(tmp_path: Path, films: str, taken: list[str]) -> None:
    cohort = read(tmp_path, several_films(), films=films, order="day", positive="002")
    assert cohort.table["image"].tolist() == taken
    assert cohort.exclusions is not None
    assert len(cohort) + len(cohort.exclusions) == 6


@pytest.mark.parametrize(
    ("cells", "gaps"),
    [
        (["1", "2.5", ""], [1.5]),
        (["20200331", "20200401", ""], [1]),
        (["2020-03-31T12:00:00", "2020-04-01T00:00:00", "NA"], [0.5]),
        (["31.3.2020", "1.4.2020", ""], [1]),
        (["3/31/2020", "4/1/2020", ""], [1]),
        (["January 22, 2020", "January 25, 2020", ""], [3]),
    ],
)
def test_positions_in_time(tmp_path: Path, cells: list[str], gaps: list[float]) -> None:
    rows = [{**row, "day": cell} for row, cell in zip(rows_of(3), cells, strict=True)]
    order = read(tmp_path, rows, order="day").table["order"]
    assert np.diff(order.dropna()).tolist() == gaps
    assert np.isnan(order[2])


# ------------------------------------------------------------------ what is left out by setting


def test_dropped_rows_are_recorded(tmp_path: Path) -> None:
    rows = rows_of(8)
    rows[0]["outcome"], rows[1]["outcome"] = "moved away", ""
    rows[2]["patient"] = rows[3]["patient"]
    rows[5]["patient"] = "6"
    folder_of(tmp_path, rows)
    rows.append({"patient": "9", "image": "lost.png", "outcome": "dead"})
    rows += [{"patient": "10", "image": "1.png", "outcome": "dead"}] * 2
    rows.append({"patient": "11", "image": "broken.png", "outcome": "dead"})
    write_csv(tmp_path / "table.csv", rows)
    (tmp_path / "images" / "5.png").write_bytes(b"")
    write_image(tmp_path / "images" / "broken.png")
    content = (tmp_path / "images" / "broken.png").read_bytes()
    (tmp_path / "images" / "broken.png").write_bytes(content.replace(b"IDAT", b"IDAT\x00", 1))
    cohort = DATASETS["table"](
        table=tmp_path / "table.csv",
        images=tmp_path / "images",
        label="outcome",
        positive="dead",
        classes=("dead", "alive"),
        on_unknown_label="drop",
        on_conflict="drop",
        on_missing="drop",
        exclude=(6, "7.png"),
    )
    assert cohort.table["patient_id"].tolist() == ["008", "10"]
    told = "\n".join(cohort.exclusions["reason"])
    for word in (
        "'moved away'",
        "blank",
        "contradict",
        "setting exclude",
        "no image",
        "is empty",
        "is broken",
    ):
        assert word in told
    assert "stands in an earlier row" in told
    assert len(cohort) + len(cohort.exclusions) == len(rows)


def test_conflicts_settled_by_the_highest_class(tmp_path: Path) -> None:
    rows = rows_of()
    rows[0]["patient"] = rows[1]["patient"]
    cohort = read(tmp_path, rows, on_conflict="highest")
    assert cohort.table["label"].tolist()[:2] == [1, 1]


# ------------------------------------------------------------------ what is refused


def test_missing_table_folder_and_columns(tmp_path: Path) -> None:
    rows = rows_of()
    fails(tmp_path, rows, "no table", table=tmp_path / "none.csv")
    fails(tmp_path, rows, "is a folder", table=tmp_path)
    fails(tmp_path, rows, "dataset.images=", "does not exist", images=tmp_path / "none")
    faults = fails(
        tmp_path,
        rows,
        "expected a column 'outcom', did you mean 'outcome'?",
        "found patient, image, outcome",
        "set dataset.centre",
        label="outcom",
        centre="site",
    )
    assert len(faults) == 2
    unguessable = [{"who": "1", "what": "1.png", "outcome": "dead", "image": "1.png"}]
    fails(tmp_path, unguessable, "'patient_id' or 'patient'", "set dataset.patient")


def test_headers(tmp_path: Path) -> None:
    twice = "patient,image,outcome,Outcome,outcome\n1,1.png,alive,,\n"
    fails(tmp_path, rows_of(), "'outcome' stands 2 times (columns 3, 5)", text=twice)
    fails(tmp_path, rows_of(), "no rows below its header", text="patient,image,outcome\n,,\n")
    fails(tmp_path, rows_of(), "row 1 holds no column names", text="")
    wide = "patient,image,outcome\n1,1.png,alive\n2,2.png,dead, of age\n"
    fails(tmp_path, rows_of(), "more cells than column names in row 3", text=wide)
    fails(tmp_path, rows_of(), "zero bytes", text=b"PAR1\x00\x00")
    fails(tmp_path, rows_of(), "line 2 is neither", text=b"patient,image,outcome\n\x81\xff,1,2")
    fails(tmp_path, rows_of(), "cannot be read as a table", table=_broken_excel(tmp_path))


def _broken_excel(path: Path) -> Path:
    (path / "broken.xlsx").write_bytes(b"PK\x03\x04 and no more")
    return path / "broken.xlsx"


def test_unknown_labels_are_counted_and_named(tmp_path: Path) -> None:
    rows = rows_of()
    rows[0]["outcome"], rows[1]["outcome"], rows[2]["outcome"] = "lost", "lost", ""
    fails(
        tmp_path,
        rows,
        "'lost' (2 rows)",
        "'(blank)' (1 rows)",
        "table.csv row 2",
        "dataset.on_unknown_label=drop",
        classes=("alive", "dead"),
    )
    fails(tmp_path, rows, "'alive' (2)", "'lost' (2)", "a binary outcome has two values")
    fails(tmp_path, rows_of(), "say which is the positive one", positive=None)
    fails(tmp_path, rows_of(), "'deceased' is not among", "'alive' (3)", positive="deceased")
    fails(tmp_path, rows_of(), "names a class twice", classes=("1", 1), positive=None)


def test_one_class_only(tmp_path: Path) -> None:
    rows = [{**row, "outcome": "dead"} for row in rows_of()]
    fails(tmp_path, rows, "nothing to predict", positive=None)
    fails(tmp_path, rows, "a binary outcome has two values")
    fails(tmp_path, rows, "only 'dead' is left", classes=("alive", "dead"))


def test_contradicting_labels_name_patient_and_rows(tmp_path: Path) -> None:
    rows = rows_of()
    rows[0]["patient"] = rows[1]["patient"]
    fails(
        tmp_path,
        rows,
        "002 ('dead' in table.csv row 2, 'alive' in table.csv row 3)",
        "dataset.on_conflict=drop",
    )


def test_all_missing_and_unreadable_files_in_one_message(tmp_path: Path) -> None:
    rows = rows_of(40)
    folder = folder_of(tmp_path, rows)
    table = write_csv(tmp_path / "table.csv", rows)
    for at in range(2, 30):
        (folder / f"{at}.png").unlink()
    (folder / "31.png").write_bytes((folder / "30.png").read_bytes()[:60])
    (folder / "1.png").write_text("no image")
    with pytest.raises(DataError) as caught:
        DATASETS["table"](table=table, images=folder, label="outcome", positive="dead")
    (message,) = caught.value.faults
    assert "30 of 40 images" in message
    assert "table.csv row 2: 1.png is not an image" in message
    assert "and 10 more" in message
    assert "dataset.on_missing=drop" in message


def test_paths_never_leave_the_folder(tmp_path: Path) -> None:
    rows = rows_of(8)
    folder = folder_of(tmp_path, rows)
    write_image(tmp_path / "outside.png")
    (tmp_path / "out").mkdir()
    write_image(tmp_path / "out" / "secret.png")
    os.symlink(tmp_path / "outside.png", folder / "link.png")
    os.symlink(tmp_path / "out", folder / "linked")
    os.symlink(folder / "8.png", folder / "fine.png")
    cells = ["../outside.png", str(folder / "2.png"), "C:\\films\\3.png", "link.png"]
    cells += ["linked/secret.png", "a/../../outside.png", "~/7.png", "fine.png"]
    rows = [{**row, "image": cell} for row, cell in zip(rows, cells, strict=True)]
    table = write_csv(tmp_path / "table.csv", rows)
    for on_missing in ("error", "drop"):
        with pytest.raises(DataError) as caught:
            DATASETS["table"](
                table=table,
                images=folder,
                label="outcome",
                positive="dead",
                on_missing=on_missing,
            )
        assert len(caught.value.faults) == 7
        for at, word in enumerate(("climbs", "absolute", "absolute", "symbolic", "symbolic")):
            assert f"table.csv row {at + 2}: " in caught.value.faults[at]
            assert word in caught.value.faults[at]


def test_an_ambiguous_name_asks_for_the_path(tmp_path: Path) -> None:
    rows = rows_of()
    rows[0]["image"] = "twin"
    folder = folder_of(tmp_path, rows[1:])
    write_image(folder / "a" / "twin.png")
    write_image(folder / "b" / "twin.jpg")
    table = write_csv(tmp_path / "table.csv", rows)
    with pytest.raises(DataError, match=r"a/twin\.png or b/twin\.jpg; give the whole path"):
        DATASETS["table"](table=table, images=folder, label="outcome", positive="dead")


def test_patient_numbers_that_changed_on_the_way(tmp_path: Path) -> None:
    floats = [{**row, "patient": f"{at}.0"} for at, row in enumerate(rows_of())]
    assert read(tmp_path, floats).table["patient_id"].tolist() == list("012345")
    mixed = rows_of()
    mixed[3]["patient"] = "1"
    fails(tmp_path, mixed, "'001' (table.csv row 2) and '1' (table.csv row 5)", "as text")
    nobody = rows_of()
    nobody[2]["patient"] = " "
    fails(tmp_path, nobody, "no patient in table.csv row 4")


def test_one_film_of_two_patients(tmp_path: Path) -> None:
    rows = rows_of()
    rows[2]["image"] = rows[0]["image"]
    fails(tmp_path, rows, "1.png for 001, 003 (table.csv row 2, table.csv row 4)")


def test_dates_that_cannot_be_told(tmp_path: Path) -> None:
    def days(*cells: str) -> list[Row]:
        return [{**row, "day": cell} for row, cell in zip(rows_of(3), cells, strict=True)]

    fails(tmp_path, days("1/2/2020", "3/4/2020", ""), "day and month", order="day")
    fails(tmp_path, days("2020-03-01", "soon", ""), "'soon' in row 3", "2020-03-31", order="day")


def test_columns_that_must_not_be_carried(tmp_path: Path) -> None:
    faults = fails(
        tmp_path,
        rows_of(),
        "'outcome' is the outcome itself",
        "'image' has a name",
        covariates=("outcome",),
        keep=("image",),
    )
    assert len(faults) == 2


def test_exclude_must_name_something(tmp_path: Path) -> None:
    fails(tmp_path, rows_of(), "names no patient and no image: 7, x.png", exclude=(7, "x.png"))
