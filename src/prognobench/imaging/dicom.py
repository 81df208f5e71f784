"""DICOM files become uint8 arrays, as a radiologist would see them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from prognobench.errors import DataError
from prognobench.imaging.dicom_files import DicomFile, pixel_keyword, read_dataset
from prognobench.imaging.dicom_grey import apply_grey_pipeline
from prognobench.imaging.pixels import convert_channels, refuse_bomb, refuse_frames, stretch

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# They name no file; what keeps an image from being read is said with its name.
warnings.filterwarnings("ignore", module="pydicom")

REQUIRED = (
    *("PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated", "BitsStored"),
    "PixelRepresentation",
)
"""What a header must say for its pixels to be understood."""

FRAME_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
"""Functional groups of enhanced objects that say how a frame is shown."""


def read_dicom(path: Path, channels: int) -> NDArray[np.uint8]:
    """Decode the one frame of a DICOM file.

    The first VOI LUT or window of the file is applied and its range becomes 0 to 255; without
    one (or with one that leaves a blank image), the range of the pixels does. MONOCHROME1 is
    inverted, so that air is dark; PresentationLUTShape, which has to agree with it (PS3.3
    C.8.11.3.1.2), is not read. Colour is converted to RGB.

    Raises
    ------
    DataError
        No pixels, several frames, too many pixels, more bytes than the header describes.
    MissingExtraError
        If pydicom is not installed.
    """
    with DicomFile(path) as file:
        dataset = read_dataset(file, pixels=True, force=True)
    if pixel_keyword(dataset) is None or not dataset.get("Rows") or not dataset.get("Columns"):
        raise DataError(
            f"{path}: a DICOM file without pixels (a report, an index, or cut off?); replace "
            "it, or leave it out with dataset.exclude"
        )
    refuse_frames(path, int(dataset.get("NumberOfFrames") or 1))
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = _guess_syntax(dataset)
    _complete_header(path, dataset)
    _refuse_bombs(path, dataset)
    _refuse_excess(path, dataset)
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    unused = _take_unused_low_bits(dataset)
    pixels = pixel_array(dataset)
    if unused:
        pixels = pixels >> unused
    if _holds_overlays(dataset) and pixels.dtype.kind == "u":
        pixels = pixels & (2**dataset.BitsStored - 1)
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 3:
        return convert_channels(pixels if pixels.dtype == np.uint8 else stretch(pixels), channels)
    _lift_frame_groups(dataset)
    return convert_channels(apply_grey_pipeline(pixels, dataset), channels)


def _complete_header(path: Path, dataset: Any) -> None:
    """Fill in what can only be one thing; name what an image cannot be shown without."""
    grey = str(dataset.get("PhotometricInterpretation") or "").startswith("MONOCHROME")
    if grey and not dataset.get("SamplesPerPixel"):
        dataset.SamplesPerPixel = 1
    if dataset.get("BitsAllocated") and not dataset.get("BitsStored"):
        dataset.BitsStored = dataset.BitsAllocated
    lacking = [name for name in REQUIRED if dataset.get(name) in (None, "")]
    if pixel_keyword(dataset) != "PixelData":  # floating-point pixels have no sign of their own
        lacking = [name for name in lacking if name not in ("PixelRepresentation", "BitsStored")]
    if lacking:
        raise DataError(
            f"{path}: its DICOM header lacks {', '.join(lacking)}, without which its pixels "
            "cannot be understood; replace the file, or leave it out with dataset.exclude"
        )


def _holds_overlays(dataset: Any) -> bool:
    """Whether bits above the stored ones are overlays, which lossless compression keeps."""
    positions = [dataset.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2)]
    return any(each is not None and (each.value or 0) >= dataset.BitsStored for each in positions)


def _guess_syntax(dataset: Any) -> Any:
    """The transfer syntax of a bare data set, as older tools wrote it: as its elements are."""
    from pydicom import uid

    implicit, little = dataset.original_encoding
    if implicit is False:
        return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    return uid.ImplicitVRLittleEndian


def _refuse_bombs(path: Path, dataset: Any) -> None:
    """Hold both the header and the compressed frame itself to the bound on decoded pixels."""
    refuse_bomb(path, int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0))
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        from pydicom.encaps import get_frame

        size = codestream_size(get_frame(dataset.PixelData, 0, number_of_frames=1))
        if size is not None:
            refuse_bomb(path, *size)


def _refuse_excess(path: Path, dataset: Any) -> None:
    """Refuse pixels that fill the frame twice: rows, columns or bits in the header are wrong."""
    from pydicom.pixels.utils import get_expected_length

    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    found = len(dataset[pixel_keyword(dataset)].value)
    expected = get_expected_length(dataset)
    if found >= 2 * expected:  # a little more is padding
        raise DataError(
            f"{path}: holds {found:,} bytes of pixels, its header describes {expected:,} "
            f"({dataset.Rows} rows, {dataset.Columns} columns); replace the file, or leave it out "
            "with dataset.exclude"
        )


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
        # C4, C8 and CC lie among the markers of frames and announce tables.
        starts_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if starts_frame or marker == 0xF7:  # 0xF7: JPEG-LS
            height = int.from_bytes(frame[at + 5 : at + 7], "big")
            return int.from_bytes(frame[at + 7 : at + 9], "big"), height
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _take_unused_low_bits(dataset: Any) -> int:
    """Count the bits below the stored ones, and let pydicom read them as if they were stored.

    Older scanners keep 12 bits in the upper part of 16; pydicom takes the lower ones whatever the
    high bit is.
    """
    from pydicom.uid import RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated and syntax != RLELossless:
        return 0  # other decoders give values, not words
    allocated = int(dataset.get("BitsAllocated") or 0)
    stored = int(dataset.get("BitsStored") or allocated)
    high = int(dataset.get("HighBit") or stored - 1)
    if not stored <= high < allocated:
        return 0
    dataset.BitsStored = high + 1
    return high + 1 - stored


def _lift_frame_groups(dataset: Any) -> None:
    """Copy how the one frame of an enhanced object is shown to where classic objects say it."""
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for group in (dataset.get(groups) or [])[:1]:
            for name in FRAME_GROUPS:
                for item in (group.get(name) or [])[:1]:
                    for element in item:
                        if element.tag not in dataset:  # the frame's own comes first
                            dataset.add(element)
