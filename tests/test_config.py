"""From overrides to configs: choices, short forms, sweeps, and every fault in one message."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from prognobench.cli.compose import compose, compose_present
from prognobench.cli.config_files import CONFIG_GROUPS, config_root, options
from prognobench.config import from_mapping, read_config
from prognobench.errors import ConfigError
from prognobench.files import json_form
from prognobench.records import Checks, RunConfig, Train
from prognobench.store import describe


def faults_of(*overrides: str, multirun: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(overrides, multirun=multirun)
    return list(caught.value.faults)


def test_the_defaults_are_a_run() -> None:
    (config,) = compose([])
    assert config.dataset.name == "mortality"
    assert config.strategy.builder == "full"
    assert config.seed == 42
    assert str(config.paths.results) == "results"


def test_lora_is_short_for_the_strategy() -> None:
    (config,) = compose(["dataset=mortality", "model=vit", "lora=true"])
    assert config.strategy.name == "lora"
    (plain,) = compose(["lora=false"])
    assert plain.strategy.builder == "full"
    both = compose(["lora=true,false"], multirun=True)
    assert [config.strategy.name for config in both] == ["lora", "full"]


@pytest.mark.parametrize(
    "overrides", [["lora=true", "strategy=full"], ["lora=false", "strategy=lora"]]
)
def test_a_short_form_that_contradicts_the_strategy_is_refused(overrides: list[str]) -> None:
    (fault,) = faults_of(*overrides)
    assert "contradicts" in fault


def test_a_setting_may_be_given_whether_or_not_its_yaml_lists_it() -> None:
    (config,) = compose(["strategy=lora", "strategy.rank=2", "dataset.pixels.equalise=true"])
    assert config.strategy.settings["rank"] == 2
    assert config.image.equalise


def test_a_sweep_is_composed_as_a_whole() -> None:
    configs = compose(["model=vit,cnn", "strategy=full,lora", "seed=1,2"], multirun=True)
    choices = [(config.model.name, config.strategy.name, config.seed) for config in configs]
    assert len(set(choices)) == len(choices) == 8


def test_every_fault_comes_in_one_message() -> None:
    faults = faults_of("modle=vit", "model=vitt", "dataset=nothing_like_it")
    assert len(faults) == 3
    assert "Did you mean 'model'" in faults[0]
    assert "unknown model 'vitt'. Did you mean 'vit'" in faults[1]
    faults = faults_of(
        "strategy=lora", "strategy.rnk=4", "train.epochs=0", "cv.folds=many", "train.lr=1"
    )
    text = "\n".join(faults)
    assert len(faults) == 4
    assert "unknown key 'strategy.rnk'. Did you mean 'rank'" in text
    assert "train.epochs=0: input should be greater than or equal to 1" in text
    assert "cv.folds='many'" in text
    assert "unknown key 'train.lr'" in text


def test_wrong_choices_do_not_hide_wrong_values_of_other_sections() -> None:
    wrong = ["dataset=mortalty", "dataset.table=3", "strategy=lorra", "strategy.r=x"]

    faults = faults_of(*wrong, "train.epochs=0", "cv.folds=1")

    assert [fault.partition(".")[0] for fault in faults[:2]] == [
        "unknown dataset 'mortalty'",
        "unknown strategy 'lorra'",
    ]
    assert any("train.epochs=0" in fault for fault in faults)
    assert any("cv" in fault and "folds" in fault for fault in faults)
    # Settings of what was not found cannot be judged.
    assert not any("strategy.r" in fault or "dataset.table" in fault for fault in faults)


def test_a_fault_in_one_run_of_a_sweep_stops_all_of_them() -> None:
    (fault,) = faults_of("strategy=lora,full", "train.epochs=5,-1", multirun=True)
    assert fault.startswith("train.epochs=-1")


def test_another_loss_has_a_name_of_its_own_in_tables() -> None:
    usual, focal = compose(["strategy=bitfit", "loss=cross_entropy,focal"], multirun=True)
    assert (usual.strategy.name, focal.strategy.name) == ("bitfit", "bitfit+focal")
    assert usual.strategy.builder == focal.strategy.builder


def test_several_values_without_a_sweep_say_how_to_sweep() -> None:
    (fault,) = faults_of("model=vit,cnn")
    assert "model=vit,cnn gives several values: add -m to sweep over them" in fault


def test_a_name_that_looks_like_a_number_is_told_how_to_be_one() -> None:
    given = ["dataset=table", "dataset.table=t.csv", "dataset.images=images"]
    with pytest.raises(ConfigError, match=r"looks like a number twice: \"dataset\.label='NAME'"):
        compose([*given, "dataset.label=2020"])
    assert compose([*given, "dataset.label='2020'"])[0].dataset.settings["label"] == "2020"


def test_a_wrong_entry_of_a_list_is_one_fault() -> None:
    (fault,) = faults_of("strategy=lora", "strategy.targets=[qkv]")
    assert fault.startswith("strategy.targets.0='qkv'")


@pytest.mark.parametrize(
    "override", ["train.clip=inf", "train.weight_decay=nan", "strategy.strengths=[inf]"]
)
def test_numbers_are_finite(override: str) -> None:
    (fault,) = faults_of("strategy=logistic", override)
    assert "finite number" in fault


def test_a_mistyped_section_is_told_its_name() -> None:
    (fault,) = faults_of("trian.epochs=3")
    assert "Did you mean 'train'" in fault


def test_a_key_leads_through_settings_only() -> None:
    (fault,) = faults_of("train.epochs.more=3")
    assert fault.endswith("train.epochs is a value, and has no settings")
    (fault,) = faults_of("~train.nothing")
    assert fault.endswith("there is no train.nothing to delete")
    (config,) = compose(["~train.epochs"])
    assert config.train.epochs == Train().epochs


def test_a_mapping_changes_the_settings_that_it_names() -> None:
    (config,) = compose(["checks.duplicates=refuse", "checks={leaks:allow}"])
    assert config.checks == Checks(leaks="allow", duplicates="refuse")


def test_a_reference_to_a_missing_value_says_which_one() -> None:
    faults = faults_of("dataset=table", "dataset.table=t.csv", "dataset.name=${dataset.label}")
    assert any("dataset.label" in fault for fault in faults)


def test_a_missing_value_says_how_to_give_it() -> None:
    text = "\n".join(faults_of("dataset=table"))
    assert "dataset.table is missing: give it as dataset.table=VALUE" in text
    assert faults_of("cv=external", "cv.test=[]") == ["cv.test=[]: give at least 1"]


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("epochs=3", "unknown key 'epochs'. Did you mean train.epochs?"),
        ("epoch=3", "unknown key 'epoch'. Did you mean train.epochs?"),
        ("rank=8", "unknown key 'rank'. Did you mean strategy.rank?"),
        ("prevalence=1", "unknown key 'prevalence'. Did you mean dataset.prevalence?"),
        (
            "patients=20",
            "unknown key 'patients'. Did you mean dataset.patients or regime.patients?",
        ),
        ("duplicates=refuse", "unknown key 'duplicates'. Did you mean checks.duplicates?"),
        ("sede=3", "unknown key 'sede'. Did you mean 'seed'?"),
    ],
)
def test_a_setting_without_its_section_is_told_where_it_stands(override: str, meant: str) -> None:
    assert faults_of(override) == [meant]


def test_any_timm_network_is_named_in_one_setting() -> None:
    (config,) = compose(["model=timm", "model.name=resnet10t.c3_in1k"])
    assert config.model.name == config.model.settings["architecture"] == "resnet10t.c3_in1k"
    (fault,) = faults_of("model=timm")
    assert fault == "model.name is missing: give it as model.name=VALUE"


def test_what_is_no_override_is_refused() -> None:
    (fault,) = faults_of("mortality")
    assert fault == (
        "cannot read 'mortality': overrides look like key=value. Did you mean dataset=mortality?"
    )
    (fault,) = faults_of("lora")
    assert fault == "cannot read 'lora': overrides look like key=value. Did you mean lora=true?"
    (fault,) = faults_of("dataset.table=a(b.csv")
    assert fault.startswith("cannot read 'dataset.table=a(b.csv'")
    assert "in quotes" in fault


def test_a_config_cannot_call_code() -> None:
    text = "\n".join(faults_of("strategy._target_=os.system"))
    assert "unknown key 'strategy._target_'" in text


def test_only_the_environment_is_read_from_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDER_OF_MINE", "somewhere")
    (config,) = compose(["paths.results='${oc.env:FOLDER_OF_MINE}/results'"])
    assert config.paths.results == Path("somewhere/results")
    for call in ("${oc.decode:x}", "${hydra:runtime.cwd}", "${${device}.env:HOME}", "${now:%Y}"):
        (fault,) = faults_of(f"paths.results='{call}'")
        assert "only values" in fault


@pytest.mark.parametrize("override", ["hydra/launcher=joblib", "+hydra/launcher=joblib"])
def test_another_launcher_is_refused_with_the_way_to_compute_in_parallel(override: str) -> None:
    (fault,) = faults_of(override, multirun=True)
    assert fault.startswith(f"{override}: prognobench does not use Hydra's launchers. Start the")


@pytest.mark.parametrize(
    "override",
    [
        "hydra.run.dir=elsewhere",
        "+hydra.callbacks.mine._target_=os.system",
        "hydra.searchpath=[pkg://antigravity]",
        "hydra/job_logging=none",
    ],
)
def test_settings_of_hydra_are_refused(override: str) -> None:
    (fault,) = faults_of(override)
    assert fault == f"{override}: settings of Hydra have no effect; remove it"


def write_config(folder: Path, group: str, text: str) -> Path:
    (folder / group).mkdir(exist_ok=True)
    (folder / group / "mine.yaml").write_text(text, errors="surrogateescape")
    return folder


@pytest.mark.parametrize(
    ("group", "text", "fault"),
    [
        (
            "experiment",
            "# @package _global_\nhydra: {callbacks: {c: {_target_: os.abort}}}\n",
            "only hydra.sweeper.params",
        ),
        (
            "experiment",
            "# @package _global_\nhydra: {sweeper: {max_batch_size: 1}}\n",
            "only hydra",
        ),
        ("experiment", "hydra: null\n", "only hydra.sweeper.params"),
        ("experiment", "defaults: [{override /hydra/launcher: joblib}]\n", "leaves the groups"),
        (
            "train",
            "# @package hydra.callbacks\nc: {_target_: os.abort}\n",
            "@package hydra.callbacks",
        ),
        ("train", "defaults: [../../elsewhere]\n", "leaves the groups"),
        ("strategy", "parameters: {kernel: {_target_: os.abort}}\n", "remove the key '_target_'"),
        ("train", "epochs: !!python/object/apply:os.abort []\n", "cannot be read as plain YAML"),
        ("dataset", "root: ${oc.env:HOME}\n", "calls a function"),
        ("dataset", "root: ${${device}.env:HOME}\n", "calls a function"),
        ("train", "- epochs\n", "KEY: VALUE"),
        ("hydra", "a: 1\n", "remove the folder hydra"),
        ("train", "epochs: \udcff\n", "is not UTF-8"),
    ],
)
def test_a_users_configs_cannot_run_code(tmp_path: Path, group: str, text: str, fault: str) -> None:
    write_config(tmp_path, group, text)
    with pytest.raises(ConfigError) as caught:
        compose([], config_dir=tmp_path)  # whether or not it is chosen
    assert all(str(tmp_path / group / "mine.yaml") in each for each in caught.value.faults)
    assert fault in str(caught.value)


def test_a_linked_folder_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own").mkdir()
    write_config(tmp_path / "elsewhere", "train", "epochs: ${oc.env:HOME}\n")
    (tmp_path / "own" / "train").symlink_to(tmp_path / "elsewhere" / "train")
    with pytest.raises(ConfigError, match="calls a function"):
        compose([], config_dir=tmp_path / "own")


def test_every_fault_of_a_users_configs_comes_in_one_message(tmp_path: Path) -> None:
    write_config(tmp_path, "train", "epochs: ${oc.env:HOME}\n_target_: os.abort\n")
    (tmp_path / "train" / "quick.yaml").write_text("epochs: 3\n")
    with pytest.raises(ConfigError) as caught:
        compose(["train=mine"], config_dir=tmp_path)
    assert len(caught.value.faults) == 3
    assert "quick.yaml: a config that comes with prognobench has this name" in str(caught.value)


def test_a_users_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "my 'own' configs, 2"
    folder.mkdir()
    write_config(folder, "train", "epochs: 3\nbatch_size: 8\n")
    (config,) = compose(["train=mine"], config_dir=folder)
    assert config.train == Train(epochs=3, batch_size=8)


def test_a_users_experiment_sweeps_and_refers_to_other_values(tmp_path: Path) -> None:
    text = """# @package _global_
