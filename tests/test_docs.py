"""What the documents say is so: pages written from code are fresh, commands and examples run."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from made_cohorts import write_csv
from PIL import Image

from prognobench.cli import cli, main
from prognobench.registry import DATASETS

ROOT = Path(__file__).parents[1]
PAGES = {
    str(page.relative_to(ROOT)): page
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *sorted(ROOT.glob("docs/*.md")),
    )
}
COMPOSING = ("run", "plan", "data check", "data prepare")
TINY = ("train=quick", "train.epochs=1", "model.weights=random", "device=cpu")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the remark in the line above it."""

    language: str
    text: str
    remark: str

    @property
    def commands(self) -> list[list[str]]:
        """The commands of prognobench in it, without their output."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        commands = [shlex.split(line, comments=True) for line in lines]
        return [words[1:] for words in commands if words and words[0] == "prognobench"]


def blocks(page: Path) -> Iterator[Block]:
    fences = r"(?:<!-- ([^\n]*?) -->\n)?```(\w*)\n(.*?)```"
    for remark, language, text in re.findall(fences, page.read_text(), re.DOTALL):
        yield Block(language, text, remark)


def commands(page: Path) -> list[tuple[list[str], str]]:
    """Every command of a page with the remark of its block."""
    return [
        (command, block.remark)
        for block in blocks(page)
        if block.language == "console"
        for command in block.commands
    ]


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def prognobench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str]], Said]:
    def call(command: list[str]) -> Said:
        monkeypatch.setattr(sys, "argv", ["prognobench", *command])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return Said(int(end.value.code or 0), said.out, said.err)

    return call


# ------------------------------------------------------------------ written from code


@pytest.fixture(scope="module")
def documenting() -> Any:
    """The package of ``scripts/write-docs``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        import documenting.pages
        import documenting.settings

        yield documenting


def test_pages_written_from_code_are_fresh(documenting: Any) -> None:
    for page, text in documenting.pages.pages().items():
        assert page.read_text() == text, f"{page.name}: run .venv/bin/python scripts/write-docs"


def test_every_setting_is_explained(documenting: Any) -> None:
    from prognobench.registry import GROUPS

    explained = 0
    for group, registry in GROUPS.items():
        for name, part in registry.items():
            for setting in documenting.settings.settings_of_part(group, part):
                assert setting.meaning, f"{group} builder {name}: {setting.name} has no meaning"
                explained += 1
    assert explained > 100


def test_files_of_a_run_have_the_columns_that_are_explained(
    documenting: Any, folder: Path, prognobench: Callable[[list[str]], Said]
) -> None:
    small = shrunk(["run", "-m", "model=cnn", "strategy=linear_probe,bitfit,knn"], folder)
    small.append("baselines=false")
    assert prognobench(small).code == 0
    explained = {
        name: documenting.pages.names_of(name)
        for name in (
            *("cohort.csv", "exclusions.csv", "folds.csv"),
            *("cells/<cell>/predictions.csv", "cells/<cell>/history.csv"),
        )
    }
    runs = list(folder.glob("results/runs/*/*/*/*"))
    assert len(runs) == 3
    for run in runs:
        for name, columns in explained.items():
            file = run / name.replace("<cell>", "r0-f0")
            header = file.read_text().splitlines()[0].split(",")
            found = [re.sub("^(score|risk)_.*", r"\1_<class>", column) for column in header]
            found = ["COVARIATE" if column in ("age", "sex") else column for column in found]
            found = list(dict.fromkeys(found))
            if name.endswith("history.csv"):
                assert set(found) <= set(columns), run
            else:
                assert found == columns, run


# ------------------------------------------------------------------ links and commands


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = PAGES[name]
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith(("http", "#")):
            assert (page.parent / link.partition("#")[0]).exists(), f"{name}: {link}"


def test_the_readme_takes_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Decoded images and embeddings, shared by the pages."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> Path:
    """Somebody's folder: a table, images, a clinic, the examples of own parts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROGNOBENCH_CACHE", str(cache))
    lay_out(tmp_path)
    return tmp_path


def lay_out(folder: Path) -> None:
    for seed, name in ((0, "cohort"), (3, "other")):
        cohort = DATASETS["embedded"](
            task="severity", prevalence=0.4, patients=40, image_size=128, seed=seed
        )
        images = folder / ("images" if name == "cohort" else "other_images")
        images.mkdir()
        rows = []
        for row in cohort.table.itertuples():
            pixels = cohort.sources["images"].render(row.image)
            Image.fromarray(pixels).save(images / f"{name}-{row.image}.png")
            rows.append(
                {
                    "patient": f"{name}-{row.patient_id}",
                    "file": f"{name}-{row.image}.png",
                    "outcome": ("alive", "dead")[row.label],
                    "hospital": row.centre,
                    "day": int(row.order),
                    "age": row.age,
                    "sex": row.sex,
                    "split": ("train", "train", "validation", "test")[int(row.patient_id[1:]) % 4],
                }
            )
        write_csv(folder / f"{name}.csv", rows)
    firsts = {row["patient"]: row for row in rows}
    clinic = []
    (folder / "clinic").mkdir()
    for number, row in enumerate(firsts.values()):
        image = Image.open(folder / "other_images" / row["file"])
        image.save(folder / "clinic" / f"{number:03d}.png")
        died = "yes" if row["outcome"] == "dead" else "no"
        clinic.append({"id": f"{number:03d}", "died": died, "age": row["age"]})
    write_csv(folder / "clinic" / "outcomes.csv", clinic)
    for page in PAGES.values():
        for block in blocks(page):
            if match := re.match(r"# ((?:mine|myconfigs)/\S+)\n", block.text):
                (folder / match[1]).parent.mkdir(parents=True, exist_ok=True)
                (folder / match[1]).write_text(block.text)


def parse(command: list[str]) -> tuple[str, click.Context]:
    """Return a command's name and what click understands of its arguments."""
    name, *arguments = command
    found: click.Command = cli.commands[name]
    if isinstance(found, click.Group):
        sub, *arguments = arguments
        found, name = found.commands[sub], f"{name} {sub}"
    return name, found.make_context(name, arguments)


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if commands(page)])
def test_commands_are_understood(name: str, folder: Path) -> None:
    """Those that need weights or data of others, too: settings are checked, nothing is started."""
    from prognobench.cli.options import compose_configs

    for command, remark in commands(PAGES[name]):
        if remark.startswith("fails"):
            continue
        for word in command:
            if word.endswith("/KEY"):
                (folder / word).mkdir(parents=True, exist_ok=True)
        called, context = parse(command)
        if called in COMPOSING:
            names = ("overrides", "multirun", "config_dir", "components")
            assert compose_configs(**{name: context.params[name] for name in names}), command


