"""DICOM files as a radiologist would see them.

The grey-scale pipeline of DICOM PS3.3 C.11: modality LUT or rescale, then VOI LUT or window, then
the photometric interpretation.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.errors import DataError
from prognobench.imaging.decode import EXACT, as_channels, refuse_bomb, refuse_frames, stretched
from prognobench.imaging.dicom_files import DicomFile, read_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# They name no file; what keeps an image from being read is said with its name.
warnings.filterwarnings("ignore", module="pydicom")


def read_dicom(path: Path, channels: int) -> NDArray[np.uint8]:
    """Decode the one frame of a DICOM file.

    The first VOI LUT or window of the file is applied and its range becomes 0 to 255; without
    one (or with one that leaves a blank image), the range of the pixels does. MONOCHROME1 is
    inverted, so that air is dark. Colour is converted to RGB.

    Raises
    ------
    DataError
        No pixels, several frames, too many pixels.
    MissingExtraError
        If pydicom is not installed.
    """
    with DicomFile(path) as file:
        dataset = read_dataset(file, pixels=True, force=True)
    if "PixelData" not in dataset:
        raise DataError(
            f"{path}: a DICOM file without pixels (a report, an index, or cut off?); replace "
            "it, or leave it out with dataset.exclude"
        )
    refuse_frames(path, int(dataset.get("NumberOfFrames") or 1))
    if "TransferSyntaxUID" not in dataset.file_meta:  # a bare data set, as older tools wrote it
        from pydicom.uid import ImplicitVRLittleEndian

        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    _refuse_bombs(path, dataset)
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    photometric = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    pixels = pixel_array(dataset)
    if photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 3:
        return as_channels(_colour(pixels), channels)
    shown = _shown(pixels, dataset)
    return as_channels(255 - shown if photometric == "MONOCHROME1" else shown, channels)


def _refuse_bombs(path: Path, dataset: Any) -> None:
    """Hold both the header and the compressed frame itself to the bound on decoded pixels."""
    refuse_bomb(path, int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0))
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        from pydicom.encaps import get_frame

        size = codestream_size(get_frame(dataset.PixelData, 0, number_of_frames=1))
        if size is not None:
            refuse_bomb(path, *size)


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG, JPEG-LS or JPEG 2000 frame announces; None if it does not."""
    if frame[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: start of codestream, size
        edges = [int.from_bytes(frame[at : at + 4], "big") for at in (8, 12, 16, 20)]
        return edges[0] - edges[2], edges[1] - edges[3]
    if frame[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        starts_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if starts_frame or marker == 0xF7:  # 0xF7: JPEG-LS
            height = int.from_bytes(frame[at + 5 : at + 7], "big")
            return int.from_bytes(frame[at + 7 : at + 9], "big"), height
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _colour(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    return pixels if pixels.dtype == np.uint8 else stretched(pixels)


def _shown(stored: NDArray[Any], dataset: Any) -> NDArray[np.uint8]:
    """Apply modality and VOI transforms and scale the result to 0 to 255."""
    from pydicom.pixels.processing import apply_modality_lut

    values = apply_modality_lut(stored, dataset)
    padding = _padding(stored, dataset)
    tables = dataset.get("VOILUTSequence")
    shown = _looked_up(values, tables[0]) if tables else _windowed(values, dataset)
    if shown is None or shown.min() == shown.max():
        shown = stretched(np.where(padding, values[~padding].min(initial=values.max()), values))
    shown[padding] = 255 if dataset.get("PhotometricInterpretation") == "MONOCHROME1" else 0
    return shown


def _padding(stored: NDArray[Any], dataset: Any) -> NDArray[np.bool_]:
    """Pixels outside the exposed field, which the file marks by a value or a range."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    marked: NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return marked


def _looked_up(values: NDArray[Any], item: Any) -> NDArray[np.uint8]:
    """Apply a VOI LUT; its own darkest and brightest entries become 0 and 255."""
    entries, first, _ = item.LUTDescriptor
    data = item.LUTData
    if isinstance(data, bytes):
        data = np.frombuffer(data, "u1" if len(data) <= entries + 1 else "<u2")
    table = stretched(np.asarray(data))
    position = np.clip(np.rint(values).astype(np.int64) - first, 0, len(table) - 1)
    shown: NDArray[np.uint8] = table[position]
    return shown


def _windowed(values: NDArray[Any], dataset: Any) -> NDArray[np.uint8] | None:
    """Apply the first window by PS3.3 C.11.2.1.2 and .3; None without a usable one."""
    centre, width = (_first(dataset, f"Window{name}") for name in ("Center", "Width"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    least = 0 if function in ("SIGMOID", "LINEAR_EXACT") else 1
    if centre is None or width is None or width <= least:
        return None
    deep = values.dtype.itemsize > 2 and abs(centre) + width > EXACT
    # In place: fresh memory for every step takes nine times as long.
    x: NDArray[Any] = values.astype(np.float64 if deep else np.float32)
    if function == "SIGMOID":
        x -= centre
        x *= -4
        x /= width
        np.exp(np.clip(x, -80, 80, out=x), out=x)
        x += 1
        np.reciprocal(x, out=x)
    else:
        x -= centre if function == "LINEAR_EXACT" else centre - 0.5
        x /= width if function == "LINEAR_EXACT" else width - 1
        x += 0.5
    np.clip(x, 0, 1, out=x)
    x *= 255
    shown: NDArray[np.uint8] = np.rint(x, out=x).astype(np.uint8)
    return shown


def _first(dataset: Any, keyword: str) -> float | None:
    """A window may be given as one number or several views; empty means none."""
    value = dataset.get(keyword)
    if value is None or value == "":
        return None
    from pydicom.multival import MultiValue

    numbers = list(value) if isinstance(value, MultiValue) else [value]
    try:
        return float(numbers[0]) if numbers and math.isfinite(numbers[0]) else None
    except TypeError:
        raise ValueError(f"{keyword} is {str(value)!r}, no number") from None
