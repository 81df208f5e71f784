"""Image files as they come: what is decoded, and what is refused by name."""

from __future__ import annotations

import base64
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_dicom import dicom, film, write_dicom
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

from prognobench.datasets.soundness import unreadable
from prognobench.errors import DataError, MissingExtraError
from prognobench.imaging.decode import read_image
from prognobench.imaging.dicom import codestream_size
from prognobench.records import MAX_PIXELS

GREY = np.add.outer(np.arange(8) * 20, np.arange(10) * 9).astype(np.uint8)
DEEP = np.add.outer(np.arange(8) * 300, np.arange(10) * 37).astype(np.uint16)
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
    path = tmp_path / f"film.{suffix}"
    Image.fromarray(GREY).save(path, lossless=True)
    np.testing.assert_array_equal(read_image(path), GREY)


def test_jpeg_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    path = tmp_path / "film.png"
    Image.fromarray(GREY).save(path, format="JPEG", quality=95)
    assert np.abs(read_image(path).astype(int) - GREY).max() <= 6


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_files_are_stretched_without_losing_shades(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film.{suffix}"
    Image.fromarray(DEEP).save(path)
    np.testing.assert_array_equal(read_image(path), full_range(DEEP))


def test_16_bit_tiff_with_white_as_zero_is_inverted(tmp_path: Path) -> None:
    path = tmp_path / "film.tif"
    Image.fromarray(DEEP).save(path, tiffinfo={262: 0})
    np.testing.assert_array_equal(read_image(path), 255 - full_range(DEEP))


def test_float_tiff_with_missing_values(tmp_path: Path) -> None:
    values = DEEP.astype(np.float32)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "film.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "film.tif"), full_range(DEEP))


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
    image.save(tmp_path / "film.png")
    shown = read_image(tmp_path / "film.png")
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


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GREY).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(GREY, -1))


# ------------------------------------------------------------------ DICOM


def test_12_bit_film_without_a_window_uses_its_own_range(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "film.dcm", DEEP, bits=12)
    np.testing.assert_array_equal(read_image(path), full_range(DEEP))


def test_a_film_without_its_suffix_is_still_dicom(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "IM0001", DEEP, bits=12)
    np.testing.assert_array_equal(read_image(path), full_range(DEEP))


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "film.dcm", DEEP, bits=12, PhotometricInterpretation="MONOCHROME1"
    )
    np.testing.assert_array_equal(read_image(path), 255 - full_range(DEEP))


def test_rescale_and_linear_window(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "film.dcm",
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
        tmp_path / "film.dcm",
        DEEP,
        bits=12,
        WindowCenter=1200,
        WindowWidth=900,
        VOILUTFunction=function,
    )
    unit = (DEEP - 1200.0) / 900
    expected = 1 / (1 + np.exp(-4 * unit)) if function == "SIGMOID" else np.clip(unit + 0.5, 0, 1)
    assert np.abs(read_image(path) - 255 * expected).max() <= 0.51


def test_signed_pixels(tmp_path: Path) -> None:
    signed = DEEP.astype(np.int16) - 1200
    path = write_dicom(tmp_path / "film.dcm", signed, WindowCenter=0, WindowWidth=201)
    np.testing.assert_array_equal(
        read_image(path), np.rint(np.clip((signed + 0.5) / 200 + 0.5, 0, 1) * 255)
    )


def test_voi_lut_comes_before_the_window(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [2400, 10, 16]
    curve = np.linspace(0, 1, 2400) ** 2
    table.LUTData = np.rint(curve * 60000).astype("<u2").tobytes()
    path = write_dicom(
        tmp_path / "film.dcm",
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
    path = write_dicom(tmp_path / "film.dcm", GREY, VOILUTSequence=[table])
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
    path = write_dicom(tmp_path / "film.dcm", DEEP, bits=12, WindowCenter=60000, WindowWidth=10)
    np.testing.assert_array_equal(read_image(path), full_range(DEEP))


def test_a_window_that_is_no_number_is_named(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "film.dcm", DEEP, bits=12, WindowCenter=1200, WindowWidth=4321)
    path.write_bytes(path.read_bytes().replace(b"4321", b"wide"))
    with pytest.raises(DataError, match=r"film\.dcm: .*WindowWidth is 'wide.0', no number"):
        read_image(path)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, DeflatedExplicitVRLittleEndian])
