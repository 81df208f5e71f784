"""Image files as they come: what is decoded, and what is refused by name."""

from __future__ import annotations

import base64
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from made_dicom import deflated_bomb, dicom, image, write_dicom
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from prognobench.datasets.readers.tcia.dicom_header import read_header
from prognobench.errors import DataError, MissingExtraError
from prognobench.imaging.decode import read_image
from prognobench.imaging.dicom import codestream_size
from prognobench.imaging.pixels import MAX_PIXELS
from prognobench.imaging.verify import find_fault

TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: np.array,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""How pixels are turned upright that are stored in an orientation of EXIF."""

GREY = np.add.outer(np.arange(8) * 20, np.arange(10) * 9).astype(np.uint8)
DEEP = np.add.outer(np.arange(8) * 300, np.arange(10) * 37).astype(np.uint16)
DEEP_RGB = np.dstack([DEEP, DEEP[::-1], DEEP[:, ::-1] // 2])
LOSSLESS_JPEG = base64.b64decode(
    "/9j/xAAXAAEBAQEAAAAAAAAAAAAAAAAIBgkM/8MACwwACAAKAQARAP/aAAgBAAAGAADn/wClpaWlpaWlpaXSxLJZLJZLJZLJ"
    "ZLaWJZLJZLJZLJZLJbSxLJZLJZLJZLJZLaWJZLJZLJZLJZLJbSxLJZLJZLJZLJZLaWJZLJZLJZLJZLJbSxLJZLJZLJZLJZLA"
    "/9k="
)
"""``DEEP`` as JPEG lossless (process 14), made by another library."""
JPEG_LS = base64.b64decode(
    "/9j/6AAgU1BJRkYAAgAAAQAAAAgAAAAKChAGAQAAASwAAAEs/+gACAAAAAH/2P/3AAsQAAgACgEBEQD/+AANAf//ABIAQwEU"
    "AED/2gAIAQEAAAAAokxJiTEeRZDoM/iTliJUSJGkShUCfTyJWWJ1OLa0srCurIkZWqqimpKKgnp6RsqTlq1YsWK1aREpVKlS"
    "pSpUqVCShQoUKFCdOnUBJ06dOmTJkyZPgP/Z"
)
"""``DEEP`` as JPEG-LS, made by another library."""


def full_range(values: np.ndarray) -> np.ndarray:
    values = values.astype(float)
    return np.rint(255 * (values - values.min()) / np.ptp(values)).astype(np.uint8)


# ------------------------------------------------------------------ plain files


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_grey_files_keep_their_values(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(GREY).save(path, lossless=True)
    np.testing.assert_array_equal(read_image(path), GREY)


def test_jpeg_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(GREY).save(path, format="JPEG", quality=95)
    assert np.abs(read_image(path).astype(int) - GREY).max() <= 6


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_files_are_stretched_without_losing_shades(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(DEEP).save(path)
    np.testing.assert_array_equal(read_image(path), full_range(DEEP))


def test_16_bit_tiff_with_white_as_zero_is_inverted(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    Image.fromarray(DEEP).save(path, tiffinfo={262: 0})
    np.testing.assert_array_equal(read_image(path), 255 - full_range(DEEP))


def test_float_tiff_with_missing_values(tmp_path: Path) -> None:
    values = DEEP.astype(np.float32)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "image.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif"), full_range(DEEP))


def test_palette_and_bilevel(tmp_path: Path) -> None:
    indexed = Image.new("P", (2, 1))
    indexed.putpalette([10, 10, 10, 200, 200, 200])
    indexed.putdata([0, 1])
    indexed.save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").tolist() == [[10, 200]]
    Image.fromarray(GREY > 90).save(tmp_path / "bilevel.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bilevel.png"), 255 * (GREY > 90))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_black(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(GREY).convert(mode)
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[:, 5:] = 0
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "image.png")
    shown = read_image(tmp_path / "image.png")
    np.testing.assert_array_equal(shown[:, :5], GREY[:, :5])
    assert not shown[:, 5:].any()


def test_channels(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (200, 100, 0)).save(tmp_path / "colour.png")
    assert read_image(tmp_path / "colour.png", channels=3)[0, 0].tolist() == [200, 100, 0]
    assert read_image(tmp_path / "colour.png")[0, 0] == round(0.299 * 200 + 0.587 * 100)
    Image.fromarray(DEEP).save(tmp_path / "deep.png")
    deep = read_image(tmp_path / "deep.png", channels=3)
    assert deep.shape == (8, 10, 3)
    np.testing.assert_array_equal(deep[..., 2], full_range(DEEP))


def write_turned(path: Path, kind: str, orientation: int) -> Path:
    """A file whose pixels are stored in an orientation of EXIF."""
    what, _, compression = kind.partition(" ")
    pixels = {"grey": GREY, "deep": DEEP, "float": DEEP.astype(np.float32), "rgb": DEEP_RGB}[what]
    exif = Image.Exif()
    exif[274] = orientation
    if what == "rgb" and compression == "png":
        png = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
        path.write_bytes(png[:33] + chunk(b"eXIf", exif.tobytes()[6:]) + png[33:])
    elif what == "rgb":
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, pixels, photometric="rgb", compression=compression, extratags=tags)
    elif compression in ("png", "jpeg", "webp"):
        Image.fromarray(pixels).save(path, format=compression, exif=exif)
    elif compression == "transparent":
        Image.fromarray(pixels).convert("RGBA").save(path, format="png", exif=exif)
    else:
        Image.fromarray(pixels).save(
            path, format="tiff", compression=compression or None, tiffinfo={274: orientation}
        )
    return path


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(
    "kind",
    [
        *("grey raw", "grey tiff_lzw", "grey png", "grey jpeg", "grey webp", "grey transparent"),
        *("deep raw", "deep tiff_lzw", "deep png", "float raw", "float tiff_adobe_deflate"),
        *("rgb none", "rgb zlib", "rgb png"),
    ],
)
def test_images_are_turned_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    stored = write_turned(tmp_path / "stored", kind, 1)
    turned = write_turned(tmp_path / "turned", kind, orientation)
    for channels in (1, 3):
        np.testing.assert_array_equal(
            read_image(turned, channels), TURNS[orientation](read_image(stored, channels))
        )


# ------------------------------------------------------------------ deep colour


def write_deep(path: Path, pixels: np.ndarray, **settings: Any) -> Path:
    """A PNG or TIFF of 16 bits a channel."""
    if path.suffix == ".png":
        order = [2, 1, 0, 3][: pixels.shape[2]]
        path.write_bytes(cv2.imencode(".png", pixels[..., order])[1].tobytes())
    else:
        tifffile.imwrite(path, pixels, photometric="rgb", **settings)
    return path


@pytest.mark.parametrize("name", ["image.png", "image.tif"])
def test_deep_colour_is_stretched_without_losing_shades(tmp_path: Path, name: str) -> None:
    path = write_deep(tmp_path / name, np.dstack([DEEP] * 3))
    np.testing.assert_array_equal(read_image(path), full_range(DEEP))
    path = write_deep(tmp_path / name, DEEP_RGB)
    np.testing.assert_array_equal(read_image(path, channels=3), full_range(DEEP_RGB))
    grey = full_range(DEEP_RGB @ np.array([0.299, 0.587, 0.114]))
    assert np.abs(read_image(path).astype(int) - grey).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_byte_orders_and_tiles_of_deep_colour(tmp_path: Path, order: str) -> None:
    large = np.tile(DEEP_RGB, (5, 4, 1))
    for settings in ({"rowsperstrip": 3}, {"tile": (16, 16)}):
        path = write_deep(tmp_path / "image.tif", large, byteorder=order, **settings)
        np.testing.assert_array_equal(read_image(path, channels=3), full_range(large))


@pytest.mark.parametrize("name", ["image.png", "image.tif"])
def test_transparent_deep_colour_lies_over_black(tmp_path: Path, name: str) -> None:
    alpha = np.full(DEEP.shape, 65535, np.uint16)
    alpha[:, 5:] = 0
    path = write_deep(tmp_path / name, np.dstack([DEEP, DEEP, DEEP, alpha]))
    np.testing.assert_array_equal(read_image(path), full_range(np.where(alpha, DEEP, 0)))


@pytest.mark.parametrize("meaning", ["unspecified", "assocalpha"])
def test_a_fourth_channel_that_is_not_laid_over(tmp_path: Path, meaning: str) -> None:
    pixels = np.dstack([DEEP, DEEP, DEEP, np.full(DEEP.shape, 9000, np.uint16)])
    path = write_deep(tmp_path / "image.tif", pixels, extrasamples=[meaning])
    np.testing.assert_array_equal(read_image(path), full_range(DEEP))


def test_deep_grey_with_transparency(tmp_path: Path) -> None:
    alpha = np.full(DEEP.shape, 65535, np.uint16)
    alpha[0] = 0
    path = tmp_path / "image.png"
    path.write_bytes(png(np.dstack([DEEP, alpha]), colour=4))
    np.testing.assert_array_equal(read_image(path), full_range(np.where(alpha, DEEP, 0)))


def png(pixels: np.ndarray, colour: int) -> bytes:
    """A PNG of 16 bits with a colour type that no library writes."""
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels))
    body = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_deep_colour_in_separate_planes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    planes = np.moveaxis(DEEP_RGB, 2, 0)
    for compression in (None, "zlib"):
        tifffile.imwrite(
            path, planes, photometric="rgb", planarconfig="separate", compression=compression
        )
        refused(path, "16 bits a channel", "dataset.exclude")


# ------------------------------------------------------------------ DICOM


def test_12_bit_image_without_a_window_uses_its_own_range(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "image.dcm", DEEP, bits=12)
    np.testing.assert_array_equal(read_image(path), full_range(DEEP))


def test_a_image_without_its_suffix_is_still_dicom(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "IM0001", DEEP, bits=12)
    np.testing.assert_array_equal(read_image(path), full_range(DEEP))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "image.dcm", DEEP, bits=12, PhotometricInterpretation="MONOCHROME1"
    )
    np.testing.assert_array_equal(read_image(path), 255 - full_range(DEEP))


def test_rescale_and_linear_window(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "image.dcm",
        DEEP,
        bits=12,
        RescaleSlope=2,
        RescaleIntercept=-1000,
        WindowCenter=[1000, 5],
        WindowWidth=[1001, 7],
    )
    values = 2.0 * DEEP - 1000
    expected = np.clip((values - 999.5) / 1000 + 0.5, 0, 1) * 255
    np.testing.assert_array_equal(read_image(path), np.rint(expected))


@pytest.mark.parametrize("function", ["SIGMOID", "LINEAR_EXACT"])
def test_other_window_functions(tmp_path: Path, function: str) -> None:
    path = write_dicom(
        tmp_path / "image.dcm",
        DEEP,
        bits=12,
        WindowCenter=1200,
        WindowWidth=900,
        VOILUTFunction=function,
    )
    unit = (DEEP - 1200.0) / 900
    expected = 1 / (1 + np.exp(-4 * unit)) if function == "SIGMOID" else np.clip(unit + 0.5, 0, 1)
    assert np.abs(read_image(path) - 255 * expected).max() <= 0.51


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_large_values_keep_their_shades(tmp_path: Path, function: str) -> None:
    shown = []
    for number, (low, intercept) in enumerate(((0, 0), (2**31, 0), (0, 2**31), (2**31, -(2**31)))):
        path = write_dicom(
            tmp_path / f"{number}.dcm",
            DEEP.astype(np.uint32) + np.uint32(low),
            RescaleSlope=1,
            RescaleIntercept=intercept,
            WindowCenter=1200 + low + intercept,
            WindowWidth=907,
            VOILUTFunction=function,
        )
        shown.append(read_image(path))
    assert np.unique(shown[0]).size > 20
    for other in shown[1:]:
        np.testing.assert_array_equal(other, shown[0])


def test_large_values_without_a_window_keep_their_shades(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "image.dcm", DEEP.astype(np.uint32) + np.uint32(2**31))
    np.testing.assert_array_equal(read_image(path), full_range(DEEP))
    Image.fromarray(DEEP.astype(np.int32) - 2**30).save(tmp_path / "image.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "image.tif"), full_range(DEEP))


def test_signed_pixels(tmp_path: Path) -> None:
    signed = DEEP.astype(np.int16) - 1200
    path = write_dicom(tmp_path / "image.dcm", signed, WindowCenter=0, WindowWidth=201)
    np.testing.assert_array_equal(
        read_image(path), np.rint(np.clip((signed + 0.5) / 200 + 0.5, 0, 1) * 255)
    )


def test_voi_lut_comes_before_the_window(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [2400, 10, 16]
    curve = np.linspace(0, 1, 2400) ** 2
    table.LUTData = np.rint(curve * 60000).astype("<u2").tobytes()
    path = write_dicom(
        tmp_path / "image.dcm",
        DEEP,
        bits=12,
        VOILUTSequence=[table],
        WindowCenter=1,
        WindowWidth=2,
    )
    expected = 255 * curve[np.clip(DEEP.astype(int) - 10, 0, 2399)]
    assert np.abs(read_image(path) - expected).max() <= 0.51
    table["LUTData"].VR, table["LUTData"].value = "US", np.rint(curve * 60000).astype(int).tolist()
    numbers = write_dicom(tmp_path / "numbers.dcm", DEEP, bits=12, VOILUTSequence=[table])
    np.testing.assert_array_equal(read_image(numbers), read_image(path))


def test_an_8_bit_voi_lut_of_odd_length(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [255, 0, 8]
    table.LUTData = bytes(range(0, 255)) + b"\0"
    path = write_dicom(tmp_path / "image.dcm", GREY, VOILUTSequence=[table])
    np.testing.assert_array_equal(read_image(path), np.rint(GREY / 254 * 255))


def test_padding_is_black_and_does_not_set_the_range(tmp_path: Path) -> None:
    padded = DEEP.copy()
    padded[:, :3] = 4000
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        path = write_dicom(
            tmp_path / f"{photometric}.dcm",
            padded,
            bits=12,
            PixelPaddingValue=4000,
            PhotometricInterpretation=photometric,
        )
        shown = read_image(path)
        assert not shown[:, :3].any()
        field = full_range(DEEP[:, 3:])
        if photometric == "MONOCHROME1":
            field = 255 - field
        np.testing.assert_array_equal(shown[:, 3:], field)


def test_a_window_beside_all_pixels_is_not_believed(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "image.dcm", DEEP, bits=12, WindowCenter=60000, WindowWidth=10)
    np.testing.assert_array_equal(read_image(path), full_range(DEEP))


def test_a_window_that_is_no_number_is_named(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "image.dcm", DEEP, bits=12, WindowCenter=1200, WindowWidth=4321)
    path.write_bytes(path.read_bytes().replace(b"4321", b"wide"))
    with pytest.raises(
        DataError, match=r"image\.dcm: .*WindowWidth is 'wide.0', which must be a number"
    ):
        read_image(path)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian])
def test_lossless_transfer_syntaxes(tmp_path: Path, syntax: str) -> None:
    path = write_dicom(tmp_path / "image.dcm", image(image_size=40), bits=12, syntax=syntax)
    np.testing.assert_array_equal(read_image(path), full_range(image(image_size=40)))


@pytest.mark.parametrize(
    ("syntax", "frame"), [(JPEGLosslessSV1, LOSSLESS_JPEG), (JPEGLSLossless, JPEG_LS)]
)
def test_frames_of_another_encoder(tmp_path: Path, syntax: str, frame: bytes) -> None:
    bits = 12 if syntax == JPEGLosslessSV1 else 16
    path = write_dicom(tmp_path / "image.dcm", DEEP, bits=bits, syntax=syntax, frame=frame)
    np.testing.assert_array_equal(read_image(path), full_range(DEEP))


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]
)
def test_compressed_copies_show_the_same(name: str) -> None:
    copy, plain = (get_testdata_file(file, download=False) for file in (name, "MR_small.dcm"))
    assert copy
    assert plain
    np.testing.assert_array_equal(read_image(Path(copy)), read_image(Path(plain)))


def test_lossy_jpeg_2000(tmp_path: Path) -> None:
    settings = {"j2k_cr": [4], "encoding_plugin": "pylibjpeg"}
    dataset = dicom(image(image_size=64), bits=12)
    dataset.compress(JPEG2000, **settings)
    dataset.save_as(tmp_path / "image.dcm")
    error = read_image(tmp_path / "image.dcm").astype(int) - full_range(image(image_size=64))
    assert np.abs(error).mean() < 12


def test_jpeg_baseline(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "frame.jpg", quality=98)
    frame = (tmp_path / "frame.jpg").read_bytes()
    path = write_dicom(tmp_path / "image.dcm", GREY, syntax=JPEGBaseline8Bit, frame=frame)
    assert np.abs(read_image(path).astype(int) - full_range(GREY)).max() <= 6


def test_colour_becomes_luminance(tmp_path: Path) -> None:
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[..., 0] = 200
    path = write_dicom(tmp_path / "image.dcm", pixels)
    assert (read_image(path) == round(0.299 * 200)).all()
    np.testing.assert_array_equal(read_image(path, channels=3), pixels)


# ------------------------------------------------------------------ refusals


def refused(path: Path, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        read_image(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    refused(tmp_path / "none.png", "no such file")
    (tmp_path / "text.png").write_text("no image at all")
    refused(tmp_path / "text.png", "leave it out")
    (tmp_path / "empty.dcm").write_bytes(b"")
    refused(tmp_path / "empty.dcm")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path)


def test_truncated_dicom(tmp_path: Path) -> None:
    for name, settings in {"raw": {}, "rle": {"syntax": RLELossless}}.items():
        path = write_dicom(tmp_path / f"{name}.dcm", image(image_size=64), bits=12, **settings)
        assert find_fault(path) == ""
        path.write_bytes(path.read_bytes()[:-2000])
        refused(path, "dataset.exclude")
        assert find_fault(path) == "is truncated"


def test_dicom_without_pixels_and_with_many_frames(tmp_path: Path) -> None:
    refused(write_dicom(tmp_path / "report.dcm", None), "without pixels", "leave it out")
    frames = np.zeros((7, 4, 5), np.uint8)
    refused(write_dicom(tmp_path / "cine.dcm", frames), "7 frames")


def test_dicom_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "image.dcm", DEEP, bits=12)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"prognobench\[dicom\]"):
        read_image(path)


def test_bigtiff(tmp_path: Path) -> None:
    path, grey = tmp_path / "image.tif", np.arange(600).reshape(30, 20).astype(np.uint8)
    tifffile.imwrite(path, grey, bigtiff=True, byteorder="<", photometric="minisblack")
    assert not find_fault(path, thorough=True)
    assert (read_image(path) == grey).all()
    path.write_bytes(path.read_bytes()[:-200])
    assert "is truncated" in find_fault(path)
    # Pillow does not read this order of bytes.
    tifffile.imwrite(path, grey, bigtiff=True, byteorder=">", photometric="minisblack")
    assert "is not a TIFF image that can be read" in find_fault(path)


@pytest.mark.parametrize("kind", ["f8", "f2", "i8"])
def test_a_tiff_of_unusual_pixels_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.arange(600).reshape(30, 20).astype(kind))
    with pytest.raises(DataError, match="a TIFF whose kind of pixels is not read"):
        read_image(path)


def test_a_tiff_of_signed_bytes(tmp_path: Path) -> None:
    values = np.arange(-120, 120, dtype=np.int8).reshape(12, 20)
    tifffile.imwrite(tmp_path / "image.tif", values, photometric="minisblack")
    expected = np.rint((values.astype(float) + 120) / 239 * 255)
    assert np.abs(read_image(tmp_path / "image.tif") - expected).max() <= 1


def test_a_tiff_of_several_pages(tmp_path: Path) -> None:
    page = Image.fromarray(GREY)
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    refused(tmp_path / "pages.tif", "2 frames")


def huge_png(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG whose header announces a size; its data are not looked at."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("image_size", [9_200, 11_000, 60_000])
def test_a_png_bomb_is_refused_by_its_header(tmp_path: Path, image_size: int) -> None:
    path = tmp_path / "bomb.png"
    for depth, colour in ((8, 0), (16, 2)):
        path.write_bytes(huge_png(image_size, image_size, depth, colour))
        refused(path, "pixels", "leave it out with dataset.exclude")


def test_dicom_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(write_dicom(tmp_path / "rows.dcm", DEEP, Rows=60000, Columns=60000), "60000 x 60000")
    large = LOSSLESS_JPEG.replace(b"\x0c\x00\x08\x00\x0a", b"\x0c\xff\xff\xff\xff")
    path = write_dicom(tmp_path / "frame.dcm", DEEP, syntax=JPEGLosslessSV1, frame=large)
    refused(path, "65535 x 65535")
    monkeypatch.setattr("prognobench.imaging.dicom_files.DEFLATED_LIMIT", 1 << 20)
    refused(deflated_bomb(tmp_path / "deflated.dcm"), "its deflated content is larger than")


def test_deflated_bombs_are_not_inflated_for_their_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = deflated_bomb(tmp_path / "bomb.dcm")
    assert find_fault(path) == ""
    assert read_header(path).modality == "CR"
    monkeypatch.setattr("prognobench.imaging.dicom_files.DEFLATED_LIMIT", 1 << 20)
    assert "deflated content is larger than" in find_fault(path)
    with pytest.raises(DataError, match=r"bomb\.dcm: its deflated content is larger than"):
        read_header(path)


def test_deflated_bombs_in_disguise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prognobench.imaging.dicom_files.DEFLATED_LIMIT", 1 << 20)
    bomb = deflated_bomb(tmp_path / "bomb.dcm").read_bytes()
    disguises = {
        "length.dcm": bomb[:140] + b"\x08\0\0\0" + bomb[144:],
        "no length.dcm": bomb[:132] + bomb[144:],
        "no mark.dcm": bomb[132:],
    }
    for name, content in disguises.items():
        path = tmp_path / name
        path.write_bytes(content)
        refused(path, "its deflated content is larger than")
        assert "deflated content is larger than" in find_fault(path)


def test_sizes_announced_by_codestreams(tmp_path: Path) -> None:
    from pydicom.encaps import get_frame

    dataset = dicom(image(image_size=40), bits=12, syntax=JPEG2000Lossless)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    assert codestream_size(frame) == (40, 40)
    assert codestream_size(LOSSLESS_JPEG) == codestream_size(JPEG_LS) == (10, 8)
    assert codestream_size(b"\x01\x00\x00\x00") is None
    assert MAX_PIXELS >= 4000 * 5000, "mammograms and large plates must pass"


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Let a :class:`DataError` pass that names the file."""
    try:
        yield
    except DataError as error:
        if str(path) not in str(error):
            raise


