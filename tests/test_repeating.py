"""Runs repeated: the command of a stored run gives the same run, and the same bytes."""

from __future__ import annotations

import shlex
import sys
from itertools import zip_longest
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_cohorts import write_csv, write_image

from prognobench.cli import main
from prognobench.cli.compose import compose
from prognobench.cli.config_files import options, read_config
from prognobench.cli.repeating import (
    repeat_run,
    write_command,
    write_overrides,
    write_public_command,
    write_value,
)
from prognobench.config import schema_of
from prognobench.errors import StoreError
from prognobench.registry import GROUPS as REGISTRIES
from prognobench.store import RunFolder, describe, iter_runs

GROUPS = ("strategy", "loss", "train", "regime", "cv", "dataset", "model")

OWN = '''
"""A strategy that comes with no package."""

from prognobench.records import Estimator
from prognobench.registry import STRATEGIES


@STRATEGIES.register("ages")
def ages(*, strength: float = 1.0, words: dict[str, str] | None = None) -> Estimator:
    """Logistic regression on age."""

    def build(seed):
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        return make_pipeline(SimpleImputer(), LogisticRegression(C=strength))

    return Estimator(inputs="covariates", candidates={"only": build})
'''


def needed(group: str, name: str) -> list[str]:
    """Return a value for each setting of a choice that has to be given."""
    _, values = read_config(group, name)
    missing = {key: "given" for key, value in values.items() if value == "???"}
    if group in REGISTRIES:
        fields = schema_of(REGISTRIES[group][values["builder"]]).fields
        for key, (kind, default) in fields.items():
            if default is ... and values.get(key, "???") == "???":
                missing[key] = "[given]" if "tuple" in str(kind) else "given"
    return [f"{group}.{key}={value}" for key, value in missing.items()]


def one_per_builder(group: str) -> list[str]:
    builders = {name: read_config(group, name)[1].get("builder", name) for name in options(group)}
    return list({builder: name for name, builder in builders.items()}.values())


def test_choices_of_each_builder_are_composed_again():
    for chosen in zip_longest(*map(one_per_builder, GROUPS)):
        named = [(g, name) for g, name in zip(GROUPS, chosen, strict=True) if name]
        given = [f"{group}={name}" for group, name in named]
        given += [setting for pair in named for setting in needed(*pair)]
        (config,) = compose(given)
        stored = describe(config)
        overrides = write_overrides(stored)
        (again,) = compose(overrides)
        assert describe(again) == stored, overrides
        # Nothing is said twice: the choices, the seed, and what has to be given.
        assert len(overrides) <= len(GROUPS) + 2 + len(given)


@pytest.mark.parametrize(
    "given",
    [
        ["strategy=lora", "strategy.rank=16", "strategy.targets=[attention]", "loss=focal"],
        ["strategy=lora", "strategy.name='it\\'s, \"mine\" \\\\'", "seed=7", "train.seed=8"],
        ["dataset.pixels.fit=pad", "dataset.image_size=64", "device=cpu", "checks.leaks=allow"],
        ["dataset=union", "+dataset@dataset.parts.a=severity", "+dataset@dataset.parts.b=icu"],
        ["dataset=table", "dataset.table='a b/c=d.csv'", "dataset.images='1'", "dataset.label=no"],
        [
            "regime=few_shot",
            "regime.k=4",
            "paths.results='my results'",
            "paths.cache='other cache'",
        ],
        ["train=study", "train.clip=1e-05", "train.weight_per=image", "baselines=false"],
    ],
)
def test_settings_are_composed_again(given):
    (config,) = compose(given)
    stored = describe(config)
    command = write_command({"config": stored})
    assert command is not None
    overrides = shlex.split(command)[2:]
    (again,) = compose(overrides)
    # Whether a sweep gets baselines is not of the run.
    assert {**describe(again), "baselines": None} == {**stored, "baselines": None}


@pytest.mark.parametrize(
    "more",
    [
        ["dataset=table", "dataset.table=t", "dataset.images=i", "dataset.label=y"],
        ["dataset=cxr_icu", "dataset.root=r", "dataset.exclude=[MRN4711]"],
        ["+dataset@dataset.parts.a=cxr_icu", "dataset.parts.a.root=r", "dataset=union"],
        ["model.weights=mine.safetensors"],
        ["paths.results=smith"],
    ],
)
def test_a_command_that_would_name_patients_or_files_is_not_shown(more):
    whole = {"config": describe(compose(["strategy=lora", "seed=3"])[0])}
    assert write_public_command(whole) == write_command(whole) is not None
    private = {"config": describe(compose(more)[0])}
    assert write_command(private) is not None
    assert write_public_command(private) is None
    assert write_public_command({**whole, "components": ["mine"]}) is None