def test_lossless_transfer_syntaxes(tmp_path: Path, syntax: str) -> None:
    path = write_dicom(tmp_path / "film.dcm", film(side=40), bits=12, syntax=syntax)
    np.testing.assert_array_equal(read_image(path), full_range(film(side=40)))


@pytest.mark.parametrize(
    ("syntax", "frame"), [(JPEGLosslessSV1, LOSSLESS_JPEG), (JPEGLSLossless, JPEG_LS)]
)
def test_frames_of_another_encoder(tmp_path: Path, syntax: str, frame: bytes) -> None:
    bits = 12 if syntax == JPEGLosslessSV1 else 16
    path = write_dicom(tmp_path / "film.dcm", DEEP, bits=bits, syntax=syntax, frame=frame)
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
    dataset = dicom(film(side=64), bits=12)
    dataset.compress(JPEG2000, **settings)
    dataset.save_as(tmp_path / "film.dcm")
    error = read_image(tmp_path / "film.dcm").astype(int) - full_range(film(side=64))
    assert np.abs(error).mean() < 12


def test_jpeg_baseline(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "frame.jpg", quality=98)
    frame = (tmp_path / "frame.jpg").read_bytes()
    path = write_dicom(tmp_path / "film.dcm", GREY, syntax=JPEGBaseline8Bit, frame=frame)
    assert np.abs(read_image(path).astype(int) - full_range(GREY)).max() <= 6


def test_colour_becomes_luminance(tmp_path: Path) -> None:
    pixels = np.zeros((4, 5, 3), np.uint8)
    pixels[..., 0] = 200
    path = write_dicom(tmp_path / "film.dcm", pixels)
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
    path = tmp_path / f"film.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path)


def test_truncated_dicom(tmp_path: Path) -> None:
    for name, settings in {"raw": {}, "rle": {"syntax": RLELossless}}.items():
        path = write_dicom(tmp_path / f"{name}.dcm", film(side=64), bits=12, **settings)
        assert unreadable(path) == ""
        path.write_bytes(path.read_bytes()[:-2000])
        refused(path, "dataset.exclude")
        assert unreadable(path) == "is truncated"


def test_dicom_without_pixels_and_with_many_frames(tmp_path: Path) -> None:
    refused(write_dicom(tmp_path / "report.dcm", None), "without pixels", "leave it out")
    frames = np.zeros((7, 4, 5), np.uint8)
    refused(write_dicom(tmp_path / "cine.dcm", frames), "7 frames")


def test_dicom_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "film.dcm", DEEP, bits=12)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"prognobench\[dicom\]"):
        read_image(path)


def test_a_tiff_of_several_pages(tmp_path: Path) -> None:
    page = Image.fromarray(GREY)
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page])
    refused(tmp_path / "pages.tif", "2 frames")


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header announces a size; its data are not looked at."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [9_200, 11_000, 60_000])
def test_a_png_bomb_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(huge_png(side, side))
    refused(path, "pixels", "leave it out with dataset.exclude")


def test_dicom_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(write_dicom(tmp_path / "rows.dcm", DEEP, Rows=60000, Columns=60000), "60000 x 60000")
    large = LOSSLESS_JPEG.replace(b"\x0c\x00\x08\x00\x0a", b"\x0c\xff\xff\xff\xff")
    path = write_dicom(tmp_path / "frame.dcm", DEEP, syntax=JPEGLosslessSV1, frame=large)
    refused(path, "65535 x 65535")
    monkeypatch.setattr("prognobench.imaging.dicom.DEFLATED_LIMIT", 1 << 20)
    black = np.zeros((2000, 2000), np.uint8)
    path = write_dicom(tmp_path / "deflated.dcm", black, syntax=DeflatedExplicitVRLittleEndian)
    assert path.stat().st_size < 100_000
    refused(path, "deflated")


def test_sizes_announced_by_codestreams(tmp_path: Path) -> None:
    from pydicom.encaps import get_frame

    dataset = dicom(film(side=40), bits=12, syntax=JPEG2000Lossless)
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
    path = tmp_path / f"film.{'dcm' if kind in SYNTAXES else kind}"
    if kind in SYNTAXES:
        pixels = DEEP if "frame" in SYNTAXES[kind] else film(side=40)
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
