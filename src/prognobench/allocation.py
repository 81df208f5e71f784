"""Memory that was freed: kept for the next step, or given back to the operating system.

By itself the C library of Linux gives large blocks back at once, and has every page of them made
anew a moment later: a fifth of a transformer's forward pass, three quarters of the time in which an
uncompressed film is decoded.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt``, from glibc's ``malloc.h``."""

LARGEST_KEPT = 2**25
"""Bytes; the most that every version of glibc takes. Larger blocks are given back as before."""


@cache
def keep_freed_memory() -> None:
    """Let this process keep what it frees; nothing happens where the C library is another."""
    if libc := _glibc():
        libc.mallopt(MMAP_THRESHOLD, LARGEST_KEPT)
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Give back what is kept: before memory is measured, say."""
    if libc := _glibc():
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None)
    except OSError:  # a static interpreter
        return None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
