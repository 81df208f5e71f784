"""Whether a file is a whole image, as far as can be seen without decoding it.

Pillow's ``verify`` looks at PNG only, and pydicom's ``parse_fragments`` passes over fragments that
are cut off; what they do not see is looked for here: ends of JPEG, TIFF and compressed DICOM files.
"""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path
from typing import Any, BinaryIO

from prognobench.errors import DataError, MissingExtraError
from prognobench.imaging.dicom_files import DEFLATED_LIMIT, DICOM_SUFFIXES, DicomFile, read_dataset
from prognobench.imaging.pixels import FORMATS, MAX_PIXELS, TIFF_MARKS

# They name no file; what keeps an image from being read is said with its name.
warnings.filterwarnings("ignore", module="pydicom")
warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")


# BMP, WebP, JPEG 2000 (bare and in its box), PGM and PPM.
OTHER_MARKS = (b"BM", b"RIFF", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  ", b"P2", b"P5", b"P6")
TAIL = 1 << 12
"""Bytes at the end in which the end mark must stand; some programs append to a file."""
FRAGMENT, END_OF_FRAGMENTS = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
"""Tags in the compressed pixels of a DICOM file."""


def find_fault(path: str | Path, thorough: bool = False) -> str:
    """Return what is wrong with an image file, as the end of a sentence; empty if nothing is.

    Reads head and tail only: finds empty files, files that are no images, and truncated PNG, JPEG,
    TIFF and DICOM files. What breaks only on decoding is found when the pixels are prepared.

    Parameters
    ----------
    thorough
        Also look for several frames and for more pixels than are decoded, and read PNG files
        whole and compare their checksums.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "is no regular file"  # to open a pipe is to wait for its other end
        with open(path, "rb") as file:
            head = file.read(132)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            tail = file.read()
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if not head:
        return "is empty"
    if head[128:] == b"DICM" or os.fspath(path).lower().endswith(DICOM_SUFFIXES):
        return _dicom_fault(path, size)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        if b"IEND" not in tail:
            return "is truncated"
        return _content_fault(path) if thorough else ""
    if head.startswith(b"\xff\xd8\xff") and b"\xff\xd9" not in tail:
        return _jpeg_fault(path)
    if head.startswith(TIFF_MARKS) and (fault := _tiff_fault(path, size)):
        return fault
    if not head.startswith((b"\xff\xd8\xff", *TIFF_MARKS, *OTHER_MARKS)):
        return "is not an image of a known format"
    return _content_fault(path) if thorough else ""


def _jpeg_fault(path: str | Path) -> str:
    """Decode a JPEG without an end mark: it may hide it before an appendix, and still be whole."""
    from PIL import Image

    try:
        with Image.open(path, formats=("JPEG",)) as image:
            image.load()
    except Exception:
        return "is truncated"
    return ""


def _content_fault(path: str | Path) -> str:
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            image.verify()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"has more than {MAX_PIXELS:,} pixels"
    except Exception as error:  # Pillow raises anything on broken files
        return f"is broken ({error})"
    return _shape_fault(width, height, frames)


def _shape_fault(width: int, height: int, frames: int) -> str:
    if frames > 1:
        return f"holds {frames} frames, an image has one"
    return f"has more than {MAX_PIXELS:,} pixels" if width * height > MAX_PIXELS else ""


def _tiff_fault(path: str | Path, size: int) -> str:
    from PIL import Image

    try:
        with Image.open(path, formats=("TIFF",)) as image:
            tags = getattr(image, "tag_v2", {})
            strips = (tags.get(273) or tags.get(324) or (), tags.get(279) or tags.get(325) or ())
    except Exception as error:
        return f"is not a TIFF image that can be read ({error})"
    ends = [offset + length for offset, length in zip(*strips, strict=False)]
    return "is truncated" if ends and max(ends) > size else ""


def _dicom_fault(path: str | Path, size: int) -> str:
    """Compare what the header announces with what follows it.

    Without pydicom nothing is said: a cohort can be read before the extra is installed.
    """
    try:
        with DicomFile(path) as file:
            dataset = read_dataset(file, pixels=False, force=True)
            rest = size - file.tell()
            fault = _announced_fault(dataset, rest)
            syntax = dataset.file_meta.get("TransferSyntaxUID")
            if not fault and syntax is not None and syntax.is_encapsulated:
                fault = "" if _reaches_end(file, size) else "is truncated"
        return fault
    except MissingExtraError:
        return ""
    except DataError:
        return f"is a DICOM file whose deflated content is larger than {DEFLATED_LIMIT:,} bytes"
    except Exception as error:  # pydicom raises anything on broken files
        return f"is not a DICOM file that can be read ({error})"


def _reaches_end(file: BinaryIO, size: int) -> bool:
    """Whether compressed pixels, whose element begins here, come to their end within the file."""
    file.seek(12, os.SEEK_CUR)  # tag, representation, a length that is not known
    while len(head := file.read(8)) == 8:
        tag, length = head[:4], int.from_bytes(head[4:], "little")
        if tag == END_OF_FRAGMENTS:
            return True
        if tag != FRAGMENT or file.tell() + length > size:
            return False
        file.seek(length, os.SEEK_CUR)
    return False


def _announced_fault(dataset: Any, rest: int) -> str:
    """Compare the header of a DICOM file with the number of bytes that follow it."""
    from pydicom.pixels.utils import get_expected_length

    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    if not rows or not columns:
        return "is a DICOM file without pixels"
    if fault := _shape_fault(columns, rows, int(dataset.get("NumberOfFrames") or 1)):
        return fault
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_deflated:
        return ""
    if not rest:
        return "is a DICOM file without pixels"
    if syntax is not None and syntax.is_encapsulated:
        return ""
    rest -= 8 if syntax is None or syntax.is_implicit_VR else 12  # tag, representation, length
    return "is truncated" if rest < get_expected_length(dataset) else ""
