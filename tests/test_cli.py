"""The command line as its user meets it: what is printed where, files, and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from itertools import takewhile
from pathlib import Path

import click
import numpy as np
import pytest
from made_cohorts import write_csv
from PIL import Image

from prognobench.cli import cli, console, main
from prognobench.registry import DATASETS
from prognobench.workers import LEASE, Lease

SMALL = (
    "dataset=severity",
    "dataset.patients=36",
    "dataset.image_size=64",
    "model=vit",
    "model.weights=random",
    "train=quick",
    "train.epochs=1",
    "cv.folds=3",
    "device=cpu",
)


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def prognobench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], results: Path
) -> Command:
    """Run a command in a folder with results, as a user would."""
    monkeypatch.chdir(results.parent)
    monkeypatch.setenv("PROGNOBENCH_CACHE", str(results.parent / "cache"))

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["prognobench", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return Said(int(end.value.code or 0), said.out, said.err)

    return call


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with two runs, made once through the command line."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("PROGNOBENCH_CACHE", str(home / "cache"))
        arguments = ["run", "-m", *SMALL, "strategy=linear_probe,metadata", "--no-table"]
        patch.setattr(sys, "argv", ["prognobench", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return home / "results"


def test_what_others_compute_is_left_to_them(prognobench: Command, results: Path) -> None:
    (mark, *_) = results.glob("runs/*/*/linear_probe/*/cells/*/done.json")
    content = mark.read_bytes()
    mark.unlink()
    lease = Lease.take(mark.parents[2], LEASE)
    assert lease is not None
    try:
        said = prognobench("run", *SMALL, "strategy=linear_probe", "--no-wait", "--no-table")
    finally:
        lease.clear()
        mark.write_bytes(content)
    assert said.code == 0
    assert "cells 2 done before, 1 computed elsewhere" in said.err
    assert "other processes still compute 1 of these cells" in said.err


def test_a_run_ends_with_its_table(prognobench: Command, results: Path) -> None:
    said = prognobench("run", *SMALL, "strategy=linear_probe")
    assert said.code == 0
    assert "3 done before" in said.err
    lines = [line.split("\t") for line in said.out.splitlines()]
    assert ["model", "linear_probe"] in lines
    assert any(line[0] == "ceiling (true risk)" for line in lines)
    assert "synthetic images, no clinical data" in said.out
    assert (results / "scores.csv").exists()


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["dataset=mortalty"], "unknown dataset 'mortalty'. Did you mean 'mortality'"),
        (["model=vitt"], "unknown model 'vitt'. Did you mean 'vit'"),
        (["strategy=lorra"], "unknown strategy 'lorra'. Did you mean 'lora'"),
        (["strategy=lora", "strategy.rnk=2"], "unknown key 'strategy.rnk'. Did you mean 'rank'"),
        (["dataset=cxr_icu"], "dataset.root is missing"),
        (["dataset=cxr_icu", "dataset.root=nowhere"], "nowhere"),
        (["model.weights=nowhere.safetensors"], "nowhere.safetensors"),
        (["cv.folds=30", "dataset.patients=20"], "cv.folds=30 needs one in each"),
        (["device=abacus"], "device=abacus"),
        (["device=meta"], "device=meta must be auto, cpu or cuda"),
        (
            ["strategy=linear_probe", "strategy.views=2", "train.augmentation=none"],
            "strategy.views=2 are augmented",
        ),
        (["lora=true", "strategy=full"], "contradicts"),
        (["lora"], "cannot read 'lora': overrides look like key=value. Did you mean lora=true?"),
        (["epochs=3"], "unknown key 'epochs'. Did you mean train.epochs?"),
        (["experiment=embedded"], "experiment=embedded is a sweep: add -m"),
    ],
)
def test_a_wrong_command_starts_nothing(
    prognobench: Command, tmp_path: Path, overrides: list[str], fault: str
) -> None:
    said = prognobench("run", *overrides, f"paths.results={tmp_path / 'results'}")
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert fault in said.err
    assert "Traceback" not in said.err
    assert not (tmp_path / "results").exists()


def test_failed_cells_show_in_the_exit_code(prognobench: Command, tmp_path: Path) -> None:
    huge = ("strategy=full", "strategy.lr=1e30", "train.clip=1e30", "train.epochs=3")
    said = prognobench("run", *SMALL, *huge, f"paths.results={tmp_path}")
    assert said.code == 1
    assert "the loss is nan in epoch" in said.err
    assert "r0-f0" in said.err


def test_tables_go_to_files_and_stdout(prognobench: Command, results: Path) -> None:
    said = prognobench("table", "--metric", "roc_auc", "--format", "csv,tex,html,md")
    assert said.code == 0
    assert said.out.startswith("# ROC-AUC")
    assert {file.suffix for file in (results / "tables").glob("roc_auc*")} == {
        *(".csv", ".tex", ".html", ".md")
    }
    said = prognobench("table", "--metric", "mmc")
    assert said.code == 2
    assert "Did you mean 'mcc'" in said.err


def test_scores_are_made_anew(prognobench: Command, results: Path) -> None:
    before = (results / "scores.csv").read_bytes() if (results / "scores.csv").exists() else b""
    assert prognobench("score").code == 0
    assert before in (b"", (results / "scores.csv").read_bytes())
    said = prognobench("score", "elsewhere")
    assert said.code == 2
    assert "start with 'prognobench run'" in said.err


def test_runs_are_compared(prognobench: Command, results: Path) -> None:
    said = prognobench("compare", "--by", "strategy", "--metric", "average_precision")
    assert said.code == 0
    assert "linear_probe\tmetadata" in said.out
    assert list((results / "tables").glob("comparisons_average_precision*.csv"))
    assert prognobench("compare", "--by", "colour").code == 2


def test_a_baseline_by_itself_has_a_table(prognobench: Command, tmp_path: Path) -> None:
    own = f"paths.results={tmp_path / 'results'}"
    said = prognobench("run", *SMALL, "strategy=prior", own)
    assert said.code == 0
    assert "MCC" in said.out
    assert "prior" in said.out


def test_claims_are_checked(prognobench: Command) -> None:
    said = prognobench("claims")
    assert said.code == 0
    title, header, *rows = (line.split("\t") for line in said.out.splitlines())
    assert title == ["# claims"]
    findings = takewhile(lambda row: not row[0].startswith("#"), rows)
    verdicts = [row[header.index("verdict")] for row in findings]
    assert len(verdicts) == 5
    assert set(verdicts) <= {"supported", "contradicted", "undecided"}


def test_a_report_is_one_file(prognobench: Command, results: Path) -> None:
    said = prognobench("report")
    assert said.code == 0
    page = (results / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "synthetic images, no clinical data" in page


def test_the_data_desk_prints_json(prognobench: Command, tmp_path: Path) -> None:
    said = prognobench("data", "check", *SMALL, "--json", "--csv", str(tmp_path))
    assert said.code == 0
    found = json.loads(said.out)
    assert found["leaks"] == []
    assert found["tables"]["patients and images"]
    (folds,) = tmp_path.glob("*-folds.csv")
    assert folds.read_text().startswith("repeat,fold,draw,part,patient_id")

    several = ("-m", "seed=1,2,3", "--json", "--csv", str(tmp_path / "several"))
    said = prognobench("data", "check", *SMALL, *several)
    assert [each["cohort"] for each in json.loads(said.out)] == [found["cohort"]] * 3
    several = [path.read_text() for path in tmp_path.glob("several/*/*-folds.csv")]
    assert len(set(several)) == 3


def test_the_desk_ends_with_the_status_of_what_a_run_would_refuse(
    prognobench: Command, tmp_path: Path
) -> None:
    rows = []
    (tmp_path / "images").mkdir()
    for at, number in enumerate(np.random.default_rng(0).integers(1 << 30, size=12)):
        clouds = np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)
        image = Image.fromarray(clouds).resize((64, 64), Image.Resampling.BICUBIC)
        image.save(tmp_path / "images" / f"{at}.png")
        rows.append({"patient": f"p{at}", "image": f"{at}.png", "outcome": ("no", "yes")[at % 2]})
    write_csv(tmp_path / "table.csv", rows)
    given = [f"dataset.table={tmp_path / 'table.csv'}", f"dataset.images={tmp_path / 'images'}"]
    chosen = ("dataset=table", *given, "dataset.label=outcome", "dataset.positive=yes")
    written = tmp_path / "written"
    command = ("data", "check", *chosen, "--csv", str(written), f"paths.cache={tmp_path / 'c'}")
    assert prognobench(*command, "cv.folds=3").code == 0
    assert (written / "table-folds.csv").exists()
    assert prognobench(*command, "cv.folds=30").code == 2
    assert not (written / "table-folds.csv").exists()
    for at in range(1, 12):
        image.save(tmp_path / "images" / f"{at}.png")
    assert prognobench(*command, "cv.folds=3").code == 1
    assert prognobench(*command, "cv.folds=3", "checks.leaks=allow").code == 0


def test_where_no_folds_can_be_made_the_desk_shows_the_counts_that_say_why(
    prognobench: Command,
) -> None:
    said = prognobench("data", "check", *SMALL, "--json", "regime=few_shot", "regime.k=32")
    assert said.code == 2
    assert "too few of a class for regime.k=32" in said.err
    document = json.loads(said.out)
    assert "too few of a class for regime.k=32" in document["faults"][0]
    tables = document["tables"]
    assert tables["patients and images"]
    assert tables["metadata-only baseline"]
    assert not tables["patients by part"]
    shown = prognobench("data", "check", *SMALL, "regime=few_shot", "regime.k=32")
    assert "no leaks" not in shown.err
    assert "leaks between the parts of a fold were not checked" in shown.err


def test_images_are_decoded_ahead(prognobench: Command, tmp_path: Path) -> None:
    said = prognobench("data", "prepare", *SMALL)
    assert said.code == 0
    assert "images ready" in said.err

    absent = f"model.weights={tmp_path / 'to-be-downloaded.safetensors'}"
    said = prognobench("data", "prepare", *SMALL, absent, f"paths.cache={tmp_path}")
    assert said.code == 0, said.err
    assert len(list(tmp_path.glob("pixels/*/*.npy"))) == 1


def test_saved_models_predict_new_images_and_are_exported(
    prognobench: Command, tmp_path: Path
) -> None:
    images = DATASETS["embedded"](task="severity", prevalence=0.5, patients=3, seed=7)
    for name in images.table["image"]:
        image = Image.fromarray(images.sources["images"].render(name))
        image.save(tmp_path / f"{name}.png")
    saving = ("strategy=lora", "train.save=best", f"paths.results={tmp_path / 'results'}")
    assert prognobench("run", *SMALL, *saving, "--no-table").code == 0
    (run,) = (tmp_path / "results").glob("runs/*/*/*/*")
    said = prognobench("predict", str(run), str(tmp_path), "--device", "cpu")
    assert said.code == 0
    head, *rows = [line.split("\t") for line in said.out.splitlines()]
    assert head == ["patient_id", "image", "predicted", "score_mild", "score_severe"]
    assert len(rows) == len(images)
    merged = tmp_path / "merged.safetensors"
    assert prognobench("export", str(run), str(merged)).code == 0
    assert merged.exists()
    nothing = prognobench("predict", str(run.parent), str(tmp_path))
    assert nothing.code == 2


def test_a_run_says_which_weights_it_had(results: Path) -> None:
    run = next(results.glob("runs/severity/vit/linear_probe/*"))
    weights = json.loads((run / "environment.json").read_text())["weights"]
    assert weights["origin"] == "random (seed 0)"
    assert (
        weights["fingerprint"]
        == json.loads((run / "run.json").read_text())["fingerprints"]["weights"]
    )


def test_listing_reads_configs_alone(prognobench: Command) -> None:
    said = prognobench("list")
    assert "mortality" in said.out
    assert "lora" in prognobench("list", "strategies").out
    assert "resnet18" in prognobench("list", "models").out
    assert "mcc" in prognobench("list", "metrics").out
    assert "Did you mean 'models'" in prognobench("list", "modles").err


@pytest.mark.parametrize("columns", [80, 140])
def test_the_table_of_models_cuts_nothing_off(
    columns: int, prognobench: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(console, "is_watched", lambda: True)
    table = prognobench("list", "models").out
    assert max(map(len, table.splitlines())) <= columns
    assert "…" not in table
    assert " medmae_densenet121  7.0       224    no " in table
    whole = "".join(line[52:].strip() for line in table.splitlines())
    assert "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224" in whole


def test_sides_that_do_not_fit_come_in_one_message(prognobench: Command) -> None:
    said = prognobench("run", "-m", "model=dinov2_small,vit", "model.image_size=100")
    assert said.code == 2
    assert "14 pixels; set 98 or 112" in said.err
    assert "8 pixels; set 96 or 104" in said.err


def commands(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name)


@pytest.mark.parametrize("command", [*commands(cli)])
def test_the_help_of_every_command_has_examples(
    command: tuple[str, ...], prognobench: Command
) -> None:
    text = prognobench(*command, "--help").out
    examples = text.partition("  Examples:\n")[2].partition("\n\n")[0].splitlines()
    assert any(line.startswith(f"    prognobench {' '.join(command)}") for line in examples)
    assert max(map(len, text.splitlines())) <= 100


def test_the_overview_shows_whole_sentences(prognobench: Command) -> None:
    for text in (prognobench("--help").out, prognobench("data", "--help").out):
        sentences = text.partition("Commands:")[2].splitlines()[1:]
        assert sentences
        assert all(sentence.endswith(".") and "..." not in sentence for sentence in sentences)


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["list", "models"], ["run", "--help"]])
def test_answers_that_must_be_quick_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['prognobench', *{arguments}]\n"
        "from prognobench.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'timm', 'peft', 'pandas', 'sklearn', 'hydra', 'matplotlib', 'numpy'}\n"
        "own = {name for name in sys.modules if name.startswith('prognobench.')}\n"
        "if '--help' in sys.argv:  # needs the commands, and nothing that they call\n"
        "    heavy |= {name for name in own if not name.startswith('prognobench.cli')}\n"
        "print(*(heavy & {*sys.modules}) - {'prognobench.errors'}, file=sys.stderr)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stderr.strip() == ""
    assert said.stdout


def test_overrides_complete(monkeypatch: pytest.MonkeyPatch, prognobench: Command) -> None:
    monkeypatch.setenv("_PROGNOBENCH_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "prognobench run strategy=lora,bit")
    monkeypatch.setenv("COMP_CWORD", "2")
    monkeypatch.setattr(sys, "argv", ["prognobench"])
    assert "strategy=lora,bitfit" in prognobench().out
    for words, found in {
        "tra": ["train="],
        "lo": ["loss=", "lora="],
        "train.epo": ["train.epochs="],
        "strategy.ran": ["strategy.rank="],
        "nothing.x": [],
    }.items():
        monkeypatch.setenv("COMP_WORDS", f"prognobench run {words}")
        said = prognobench().out
        assert [line.rpartition(",")[2] for line in said.split()] == found


def test_the_seed_of_training_varies_training_alone(
    prognobench: Command, results: Path, tmp_path: Path
) -> None:
    own = (*SMALL, "strategy=linear_probe", f"paths.results={tmp_path}")
    assert (
        prognobench("run", "-m", *own, "train.seed=null,42,7", "baselines=false", "--no-table").code
        == 0
    )
    metas = [json.loads(path.read_text()) for path in tmp_path.rglob("run.json")]
    # The run's own seed, said twice, is the same run.
    assert sorted((meta["seed"], meta["train_seed"]) for meta in metas) == [(42, 7), (42, 42)]
    assert len({meta["fingerprints"]["folds"] for meta in metas}) == 1
    stored = [json.loads(path.read_text()) for path in results.rglob("run.json")]
    assert {meta["key"] for meta in metas} & {meta["key"] for meta in stored}
    said = prognobench("compare", "--by", "seed", str(tmp_path))
    assert said.code == 0
    lines = [line for line in said.out.splitlines() if not line.startswith("#")]
    header, row = (line.split("\t") for line in lines)
    assert (row[0], row[1]) == ("42", "42/7")
    assert row[header.index("trained again [95 %]")] != ""
    predictions = {path.read_bytes() for path in tmp_path.rglob("cells/*/predictions*")}
    assert len(predictions) > 3  # more than the folds of one run


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_keeps_lines_and_removes_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.progress_bars() as progress:
        assert progress is not None
        progress("mortality, vit, lora, cell r0-f0", 3, 30)
        progress("mortality, vit, lora, cell r0-f0, 2.0 seconds", 0, 0)
        progress("cells", 1, 5)
    last = terminal.getvalue().rpartition("2.0 seconds")
    assert last[1]
    # After the line the bar of that cell is not drawn again.
    assert "cell r0-f0" not in last[2]
    assert "cells" in last[2]
