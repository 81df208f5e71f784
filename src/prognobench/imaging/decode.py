"""Image files become uint8 arrays: PNG, JPEG, TIFF and the like here, DICOM in its own module."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from prognobench.errors import DataError, PrognobenchError
from prognobench.imaging.dicom_files import is_dicom
from prognobench.imaging.pixels import (
    FORMATS,
    TIFF_MARKS,
    convert_channels,
    refuse_bomb,
    refuse_frames,
    stretch,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

# Pillow warns without naming the file, from a bound on that is above the one held here.
warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")

DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")

LUMINANCE = (19595, 38470, 7471)
"""Weights of red, green and blue, in parts of 65536: ITU-R 601, rounded as Pillow does."""

BITS, PHOTOMETRIC, ORIENTATION, PLANES, EXTRA_SAMPLES, SAMPLE_FORMAT = 258, 262, 274, 284, 338, 339
"""Tags of TIFF files; EXIF has the orientation, too."""

NO_ALPHA = ((0,), (1,))
"""Extra samples that mean nothing, or that colour was multiplied by already."""


def read_image(path: Path, channels: Literal[1, 3] = 1) -> NDArray[np.uint8]:
    """Decode one image file, upright, at its own size.

    Parameters
    ----------
    path
        A PNG, JPEG, TIFF, BMP, WebP, JPEG 2000 or DICOM file, told apart by content.
    channels
        1 for grey (colour becomes luminance), 3 for RGB.

    Returns
    -------
    uint8 ``(height, width)``, or ``(height, width, 3)`` for three channels. Images deeper than
    8 bits that say nothing about their display range are stretched from their darkest to their
    brightest pixel; transparency is laid over black.

    Raises
    ------
    DataError
        Naming the file: missing, not an image, truncated, several frames, more than
        ``MAX_PIXELS`` pixels (found in the header, before anything is decoded).
    MissingExtraError
        If the file is DICOM and pydicom is not installed.
    """
    path = Path(path)
    with naming_errors(path):
        if is_dicom(path):
            from prognobench.imaging.dicom import read_dicom

            return read_dicom(path, channels)
        return _read_with_pillow(path, channels)


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into a :class:`DataError` that names the file."""
    try:
        yield
    except (PrognobenchError, KeyboardInterrupt, SystemExit):
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except BaseException as error:  # decoders raise anything, Rust ones no Exception even
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: cannot be read as an image ({reason}); replace the file, or leave it out "
            "with dataset.exclude"
        ) from error


def _read_with_pillow(path: Path, channels: int) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        image = Image.open(path, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{path}: {error} Scale the image down, or leave it out with dataset.exclude"
        ) from error
    except UnidentifiedImageError:
        with path.open("rb") as file:
            if file.read(4) not in TIFF_MARKS:
                raise
        raise DataError(
            f"{path}: is a TIFF whose kind of pixels is not read (such as 64 bits, floats of 16 "
            "bits, or grey of 16 bits with transparency); save it with 8, 16 or 32 bits, or leave "
            "it out with dataset.exclude"
        ) from None
    with image:
        refuse_bomb(path, *image.size)
        if image.format != "MPO":  # a JPEG with a preview behind it
            refuse_frames(path, getattr(image, "n_frames", 1))
        if channels == 1:
            image.draft("L", None)  # a JPEG's colour is then not decoded at all
        if getattr(image, "tag_v2", {}).get(ORIENTATION) in (5, 6, 7, 8):
            image.filename = ""  # by name Pillow maps the file, as if width were height
        if image.mode in ("RGB", "RGBA") and _has_deep_colour(image):
            return _read_deep_colour(path, image, channels)
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode in DEEP_MODES or _is_signed(image):
            return convert_channels(_stretch_deep_grey(image), channels)
        opaque = _lay_over_black(image)
        mode = "RGB" if channels == 3 else "L"
        return np.asarray(opaque if opaque.mode == mode else opaque.convert(mode))


def _stretch_deep_grey(image: Image) -> NDArray[np.uint8]:
    """Stretch a grey image of 16 or 32 bits; Pillow leaves white-is-zero TIFFs inverted."""
    values: NDArray[Any] = np.asarray(image)
    if _is_signed(image):
        values = values.view(np.int8)
    clear = image.info.get("transparency")  # the one value that a PNG of 16 bits shows as clear
    if isinstance(clear, int):
        values = np.where(values == clear, values.dtype.type(0), values)
    pixels = stretch(values)
    tags = getattr(image, "tag_v2", {})
    white_is_zero = tags.get(PHOTOMETRIC) == 0
    return 255 - pixels if white_is_zero else pixels


def _is_signed(image: Image) -> bool:
    """Whether a TIFF has signed bytes, which Pillow takes for others."""
    tags = getattr(image, "tag_v2", {})
    return image.mode == "L" and tags.get(SAMPLE_FORMAT) == (2,)


def _has_deep_colour(image: ImageFile) -> bool:
    """Whether colour is stored with 16 bits, of which Pillow would keep 8."""
    if image.format == "PNG":
        return ";16" in str(image.tile)
    return 16 in getattr(image, "tag_v2", {}).get(BITS, ())


def _read_deep_colour(path: Path, image: ImageFile, channels: int) -> NDArray[np.uint8]:
    """Stretch a colour image of 16 bits, all channels alike; transparency is laid over black."""
    import cv2
    from PIL import Image as Images
    from PIL import ImageOps

    tags = getattr(image, "tag_v2", {})
    turned = ORIENTATION in tags  # OpenCV obeys this tag, and none of PNG's
    orientation = 1 if turned else image.getexif().get(ORIENTATION, 1)
    image.load()  # a damaged file is found here, where the error says how
    pixels = None
    if tags.get(PLANES) != 2:  # OpenCV mixes them up
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("16 bits a channel, stored in an unusual way")
    colour: NDArray[Any] = pixels[:, :, 2::-1].astype(np.uint32)
    if pixels.shape[2] == 4 and tags.get(EXTRA_SAMPLES) not in NO_ALPHA:
        colour *= pixels[:, :, 3:]
        colour += 32767  # half of the divisor: rounds to the nearest
        colour //= 65535
    if channels == 1:
        # Whole numbers, so that grey in three channels is what it is in one.
        colour = (colour @ np.array(LUMINANCE, np.uint32)).astype(np.float32) / 65536
    shown = Images.fromarray(stretch(colour))
    shown.getexif()[ORIENTATION] = orientation
    ImageOps.exif_transpose(shown, in_place=True)
    return np.asarray(shown)


def _lay_over_black(image: Image) -> Image:
    """Lay transparency, also a palette's, over black."""
    from PIL import Image as Images

    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    black = Images.new("RGBA", layer.size, (0, 0, 0, 255))
    return Images.alpha_composite(black, layer)
