from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from prognobench import workers as allocation

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")

MEASURE = """
from pathlib import Path
from prognobench.workers import keep_freed_memory, return_freed_memory

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

def fill():
    start = resident()
    blocks = [number.to_bytes(2**20, "little") for number in range(100)]
    return start, resident() - start
"""

ALONE = """
if {keep}:
    keep_freed_memory()
start, full = fill()
kept = resident() - start
return_freed_memory()
print(full, kept, resident() - start)
"""

BESIDE = """
from prognobench.workers import shared_out

def work(_):
    start, _ = fill()
    return resident() - start

print(*shared_out(work, [0], separate=True))
"""

PEAK = """
import torch
from prognobench.training.hardware import PeakMemory

keep_freed_memory()
before = PeakMemory(torch.device("cpu")).bytes
fill()
print((PeakMemory(torch.device("cpu")).bytes - before) / 2**20)
"""


def printed(code: str) -> list[float]:
    command = [sys.executable, "-c", MEASURE + code]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [float(number) for number in said.split()]


@glibc
@pytest.mark.parametrize("keep", [False, True])
def test_freed_memory_is_kept_until_it_is_returned(keep: bool) -> None:
    full, kept, returned = printed(ALONE.replace("{keep}", str(keep)))
    assert full > 90
    assert (kept > 90) if keep else (kept < 20)
    assert returned < 20


@glibc
def test_processes_that_share_work_keep_what_they_free() -> None:
    (kept,) = printed(BESIDE)
    assert kept > 90


@glibc
def test_a_peak_is_measured_without_what_was_freed_before() -> None:
    (above,) = printed(PEAK)
    assert above < 20


def test_where_the_c_library_is_another_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_glibc", lambda: None)
    allocation.keep_freed_memory.__wrapped__()
    allocation.return_freed_memory()
