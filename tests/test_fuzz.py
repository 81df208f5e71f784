"""Files of any content: read, or refused with one of our own errors; never anything else."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_runs import make_run
from PIL import Image

from prognobench.analysis.scores import score
from prognobench.cli.compose import compose
from prognobench.errors import ConfigError, PrognobenchError
from prognobench.imaging.decode import read_image
from prognobench.registry import DATASETS

few = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

TEXT = "patient_id,image,label\np1,a.png,alive\np2,b.png,dead\n"


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Cut a file, replace a piece of it, or give any bytes at all."""
    start = draw(st.integers(0, len(whole)))
    length = draw(st.integers(0, 20))
    piece = draw(st.binary(max_size=20))
    return draw(
        st.sampled_from(
            [whole[:start], whole[:start] + piece + whole[start + length :], piece, whole + piece]
        )
    )


@contextmanager
def only_our_errors() -> Iterator[None]:
    with suppress(PrognobenchError):
        yield


@pytest.mark.parametrize("ending", ["csv", "xlsx"])
def test_tables_are_read_or_refused(tmp_path: Path, ending: str) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    file = tmp_path / f"cohort.{ending}"
    if ending == "xlsx":
        import pandas as pd

        pd.read_csv(io.StringIO(TEXT)).to_excel(file, index=False)
    else:
        file.write_text(TEXT)

    def load() -> int:
        return len(
            DATASETS["table"](table=file, images=tmp_path, label="label", positive="dead").table
        )

    assert load() == 2
    whole = file.read_bytes()

    @few
    @given(damaged(whole))
    def read(content: bytes) -> None:
        file.write_bytes(content)
        with only_our_errors():
            assert load() > 0

    read()


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "bmp", "dcm"])
def test_images_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"image.{kind}"
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    if kind == "dcm":
        from made_dicom import write_dicom

        write_dicom(file, pixels)
    else:
        Image.fromarray(pixels).save(file, kind)
    assert read_image(file).ndim >= 2
    whole = file.read_bytes()

    @few
    @given(damaged(whole))
    def read(content: bytes) -> None:
        file.write_bytes(content)
        with only_our_errors():
            assert read_image(file).dtype == np.uint8

    read()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["epochs", "batch_size", "lr", "defaults", "hydra", "_target_", "${", "a.b", "", "train"]
)


@few
@given(
    st.dictionaries(KEYS | st.text(max_size=5), VALUES, max_size=4).map(
        lambda value: json.dumps(value).encode()
    )
    | damaged(b"# @package _global_\ndefaults:\n  - override /model: vit\ntrain:\n  epochs: 3\n")
    | st.binary(max_size=60)
)
def test_configs_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    folder = tmp_path_factory.mktemp("own")
    for group in ("train", "experiment"):
        (folder / group).mkdir()
        (folder / group / "mine.yaml").write_bytes(content)
    for overrides in (["train=mine"], ["experiment=mine"]):
        with only_our_errors():
            assert compose(overrides, config_dir=folder, multirun=True)


@pytest.mark.parametrize(
    "content",
    [
        "a: &a [*a]",
        "a: &a {b: *a}",
        "a: " + "[" * 9999,
        "a: " + "[" * 90 + "]" * 90,
        "\n".join(["a0: &a0 [1]", *(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]" for n in range(1, 9))]),
    ],
)
def test_configs_without_end_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"mine.yaml: .*(levels|plain YAML)"):
        compose(["experiment=mine"], config_dir=tmp_path)


@few
@given(st.text(max_size=30) | st.from_regex(r"[a-z.]{1,8}=[\[\]{},'\"$a-z0-9.:\\]{0,12}"))
def test_overrides_are_read_or_refused(override: str) -> None:
    with only_our_errors():
        assert compose([override])


STORED = ("run.json", "predictions.csv", "cost.json", "done.json")


@pytest.mark.parametrize("name", STORED)
def test_stored_files_are_read_or_refused(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / "whole")
    file = next((tmp_path / "whole").rglob(name)).relative_to(tmp_path / "whole")
    whole = (tmp_path / "whole" / file).read_bytes()

    @settings(few, max_examples=12)
    @given(damaged(whole))
    def read(content: bytes) -> None:
        results = tmp_path / "damaged"
        shutil.rmtree(results, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", results)
        (results / file).write_bytes(content)
        with only_our_errors():
            assert score(results).exists()

    read()
