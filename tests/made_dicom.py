"""Real DICOM files, written by pydicom, as tests need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)

CR = "1.2.840.10008.5.1.4.1.1.1"


def dicom(
    pixels: NDArray[Any] | None,
    *,
    bits: int | None = None,
    syntax: str = ExplicitVRLittleEndian,
    frame: bytes | None = None,
    **tags: Any,
) -> FileDataset:
    """A data set with these pixels (grey, RGB, or frames of grey) and tags.

    ``frame`` is an encoded frame of the transfer syntax ``syntax``, put in place of the pixels.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CR
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[repr(tags)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if frame is None else syntax
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = CR
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.Modality = "CR"
    if pixels is not None:
        _describe(dataset, pixels, bits)
        dataset.PixelData = pixels.tobytes()
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    if frame is not None:
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
    elif not UID(syntax).is_encapsulated:
        meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax, generate_instance_uid=False)
    return dataset


def _describe(dataset: Dataset, pixels: NDArray[Any], bits: int | None) -> None:
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.ndim == 3 and not colour:
        dataset.NumberOfFrames = len(pixels)
    rows, columns = pixels.shape[:2] if pixels.ndim == 2 or colour else pixels.shape[1:]
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel = 3 if colour else 1
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")


def write_dicom(path: Path, pixels: NDArray[Any] | None, **settings: Any) -> Path:
    """Write :func:`dicom` to a file, whose folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dicom(pixels, **settings).save_as(path, enforce_file_format=True)
    return path


def deflated_bomb(path: Path) -> Path:
    """A file of a few kilobytes that inflates to four million bytes."""
    black = np.zeros((2000, 2000), np.uint8)
    write_dicom(path, black, syntax=DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 100_000
    return path


def image(seed: int = 0, image_size: int = 12) -> NDArray[np.uint16]:
    """A small 12-bit picture that differs with the seed."""
    grey = np.add.outer(np.arange(image_size) * 200, np.arange(image_size) * 97) + 31 * seed
    return (grey % 4096).astype(np.uint16)
