"""Any table with a folder of images: what is read, and what is left out by setting."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_cohorts import write_csv, write_image, write_xls, write_xlsx
from made_dicom import image, write_dicom
from made_tables import Row, fails, folder_of, read, rows_of
from openpyxl import Workbook
from PIL import Image

from prognobench.errors import DataError
from prognobench.registry import DATASETS


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
    for encoding in ("utf-16", "utf-32"):
        text = "\n".join(["patient,image,outcome", "1,1.png,a", "2,2.png,d"]).encode(encoding)
        assert len(read(tmp_path, rows_of(), text=text, positive="d")) == 2


def test_blank_rows_quotes_and_unnamed_columns(tmp_path: Path) -> None:
    text = 'patient,image,outcome,note,\n\n"001", 1.png ,alive,"two\nlines, one cell",\n,,,,\n'
    text += "002,2.png,dead,,x\n"
    cohort = read(tmp_path, rows_of(), text=text)
    assert cohort.table["image"].tolist() == ["1.png", "2.png"]


def test_a_header_below_a_title(tmp_path: Path) -> None:
    text = "Cohort, as of May; final,,\n\npatient;image;outcome\n1;1.png;alive\n2;2.png;dead\n"
    assert len(read(tmp_path, rows_of(), text=text, header_row=3)) == 2


def test_blank_excel_rows_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    rows = [["patient", "image", "outcome"], [], [], ["1", "1.png", "alive"], ["", "2.png", "dead"]]
    table = write_xlsx(tmp_path / "table.xlsx", rows)
    with pytest.raises(DataError, match=r"no patient in table\.xlsx row 5"):
        read(tmp_path, rows_of(), table=table)


def test_the_line_that_names_a_separator_is_no_row(tmp_path: Path) -> None:
    text = "sep=|\npatient|image|outcome\n1|1.png|alive, well\n2|2.png|dead\n"
    assert read(tmp_path, rows_of(), text=text).table["where"][0] == "table.csv row 2"


def test_times_with_and_without_fractions_are_of_one_form(tmp_path: Path) -> None:
    moments = ["2020-03-01 10:00:00", "2020-03-01T09:00:00.250000", "2020-03-01 08:00:00.123456789"]
    rows = [{**row, "at": moments[at % 3]} for at, row in enumerate(rows_of())]
    order = read(tmp_path, rows, order="at").table["order"]
    assert order[0] > order[1] > order[2]


def test_days_among_times_are_midnights(tmp_path: Path) -> None:
    moments = ["2020-03-02", "2020-03-01 09:00:00", "2020-03-01"]
    rows = [{**row, "at": moments[at % 3]} for at, row in enumerate(rows_of())]
    order = read(tmp_path, rows, order="at").table["order"]
    assert order[0] - order[1] == pytest.approx(15 / 24)
    assert order[1] - order[2] == pytest.approx(9 / 24)


def test_identifiers_that_a_parquet_file_stores_as_bytes(tmp_path: Path) -> None:
    rows = rows_of()
    folder = folder_of(tmp_path, rows)
    frame = pd.DataFrame(rows).assign(patient=[row["patient"].encode() for row in rows])
    frame.to_parquet(tmp_path / "table.parquet")
    cohort = DATASETS["table"](
        table=tmp_path / "table.parquet", images=folder, label="outcome", positive="dead"
    )
    assert cohort.table["patient_id"].tolist() == [row["patient"] for row in rows]


def test_one_file_under_several_spellings_of_its_path_is_one_image(tmp_path: Path) -> None:
    rows = [*rows_of(), {"patient": "001", "image": "././/1.png", "outcome": "dead"}]
    folder_of(tmp_path, rows_of())
    text = "patient,image,outcome\n" + "\n".join(",".join(row.values()) for row in rows)
    assert len(read(tmp_path, rows_of(), text=text)) == 6


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
    cohort = read(tmp_path, rows, covariates=("Age", "sex"), keep=("split",), centre="site")
    assert cohort.covariates == ("Age", "sex")
    assert cohort.table["Age"].tolist()[1:3] == [50, 61.5]
    assert np.isnan(cohort.table["Age"][0])
    assert cohort.table["sex"].tolist()[:2] == ["m", "f"]
    assert cohort.table["split"].tolist() == ["train"] * 6
    assert cohort.table["centre"].tolist() == ["unknown", *["A"] * 5]
    assert list(cohort.table.columns[6:]) == ["Age", "sex", "split", "where"]
    assert cohort.table["where"].tolist()[:2] == ["table.csv row 2", "table.csv row 3"]


def test_codes_are_names_whatever_they_look_like(tmp_path: Path) -> None:
    cells = ["250", "401.9", "401.9", "V58", "", "n/a"]
    rows = [{**row, "icd": cell} for row, cell in zip(rows_of(), cells, strict=True)]

    (fault,) = fails(tmp_path, rows, "'V58' in table.csv row 5", covariates=("icd",))
    assert "dataset.codes" in fault
    cohort = read(tmp_path / "codes", rows, covariates=("icd",), codes=("icd",))
    assert cohort.table["icd"].tolist() == ["250", "401.9", "401.9", "V58", "", ""]
    fails(tmp_path / "none", rows, "'icd', which is not in dataset.covariates", codes=("icd",))


def test_images_by_path_name_stem_and_folder(tmp_path: Path) -> None:
    cells = ["a\\1.png", "2.PNG", "3", "./b/4.png", "P5", "6.dcm"]
    folder = tmp_path / "images"
    for name in ("a/1.png", "deep/down/2.png", "3.tif", "b/4.png", "P5/x.png", "P5/y.jpg"):
        write_image(folder / name, len(name))
    write_dicom(folder / "6.dcm", image(), bits=12)
    (folder / "P5" / "notes.txt").write_text("no image")
    rows = [{**row, "image": cell} for row, cell in zip(rows_of(), cells, strict=True)]
    table = write_csv(tmp_path / "table.csv", rows)
    cohort = DATASETS["table"](table=table, images=folder, label="outcome", positive="dead")
    assert cohort.table["image"].tolist() == [
        *("a/1.png", "deep/down/2.png", "3.tif", "b/4.png", "P5/x.png", "P5/y.jpg", "6.dcm")
    ]
    assert cohort.table["patient_id"].tolist()[4:6] == ["005", "005"]


def test_accents_and_case_of_folders_and_of_what_is_excluded_do_not_matter(tmp_path: Path) -> None:
    cells = ["M\u00fcller", "SMITH", "c.png", "d.png", "e.png", "\u00e9.png"]
    folder = tmp_path / "images"
    for name in ("Mu\u0308ller/1.png", "Smith/2.png", "c.png", "d.png", "e.png", "e\u0301.png"):
        write_image(folder / name, len(name))
    rows = [{**row, "image": cell} for row, cell in zip(rows_of(), cells, strict=True)]
    table = write_csv(tmp_path / "table.csv", rows)
    given = {"table": table, "images": folder, "label": "outcome", "positive": "dead"}

    images = DATASETS["table"](**given).table["image"].tolist()
    left = DATASETS["table"](**given, exclude=("\u00e9.png", "e.png")).table["image"].tolist()

    assert images[:2] == ["Mu\u0308ller/1.png", "Smith/2.png"]
    assert left == images[:4]


@pytest.mark.parametrize(
    ("names", "cell", "meant"),
    [
        (("Smith/1.png", "other/smith.png"), "SMITH", "'SMITH' may be Smith or other/smith.png"),
        (("ANNA/1.png", "Anna/2.png"), "anna", "'anna' may be ANNA or Anna"),
        (("Smith/1.png", "other/smith.png"), "Smith", ["Smith/1.png"]),
        (("SMITH/smith.png", "SMITH/lateral.png"), "smith", ["SMITH/smith.png"]),
        (("sub/q.png", "Q/none.txt"), "q", ["sub/q.png"]),
    ],
)
def test_names_that_may_be_several_folders_or_files(
    tmp_path: Path, names: tuple[str, ...], cell: str, meant: str | list[str]
) -> None:
    folder, rows = tmp_path / "images", rows_of()
    for value, name in enumerate((*names, *(row["image"] for row in rows[1:]))):
        if name.endswith(".txt"):
            (folder / name).parent.mkdir()
            (folder / name).write_text("no image")
        else:
            write_image(folder / name, 10 + value)
    table = write_csv(tmp_path / "table.csv", [{**rows[0], "image": cell}, *rows[1:]])
    given = {"table": table, "images": folder, "label": "outcome", "positive": "dead"}

    if isinstance(meant, str):
        with pytest.raises(DataError, match=meant):
            DATASETS["table"](**given)
    else:
        assert DATASETS["table"](**given).table["image"].tolist()[: len(meant)] == meant


def several_images() -> list[Row]:
    days = {"001": ["2020-03-05", "2020-03-01", ""], "002": ["2020-04-01", "2020-04-02"]}
    rows = [
        {"patient": patient, "image": f"{patient}-{at}.png", "outcome": patient, "day": day}
        for patient, group in days.items()
        for at, day in enumerate(group)
    ]
    return [*rows, {"patient": "003", "image": "003-0.png", "outcome": "001", "day": ""}]


@pytest.mark.parametrize(
    ("select", "taken"),
    [
        ("first", ["001-1.png", "002-0.png", "003-0.png"]),
        ("last", ["001-0.png", "002-1.png", "003-0.png"]),
    ],
)
def test_first_and_last_images(tmp_path: Path, select: str, taken: list[str]) -> None:
    cohort = read(tmp_path, several_images(), select=select, order="day", positive="002")
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


def test_what_cannot_be_decoded_is_left_out_without_decoding(tmp_path: Path) -> None:
    rows = [{**row, "day": at} for at, row in enumerate([*rows_of(6), *rows_of(6)])]
    for at, row in enumerate(rows):
        row["image"] = f"{at}.dcm"
        write_dicom(tmp_path / "images" / row["image"], np.zeros((30, 20), np.uint16), bits=12)
    images = tmp_path / "images"
    (images / "0.dcm").write_bytes((images / "0.dcm").read_bytes()[:-4])
    write_dicom(images / "1.dcm", np.zeros((2, 30, 20), np.uint16), bits=12)
    grey = Image.fromarray(np.zeros((30, 20), np.uint8))
    grey.save(images / "2.dcm.tif", save_all=True, append_images=[grey])
    Image.new("1", (10_000, 9_000)).save(images / "3.png")
    rows[2]["image"], rows[3]["image"] = "2.dcm.tif", "3.png"
    write_csv(tmp_path / "table.csv", rows)
    cohort = DATASETS["table"](
        **{"table": tmp_path / "table.csv", "images": images, "label": "outcome"},
        **{"positive": "dead", "order": "day", "select": "first", "on_missing": "drop"},
    )
    told = cohort.exclusions.set_index("item")["reason"]
    for item, reason in (
        ("0.dcm", "is truncated"),
        ("1.dcm", "holds 2 frames"),
        ("2.dcm.tif", "holds 2 frames"),
        ("3.png", "has more than 80,000,000 pixels"),
    ):
        assert told[item].startswith(f"{reason}")
        assert "it would have been the first image of the patient" in told[item]
    assert cohort.table["image"].tolist() == [f"{at}.dcm" for at in (4, 5, 6, 7, 8, 9)]


def test_a_folder_of_dicom_files_of_any_name(tmp_path: Path) -> None:
    images = tmp_path / "images"
    rows = [{**row, "image": row["patient"]} for row in rows_of(4)]
    for row in rows:
        write_dicom(images / row["image"] / "IM0001", np.zeros((30, 20), np.uint16), bits=12)
        write_dicom(images / row["image"] / "DICOMDIR", None)
        (images / row["image"] / "README").write_text("no image")
    write_csv(tmp_path / "table.csv", rows)
    chosen = {"table": tmp_path / "table.csv", "label": "outcome", "positive": "dead"}
    cohort = DATASETS["table"](images=images, **chosen)
    assert cohort.table["image"].tolist() == [f"{row['image']}/IM0001" for row in rows]
    (images / "001" / "IM0001").unlink()
    with pytest.raises(DataError, match="no image in folder '001'"):
        DATASETS["table"](images=images, **chosen)


def test_conflicts_settled_by_the_highest_class(tmp_path: Path) -> None:
    rows = rows_of()
    rows[0]["patient"] = rows[1]["patient"]
    cohort = read(tmp_path, rows, on_conflict="highest")
    assert cohort.table["label"].tolist()[:2] == [1, 1]


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """Images of four patients with gaps: missing and empty files, blank and foreign outcomes."""
    rows = []
    for patient, number in draw(st.lists(st.tuples(st.sampled_from("ABCD"), st.integers(0, 3)))):
        outcome = draw(st.sampled_from(["alive", "dead", "dead ", "", "NA", "lost"]))
        day = draw(st.sampled_from(["", "1", "2.5", "-3", "n/a"]))
        image = f"{patient}-{number}.png"
        rows.append({"patient": patient, "image": image, "outcome": outcome, "day": day})
    return rows + [
        {"patient": patient, "image": f"{patient}-0.png", "outcome": outcome, "day": "0"}
        for patient, outcome in (("E", "alive"), ("F", "dead"))
    ]


@pytest.fixture(scope="module")
def any_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("any")
    for at, patient in enumerate("ABCDEF"):
        for number in (0, 1):
            write_image(folder / f"{patient}-{number}.png", 2 * at + number)
        (folder / f"{patient}-2.png").touch()
    return folder


@settings(max_examples=50, deadline=None)
@given(rows=tables(), select=st.sampled_from(["all", "first", "last"]))
def test_every_row_is_taken_or_left_out_with_a_reason(
    any_folder: Path, rows: list[Row], select: str
) -> None:
    table = write_csv(any_folder / "table.csv", rows)
    cohort = DATASETS["table"](
        table=table,
        images=any_folder,
        label="outcome",
        classes=("alive", "dead"),
        order="day",
        select=select,
        on_missing="drop",
        on_unknown_label="drop",
        on_conflict="highest",
    )
    assert len(cohort) + len(cohort.exclusions) == len(rows)
    assert cohort.exclusions["reason"].str.len().all()
    by_patient = cohort.table.groupby("patient_id")
    assert (by_patient["label"].nunique() == 1).all()
    assert select == "all" or (by_patient.size() == 1).all()
    assert not cohort.table["image"].duplicated().any()


def test_the_last_image_needs_an_order(tmp_path: Path) -> None:
    rows = [{**row, "patient": f"{number // 2:03d}"} for number, row in enumerate(rows_of())]
    for row in rows:
        row["outcome"] = "dead" if row["patient"] == "000" else "alive"

    (fault,) = fails(tmp_path, rows, "dataset.select=last needs an order", select="last")
    assert "3 patients have several images" in fault
    assert "dataset.order=COLUMN" in fault
    assert len(read(tmp_path / "first", rows, select="first").table) == 3
