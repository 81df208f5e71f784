"""Several cohorts as one."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from made_cohorts import make_covid_chestxray, write_csv, write_image

from prognobench.cli.compose import compose
from prognobench.errors import ConfigError, DataError
from prognobench.records import Cohort
from prognobench.registry import CVS, DATASETS


def fails(*words: str, parts: dict[str, Any]) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        DATASETS["union"](parts=parts)
    for word in words:
        assert word in str(caught.value)
    return str(caught.value)


def small_table(folder: Path, words: tuple[str, str] = ("alive", "dead")) -> dict[str, Any]:
    rows = [
        {
            "patient": f"p{at}",
            "image": f"{at}.png",
            "outcome": words[at % 2],
            "site": "x",
            "age": at,
        }
        for at in range(4)
    ]
    for at in range(4):
        write_image(folder / "images" / f"{at}.png", at)
    return {
        "builder": "table",
        "table": str(write_csv(folder / "table.csv", rows)),
        "images": str(folder / "images"),
        "image": "image",
        "label": "outcome",
        "positive": words[1],
        "covariates": ["age"],
    }


def test_union_keeps_parts_apart(tmp_path: Path) -> None:
    one = {**small_table(tmp_path / "one"), "centre": "site", "name": "first"}
    two = small_table(tmp_path / "two", ("discharged", "deceased"))
    cohort: Cohort = DATASETS["union"](parts={"one": one, "two": two}, classes=("alive", "dead"))
    table = cohort.table
    assert table["patient_id"].tolist() == [
        f"{part}:p{at}" for part in ("one", "two") for at in range(4)
    ]
    assert table["centre"].tolist() == ["one:x"] * 4 + ["two"] * 4
    assert table["cohort"].tolist() == ["one"] * 4 + ["two"] * 4
    assert set(table["source"]) == set(cohort.sources) == {"one", "two"}
    assert cohort.covariates == ("age",)
    assert table["label"].tolist() == [0, 1] * 4


def test_a_covariate_is_numbers_or_names_in_all_parts(tmp_path: Path) -> None:
    parts = {name: small_table(tmp_path / name) for name in ("one", "two")}
    parts["two"]["codes"] = ["age"]
    fails("covariate 'age' is numbers in one, names in two; name it in", parts=parts)
    parts["one"]["codes"] = ["age"]
    assert DATASETS["union"](parts=parts).table["age"].tolist() == ["0", "1", "2", "3"] * 2


def test_union_of_embedded_cohorts_keeps_the_risk() -> None:
    part = {"builder": "embedded", "task": "mortality", "prevalence": 0.3, "patients": 20}
    parts = {"a": {**part, "seed": 1}, "b": {**part, "seed": 2}}
    cohort: Cohort = DATASETS["union"](parts=parts)
    assert cohort.synthetic
    assert cohort.risk is not None
    assert len(cohort.risk) == len(cohort)
    told = fails("20 patients of part b stand in a", parts={"a": part, "b": dict(part)})
    assert "dataset.on_overlap=drop" in told


def test_a_patient_of_two_parts_stays_with_the_first(tmp_path: Path) -> None:
    root = str(make_covid_chestxray(tmp_path))
    part = {"builder": "covid_chestxray", "root": root}
    parts = {"icu": {**part, "task": "icu"}, "mortality": {**part, "task": "mortality"}}
    classes = ("no event", "event")
    alone = {task: DATASETS["covid_chestxray"](root=Path(root), task=task) for task in parts}
    with pytest.raises(DataError, match=r"6 patients of part mortality stand in icu as well \(1,"):
        DATASETS["union"](parts=parts, classes=classes)
    cohort: Cohort = DATASETS["union"](parts=parts, classes=classes, on_overlap="drop")
    patients = cohort.table.groupby("cohort")["patient_id"].agg(set)
    assert patients["icu"] == {f"icu:{name}" for name in alone["icu"].table["patient_id"]}
    assert patients["mortality"] == {"mortality:8"}
    assert cohort.exclusions is not None
    reasons = cohort.exclusions["reason"].value_counts()
    assert reasons["the patient stands in an earlier part"] == 6
    # Another image of the same patient is the same patient all the same.
    later = {"icu": {**parts["icu"], "select": "last"}, "mortality": parts["mortality"]}
    with pytest.raises(DataError, match="6 patients of part mortality"):
        DATASETS["union"](parts=later, classes=classes)


@pytest.mark.parametrize("masked", ["masked", "images/masked"])
@pytest.mark.parametrize("column", ["patient", "image"])
def test_patients_of_one_table_are_the_same_with_whatever_images(
    tmp_path: Path, masked: str, column: str
) -> None:
    raw = small_table(tmp_path)
    for at in range(4):
        write_image(tmp_path / masked / f"{at}.png", at + 10)
    (tmp_path / "link.csv").symlink_to(raw["table"])
    other = {**raw, "images": str(tmp_path / masked), "patient": column}
    for table in (raw["table"], str(tmp_path / "link.csv")):
        parts = {"a": raw, "b": {**other, "table": table}}
        told = fails("4 patients of part b stand in a as well", parts=parts)
        assert "dataset.on_overlap=drop" in told
    parts = {"a": {**raw, "exclude": ["p0", "p1"]}, "b": other}
    cohort: Cohort = DATASETS["union"](parts=parts, on_overlap="drop")
    assert cohort.table["cohort"].tolist() == ["a"] * 2 + ["b"] * 2
    assert cohort.table["where"].tolist() == [
        *("a: table.csv row 4", "a: table.csv row 5", "b: table.csv row 2", "b: table.csv row 3")
    ]


def test_a_published_table_read_as_any_table_has_the_same_patients(tmp_path: Path) -> None:
    root = make_covid_chestxray(tmp_path / "published")
    copytree(root / "images", tmp_path / "masked")
    table = {
        **{"builder": "table", "table": str(root / "metadata.csv"), "label": "went_icu"},
        **{"images": str(tmp_path / "masked"), "patient": "patientid", "image": "filename"},
        **{"classes": ("N", "Y"), "on_unknown_label": "drop", "on_missing": "drop"},
        **{"on_conflict": "drop", "exclude": ["311a"]},
    }
    parts = {"icu": {"builder": "covid_chestxray", "root": str(root), "task": "icu"}, "b": table}
    with pytest.raises(DataError, match=r"6 patients of part b stand in icu as well \(1, 2, 3,"):
        DATASETS["union"](parts=parts, classes=("no icu", "icu"))


def test_ids_are_one_patients_where_folders_overlap(tmp_path: Path) -> None:
    inner = small_table(tmp_path / "site")
    write_image(tmp_path / "site" / "images" / "later.png", 9)
    write_image(tmp_path / "elsewhere.png", 10)

    def outer(first: str, second: str, patients: tuple[str, str] = ("p0", "p1")) -> dict[str, Any]:
        rows = [
            {"patient": patient, "image": image, "outcome": outcome, "age": 50}
            for patient, image, outcome in zip(
                patients, (first, second), ("alive", "dead"), strict=True
            )
        ]
        table = write_csv(tmp_path / "all.csv", rows)
        return {**inner, "table": str(table), "images": str(tmp_path)}

    other = outer("site/images/later.png", "elsewhere.png")
    fails("1 patients of part b stand in a as well (p0)", parts={"a": inner, "b": other})
    fails("1 patients of part b stand in a as well (p0)", parts={"a": other, "b": inner})
    other = outer("site/images/later.png", "site/images/3.png", ("x", "y"))
    fails("1 patients of part b stand in a as well (y)", parts={"a": inner, "b": other})


def test_spellings_of_one_id_in_two_tables_of_one_folder_are_one_patient(tmp_path: Path) -> None:
    first = small_table(tmp_path)
    rows = [
        {"patient": f"P-0{at}", "image": f"late-{at}.png", "outcome": ("alive", "dead")[at % 2]}
        for at in range(4)
    ]
    for at in range(4):
        write_image(tmp_path / "images" / f"late-{at}.png", at + 10)
    second = {**first, "table": str(write_csv(tmp_path / "late.csv", rows)), "covariates": []}
    fails("4 patients of part b stand in a as well", parts={"a": first, "b": second})
    parts = {"a": first, "b": {**second, "distinct_spellings": True}}
    assert DATASETS["union"](parts=parts).table["patient_id"].nunique() == 8


def test_equal_ids_of_unrelated_folders_are_different_patients(tmp_path: Path) -> None:
    parts = {name: small_table(tmp_path / name) for name in ("one", "two")}
    assert DATASETS["union"](parts=parts).table["patient_id"].nunique() == 8
    parts["one"]["images"] = str(tmp_path)
    table = Path(parts["one"]["table"])
    paths = [(f",{at}.png", f",one/images/{at}.png") for at in range(4)]
    for name, path in paths:
        table.write_text(table.read_text().replace(name, path))
    assert DATASETS["union"](parts=parts).table["patient_id"].nunique() == 8


def test_a_blank_centre_is_none_where_the_part_knows_others(tmp_path: Path) -> None:
    parts = {name: small_table(tmp_path / name) for name in ("one", "two")}
    table = Path(parts["one"]["table"])
    table.write_text(table.read_text().replace("p0,0.png,alive,x", "p0,0.png,alive,"))
    parts["one"]["centre"] = "site"
    cohort: Cohort = DATASETS["union"](parts=parts)
    assert cohort.table["centre"].tolist() == ["unknown"] + ["one:x"] * 3 + ["two"] * 4
    with pytest.raises(DataError, match=r"patients without a known centre: 1 \(one:p0\)"):
        CVS["leave_one_centre_out"](cohort, 42, min_per_class=1)
    # Nor where those whose centre is known stand in an earlier part.
    parts = {"some": {**parts["one"], "exclude": ["p0"]}, "all": parts["one"]}
    cohort = DATASETS["union"](parts=parts, on_overlap="drop")
    assert cohort.table["centre"].tolist() == ["some:x"] * 3 + ["unknown"]


def test_union_reports_all_faults_of_all_parts(tmp_path: Path) -> None:
    one, two = small_table(tmp_path / "one"), small_table(tmp_path / "two", ("no", "yes"))
    fails("a: alive, dead; b: no, yes", "dataset.classes", parts={"a": one, "b": two})
    told = fails(
        "unknown key 'dataset.parts.a.lable'. Did you mean",
        "dataset.parts.a.label is missing",
        "dataset.parts.b.builder",
        "Did you mean 'table'",
        parts={
            "a": {key.replace("label", "lable"): value for key, value in one.items()},
            "b": {"builder": "tabel"},
            "c": {**two, "select": "best"},
        },
    )
    assert "dataset.parts.c.select='best'" in told
    (tmp_path / "one" / "images" / "0.png").unlink()
    fails("a: 1 of 4", "b: 1 of 4", parts={"a": one, "b": one})
    fails("two parts or more", parts={})


def test_a_union_prepares_images_as_all_its_parts_say_or_as_it_says_itself(tmp_path: Path) -> None:
    one = [
        "dataset=union",
        "+dataset@dataset.parts.one=afc_severity",
        f"dataset.parts.one.root={tmp_path}",
    ]
    two = ["+dataset@dataset.parts.two=afc_mortality", f"dataset.parts.two.root={tmp_path}"]
    (config,) = compose([*one, *two])
    assert config.image.equalise
    other = ["+dataset@dataset.parts.two=car_icu", f"dataset.parts.two.root={tmp_path}"]
    with pytest.raises(ConfigError, match=r"one: .'equalise': True.; two: ..\)"):
        compose([*one, *other])
    (config,) = compose([*one, *other, "dataset.pixels.equalise=false"])
    assert not config.image.equalise
