"""The public cohorts, read from trees in their own layout with their own traps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_cohorts import (
    Collection,
    make_aiforcovid,
    make_covid_19_ar,
    make_covid_19_ny,
    make_covid_chestxray,
    write_image,
    write_xls,
)

from prognobench.errors import DataError
from prognobench.records import Cohort, Files
from prognobench.registry import DATASETS


def read(builder: str, **settings: Any) -> Cohort:
    cohort: Cohort = DATASETS[builder](**settings)
    source = cohort.sources["images"]
    assert isinstance(source, Files)
    assert list(cohort.table.columns[:6]) == [
        *("patient_id", "image", "source", "label", "centre", "order")
    ]
    assert all((source.root / image).is_file() for image in cohort.table["image"])
    assert isinstance(cohort.table.index, pd.RangeIndex)
    return cohort


def reasons(cohort: Cohort) -> dict[str, str]:
    assert cohort.exclusions is not None
    return dict(zip(cohort.exclusions["item"], cohort.exclusions["reason"], strict=True))


def fails(builder: str, *words: str, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        DATASETS[builder](**settings)
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------ AIforCOVID


def test_aiforcovid_reads_all_releases(tmp_path: Path) -> None:
    cohort = read("aiforcovid", root=make_aiforcovid(tmp_path), task="severity")
    table = cohort.table
    assert cohort.classes == ("mild", "severe")
    assert len(table) == table["patient_id"].nunique() == 17
    assert set(table["centre"]) == set("ABCDEF")
    assert table.loc[table["patient_id"] == "P_1_2", "image"].tolist() == ["imgs_r2/P_1_2.dcm"]
    assert table.set_index("patient_id")["label"][["P_1", "P_2"]].tolist() == [0, 1]
    assert table["Age"].dtype == float
    assert "unusable" in reasons(cohort)["imgs_r3/P_3_20"]


@pytest.mark.parametrize("deaths", [(0, 1), ("alive", "dead"), ("No", "Yes"), (False, True)])
def test_aiforcovid_mortality_in_the_likely_encodings(
    tmp_path: Path, deaths: tuple[Any, Any]
) -> None:
    cohort = read("aiforcovid", root=make_aiforcovid(tmp_path, deaths), task="mortality")
    assert cohort.classes == ("alive", "dead")
    assert cohort.table["label"].sum() == 4
    assert "blank" in reasons(cohort)["imgs/P_3"]


def test_aiforcovid_says_which_words_it_expected(tmp_path: Path) -> None:
    make_aiforcovid(tmp_path, ("vivo", "morto"))
    told = fails("aiforcovid", "expected alive", "'morto'", root=tmp_path, task="mortality")
    assert all(f"AIforCOVID{release}.xlsx" in told for release in ("", "_r2", "_r3"))


def test_aiforcovid_names_every_missing_image(tmp_path: Path) -> None:
    make_aiforcovid(tmp_path)
    for name in ("imgs/P_1.dcm", "imgs_r3/P_3_2.dcm"):
        (tmp_path / name).unlink()
    (tmp_path / "imgs" / "P_4.dcm").write_bytes(b"broken")
    told = fails("aiforcovid", "imgs/P_1'", "imgs_r3/P_3_2'", root=tmp_path, task="severity")
    assert "imgs/P_4.dcm is" in told
    cohort = read("aiforcovid", root=tmp_path, task="severity", on_missing="drop")
    assert len(cohort) == 14


@pytest.mark.parametrize("table", ["trainClinData.xls", "TrainSet/trainClinData.xls"])
def test_aiforcovid_hackathon_edition(tmp_path: Path, table: str) -> None:
    header = ["ImageFile", "Hospital", "Age", "Sex", "Positivity at admission", "Prognosis"]
    rows = [[f"P_{at}.png", "A", 50.0, 1.0, True, ("MILD", "SEVERE")[at % 2]] for at in range(4)]
    for at in range(4):
        write_image(tmp_path / "TrainSet" / "TrainSet" / f"P_{at}.png", at)
    write_xls(tmp_path / table, [header, *rows])
    cohort = read("aiforcovid", root=tmp_path, task="severity")
    assert cohort.table["patient_id"].tolist() == ["P_0", "P_1", "P_2", "P_3"]
    assert cohort.table["image"][0] == "TrainSet/TrainSet/P_0.png"
    assert cohort.table["label"].tolist() == [0, 1, 0, 1]


def test_aiforcovid_without_its_tables(tmp_path: Path) -> None:
    (tmp_path / "imgs").mkdir()
    fails(
        "aiforcovid",
        "expected a table AIforCOVID.xlsx",
        "found imgs",
        root=tmp_path,
        task="severity",
    )
    fails("aiforcovid", "does not exist", root=tmp_path / "none", task="severity")


# ------------------------------------------------------------------ COVID-19-AR


@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize("yes_no", [(0, 1), ("N", "Y")])
def test_covid_19_ar_takes_the_first_frontal_image(
    tmp_path: Path, metadata: bool, yes_no: tuple[Any, Any]
) -> None:
    root = make_covid_19_ar(tmp_path, yes_no, metadata)
    cohort = read("covid_19_ar", root=root, task="icu")
    table = cohort.table.set_index("patient_id")
    assert len(table) == table.index.nunique() == 8
    assert table["label"].tolist() == [0, 1] * 4
    # The earlier of two PA images of a series, though its file comes second.
    assert "XR CHEST PA AND LATERAL" in table.loc["COVID-19-AR-16400001", "image"]
    assert table.loc["COVID-19-AR-16400001", "image"].endswith("1-002.dcm")
    assert table["order"].is_monotonic_increasing is False
    left_out = reasons(cohort)
    told = "\n".join(f"{item}: {reason}" for item, reason in left_out.items())
    assert "modality CT" in told
    assert "XR ABDOMEN" in told
    assert "not a frontal view (LL)" in told
    assert "not a frontal view (LATERAL)" in told
    assert "has no frontal chest X-ray" in left_out["patient COVID-19-AR-16409999"]
    assert "no row in the table" in left_out["patient COVID-19-AR-99999999"]
    assert "not of the day" in told


def test_covid_19_ar_all_and_last_images(tmp_path: Path) -> None:
    root = make_covid_19_ar(tmp_path)
    everything = read("covid_19_ar", root=root, task="mortality", select="all")
    images = everything.table.groupby("patient_id").size()
    assert images["COVID-19-AR-16400000"] == 1
    assert images["COVID-19-AR-16400001"] == 5
    last = read("covid_19_ar", root=root, task="mortality", select="last")
    assert len(last) == 8
    newest = everything.table.groupby("patient_id")["order"].max()
    assert last.table.set_index("patient_id")["order"].to_dict() == newest.to_dict()


def test_covid_19_ar_ids_that_became_numbers(tmp_path: Path) -> None:
    from openpyxl import load_workbook

    root = make_covid_19_ar(tmp_path)
    path = root / "COVID_19_AR_ClinicalCorrelates_July202020.xlsx"
    book = load_workbook(path)
    for row in book.active.iter_rows(min_row=3, max_col=1):
        row[0].value = float(str(row[0].value).rpartition("-")[2])
    book.save(path)
    cohort = read("covid_19_ar", root=root, task="icu")
    assert len(cohort) == 8


def test_covid_19_ar_broken_images(tmp_path: Path) -> None:
    root = make_covid_19_ar(tmp_path)
    image = next(root.glob("*/*/COVID-19-AR-16400003/01-05*/*/*.dcm"))
    image.write_bytes(image.read_bytes()[:-60])
    fails("covid_19_ar", "is truncated", image.name, root=root, task="icu")
    cohort = read("covid_19_ar", root=root, task="icu", on_missing="drop")
    image = cohort.table.set_index("patient_id")["image"]["COVID-19-AR-16400003"]
    assert "01-09-2012" in image, "the next day's image stands in for the broken one"


def test_covid_19_ar_without_what_it_needs(tmp_path: Path) -> None:
    fails("covid_19_ar", "expected the clinical table", "found nothing", root=tmp_path, task="icu")
    root = make_covid_19_ar(tmp_path)
    fails(
        "covid_19_ar",
        "expected a column 'Weight'",
        "AGE",
        root=root,
        task="icu",
        covariates=("Weight",),
    )
    (root / "manifest-1600000000000" / "COVID-19-AR").rename(root / "elsewhere")
    fails("covid_19_ar", "expected the folder of the collection", root=root, task="icu")


# ------------------------------------------------------------------ COVID-19-NY-SBU


@pytest.mark.parametrize("metadata", [False, True])
def test_covid_19_ny_takes_the_earliest_image(tmp_path: Path, metadata: bool) -> None:
    root = make_covid_19_ny(tmp_path, metadata)
    cohort = read("covid_19_ny_sbu", root=root, task="mortality")
    table = cohort.table
    assert cohort.classes == ("alive", "dead")
    assert len(table) == table["patient_id"].nunique() == 9
    assert table["label"].sum() == 3
    assert not table["image"].str.contains("ENHANCED|LATERAL|CT|MRI|KNEE").any()
    assert set(table["view"]) == {"PA"}
    told = "\n".join(reasons(cohort).values())
    for word in (
        "modality CT",
        "modality MR",
        "enhanced copy",
        "processed copy",
        "LATERAL",
        "KNEE",
    ):
        assert word in told
    assert "has no frontal chest X-ray" in reasons(cohort)["patient A000009"]
    assert ("not of the day" in told) == metadata


def test_covid_19_ny_icu_and_missing_series(tmp_path: Path) -> None:
    root = make_covid_19_ny(tmp_path)
    assert read("covid_19_ny_sbu", root=root, task="icu").table["label"].sum() == 3
    told = fails("covid_19_ny_sbu", "6 of", root=root, task="icu", select="all")
    assert "A000001" in told
    cohort = read("covid_19_ny_sbu", root=root, task="icu", select="all", on_missing="drop")
    assert cohort.table.groupby("patient_id").size()[["A000001", "A000004"]].tolist() == [1, 7]


def test_a_first_image_that_is_lost_is_told(tmp_path: Path) -> None:
    root = make_covid_19_ny(tmp_path)
    chosen = {"root": root, "task": "icu", "select": "first", "on_missing": "drop"}
    first = read("covid_19_ny_sbu", **chosen).table.set_index("patient_id")["image"]["A000004"]
    (root / first).write_bytes(b"")
    cohort = read("covid_19_ny_sbu", **chosen)
    assert cohort.table.set_index("patient_id")["image"]["A000004"] != first
    assert "is empty; it would have been the first image" in reasons(cohort)[first]


def test_covid_19_ny_with_another_table(tmp_path: Path) -> None:
    root = make_covid_19_ny(tmp_path)
    table = next(root.glob("*csv_20210806.csv"))
    table.write_text(table.read_text().replace("deceased", "expired").replace("A0", "B0"))
    fails("covid_19_ny_sbu", "expected discharged", "'expired' (3)", root=root, task="mortality")
    fails("covid_19_ny_sbu", "calls them B000000", "folders A000000", root=root, task="icu")


def test_a_image_is_a_chest_image_by_its_body_part(tmp_path: Path) -> None:
    root = make_covid_19_ny(tmp_path, metadata=False)
    more = Collection(tmp_path / "second download", "COVID-19-NY-SBU")
    more.add("A000009", "19000101", study="PORTABLE", series="AP", BodyPartExamined="CHEST")
    more.add("A000000", "18991231", study="PORTABLE", series="AP", BodyPartExamined="PELVIS")
    (root / "second download" / "manifest-1600000000000").rename(root / "manifest-2")
    cohort = read("covid_19_ny_sbu", root=root, task="icu")
    assert len(cohort) == 10, "images of both downloads"
    assert "not a chest X-ray (PORTABLE / AP / PELVIS)" in reasons(cohort).values()


def test_the_first_image_of_a_day_is_so_whatever_series_it_stands_in(tmp_path: Path) -> None:
    root = make_covid_19_ny(tmp_path, metadata=False)
    more = Collection(tmp_path / "second download", "COVID-19-NY-SBU")
    for patient in ("A000000", "A000003"):
        more.add(patient, "19000105", series="CHEST NIGHT", times=("010000",), views=("PA",))
    (root / "second download" / "manifest-1600000000000").rename(root / "manifest-2")

    first, last, every = (
        read("covid_19_ny_sbu", root=root, task="mortality", select=select)
        for select in ("first", "last", "all")
    )
    images = first.table.set_index("patient_id")["image"]
    assert "CHEST NIGHT" in images["A000000"]
    assert "CHEST NIGHT" in images["A000003"]
    assert "CHEST PA" in last.table.set_index("patient_id")["image"]["A000000"]
    assert every.table["patient_id"].value_counts()[["A000000", "A000003"]].tolist() == [2, 2]


def test_dates_of_a_list_that_was_saved_anew(tmp_path: Path) -> None:
    root = make_covid_19_ny(tmp_path)
    listed = root / "manifest-1600000000000" / "metadata.csv"
    images = read("covid_19_ny_sbu", root=root, task="mortality").table["image"].tolist()
    text = listed.read_text()
    iso = re.sub(r"(?<=,)(\d\d)-(\d\d)-(\d{4})(?=,)", r"\3-\1-\2", text)
    assert iso != text
    listed.write_text(iso)
    assert read("covid_19_ny_sbu", root=root, task="mortality").table["image"].tolist() == images
    listed.write_text(re.sub(r"(?<=,)(\d\d)-(\d\d)-(\d{4})(?=,)", r"day \2", text))
    fails("covid_19_ny_sbu", "Study Date 'day 05'", "month-day-year", root=root, task="mortality")


def test_series_of_a_list_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    root = make_covid_19_ny(tmp_path)
    listed = root / "manifest-1600000000000" / "metadata.csv"
    listed.write_text(listed.read_text().replace(".\\COVID", "..\\..\\COVID", 1))
    fails("covid_19_ny_sbu", "metadata.csv row 2", "lies outside", root=root, task="icu")


# ------------------------------------------------------------------ covid-chestxray


def test_covid_chestxray_defects(tmp_path: Path) -> None:
    cohort = read("covid_chestxray", root=make_covid_chestxray(tmp_path), task="mortality")
    assert cohort.classes == ("alive", "dead")
    table = cohort.table.set_index("patient_id")
    assert table["label"].to_dict() == {"1": 1, "2": 1, **dict.fromkeys("34568", 0)}
    assert table.loc["1", "image"] == "early-0.jpg"
    assert table.loc["8", "image"] == "unstated.png"
    assert table.loc["8", "centre"] == "unknown"
    assert table.loc["1", "order"] == -2
    left_out = reasons(cohort)
    assert "no image" in left_out["lost.jpg"]
    assert "not a frontal view" in left_out["lateral.png"]
    assert "not an X-ray" in left_out["slice.png"]
    assert "not the first image" in left_out["late-0.png"]
    assert "an earlier row (metadata.csv row 19)" in left_out["early-0.jpg"]
    assert cohort.exclusions is not None
    assert len(cohort) + len(cohort.exclusions) == 18


def test_covid_chestxray_icu_images_before_admission(tmp_path: Path) -> None:
    root = make_covid_chestxray(tmp_path)
    before = read("covid_chestxray", root=root, task="icu", select="all")
    assert before.table["image"].str.startswith("early").all()
    everything = read("covid_chestxray", root=root, task="icu", select="all", before_outcome=False)
    assert len(everything) == 12
    assert "Would have been stated" in reasons(before)["unstated.png"]


def test_covid_chestxray_excludes_a_patient_that_was_left_out_anyway(tmp_path: Path) -> None:
    root = make_covid_chestxray(tmp_path)
    cohort = read(
        "covid_chestxray", root=root, task="mortality", exclude=("311a", 1, "early-1.jpg")
    )
    assert set(cohort.table["patient_id"]) == set("234568")
    assert "late-1.png" in set(cohort.table["image"])


def test_covid_chestxray_missing_files_as_an_error(tmp_path: Path) -> None:
    root = make_covid_chestxray(tmp_path)
    fails("covid_chestxray", "lost.jpg", root=root, task="mortality", on_missing="error")


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("task", "settings", "counts"),
    [
        ("mortality", {}, (107, 107, 21)),
        ("mortality", {"select": "all"}, (223, 107, 21)),
        ("icu", {}, (102, 102, 53)),
        ("icu", {"select": "all", "before_outcome": False}, (277, 122, 73)),
        ("intubation", {}, (78, 78, 38)),
        ("intubation", {"select": "all", "before_outcome": False}, (200, 89, 49)),
    ],
)
def test_the_real_cohort(
    real_cohort_root: Path, task: str, settings: dict[str, Any], counts: tuple[int, int, int]
) -> None:
    cohort = read("covid_chestxray", root=real_cohort_root, task=task, **settings)
    labels = cohort.table.groupby("patient_id")["label"].first()
    assert (len(cohort), len(labels), labels.sum()) == counts
    assert cohort.exclusions is not None
    assert len(cohort) + len(cohort.exclusions) == 751