defaults:
  - override /regime: few_shot
  - override /model: timm
model:
  name: resnet18
paths:
  results: results/${model.name}
hydra:
  sweeper:
    params:
      regime.k: range(2,8,2)
      seed: 1,2
      strategy: glob(lora_study_*)
"""
    write_config(tmp_path, "experiment", text)
    configs = compose(["experiment=mine"], multirun=True, config_dir=tmp_path)
    assert len(configs) == 3 * 2 * 3
    assert {config.regime.settings["k"] for config in configs} == {2, 4, 6}
    assert {str(config.paths.results) for config in configs} == {"results/resnet18"}


def test_a_value_that_follows_another_section_follows_it_in_a_sweep(tmp_path: Path) -> None:
    write_config(tmp_path, "experiment", "# @package _global_\npaths: {results: '${model.name}'}\n")
    swept = ["experiment=mine", "seed=1,2", "model=vit,cnn", "strategy=full,bitfit"]
    configs = compose(swept, multirun=True, config_dir=tmp_path)
    assert len(configs) == 8
    assert all(str(config.paths.results) == config.model.name for config in configs)


def test_a_users_own_configs_stand_beside_the_built_in_ones(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.yaml").write_text("epochs: 3\n")
    (config,) = compose(["train=mine", "model=vit"], config_dir=tmp_path)
    assert config.train == Train(epochs=3)
    assert "mine" in options("train", tmp_path)
    with pytest.raises(ConfigError, match="no folder"):
        compose([], config_dir=tmp_path / "missing")


def document(group: str, name: str) -> dict[str, Any]:
    """A YAML as it stands, without the keys that only a user can give."""
    loaded = yaml.safe_load((config_root() / group / f"{name}.yaml").read_text())
    return {key: value for key, value in loaded.items() if value != "???"}


def shipped(group: str, name: str) -> dict[str, Any]:
    """The default choices with one of them changed."""
    defaults = document("", "config")["defaults"]
    chosen = {k: v for choice in defaults if isinstance(choice, dict) for k, v in choice.items()}
    groups = {key: document(key, chosen[key]) for key in CONFIG_GROUPS[:-1]}
    return {**groups, group: document(group, name)}


every_choice = pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group in CONFIG_GROUPS[:-1] for name in options(group)],
)


@every_choice
def test_every_choice_is_sound(group: str, name: str) -> None:
    """Each YAML is accepted by its builder's schema, what only a user can give left aside."""
    try:
        config = from_mapping(shipped(group, name))
    except ConfigError as error:
        left = [fault for fault in error.faults if " is missing: give it as " not in fault]
        assert left == []
        return
    if group != "train":
        assert getattr(config, group).name == name


