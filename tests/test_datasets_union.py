"""Several cohorts as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_cohorts import make_covid_chestxray, write_csv, write_image

from prognobench.compose import compose
from prognobench.errors import ConfigError, DataError
from prognobench.records import Cohort
from prognobench.registry import DATASETS


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
    # Another film of the same patient is the same patient all the same.
    later = {"icu": {**parts["icu"], "films": "last"}, "mortality": parts["mortality"]}
    with pytest.raises(DataError, match="6 patients of part mortality"):
        DATASETS["union"](parts=later, classes=classes)


def test_union_reports_all_faults_of_all_parts(tmp_path: Path) -> None:
    one, two = small_table(tmp_path / "one"), small_table(tmp_path / "two", ("no", "yes"))
    fails("a: alive, dead; b: no, yes", "dataset.classes", parts={"a": one, "b": two})
    told = fails(
        "unknown key 'dataset.parts.a.lable', did you mean",
        "dataset.parts.a.label is missing",
        "dataset.parts.b.builder",
        "did you mean 'table'",
        parts={
            "a": {key.replace("label", "lable"): value for key, value in one.items()},
            "b": {"builder": "tabel"},
            "c": {**two, "films": "best"},
        },
    )
    assert "dataset.parts.c.films='best'" in told
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
