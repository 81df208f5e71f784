"""What every test can ask for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from prognobench.registry import GROUPS, METRICS

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts jobs in the background so, and the commands of tests would ignore Ctrl-C too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(os.environ.get("PROGNOBENCH_SHARED", Path(__file__).parents[2] / "shared"))


def _beside_checkout(*parts: str) -> Path:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} does not lie beside this checkout")
    return path


@pytest.fixture(scope="session")
def real_cohort_root() -> Path:
    """The folder of a real cohort: metadata.csv and images/."""
    return _beside_checkout("data", "covid-chestxray")


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """The folder of two real pretrained backbones, as safetensors."""
    return _beside_checkout("weights")


@pytest.fixture(autouse=True)
def parts_of_one_test() -> Iterator[None]:
    """Parts that a test registers are gone after it."""
    registries = (*GROUPS.values(), METRICS)
    before = [{name: registry[name] for name in registry} for registry in registries]
    yield
    for registry, parts in zip(registries, before, strict=True):
        registry._parts = parts