def test_only_what_differs_is_said():
    (config,) = compose(["strategy=lora", "strategy.rank=4"])
    said = write_overrides(describe(config))
    assert [each for each in said if "." in each] == ["strategy.rank=4"]


TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | TEXTS.filter(lambda t: "$" not in t),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_values_are_read_as_they_were(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(f"key={write_value(value)}")
    assert plain(parsed.value()) == value


def plain(value):
    if isinstance(value, list):
        return [plain(each) for each in value]
    return getattr(value, "text", value)


@pytest.fixture
def call(monkeypatch, tmp_path):
    monkeypatch.setenv("PROGNOBENCH_CACHE", str(tmp_path / "cache"))

    def run(home: Path, *arguments: str) -> int:
        home.mkdir(exist_ok=True)
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, "argv", ["prognobench", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    return run


@pytest.fixture
def own_run(call, tmp_path):
    """A run of own components on an own table, with settings that need quotes."""
    images, rows = tmp_path / "my images", []
    images.mkdir()
    for number in range(24):
        write_image(images / f"i{number}.png", number)
        outcome = "it's bad" if number % 3 == 0 else "good"
        rows.append({"id": f"p{number}", "file": f"i{number}.png", "out": outcome, "age": number})
    write_csv(tmp_path / "my table.csv", rows)
    parts = tmp_path / "my parts"
    parts.mkdir()
    (parts / "ages.py").write_text(OWN, encoding="utf-8")
    arguments = [
        *("dataset=table", f"dataset.table='{tmp_path / 'my table.csv'}'", "cv.folds=3"),
        *(f"dataset.images='{images}'", "dataset.label=out", "dataset.positive='it\\'s bad'"),
        *("dataset.patient=id", "dataset.image=file", "dataset.covariates=[age]"),
        *("model.weights=random", "strategy=prior", "strategy.builder=ages", "strategy.name=mine"),
        *("+strategy.strength=0.3", "+strategy.words={a b:'c,d'}", "seed=5", "train.epochs=2"),
    ]
    first = tmp_path / "first"
    assert call(first, "run", "--components", str(parts), *arguments, "--no-table") == 0
    (folder,) = iter_runs(first / "results")
    return folder


def read_predictions(folder: RunFolder) -> list[bytes]:
    return [file.read_bytes() for file in sorted(folder.path.glob("cells/*/predictions.csv"))]


def test_the_printed_command_gives_the_same_run(call, own_run, tmp_path):
    assert call(tmp_path / "first", "report") == 0
    page = (tmp_path / "first" / "results" / "report.html").read_text(encoding="utf-8")
    assert f"prognobench run --from {own_run.path.name}" in page
    assert str(tmp_path) not in page
    commands = (tmp_path / "first" / "results" / "commands.sh").read_text(encoding="utf-8")
    (printed,) = commands.splitlines()
    assert printed == write_command(own_run.meta)
    assert "my parts" in printed
    second = tmp_path / "second"
    assert call(second, *shlex.split(printed)[1:]) == 0
    (again,) = iter_runs(second / "results")
    assert again.path.name == own_run.path.name
    assert len(read_predictions(own_run)) == 3
    assert read_predictions(again) == read_predictions(own_run)


def test_from_repeats_a_run(call, own_run, tmp_path, capsys):
    parts, home = str(tmp_path / "my parts"), tmp_path / "first"
    assert call(home, "run", "--from", own_run.path.name[:6], "--components", parts) == 0
    assert "3 done before" in capsys.readouterr().err
    more = ("paths.results=again", "seed=6", "--components", parts, "--no-table")
    assert call(home, "run", "--from", str(own_run.path), *more) == 0
    (other,) = iter_runs(home / "again")
    kept = [each.meta["config"]["strategy"] for each in (other, own_run)]
    assert kept[0] == kept[1]
    assert other.meta["seed"] == 6
    assert other.path.name != own_run.path.name


def test_a_choice_replaces_its_section(own_run):
    replaced = repeat_run(str(own_run.path), ["strategy=lora", "seed=1"])
    assert not [each for each in replaced if "strength" in each or "strategy.name" in each]
    (config,) = compose(replaced)
    assert (config.strategy.name, config.seed) == ("lora", 1)
    assert config.dataset.name == own_run.meta["dataset"]
    (config,) = compose(repeat_run(str(own_run.path), ["lora=true"]))
    assert config.strategy.name == "lora"


def test_a_run_that_cannot_be_found_is_refused(own_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="neither a run's folder nor the beginning of a key"):
        repeat_run("ffffffff", [f"paths.results={tmp_path / 'first' / 'results'}"])