@pytest.mark.parametrize("name", options("experiment"))
def test_an_experiment_says_its_command_and_chooses_what_there_is(name: str) -> None:
    text = (config_root() / "experiment" / f"{name}.yaml").read_text()
    experiment = yaml.safe_load(text)
    package, first, *rest = text.splitlines()
    if "include" in experiment:  # its own settings would have no effect
        package, first, *rest = "", package, first, *rest
        assert set(experiment["include"]) <= set(options("experiment"))
    assert package == ("" if "include" in experiment else "# @package _global_")
    assert first.startswith("# ")
    assert any(line.startswith(f"#   prognobench run -m experiment={name}") for line in rest)
    assert {"# Duration:", "# Expect:"} <= {" ".join(line.split()[:2]) for line in rest}
    swept = experiment.get("hydra", {"sweeper": {"params": {}}})["sweeper"]["params"]
    fixed = {
        key.removeprefix("override /"): value
        for choice in experiment.get("defaults", ())
        if isinstance(choice, dict)
        for key, value in choice.items()
    }
    for key, value in {**swept, **fixed}.items():
        if key in CONFIG_GROUPS:
            assert {*str(value).split(",")} <= {*options(key)}


def test_an_experiment_is_a_sweep() -> None:
    configs = compose(["experiment=embedded_few_shot", "train=quick"], multirun=True)
    assert sorted({config.regime.settings["k"] for config in configs}) == [2, 4, 8, 16, 32]
    assert {config.train.epochs for config in configs} == {document("train", "quick")["epochs"]}


