"""Finding the files that a table names, without ever leaving the folder of images."""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from prognobench.datasets.readers.spelling import composed
from prognobench.errors import DataError
from prognobench.imaging.dicom_files import DICOM_SUFFIXES, has_dicom_mark
from prognobench.imaging.verify import find_fault

PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".webp", ".jp2", ".j2k")
IMAGE_SUFFIXES = frozenset((*PICTURES, *DICOM_SUFFIXES))

NO_IMAGE = "no image of this name"


@dataclass(frozen=True)
class Found:
    """What a table's cell led to.

    Attributes
    ----------
    images
        Paths below the folder of images, with forward slashes.
    problem
        Why there is no readable image; such a row may be left out.
    reason
        The same without the names, so that equal reasons can be counted.
    refused
        Why the cell must not be followed; always an error.
    """

    images: tuple[str, ...] = ()
    problem: str = ""
    reason: str = ""
    refused: str = ""


class ImageFolder:
    """A folder of images and the look-up of names in it.

    A cell may be a path below the folder, the name of a file anywhere below it (case aside), such
    a name without its extension, or a folder that stands for all images in it.

    Parameters
    ----------
    key
        The setting that gave the folder, for messages.
    thorough
        See :func:`.verify.find_fault`; worth its time where broken files are left out.

    Raises
    ------
    DataError
        If the folder does not exist.
    """

    def __init__(self, root: Path, key: str = "dataset.root", *, thorough: bool = False) -> None:
        self.thorough, self.key = thorough, key
        self.root = existing_folder(root, key)
        self._real_folders: dict[str, str] = {}

    @cached_property
    def _real_root(self) -> str:
        return os.path.realpath(self.root)

    @cached_property
    def files(self) -> list[str]:
        """Every file below the folder, sorted; links to folders are not followed."""
        found = []
        for folder, _, names in os.walk(self.root):
            below = PurePosixPath(Path(folder).relative_to(self.root).as_posix())
            found += [str(below / name) for name in names if not name.startswith(".")]
        return sorted(found)

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """Case-folded path, name, and name without extension -> files."""
        index: dict[str, list[str]] = defaultdict(list)
        for file in self.files:
            path = PurePosixPath(_plain(file))
            keys = {str(path), path.name}
            if path.suffix in IMAGE_SUFFIXES:
                keys |= {path.stem, str(path.with_suffix(""))}
            for key in keys:
                index[key].append(file)
        return index

    @cached_property
    def _folders(self) -> dict[str, list[str]]:
        """Case-folded path -> folders that have files."""
        index: dict[str, list[str]] = defaultdict(list)
        for folder in dict.fromkeys(p for file in self.files for p in PurePosixPath(file).parents):
            index[_plain(str(folder))].append(str(folder))
        return index

    def find(self, cell: str) -> Found:
        """Follow one cell of a table."""
        name = cell.replace("\\", "/").strip()
        if not name:
            return Found(problem="names no image", reason="names no image")
        if name.startswith(("/", "~")) or re.match("[A-Za-z]:", name):
            return Found(refused=f"{cell!r} is an absolute path; give it relative to {self.root}")
        if ".." in name.split("/"):
            return Found(refused=f"{cell!r} climbs out of {self.root}; images must lie below it")
        name = posixpath.normpath(name)
        if os.path.isfile(os.path.join(self.root, name)):
            return self._checked([name], cell)
        folders = self._folders.get(_plain(name), [])
        # As it is spelt on the disk: some file systems find a folder under other spellings, too.
        exact = name in folders or (not folders and os.path.isdir(os.path.join(self.root, name)))
        files = [] if exact else self._by_name.get(_plain(name), [])
        meant = {file: [file] for file in files}
        for folder in [name] if exact else folders:
            if not any(file.startswith(f"{folder}/") for file in files):
                meant[folder] = self.images(folder)
        meant = {place: images for place, images in meant.items() if images}
        if len(meant) > 1:
            return Found(
                problem=f"{cell!r} may be {' or '.join(sorted(meant)[:3])}; give the whole path",
                reason="several files or folders of this name",
            )
        if not meant and (exact or folders):
            return Found(problem=f"no image in folder {cell!r}", reason="no image in this folder")
        return self._checked(next(iter(meant.values()), []), cell)

    def images(self, folder: str) -> list[str]:
        """The files below a folder of this one (all, if empty) that are images by name or mark.

        Raises
        ------
        DataError
            If the name of one cannot be written as text.
        """
        start = f"{folder}/" if folder else ""
        below = (file for file in self.files if file.startswith(start))
        images = [file for file in below if is_called_image(self.root / file)]
        # What is no text becomes halves of surrogates, which no table can hold.
        if strange := [file for file in images if re.search("[\ud800-\udfff]", file)]:
            raise DataError(f"{self.root}: the file name {strange[0]} is not UTF-8; rename it")
        return images

    def _checked(self, candidates: list[str], cell: str) -> Found:
        if not candidates:
            return Found(problem=f"no image {cell!r}{self._hint(cell)}", reason=NO_IMAGE)
        for name in candidates:
            if not self._inside(name):
                return Found(
                    refused=f"{cell!r} is a symbolic link out of {self.root}; put the file itself "
                    "there, or leave it out with dataset.exclude"
                )
        for name in candidates:
            if fault := find_fault(os.path.join(self.root, name), self.thorough):
                return Found(problem=f"{name} {fault}", reason=fault)
        return Found(images=tuple(candidates))

    def _hint(self, cell: str) -> str:
        """What to do about a path that begins with the name of the folder itself."""
        first, _, rest = cell.replace("\\", "/").partition("/")
        if not rest or first != self.root.absolute().name:
            return ""
        if not os.path.exists(os.path.join(self.root, rest)):
            return ""
        return f" (its path begins with {first}: set {self.key} to the folder above)"

    def _inside(self, name: str) -> bool:
        """Whether the file itself, links followed, lies below the folder."""
        path = os.path.join(self.root, name)
        folder, base = os.path.split(path)
        if os.path.islink(path):
            real = os.path.realpath(path)
        else:
            if folder not in self._real_folders:
                self._real_folders[folder] = os.path.realpath(folder)
            real = os.path.join(self._real_folders[folder], base)
        return real.startswith(os.path.join(self._real_root, ""))


def is_called_image(path: Path) -> bool:
    """Whether a file is an image by its name, or DICOM by its mark.

    Archives give DICOM files any name; their index, DICOMDIR, is no image.
    """
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    return path.is_file() and not is_dicom_index(path) and has_dicom_mark(path)


def is_dicom_index(path: Path) -> bool:
    """Whether a file is the index that archives put beside DICOM files."""
    return path.name.upper() == "DICOMDIR"


def _plain(name: str) -> str:
    """A name as it is looked up: case aside, accents composed."""
    return composed(name).casefold()


def existing_folder(path: Path, key: str) -> Path:
    """Return the folder with ``~`` expanded.

    Raises
    ------
    DataError
        If there is none; ``key`` names the setting.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        kind = "is a file, not a folder" if path.exists() else "does not exist"
        raise DataError(f"{key}={path} {kind}; give the folder as you received it")
    return path