SYNTAXES: dict[str, dict[str, Any]] = {
    "raw": {},
    "rle": {"syntax": RLELossless},
    "j2k": {"syntax": JPEG2000Lossless},
    "jls": {"syntax": JPEGLSLossless, "frame": JPEG_LS},
    "jpeg": {"syntax": JPEGLosslessSV1, "frame": LOSSLESS_JPEG},
    "deflated": {"syntax": DeflatedExplicitVRLittleEndian},
}


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", *SYNTAXES])
def test_damaged_files_are_images_or_named_errors(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"image.{'dcm' if kind in SYNTAXES else kind}"
    if kind in SYNTAXES:
        pixels = DEEP if "frame" in SYNTAXES[kind] else image(image_size=40)
        content = write_dicom(path, pixels, bits=12, **SYNTAXES[kind]).read_bytes()
    else:
        Image.fromarray(GREY).resize((40, 40)).save(path)
        content = path.read_bytes()
    random = np.random.default_rng(7)
    for cut in (False, True) * 20:
        damaged = bytearray(content)
        for at in random.integers(0, len(content), 4):
            damaged[at] = random.integers(256)
        path.write_bytes(damaged[: random.integers(1, len(content))] if cut else damaged)
        with named_errors(path):
            shown = read_image(path)
            assert shown.dtype == np.uint8
            assert shown.ndim == 2


def _grey_png(path: Path, pixels: np.ndarray, colour: int, *more: tuple[bytes, bytes]) -> Path:
    """A PNG of 16 bits, written by hand: Pillow and OpenCV write no such."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    return path


def test_transparency_of_16_bit_grey_lies_over_black(tmp_path: Path) -> None:
    values = np.linspace(5000, 60000, 12).astype(np.uint16).reshape(3, 4)
    alpha = np.full((3, 4), 65535, np.uint16)
    alpha[0] = 0
    layered = _grey_png(tmp_path / "layer.png", np.dstack([values, alpha]), 4)
    black = np.where(alpha > 0, values, 0)
    assert np.abs(read_image(layered).astype(int) - full_range(black)).max() <= 1
    clear = int(values[2, 3])
    one = _grey_png(tmp_path / "one.png", values, 0, (b"tRNS", struct.pack(">H", clear)))
    np.testing.assert_array_equal(read_image(one), full_range(np.where(values == clear, 0, values)))


def test_16_bit_grey_png_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(DEEP).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(
        read_image(tmp_path / "image.png"), np.rot90(full_range(DEEP), -1)
    )
