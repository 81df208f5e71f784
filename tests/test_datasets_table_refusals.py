"""What is refused in a table and its folder of images, with file, row and way out."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from made_cohorts import make_covid_chestxray, write_csv, write_image
from made_tables import Row, fails, folder_of, read, rows_of

from prognobench.errors import DataError, MissingExtraError
from prognobench.imaging.cache import Recipe, pixel_cache
from prognobench.registry import DATASETS


def test_missing_table_folder_and_columns(tmp_path: Path) -> None:
    rows = rows_of()
    fails(tmp_path, rows, "no table", table=tmp_path / "none.csv")
    fails(tmp_path, rows, "is a folder", table=tmp_path)
    fails(tmp_path, rows, "dataset.images=", "does not exist", images=tmp_path / "none")
    faults = fails(
        tmp_path,
        rows,
        "expected a column 'outcom'. Did you mean 'outcome'?",
        "its columns are patient, image, outcome",
        "set dataset.centre",
        label="outcom",
        centre="site",
    )
    assert len(faults) == 3
    (fault,) = [f for f in fails(tmp_path, rows, "expected", header_row=2) if "row 2" in f]
    assert "row 2 is taken for the columns' names" in fault
    assert "1.png" not in fault
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


@pytest.mark.parametrize("rows", [(3,), (3, 5)])
def test_a_quotation_mark_that_is_not_closed_loses_no_rows(
    tmp_path: Path, rows: tuple[int, ...]
) -> None:
    lines = ["patient,image,outcome,note"]
    for at, row in enumerate(rows_of(), 2):
        note = '"tube 5' if at in rows else ""
        lines.append(f"{row['patient']},{row['image']},{row['outcome']},{note}")
    fails(tmp_path, rows_of(), "table.csv, row 3", "written twice", text="\n".join(lines))
    inches = rows_of()
    inches[0] |= {"note": '5" tube, "old"\nbent'}
    assert len(read(tmp_path, inches)) == 6


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_among_the_images_is_not_waited_for(tmp_path: Path) -> None:
    rows = [*rows_of(), {"patient": "7", "image": "pipe.png", "outcome": "dead"}]
    folder = folder_of(tmp_path, rows[:-1])
    os.mkfifo(folder / "pipe.png")
    table = write_csv(tmp_path / "table.csv", rows)
    with pytest.raises(DataError, match=r"table.csv row 8: pipe.png is no regular file"):
        DATASETS["table"](table=table, images=folder, label="outcome", positive="dead")


def test_what_breaks_only_on_decoding_is_told_by_its_row(tmp_path: Path) -> None:
    cohort = read(tmp_path, rows_of())
    for name in ("2.png", "5.png"):
        file = tmp_path / "images" / name
        content = bytearray(file.read_bytes())
        middle = content.index(b"IDAT") + 12
        content[middle : middle + 8] = bytes(8)
        file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        pixel_cache(cohort, Recipe(32, "bicubic"), tmp_path / "cache")
    first, second = caught.value.faults
    assert first.startswith("table.csv row 3: ")
    assert "2.png" in first
    assert second.startswith("table.csv row 6: ")
    assert "dataset.exclude" in second


def test_paths_never_leave_the_folder(tmp_path: Path) -> None:
    rows = rows_of(8)
    folder = folder_of(tmp_path, rows)
    write_image(tmp_path / "outside.png")
    (tmp_path / "out").mkdir()
    write_image(tmp_path / "out" / "secret.png")
    os.symlink(tmp_path / "outside.png", folder / "link.png")
    os.symlink(tmp_path / "out", folder / "linked")
    os.symlink(folder / "8.png", folder / "fine.png")
    cells = ["../outside.png", str(folder / "2.png"), "C:\\images\\3.png", "link.png"]
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
    for blank in (" ", "nan", "NA"):
        nobody = rows_of()
        nobody[2]["patient"] = blank
        fails(tmp_path, nobody, "no patient in table.csv row 4")
    rounded = rows_of()
    rounded[3]["patient"] = "1.2E+12"
    fails(tmp_path, rounded, "table.csv row 5: patient '1.2E+12'", "a spreadsheet rounded")


def test_one_image_of_two_patients(tmp_path: Path) -> None:
    rows = rows_of()
    rows[2]["image"] = rows[0]["image"]
    fails(tmp_path, rows, "1.png for 001, 003 (table.csv row 2, table.csv row 4)")


def test_dates_that_cannot_be_told(tmp_path: Path) -> None:
    def days(*cells: str) -> list[Row]:
        return [{**row, "day": cell} for row, cell in zip(rows_of(3), cells, strict=True)]

    fails(tmp_path, days("1/2/2020", "3/4/2020", ""), "day and month", order="day")
    fails(tmp_path, days("2020-03-01", "soon", ""), "'soon' in row 3", "2020-03-31", order="day")


def test_the_cell_that_is_unlike_the_others_is_named(tmp_path: Path) -> None:
    rows = [{**row, "date": f"2020-03-{at + 10}"} for at, row in enumerate(rows_of())]
    rows[4]["date"] = "31/12/2019"
    (fault,) = fails(tmp_path, rows, "'31/12/2019' in row 6", order="date")
    assert "row 2" not in fault
    rows = [{**row, "visit": at} for at, row in enumerate(rows_of())]
    rows[3]["visit"] = "1e400"
    (fault,) = fails(tmp_path, rows, "'1e400' in row 5", order="visit")
    assert "row 2" not in fault
    fails(tmp_path, rows, "'visit'", "'1e400' in table.csv row 5 is no", covariates=("visit",))


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["61", "70", ">89", "55", "", "48"], "'>89' in table.csv row 4 is no finite number"),
        (["61,3", "70,1", "55", "n/a", "41.5", "48"], "'41.5' in table.csv row 6 is no finite"),
    ],
)
def test_a_number_of_covariates_is_no_name(tmp_path: Path, cells: list[str], words: str) -> None:
    rows = [{**row, "age": cell} for row, cell in zip(rows_of(), cells, strict=True)]
    fails(tmp_path, rows, "column 'age'", words, covariates=("age",))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("X-001", "X-1"),
        ("1,000", "1000"),
        ("X1", "X\u200b1"),
        ("X 1", "X  1"),
        ("p7", "P7"),
        ("'12", "12"),
        ("7.0", "007"),
        ("McDonald1", "MCDONALD1"),
        ("Pat_A1", "PAT_A1"),
        ("a1Bc", "A1BC"),
        ("P 1", "P1"),
        ("P-1", "P_1"),
        ("P.1", "-P1"),
        ("COVID-19-AR-0007", "COVID-19-AR-7"),
        ("101-01", "101-1"),
        ("1.05", "1.5"),
        ("aB3x", "ab3X"),
        ("1-11", "1\u201011"),
        ("1 \u2013 11", "1\u221211"),
        ("1__11", "01.011"),
        ("A\u2014B", "ab"),
    ],
)
def test_spellings_of_one_patient_or_centre_are_refused(
    tmp_path: Path, one: str, other: str
) -> None:
    rows = [{**row, "site": "A"} for row in rows_of(4)]
    rows[0] |= {"patient": one, "site": one}
    rows[2] |= {"patient": other, "site": other}
    patients, centres = fails(tmp_path, rows, "how a number is written", centre="site")
    assert patients.startswith(f"patients {one!a} (table.csv row 2) and {other!a}")
    assert centres.startswith(f"centres {one!a} (table.csv row 2) and {other!a}")
    distinct = read(tmp_path / "distinct", rows, centre="site", distinct_spellings=True)
    assert distinct.table["patient_id"].nunique() == 4
    assert "dataset.distinct_spellings=true" in patients
    rows[2] |= {"patient": "X-22", "site": "X-22"}
    read(tmp_path / "other", rows, centre="site")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1 12", "11 2"),
        ("1-11", "11-1"),
        ("1-11", "111"),
        ("1-A-11", "1-A11-1"),
        ("P-10", "P-1"),
        ("1.50", "1.5"),
        ("McDonald", "MacDonald"),
    ],
)
def test_names_of_different_patients_are_none(tmp_path: Path, one: str, other: str) -> None:
    rows = rows_of(4)
    rows[0]["patient"], rows[2]["patient"] = one, other
    assert read(tmp_path, rows).table["patient_id"].nunique() == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [("McDonald1", "MCDONALD1"), ("P 1", "P1"), ("P-1", "P_1"), ("101-01", "101-1")],
)
def test_a_reader_without_the_way_out_takes_fewer_names_for_one(
    tmp_path: Path, one: str, other: str
) -> None:
    root = make_covid_chestxray(tmp_path)
    table = root / "metadata.csv"
    known = table.read_text(encoding="cp1252")

    def name(first: str, second: str) -> None:
        named = re.sub("(?m)^1,", f"{first},", known)
        table.write_text(re.sub("(?m)^2,", f"{second},", named), encoding="cp1252")

    name(one, other)
    cohort = DATASETS["covid_chestxray"](root=root, task="mortality")
    assert {one, other} < set(cohort.table["patient_id"])
    name("X-001", "X-1")
    with pytest.raises(DataError, match=r"patients 'X-001' .* and 'X-1' .* as text$") as caught:
        DATASETS["covid_chestxray"](root=root, task="mortality")
    assert "distinct_spellings" not in str(caught.value)


def test_composed_and_decomposed_accents_are_one(tmp_path: Path) -> None:
    rows = rows_of(4)
    for row, name in zip(rows[::2], ("Jos\u00e9", "Jose\u0301"), strict=True):
        row["patient"] = name
    rows[0]["image"] = "gro\u0308sse.png"  # as some systems write names of files
    folder_of(tmp_path, rows)
    rows[0]["image"] = "gr\u00f6sse.png"
    text = "patient,image,outcome\n" + "\n".join(",".join(row.values()) for row in rows)
    cohort = read(tmp_path, rows[1:], text=text)
    assert cohort.table["patient_id"].nunique() == 3
    assert cohort.table["image"][0] == "gro\u0308sse.png"
    text = text.replace("dead", "d\u00e9c\u00e8s").replace("outcome", "\u00e9tat")
    chosen = {
        "label": "e\u0301tat",
        "positive": "de\u0301ce\u0300s",
        "exclude": ("gro\u0308sse.png",),
    }
    cohort = read(tmp_path, rows[1:], text=text, **chosen)
    assert cohort.classes == ("alive", "d\u00e9c\u00e8s")
    assert cohort.table["patient_id"].tolist() == ["002", "Jos\u00e9", "004"]


@pytest.mark.parametrize("nobody", ["None", "-", "#REF!", "NaT", "unknown", ""])
def test_what_stands_for_no_patient_is_no_patient(tmp_path: Path, nobody: str) -> None:
    rows = rows_of()
    for row in rows[2:4]:
        row["patient"] = nobody
    (fault,) = fails(tmp_path, rows, "no patient in table.csv row 4, table.csv row 5")
    assert "merged cells" in fault


def test_numbers_that_a_spreadsheet_rounded_are_no_patients(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    for cells in (
        ("patient", "image", "outcome"),
        *((10**16 + 10 * at, f"{at}.png", "dead") for at in (1, 2)),
    ):
        book.active.append(cells)
    book.save(tmp_path / "ids.xlsx")
    fails(tmp_path, rows_of(), "ids.xlsx row 2", "rounded (2 rows)", table=tmp_path / "ids.xlsx")


def test_outcomes_that_differ_in_case_are_no_classes(tmp_path: Path) -> None:
    rows = rows_of()
    rows[1]["outcome"] = "Dead"
    fails(
        tmp_path, rows, "'Dead' and 'dead' differ only in case", "write them alike", positive=None
    )
    assert read(tmp_path, rows, classes=("alive", "dead"), on_unknown_label="drop").classes[1]


def test_all_faults_of_a_table_are_told_at_once(tmp_path: Path) -> None:
    rows = [{**row, "age": "inf", "day": "x"} for row in rows_of()]
    chosen = {"images": tmp_path / "none", "covariates": ("age",), "order": "day"}
    assert len(fails(tmp_path, rows, "does not exist", "'age'", "'day'", **chosen)) == 3
    assert len(fails(tmp_path, rows, "'ages'", "'sex'", covariates=("ages",), keep=("sex",))) == 3


def test_moments_with_a_zone_are_compared_in_utc(tmp_path: Path) -> None:
    moments = ("2020-03-01T01:00:00+02:00", "2020-02-29T23:30:00+00:00")
    rows = [{**row, "at": moments[at % 2]} for at, row in enumerate(rows_of())]
    order = read(tmp_path, rows, order="at").table["order"]
    assert order[1] - order[0] == pytest.approx(0.5 / 24)


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


def test_extras_that_are_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    table = tmp_path / "table.parquet"
    table.touch()
    folder = folder_of(tmp_path, rows_of())
    with pytest.raises(MissingExtraError, match=r"prognobench\[tables\]"):
        DATASETS["table"](table=table, images=folder, label="outcome", positive="dead")