# ------------------------------------------------------------------ running


def shrunk(command: list[str], results: Path) -> list[str]:
    """Return a command with settings that let it end in seconds, and real keys of runs."""
    command = [_with_key(word, results) for word in command]
    if " ".join(command[:2]) not in COMPOSING and command[0] not in COMPOSING:
        return command
    chosen = {word.partition("=")[0] for word in command}
    datasets = [word for word in command if word.startswith("dataset=")] or ["dataset=mortality"]
    embedded = set(datasets[0].partition("=")[2].split(",")) <= {"mortality", "icu", "severity"}
    given = [word for word in TINY if word.partition("=")[0] not in chosen]
    if embedded:
        small = ("dataset.patients=60", "dataset.image_size=64", "dataset.prevalence=0.4")
        given += [word for word in small if word.partition("=")[0] not in chosen]
    if "cv" not in chosen and "cv.folds" not in chosen:
        given.append("cv.folds=3")
    return [*command, *given]


def _with_key(word: str, results: Path) -> str:
    if not word.endswith("/KEY"):
        return word
    return str(max(Path(word).parent.iterdir(), key=lambda run: run.stat().st_mtime))


RUN = [
    name
    for name, page in PAGES.items()
    if any(not remark.startswith(("not run", "fails")) for _, remark in commands(page))
]


@pytest.mark.parametrize("name", RUN)
def test_commands_run_one_after_another(
    name: str, folder: Path, prognobench: Callable[[list[str]], Said]
) -> None:
    for command, remark in commands(PAGES[name]):
        if remark.startswith(("not run", "fails")):
            continue
        said = prognobench(shrunk(command, folder / "results"))
        assert said.code == 0, f"{name}: {shlex.join(command)}\n{said.err}"
        assert "Traceback" not in said.err
        if command[0] == "run":
            assert "MCC" in said.out, f"{name}: {shlex.join(command)} ends without a table"
    for file in folder.glob("results/tables/*.csv"):
        assert file.stat().st_size


FAILING = [
    pytest.param(command, remark.removeprefix("fails: "), id=shlex.join(command))
    for page in PAGES.values()
    for command, remark in commands(page)
    if remark.startswith("fails")
]


@pytest.mark.parametrize(("command", "named"), FAILING)
def test_errors_name_what_is_wrong(
    command: list[str], named: str, folder: Path, prognobench: Callable[[list[str]], Said]
) -> None:
    said = prognobench(command)
    assert said.code == 2
    assert named in said.err
    assert "Traceback" not in said.err
    assert not (folder / "results").exists()


def test_own_parts_are_shown_of_every_kind(folder: Path) -> None:
    parts = {file.stem for file in (folder / "mine").glob("*.py")}
    assert {"clinic", "small_net", "first_blocks", "discriminant", "costly_misses"} <= parts
    assert "youden" in parts
    kinds = {file.parent.name for file in (folder / "myconfigs").glob("*/*.yaml")}
    assert kinds == {"dataset", "model", "strategy", "loss"}
    # Each is used by a command that test_commands_run_one_after_another runs.
    run = {
        word.rpartition("=")[2]
        for command, remark in commands(PAGES["docs/own-parts.md"])
        if not remark
        for word in command
    }
    assert parts <= run


def test_the_map_shows_every_room_and_every_file_of_the_ground() -> None:
    picture = next(
        block.text for block in blocks(PAGES["CONTRIBUTING.md"]) if "src/prognobench/" in block.text
    )
    shown = {line.split()[0].rstrip("/") for line in picture.splitlines()[1:] if "/ " in line}
    ground = set(picture.splitlines()[-1].partition("the ground")[0].split())
    package = ROOT / "src" / "prognobench"
    rooms = {file.parent.name for file in package.glob("*/__init__.py")}
    files = {file.stem for file in package.glob("*.py")} - {"__init__", "__main__"}
    assert rooms == shown
    assert files == ground