@pytest.mark.parametrize("name", ["embedded", "embedded_few_shot"])
def test_an_experiment_on_the_embedded_cohort_can_be_split_as_it_says(name: str) -> None:
    from prognobench.runs.workspace import Workspace

    configs = compose([f"experiment={name}", "model=vit", "strategy=linear_probe"], multirun=True)
    assert configs
    workspace = Workspace()
    for config in configs:
        assert workspace.split_cohort(config)


@pytest.mark.parametrize("form", ["experiment=embedded", "+experiment=embedded"])
def test_the_command_line_replaces_what_an_experiment_sweeps_over(form: str) -> None:
    configs = compose([form, "model=vit", "dataset=icu,severity"], multirun=True)
    assert len(configs) == 2 * 1 * 4
    assert {config.model.name for config in configs} == {"vit"}
    assert {config.dataset.name for config in configs} == {"icu", "severity"}
    loras = compose([form, "lora=true", "dataset=icu", "model=vit,cnn"], multirun=True)
    assert [config.strategy.name for config in loras] == ["lora", "lora"]


def test_several_experiments_each_have_their_own_sweep() -> None:
    configs = compose(["experiment=embedded,embedded_few_shot"], multirun=True)
    assert len(configs) == 24 + 10
    assert [config.regime.name for config in configs].count("few_shot") == 10


