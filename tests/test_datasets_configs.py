"""The YAML of each cohort, from the command line to its builder."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import yaml
from made_cohorts import (
    make_aiforcovid,
    make_covid_19_ar,
    make_covid_19_ny,
    make_covid_chestxray,
    write_image,
    write_xlsx,
)

from prognobench.cli.compose import compose
from prognobench.cli.config_files import config_root
from prognobench.config import BESIDE
from prognobench.errors import DataError
from prognobench.records import Cohort, ImageOptions
from prognobench.registry import DATASETS

MAKERS = {
    "afc": make_aiforcovid,
    "car": make_covid_19_ar,
    "ny": make_covid_19_ny,
    "cxr": make_covid_chestxray,
}


def build(*overrides: str) -> Cohort:
    (config,) = compose(overrides)
    cohort: Cohort = DATASETS[config.dataset.builder](**config.dataset.settings)
    return cohort


@pytest.mark.parametrize(
    "name",
    [
        *("afc_severity", "afc_mortality", "car_icu", "car_mortality"),
        *("ny_mortality", "ny_icu", "cxr_mortality", "cxr_icu", "cxr_intubation"),
    ],
)
def test_each_task_needs_its_root_alone(tmp_path: Path, name: str) -> None:
    root = MAKERS[name.partition("_")[0]](tmp_path)
    cohort = build(f"dataset={name}", f"dataset.root={root}")
    assert cohort.name == name
    assert len(cohort) == cohort.table["patient_id"].nunique()
    assert set(cohort.table["label"]) == {0, 1}


def test_images_on_which_the_tube_is_seen_are_left_out(tmp_path: Path) -> None:
    root = make_covid_chestxray(tmp_path)
    given = ("dataset=cxr_intubation", f"dataset.root={root}", "dataset.select=all")
    cohort = build(*given)
    assert "late-1.png" not in set(cohort.table["image"])
    assert cohort.exclusions is not None
    reason = "taken when the outcome had come true (intubation_present is Y)"
    assert cohort.exclusions["reason"].str.startswith(reason).sum() == 2
    assert "late-1.png" in set(build(*given, "dataset.before_outcome=false").table["image"])


def test_intubation_of_a_tree_without_it(tmp_path: Path) -> None:
    root = make_covid_chestxray(tmp_path)
    table = pd.read_csv(root / "metadata.csv", encoding="cp1252", dtype=str)
    table.assign(intubated="").to_csv(root / "metadata.csv", index=False)
    with pytest.raises(DataError, match="no patient at all is left"):
        build("dataset=cxr_intubation", f"dataset.root={root}")


def test_cocross_reads_folders_and_files_named_by_id(tmp_path: Path) -> None:
    rows = [[f"{at:02d}", ("Alive", "Death")[at % 2]] for at in range(6)]
    table = write_xlsx(tmp_path / "cocross.xlsx", [["ID", "ICU Outcome"], *rows])
    for at in range(3):
        write_image(tmp_path / "images" / f"{at:02d}" / "day0.png", at)
        write_image(tmp_path / "images" / f"{at:02d}" / "day3.png", at)
    for at in range(3, 6):
        write_image(tmp_path / "images" / f"{at:02d}.jpg", at)
    given = (f"dataset.table={table}", f"dataset.images={tmp_path / 'images'}")
    cohort = build("dataset=cocross_mortality", *given)
    assert cohort.classes == ("Alive", "Death")
    assert cohort.table["image"].tolist()[2:4] == ["02/day0.png", "03.jpg"]
    everything = build("dataset=cocross_mortality", *given, "dataset.select=all")
    assert everything.table.groupby("patient_id").size().tolist() == [2, 2, 2, 1, 1, 1]
    with pytest.raises(DataError, match="expected a column 'Status'"):
        build("dataset=cocross_mortality", *given, "dataset.label=Status")


def test_a_table_from_the_command_line(tmp_path: Path) -> None:
    rows = [[f"{at:02d}", f"{at}.png", at % 2] for at in range(4)]
    table = write_xlsx(tmp_path / "a table.xlsx", [["Patient ID", "File", "dead"], *rows])
    for at in range(4):
        write_image(tmp_path / "images" / f"{at}.png", at)
    cohort = build(
        "dataset=table",
        f'dataset.table="{table}"',
        f"dataset.images={tmp_path / 'images'}",
        "dataset.label=dead",
        "dataset.positive=1",
        "dataset.exclude=[03]",
        "dataset.select=first",
    )
    assert cohort.table["label"].tolist() == [0, 1, 0]


def test_a_union_of_yamls(tmp_path: Path) -> None:
    ar, ny = make_covid_19_ar(tmp_path / "ar"), make_covid_19_ny(tmp_path / "ny")
    cohort = build(
        "dataset=union",
        "+dataset@dataset.parts.ar=car_mortality",
        f"dataset.parts.ar.root={ar}",
        "+dataset@dataset.parts.ny=ny_mortality",
        f"dataset.parts.ny.root={ny}",
    )
    assert cohort.table.groupby("source").size().to_dict() == {"ar": 8, "ny": 9}


CONFIGS = {path.stem: path for path in (config_root() / "dataset").glob("*.yaml")}


def test_every_builder_can_be_chosen() -> None:
    builders = {yaml.safe_load(path.read_text())["builder"] for path in CONFIGS.values()}
    assert builders == set(DATASETS)
    assert len(builders) >= 7


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_yaml_fits_its_builder(name: str) -> None:
    settings = yaml.safe_load(CONFIGS[name].read_text())
    assert settings.pop("name") == name
    part = DATASETS[settings.pop("builder")]
    assert part.produces == "Cohort"
    assert part.summary
    ImageOptions(**settings.pop("pixels", {}))
    for beside in BESIDE["dataset"]:
        settings.pop(beside, None)
    assert set(settings) <= set(part.settings)
    needed = {key for key, setting in part.settings.items() if setting.default is setting.empty}
    assert needed <= set(settings), "what must be given is named in the YAML, as ???"
