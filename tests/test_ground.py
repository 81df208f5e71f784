"""Seeds, registries, errors: the ground that everything stands on."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import pytest
from annotated_types import Gt
from hypothesis import given
from hypothesis import strategies as st

from prognobench.errors import ConfigError, DataError, MissingExtraError
from prognobench.registry import GROUPS, STRATEGIES, Location, Registry, load_components
from prognobench.seeds import derive, generator

axes = st.lists(st.one_of(st.integers(), st.text()), min_size=1, max_size=5)


@given(axes)
def test_a_seed_depends_on_its_axes_alone(named: list[str | int]) -> None:
    assert derive(*named) == derive(*named)
    assert 0 <= derive(*named) < 2**63


@given(axes, axes)
def test_other_axes_give_another_seed(one: list[str | int], other: list[str | int]) -> None:
    assert (derive(*one) == derive(*other)) == (one == other)


def test_a_seed_is_the_same_in_another_process() -> None:
    code = "from prognobench.seeds import derive; print(derive(42, 'fold', 3))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(said.stdout) == derive(42, "fold", 3)
    assert generator(42, "fold", 3).random() == generator(42, "fold", 3).random()


@pytest.mark.parametrize("error", [DataError(["a", "b"]), MissingExtraError("dicom", "DICOM")])
def test_errors_cross_process_borders(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert str(again) == str(error)
    assert type(again) is type(error)


def test_a_second_builder_of_a_name_is_refused() -> None:
    registry = Registry("dataset", "prognobench.datasets")
    registry.register("mine")(lambda: None)
    with pytest.raises(ConfigError, match="two dataset builders are called 'mine'"):
        registry.register("mine")(lambda: None)


def test_settings_are_the_keyword_only_parameters() -> None:
    registry = Registry("strategy", "prognobench.strategies")

    @registry.register("scaled")
    def scaled(backbone: object, *, rank: Annotated[int, Gt(0)] = 4) -> None:
        """Scale it. More text."""

    part = registry["scaled"]
    assert list(part.settings) == ["rank"]
    assert part.annotations["rank"] == Annotated[int, Gt(0)]
    assert part.produces == "None"
    assert part.summary == "Scale it. More text."


def test_a_part_declares_facts_and_the_rest_holds_for_the_others() -> None:
    registry = Registry("strategy", "prognobench.strategies", facts={"shorthand": False})
    registry.register("short", shorthand=True)(lambda: None)
    registry.register("plain")(lambda: None)
    assert registry["short"].facts == {"shorthand": True}
    assert registry["plain"].facts == {"shorthand": False}
    with pytest.raises(ConfigError, match="'odd' declares colour; a strategy can declare shorth"):
        registry.register("odd", colour="red")
    assert STRATEGIES.declaring("shorthand") == ("lora",)


def test_a_setting_can_say_that_it_is_a_location() -> None:
    registry = Registry("model", "prognobench.models")

    @registry.register("mine")
    def mine(*, weights: Annotated[str, Location()], rank: Annotated[int, Gt(0)] = 1) -> None:
        """Mine."""

    assert registry["mine"].locations == ("weights",)


@pytest.mark.parametrize("kind", sorted(GROUPS))
def test_registries_find_their_parts(kind: str) -> None:
    registry = GROUPS[kind]
    assert len(registry) > 0
    for name in registry:
        assert registry[name].summary, f"{kind} builder {name!r} has no docstring"
        assert registry[name].annotations is not None
        assert registry[name].produces


def test_an_unknown_builder_lists_the_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown .* 'embeded'\. Did you mean 'embed"):
        GROUPS["dataset"]["embeded"]


def test_components_of_a_user_are_found_in_his_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from prognobench.registry import LOSSES\n"
        "@LOSSES.register('mine_for_this_test')\n"
        "def mine(class_counts, *, power: float = 1.0) -> 'Loss':\n"
        "    'Mine.'\n"
    )
    load_components(tmp_path)
    load_components(tmp_path)
    assert "mine_for_this_test" in GROUPS["loss"]


def test_a_component_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    with pytest.raises(ConfigError, match=r"broken\.py cannot be imported: No module named"):
        load_components(tmp_path)
    with pytest.raises(ConfigError, match="no folder"):
        load_components(tmp_path / "missing")


def test_components_of_an_installed_package_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry("metric", "prognobench.metrics")

    class Entry:
        """An entry point, whose loading registers a part."""

        def load(self) -> None:
            registry.register("brought_by_a_package")(lambda: None)

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Entry()])
    assert "brought_by_a_package" in registry


def test_threads_that_ask_at_once_all_find_every_part(tmp_path, monkeypatch):
    """The first to ask imports the parts; the others have to wait for that."""
    (tmp_path / "slow_home").mkdir()
    (tmp_path / "slow_home" / "__init__.py").touch()
    (tmp_path / "slow_home" / "part.py").write_text("import time\ntime.sleep(0.2)\ndone = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("part", "slow_home")

    def look(_):
        assert list(registry) == []
        return hasattr(sys.modules["slow_home.part"], "done")

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(look, range(4))) == [True] * 4
