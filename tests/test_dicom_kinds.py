"""DICOM as scanners write it: each kind of element that viewers read in spite of its spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_dicom import dicom, write_dicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, RLELossless

from prognobench.errors import DataError
from prognobench.imaging.decode import read_image
from prognobench.imaging.verify import find_fault

RAMP = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)
GREY = np.rint(RAMP / 4095 * 255)
WHOLE = {"WindowCenter": 2048, "WindowWidth": 4096}


def lut(entries: Any, first: int, bits: int, kind: str = "US") -> Sequence:
    """A sequence of one LUT item; the first mapped value under the representation ``kind``."""
    item = Dataset()
    item.add_new(0x00283002, kind, [len(entries) % 65536, first, bits])
    item.add_new(0x00283006, "US", [int(value) for value in entries])
    return Sequence([item])


def shows(path: Path, expected: NDArray[Any], within: int = 1) -> bool:
    return bool(np.abs(read_image(path).astype(int) - expected).max() <= within)


@pytest.mark.parametrize("syntax", [None, RLELossless])
@pytest.mark.parametrize("signed", [False, True])
def test_stored_bits_at_the_top_of_their_words(
    tmp_path: Path, syntax: str | None, signed: bool
) -> None:
    words = (RAMP << 4).astype(np.uint16)
    window = {**WHOLE, "WindowCenter": 0} if signed else WHOLE
    pixels = (words ^ 0x8000).view(np.int16) if signed else words
    dataset = dicom(pixels, bits=12, **window)
    dataset.HighBit = 15
    if syntax:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    assert shows(tmp_path / "image.dcm", GREY)


@pytest.mark.parametrize(
    ("rescale", "expected"),
    [
        ({"RescaleSlope": None, "RescaleIntercept": None}, RAMP),
        ({"RescaleIntercept": -1024}, RAMP.astype(int) - 1024),
        ({"RescaleSlope": 2, "RescaleIntercept": None}, 2 * RAMP.astype(int)),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, RAMP),
        ({"RescaleSlope": -10, "RescaleIntercept": 3000}, 3000 - 10 * RAMP.astype(int)),
    ],
)
def test_empty_and_single_rescale_elements(
    tmp_path: Path, rescale: dict[str, Any], expected: NDArray[Any]
) -> None:
    path = write_dicom(tmp_path / "image.dcm", RAMP, bits=12, **WHOLE, **rescale)
    assert shows(path, np.clip((expected - 2047.5) / 4095 + 0.5, 0, 1) * 255)


@pytest.mark.parametrize("level", ["Shared", "PerFrame"])
def test_the_one_frame_of_an_enhanced_object(tmp_path: Path, level: str) -> None:
    window, rescale, group = Dataset(), Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 40, 400
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1024
    group.FrameVOILUTSequence = Sequence([window])
    group.PixelValueTransformationSequence = Sequence([rescale])
    groups = {f"{level}FunctionalGroupsSequence": Sequence([group])}
    path = write_dicom(tmp_path / "image.dcm", RAMP, bits=12, NumberOfFrames=1, **groups)
    assert shows(path, np.clip((RAMP.astype(float) - 1024 - 39.5) / 399 + 0.5, 0, 1) * 255)


@pytest.mark.parametrize(("kind", "value"), [("US", 63536), ("SS", -2000)])
def test_padding_in_the_other_representation(tmp_path: Path, kind: str, value: int) -> None:
    pixels = RAMP.astype(np.int16) - 1024
    pixels[:8] = -2000
    dataset = dicom(pixels)
    dataset.add_new(0x00280120, kind, value)
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    low, high = int(pixels[8:].min()), int(pixels[8:].max())
    expected = np.zeros(RAMP.shape)
    expected[8:] = (pixels[8:].astype(int) - low) / (high - low) * 255
    assert shows(tmp_path / "image.dcm", expected)


def test_padding_of_unsigned_pixels_given_as_negative(tmp_path: Path) -> None:
    pixels = RAMP.copy()
    pixels[:8] = 65535
    dataset = dicom(pixels)
    dataset.add_new(0x00280120, "SS", -1)
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    shown = read_image(tmp_path / "image.dcm")
    assert shown[:8].max() == 0
    assert shown[-1, -1] == 255


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_modality_luts_of_any_depth(tmp_path: Path, bits: int) -> None:
    entries = np.linspace(2**bits - 1, 0, 4096)
    path = write_dicom(
        tmp_path / "image.dcm", RAMP, bits=12, ModalityLUTSequence=lut(entries, 0, bits)
    )
    assert shows(path, 255 - GREY)


@pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize(("kind", "first"), [("US", 65536 - 1024), ("SS", -1024)])
def test_the_first_value_of_a_lut_in_either_representation(
    tmp_path: Path, name: str, kind: str, first: int
) -> None:
    pixels = RAMP.astype(np.int16) - 1024
    table = lut(np.linspace(4095, 0, 4096), first, 12, kind)
    path = write_dicom(tmp_path / "image.dcm", pixels, **{name: table})
    assert shows(path, 255 - GREY)


@pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
def test_a_lut_without_data_is_passed_over(tmp_path: Path, name: str) -> None:
    empty = Dataset()
    empty.LUTExplanation = "nothing"
    path = write_dicom(tmp_path / "image.dcm", RAMP, bits=12, **WHOLE, **{name: Sequence([empty])})
    assert shows(path, GREY)


def test_two_entries_of_a_lut_in_each_word(tmp_path: Path) -> None:
    item = Dataset()
    item.add_new(0x00283002, "US", [4096, 0, 8])
    item.add_new(0x00283006, "OW", np.linspace(255, 0, 4096).astype(np.uint8).tobytes())
    path = write_dicom(tmp_path / "image.dcm", RAMP, bits=12, VOILUTSequence=Sequence([item]))
    assert shows(path, 255 - GREY)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_pixels(tmp_path: Path, dtype: type[np.floating]) -> None:
    pixels = (RAMP / 4095).astype(dtype)
    pixels[0, :4] = np.nan
    dataset = dicom(pixels)
    name = "FloatPixelData" if dtype is np.float32 else "DoubleFloatPixelData"
    setattr(dataset, name, pixels.tobytes())
    del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    assert not find_fault(tmp_path / "image.dcm")
    shown = read_image(tmp_path / "image.dcm")
    assert not shown[0, :4].any()
    assert np.abs(shown.astype(int) - GREY)[1:].max() <= 1


@pytest.mark.parametrize("rows", [32, 16])
def test_rows_that_do_not_fit_the_pixels(tmp_path: Path, rows: int) -> None:
    path = write_dicom(tmp_path / "image.dcm", RAMP, bits=12, Rows=rows)
    with pytest.raises(DataError, match=rf"holds 8,192 bytes .* \({rows} rows, 64 columns\)"):
        read_image(path)


def test_a_compressed_image_that_is_cut_off_has_a_reason(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "image.dcm", RAMP, bits=12, syntax=RLELossless)
    path.write_bytes(path.read_bytes()[:-900])
    assert find_fault(path) == "is truncated"
    with pytest.raises(DataError) as error:
        read_image(path)
    assert "PosixPath" not in str(error.value)


@pytest.mark.parametrize("shape", ["IDENTITY", "INVERSE"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_the_photometric_interpretation_alone_inverts(
    tmp_path: Path, photometric: str, shape: str
) -> None:
    tags = {"PhotometricInterpretation": photometric, "PresentationLUTShape": shape}
    path = write_dicom(tmp_path / "image.dcm", RAMP, bits=12, **tags)
    assert shows(path, 255 - GREY if photometric == "MONOCHROME1" else GREY)


def test_bare_big_endian_data_sets(tmp_path: Path) -> None:
    described = dicom(RAMP, bits=12)
    dataset = Dataset()
    dataset.update({element.tag: element for element in described})
    dataset.file_meta = described.file_meta
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = RAMP.astype(">u2").tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    whole = (tmp_path / "image.dcm").read_bytes()
    (tmp_path / "bare.dcm").write_bytes(whole[whole.index(b"\x00\x08\x00\x16UI") :])
    assert shows(tmp_path / "bare.dcm", GREY)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless])
def test_overlays_above_the_stored_bits_are_not_shown(tmp_path: Path, syntax: str | None) -> None:
    overlay = np.random.default_rng(0).integers(0, 16, RAMP.shape).astype(np.uint16) << 12
    dataset = dicom(RAMP | overlay, bits=16, **WHOLE)
    dataset.add_new((0x6000, 0x0102), "US", 12)
    if syntax:  # as tools do that leave no bit out
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    assert shows(tmp_path / "image.dcm", GREY)


@pytest.mark.parametrize("lacking", ["SamplesPerPixel", "BitsStored", "HighBit"])
def test_what_can_only_be_one_thing_may_be_missing(tmp_path: Path, lacking: str) -> None:
    dataset = dicom(RAMP, bits=16, **WHOLE)
    delattr(dataset, lacking)
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    assert shows(tmp_path / "image.dcm", GREY)


@pytest.mark.parametrize("lacking", ["PhotometricInterpretation", "PixelRepresentation"])
def test_a_header_that_says_too_little_is_named(tmp_path: Path, lacking: str) -> None:
    dataset = dicom(RAMP, bits=16, **WHOLE)
    delattr(dataset, lacking)
    dataset.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    with pytest.raises(DataError, match=f"header lacks {lacking}, without which"):
        read_image(tmp_path / "image.dcm")
