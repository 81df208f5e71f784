"""An array on disk that is written row by row, by several processes, and survives a kill."""

from __future__ import annotations

import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prognobench.files import stamp_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

WRITTEN = 1 << 32
"""Added to a row's checksum, so that no written row has the checksum of an empty place."""


@dataclass(frozen=True)
class Draft:
    """Rows of uint8 that are written once each, beside a checksum that says so.

    A row without its checksum, or with another's, counts as not written. The files lie beside the
    array that they will become, ``path``: ``.part`` while it is written; ``.crc``, the checksums,
    and ``.digests``, one line per row, which stay.
    """

    path: Path
    shape: tuple[int, ...]

    @property
    def part(self) -> Path:
        return self.path.with_suffix(".part")

    @property
    def checksums(self) -> Path:
        return self.path.with_suffix(".crc")

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:])

    def open(self, digests: Sequence[str]) -> None:
        """Start, or go on with what a killed process left; the whole space is reserved at once.

        Raises
        ------
        OSError
            If there is not enough space, or no right to write.
        """
        self.path.with_suffix(".digests").write_text("\n".join(digests), encoding="ascii")
        if self.written().size:
            return
        self.checksums.write_bytes(bytes(8 * self.shape[0]))
        with self.part.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(file, header)
            _reserve(file.fileno(), self.part, file.tell() + self.shape[0] * self.row_bytes)

    def written(self) -> NDArray[np.intp]:
        """The rows that were written whole."""
        try:
            sums = np.frombuffer(self.checksums.read_bytes(), dtype="<u8")
            array = np.load(self.part, mmap_mode="r")
        except (OSError, ValueError):
            return np.empty(0, dtype=np.intp)
        if array.shape != self.shape or len(sums) != len(array):
            return np.empty(0, dtype=np.intp)
        # A crash of the machine may keep a checksum and lose its pixels, so the rows are summed.
        claimed = np.flatnonzero(sums)
        right = [zlib.crc32(array[row].data) + WRITTEN == sums[row] for row in claimed]
        written: NDArray[np.intp] = claimed[np.asarray(right, dtype=bool)]
        return written

    @contextmanager
    def writing(self) -> Iterator[Callable[[Sequence[int], NDArray[np.uint8]], None]]:
        """Give a function that writes one image into its rows.

        Safe beside other processes that write other rows.
        """
        # The header comes before the rows, and its length is NumPy's business.
        start = self.part.stat().st_size - self.shape[0] * self.row_bytes
        with (
            self.part.open("r+b", buffering=0) as part,
            self.checksums.open("r+b", buffering=0) as checksums,
        ):

            def write(rows: Sequence[int], pixels: NDArray[np.uint8]) -> None:
                content = np.ascontiguousarray(pixels).data
                checksum = (zlib.crc32(content) + WRITTEN).to_bytes(8, "little")
                for row in rows:
                    part.seek(start + row * self.row_bytes)
                    part.write(content)
                # The checksum comes second: after a kill between the two the row does not count.
                for row in rows:
                    checksums.seek(8 * row)
                    checksums.write(checksum)

            yield write

    def finish(self) -> None:
        """Make it the array; from then on it is whole."""
        for written in (self.part, self.checksums):
            with written.open("r+b") as file:
                os.fsync(file.fileno())
        self.part.replace(self.path)
        _remember(self.path)

    def discard(self) -> None:
        """Remove every trace."""
        for ending in (".part", ".crc", ".seen", ".digests"):
            with suppress(OSError):
                self.path.with_suffix(ending).unlink()


def is_whole(path: Path) -> bool:
    """Whether an array has the checksums that it was written with.

    It is read, at about a gigabyte a second, only where its size or a time changed since it was
    written or last read. An array of an older version has no checksums and is taken as it is.
    """
    with suppress(OSError):
        if path.with_suffix(".seen").read_text(encoding="ascii") == _stamp(path):
            return True
    if not path.with_suffix(".crc").exists():
        return True
    try:
        sums = np.frombuffer(path.with_suffix(".crc").read_bytes(), dtype="<u8")
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        return False
    if len(sums) != len(array) or any(
        zlib.crc32(row.data) + WRITTEN != wanted for row, wanted in zip(array, sums, strict=True)
    ):
        return False
    _remember(path)
    return True


def _remember(path: Path) -> None:
    with suppress(OSError):  # a cache that cannot be written is read again next time
        path.with_suffix(".seen").write_text(_stamp(path), encoding="ascii")


def _stamp(path: Path) -> str:
    return f"{stamp_file(path)} {stamp_file(path.with_suffix('.crc'))}"


def stored_rows(home: Path, wanted: set[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield the wanted images that any array of a folder holds, by digest.

    Drafts count as far as they were written: what a build did before a broken file stopped it
    need not be done again.
    """
    for listing in sorted(home.glob("*.digests")):
        digests = listing.read_text(encoding="ascii").split("\n")
        if wanted.isdisjoint(digests):
            continue
        whole, part = listing.with_suffix(".npy"), listing.with_suffix(".part")
        if whole.exists() and not is_whole(whole):
            continue
        try:
            array = np.load(whole if whole.exists() else part, mmap_mode="r")
        except (OSError, ValueError):
            continue
        if len(array) != len(digests):  # a draft whose listing was not written whole
            continue
        rows = np.arange(len(array)) if whole.exists() else Draft(whole, array.shape).written()
        for row in rows:
            if digests[row] in wanted:
                wanted.discard(digests[row])
                yield digests[row], array[row]


def _reserve(file: int, path: Path, size: int) -> None:
    """Give a file its size for good, so that a full disk is noticed now and not by a crash."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
        return
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(28, "not enough space")
    os.truncate(path, size)
