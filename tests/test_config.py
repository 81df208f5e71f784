"""From overrides to configs: choices, short forms, sweeps, and every fault in one message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from prognobench.cli.compose import CONFIG_GROUPS, compose, config_root, options
from prognobench.config import from_mapping
from prognobench.errors import ConfigError
from prognobench.records import Train


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
    with pytest.raises(ConfigError, match=r"quotes count, too: \"dataset\.label='NAME'"):
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


def test_a_missing_value_says_how_to_give_it() -> None:
    text = "\n".join(faults_of("dataset=table"))
    assert "dataset.table is missing: give it as dataset.table=VALUE" in text
    assert faults_of("cv=external", "cv.test=[]") == ["cv.test=[]: give 1 at least"]


def test_any_timm_network_is_named_in_one_setting() -> None:
    (config,) = compose(["model=timm", "model.name=resnet10t.c3_in1k"])
    assert config.model.name == config.model.settings["architecture"] == "resnet10t.c3_in1k"
    (fault,) = faults_of("model=timm")
    assert fault == "model.name is missing: give it as model.name=VALUE"


def test_what_is_no_override_is_refused() -> None:
    (fault,) = faults_of("mortality")
    assert fault.startswith("'mortality' is no override, as in key=value")


def test_a_config_cannot_call_code() -> None:
    text = "\n".join(faults_of("strategy._target_=os.system"))
    assert "unknown key 'strategy._target_'" in text


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


@pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group in CONFIG_GROUPS[:-1] for name in options(group)],
)
def test_every_choice_is_sound(group: str, name: str) -> None:
    """Each YAML is accepted by its builder's schema, what only a user can give left aside."""
    defaults = document("", "config")["defaults"]
    chosen = {k: v for choice in defaults if isinstance(choice, dict) for k, v in choice.items()}
    groups = {key: document(key, chosen[key]) for key in CONFIG_GROUPS[:-1]}
    groups[group] = document(group, name)
    try:
        config = from_mapping(groups)
    except ConfigError as error:
        left = [fault for fault in error.faults if " is missing: give it as " not in fault]
        assert left == []
        return
    if group != "train":
        assert getattr(config, group).name == name


@pytest.mark.parametrize("name", options("experiment"))
def test_an_experiment_says_its_command_and_chooses_what_there_is(name: str) -> None:
    text = (config_root() / "experiment" / f"{name}.yaml").read_text()
    assert f"prognobench run -m +experiment={name}" in " ".join(text.split())
    experiment = yaml.safe_load(text)
    swept = experiment["hydra"]["sweeper"]["params"]
    fixed = {
        key.removeprefix("override /"): value
        for choice in experiment.get("defaults", ())
        for key, value in choice.items()
    }
    for key, value in {**swept, **fixed}.items():
        if key in CONFIG_GROUPS:
            assert {*str(value).split(",")} <= {*options(key)}


def test_an_experiment_is_a_sweep() -> None:
    configs = compose(["experiment=embedded_few_shot", "train=quick"], multirun=True)
    assert sorted({config.regime.settings["k"] for config in configs}) == [2, 4, 8, 16, 32]
    assert {config.train.epochs for config in configs} == {document("train", "quick")["epochs"]}


def test_every_group_lists_its_choices() -> None:
    assert all(options(group) for group in CONFIG_GROUPS)


@pytest.mark.parametrize(
    ("mapping", "fault"),
    [
        ({}, "dataset is missing"),
        ({"dataset": {"name": "x"}}, "dataset.builder is missing"),
        ({"train": 3}, "train is a group of settings, not 3"),
        ({"lora": "yes"}, "lora must be true or false"),
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
