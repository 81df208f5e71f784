from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from prognobench import allocation

MEASURE = """
from pathlib import Path
from prognobench.allocation import keep_freed_memory, return_freed_memory

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

if {keep}:
    keep_freed_memory()
start = resident()
blocks = [number.to_bytes(2**20, "little") for number in range(100)]
full = resident() - start
blocks.clear()
kept = resident() - start
return_freed_memory()
print(full, kept, resident() - start)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("keep", [False, True])
def test_freed_memory_is_kept_until_it_is_returned(keep: bool) -> None:
    command = [sys.executable, "-c", MEASURE.replace("{keep}", str(keep))]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    full, kept, returned = map(float, said.split())
    assert full > 90
    assert (kept > 90) if keep else (kept < 20)
    assert returned < 20


def test_where_the_c_library_is_another_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_glibc", lambda: None)
    allocation.keep_freed_memory.__wrapped__()
    allocation.return_freed_memory()
