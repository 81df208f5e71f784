"""DICOM files, recognised and opened: the one place that hands them to pydicom to read."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prognobench.errors import DataError, MissingExtraError
from prognobench.imaging.pixels import MAX_PIXELS

DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")

DEFLATED_LIMIT = 4 * MAX_PIXELS
"""Bytes that a deflated data set may grow to; even its header is only read by inflating it all."""

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

INFLATED_AT_ONCE = 1 << 14
"""Deflated bytes; they grow a thousandfold at most."""


def has_dicom_mark(path: str | Path) -> bool:
    """Whether a file says that it is DICOM, whatever it is called."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def is_dicom(path: Path) -> bool:
    """Whether a file says so: by the mark after its preamble, or by its name."""
    return has_dicom_mark(path) or path.suffix.lower() in DICOM_SUFFIXES


class DicomFile(io.BufferedReader):
    """A file opened for :func:`read_dataset`, which guards against what would fill the memory."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(io.FileIO(os.fspath(path)))  # pydicom adds its name to texts

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        if size is None or size < 0:  # pydicom reads all that is left only to inflate it
            _refuse_deflated_bomb(self.name, content)
        return content


def read_dataset(
    file: DicomFile, *, pixels: bool, tags: Sequence[str] | None = None, force: bool = False
) -> Any:
    """Read a data set, a :class:`pydicom.dataset.FileDataset`.

    Parameters
    ----------
    pixels
        With what follows the header; without, the file is left where that begins.
    tags
        Only these; all without it.
    force
        Whether the file may lack the mark of DICOM.

    Raises
    ------
    DataError
        The content is deflated, and larger than is inflated.
    MissingExtraError
        If pydicom is not installed.
    Exception
        Whatever pydicom raises on a broken file.
    """
    try:
        from pydicom import config, dcmread
    except ImportError as error:
        raise MissingExtraError("dicom", f"{file.name} is a DICOM file: reading it") from error
    # Files from hospitals break the rules of value representations in harmless ways.
    config.settings.reading_validation_mode = config.IGNORE
    only = None if tags is None else list(tags)
    return dcmread(file, stop_before_pixels=not pixels, specific_tags=only, force=force)


def pixel_keyword(dataset: Any) -> str | None:
    """The name of the element that holds the pixels, which may be floats; None without one."""
    return next((name for name in PIXELS if name in dataset), None)


def _refuse_deflated_bomb(path: object, content: bytes) -> None:
    """Count the bytes of a deflated data set without keeping them."""
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with suppress(zlib.error):  # pydicom finds it again
        for start in range(0, len(content), INFLATED_AT_ONCE):
            size += len(inflate.decompress(content[start : start + INFLATED_AT_ONCE]))
            if size > DEFLATED_LIMIT:
                raise DataError(
                    f"{path}: its deflated content is larger than {DEFLATED_LIMIT:,} bytes; "
                    "leave it out"
                )
            if inflate.eof:
                break