def write_experiments(folder: Path, **texts: str) -> Path:
    (folder / "experiment").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / "experiment" / f"{name}.yaml").write_text(text)
    return folder


def test_an_experiment_may_include_others(tmp_path: Path) -> None:
    own = write_experiments(
        tmp_path, mine="include: [embedded, inner]", inner="include: [embedded_few_shot, embedded]"
    )
    both = compose(["experiment=embedded,embedded_few_shot"], multirun=True)
    assert compose(["experiment=mine"], multirun=True, config_dir=own) == both
    with pytest.raises(ConfigError, match="experiment=mine is a sweep: add -m"):
        compose(["experiment=mine"], config_dir=own)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("include: [mine]", "experiment=mine includes itself, through mine > mine"),
        ("include: [nothing]", "unknown experiment 'nothing'"),
        ("include: embedded", "experiment=mine: include must be a list of names"),
        ("include: [embedded]\nseed: 3", "experiment=mine: seed would have no effect"),
    ],
)
def test_what_cannot_be_included_is_said(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(fault)):
        compose(
            ["experiment=mine"], multirun=True, config_dir=write_experiments(tmp_path, mine=text)
        )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Folders as a user has them: two cohorts are there, one in another spelling."""
    for name in ("aiforcovid", "COVID-19-AR"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path / "data"


def test_a_dataset_finds_its_folder_below_paths_data(data: Path, tmp_path: Path) -> None:
    (config,) = compose(["dataset=car_icu", f"paths.data={data}"])
    assert config.dataset.settings["root"] == data / "COVID-19-AR"
    (config,) = compose(["dataset=afc_mortality", f"paths.data={data}"])
    assert config.dataset.settings["root"] == data / "aiforcovid"
    # A folder that is named is taken, whatever lies below the other.
    named = f"paths.data.covid-19-ar={tmp_path}"
    for paths in ([named], [f"paths.data={data}", named], [named, f"paths.data={data}"]):
        (config,) = compose(["dataset=car_icu", *paths])
        assert config.dataset.settings["root"] == tmp_path
    (config,) = compose(["dataset=car_icu", f"paths.data={data}", "dataset.root=x"])
    assert str(config.dataset.settings["root"]) == "x"


def test_the_only_table_of_a_folder_is_found(data: Path) -> None:
    cocross = data / "CoCross"
    cocross.mkdir()
    given = ("dataset=cocross_mortality", f"paths.data={data}")
    assert faults_of(*given) == [f"dataset cocross_mortality is not there: no table in {cocross}"]
    (cocross / "a.xlsx").touch()
    (config,) = compose(given)
    assert config.dataset.settings["table"] == cocross / "a.xlsx"
    assert config.dataset.settings["images"] == cocross
    (cocross / "b.csv").touch()
    (fault,) = faults_of(*given)
    assert "several tables" in fault
    assert "dataset.table=FILE" in fault


def test_an_absent_cohort_is_left_out_unless_it_was_asked_for(data: Path) -> None:
    given = ["experiment=study", f"paths.data={data}", "model=vit", "strategy=linear_probe"]
    found = compose_present(given, multirun=True)
    assert {config.dataset.name for config in found.configs} == {
        *("afc_severity", "afc_mortality", "car_icu")
    }
    assert set(found.absent) == {"cocross_mortality", "ny_mortality", "ny_icu"}
    assert found.absent["ny_icu"] == f"no folder COVID-19-NY-SBU in {data}"
    named = ["experiment=study_car", *given[1:], "dataset=car_icu,ny_icu"]
    faults = faults_of(*named, multirun=True)
    assert faults == [f"dataset ny_icu is not there: no folder COVID-19-NY-SBU in {data}"]
    (fault,) = faults_of("dataset=car_icu", f"paths.data={data / 'no'}")
    assert fault == f"paths.data: no folder {data / 'no'}"


def test_the_study_has_its_splits_batches_and_draws(data: Path) -> None:
    given = ["experiment=study", f"paths.data={data}", "model=vit", "strategy=linear_probe"]
    configs = compose(given, multirun=True)
    of = {"afc_severity": (2, 4, 8, 16), "car_icu": (2, 4, 8, 16, 32)}
    for name, shots in of.items():
        own = [config for config in configs if config.dataset.name == name]
        assert [config.regime.settings.get("k") for config in own] == [None, *shots]
    assert {
        (c.dataset.name[:3], c.cv.name, c.regime.name, c.train.batch_size) for c in configs
    } == {
        ("afc", "leave_one_centre_out", "full", 128),
        ("afc", "leave_one_centre_out", "few_shot_per_centre", 128),
        ("car", "five_fold", "full", 32),
        ("car", "five_fold", "few_shot", 32),
    }


def test_the_parts_of_a_union_find_their_folders(data: Path) -> None:
    parts = ["dataset=union", "+dataset@dataset.parts.a=car_icu", "+dataset@dataset.parts.b=icu"]
    (config,) = compose([*parts, f"paths.data={data}", "cv=five_fold"])
    assert Path(config.dataset.settings["parts"]["a"]["root"]) == data / "COVID-19-AR"


def test_a_dataset_has_the_split_that_suits_it(data: Path) -> None:
    given = ["dataset=afc_mortality", f"paths.data={data}"]
    assert compose(given)[0].cv.name == "leave_one_centre_out"
    assert compose([*given, "cv=five_fold"])[0].cv.name == "five_fold"
    assert compose([*given, "cv.validation=0.3"])[0].cv.settings["validation"] == 0.3
    both = compose(["dataset=afc_mortality,mortality", f"paths.data={data}"], multirun=True)
    assert [config.cv.name for config in both] == ["leave_one_centre_out", "five_fold"]


def test_an_experiment_without_a_sweep_says_how_to_sweep() -> None:
    assert faults_of("experiment=embedded") == ["experiment=embedded is a sweep: add -m"]


def test_a_wrong_experiment_is_named(tmp_path: Path) -> None:
    text = "hydra: {sweeper: {params: {model: vitt, epochs: 3}}}\n"
    write_config(tmp_path, "experiment", f"# @package _global_\n{text}")
    with pytest.raises(ConfigError) as caught:
        compose(["experiment=mine", "train.epochs=0"], multirun=True, config_dir=tmp_path)
    first, second, third = caught.value.faults
    assert first.startswith("experiment=mine: unknown model 'vitt'. Did you mean 'vit'")
    assert second == "experiment=mine: unknown key 'epochs'. Did you mean train.epochs?"
    assert third.startswith("train.epochs=0")


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("model=glob(dinov2*)", ["dinov2_base", "dinov2_large", "dinov2_small"]),
        ("model=choice(vit,cnn)", ["vit", "cnn"]),
        ("model=vit,cnn", ["vit", "cnn"]),
    ],
)
def test_choices_are_swept_in_hydras_grammar(override: str, names: list[str]) -> None:
    assert [config.model.name for config in compose([override], multirun=True)] == names


def test_values_are_swept_in_hydras_grammar() -> None:
    seeds = [config.seed for config in compose(["seed=range(1,6,2)"], multirun=True)]
    assert seeds == [1, 3, 5]
    strengths = ["strategy=logistic", "strategy.strengths=[0.1,1],[10]"]
    swept = [config.strategy.settings["strengths"] for config in compose(strengths, multirun=True)]
    assert [[float(value) for value in values] for values in swept] == [[0.1, 1.0], [10.0]]
    (fault,) = faults_of("train.ema=interval(0,1)", multirun=True)
    assert "write range(start,stop,step)" in fault
    (fault,) = faults_of("model=glob(nothing*)", multirun=True)
    assert fault.startswith("model=glob(nothing*) matches no model")


def test_of_a_key_given_twice_the_last_counts() -> None:
    (config,) = compose(["seed=1", "train.epochs=2", "model=cnn", "seed=3", "model=vit"])
    assert (config.seed, config.model.name) == (3, "vit")


def test_a_short_form_takes_no_other_value() -> None:
    assert faults_of("lora=8") == ["lora must be true or false, not 8"]
    (config,) = compose(["lora=true", "strategy=lora_study_r4"])
    assert config.strategy.name == "lora_study_r4"
    contradicting = faults_of("lora=true,false", "strategy=lora,full", multirun=True)
    assert contradicting == [
        "lora=true contradicts strategy=full: give one of them",
        "lora=false contradicts strategy=lora: give one of them",
    ]


def test_every_group_lists_its_choices() -> None:
    assert all(options(group) for group in CONFIG_GROUPS)


@pytest.mark.parametrize(
    ("mapping", "fault"),
    [
        ({}, "dataset is missing"),
        ({"dataset": {"name": "x"}}, "dataset.builder is missing"),
        ({"train": 3}, "train is a group of settings, not 3"),
    ],
)
def test_a_mapping_of_the_wrong_form_is_refused(mapping: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        from_mapping(mapping)


def test_composing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from prognobench.cli.compose import compose; "
        "compose(['model=vit,cnn', 'strategy=lora,full'], multirun=True); "
        "print(*({'torch', 'timm', 'peft', 'pandas', 'sklearn', 'matplotlib'} & {*sys.modules}))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == ""


def test_one_module_imports_hydra() -> None:
    package = Path(compose.__code__.co_filename).parents[1]
    importing = re.compile(r"^\s*(import|from) hydra\b", re.MULTILINE)
    files = [file.name for file in package.rglob("*.py") if importing.search(file.read_text())]
    assert files == ["compose.py"]


# ------------------------------------------------------------------ back from run.json


def stored_and_read(config: RunConfig) -> RunConfig:
    return read_config(json.loads(json.dumps(describe(config))))


@every_choice
def test_every_shipped_config_is_read_back_from_its_run(group: str, name: str) -> None:
    groups = shipped(group, name)
    try:
        config = from_mapping(groups)
    except ConfigError as error:  # what only a user can give
        for fault in error.faults:
            key = fault.partition(" is missing")[0].removeprefix(f"{group}.")
            groups[group][key] = ["A"] if (name, key) == ("external", "test") else "given"
        config = from_mapping(groups)
    # Where cells were computed is not stored.
    assert stored_and_read(config) == replace(config, engine=RunConfig.engine)


finite = st.floats(min_value=1e-6, max_value=1.0, exclude_max=True)
recipes = st.builds(
    Train,
    epochs=st.integers(1, 1000),
    head_lr=finite,
    min_lr=finite,
    clip=finite,
    weight_decay=finite,
    warmup_epochs=finite,
    ema=finite,
)


@settings(deadline=None, max_examples=25)
@given(recipe=recipes, rates=st.lists(finite, min_size=1, max_size=4))
def test_any_recipe_and_list_is_read_back(recipe: Train, rates: list[float]) -> None:
    (config,) = composed()
    probe = config.strategy.settings | {"learning_rates": tuple(rates)}
    config = replace(config, train=recipe, strategy=replace(config.strategy, settings=probe))
    assert stored_and_read(config) == config


@cache
def composed() -> list[RunConfig]:
    return compose(["strategy=linear_probe", "loss=focal"])


def test_what_a_stored_config_has_wrong_is_said_as_of_any_config() -> None:
    described = json_form(describe(composed()[0]))
    described["model"]["builder"] = "elsewhere"
    described["train"]["epochs"] = 0
    described["dataset"]["builder"] = "a_users_own"
    with pytest.raises(ConfigError) as caught:
        read_config(described, built=("model", "strategy"))
    text = "\n".join(caught.value.faults)
    assert len(caught.value.faults) == 2
    assert "unknown model builder 'elsewhere'" in text
    assert "train.epochs=0" in text
