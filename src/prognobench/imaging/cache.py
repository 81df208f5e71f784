"""The pixel cache: every image decoded and scaled once, into one memory-mapped array."""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from prognobench.errors import DataError, StoreError
from prognobench.imaging.content import cohort_digest, content_digests
from prognobench.imaging.decode import read_image
from prognobench.imaging.draft import Draft, is_whole, stored_rows
from prognobench.imaging.square import to_square
from prognobench.records import Cohort, Files, ImageOptions, Preprocessing, Progress, Rendered
from prognobench.workers import hold, shared_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Pixels", "Recipe", "cohort_digest", "pixel_cache", "readable_pixels"]

VERSION = 2
"""Part of every digest: to be raised whenever the same file would be decoded to other pixels."""

PROCESSES_FROM = 300
"""So many images are worth the second that starting processes takes; fewer share this one."""

MOST_TRIES = 3
"""How often an array is begun that another process takes over and finishes."""

CHUNK = 16
"""So many images go to a process at once, where there are enough of them."""


Rows = list[int]
"""Where the pixels of one image go."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "area", "lanczos"]


@dataclass(frozen=True)
class Pixels:
    """The images of a cohort as every model starts from them.

    Attributes
    ----------
    array
        uint8 ``(images, size, size, channels)``, memory-mapped, in the order of the cohort's table.
    digests
        One per image: of the content of its file and of everything that made its pixels.
    """

    array: NDArray[np.uint8]
    digests: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """What makes the pixels, beside the content of the file."""

    image_size: int
    interpolation: Interpolation = "bicubic"
    options: ImageOptions = field(default_factory=ImageOptions)

    @classmethod
    def of(cls, preprocessing: Preprocessing, options: ImageOptions) -> Self:
        """Return what a model's weights need, of images that a dataset prepares so."""
        return cls(preprocessing.image_size, preprocessing.interpolation, options)

    @cached_property
    def name(self) -> str:
        """Of the folder that holds such pixels: it changes with whatever changes them."""
        settings = repr(
            (VERSION, self.image_size, self.interpolation, sorted(asdict(self.options).items()))
        )
        return f"{self.image_size}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"

    def decode(self, source: Files | Rendered, image: str) -> NDArray[np.uint8]:
        """Decode one image: uint8 ``(size, size, channels)``."""
        if isinstance(source, Files):
            decoded = read_image(source.root / image, self.options.channels)
        else:
            decoded = source.render(image)
            if self.options.channels == 3:
                decoded = np.repeat(decoded[:, :, None], 3, axis=2)
        return to_square(decoded, self.image_size, self.interpolation, self.options)


def pixel_cache(
    cohort: Cohort, recipe: Recipe, folder: Path, progress: Progress | None = None
) -> Pixels:
    """Return a cohort's images as squares, decoding those that were not decoded before.

    The array lies under ``folder/pixels``, named by the content of all images and by everything
    that makes pixels of it, so that a changed file or setting is another array. A build that was
    killed goes on where it stopped; two builds of the same array take turns.

    Parameters
    ----------
    recipe
        How the squares are made.
    folder
        The cache folder.
    progress
        Called with a label, the images done and the images to do.

    Raises
    ------
    DataError
        With every image that cannot be read.
    StoreError
        If the array cannot be written, for want of space, say; nothing half-written is left.
    """
    pixels, broken = readable_pixels(cohort, recipe, folder, progress)
    if broken:
        raise DataError(dict.fromkeys(broken[row] for row in sorted(broken)))
    return pixels


def readable_pixels(
    cohort: Cohort, recipe: Recipe, folder: Path, progress: Progress | None = None
) -> tuple[Pixels, dict[int, str]]:
    """Do as :func:`pixel_cache`, but go without the images that cannot be read.

    Returns
    -------
    The squares, black where an image cannot be read, and of each such row what is wrong with it.
    """
    digests = pixel_digests(cohort, recipe, folder)
    home = folder / "pixels" / recipe.name
    path = home / f"{_sha256(*digests)[:32]}.npy"
    # Looked at twice: without the lock, which a finished array does not need, and again with it,
    # since another process may have finished meanwhile.
    tries = 0
    while _mapped(path) is None:
        tries += 1
        draft = Draft(
            path, (len(cohort), recipe.image_size, recipe.image_size, recipe.options.channels)
        )
        try:
            home.mkdir(parents=True, exist_ok=True)
            with hold(home, path.stem):
                if _mapped(path, repair=True) is None:
                    if broken := _build(draft, cohort, recipe, digests, progress):
                        return Pixels(np.load(draft.part, mmap_mode="r"), digests), broken
                    draft.finish()
                    _clear(home)
        except FileNotFoundError as error:
            # A process that is stopped for a minute loses its lease. Another one finishes the
            # draft, which is then gone when the first goes on.
            if tries == MOST_TRIES:
                raise _refuse(draft, error) from error
        except OSError as error:
            draft.discard()
            raise _refuse(draft, error) from error
    return Pixels(np.load(path, mmap_mode="r"), digests), {}


def _refuse(draft: Draft, error: OSError) -> StoreError:
    size = draft.shape[0] * draft.row_bytes / 1e9
    return StoreError(
        f"the pixel cache {draft.path} cannot be written: {error.strerror or error}; "
        f"it takes {size:.2g} GB (another folder can be chosen with paths.cache)"
    )


def _mapped(path: Path, *, repair: bool = False) -> NDArray[np.uint8] | None:
    """Return the array of a file, or nothing where there is none or it was damaged since.

    Parameters
    ----------
    repair
        Make a damaged array a draft again, of which the damaged images are decoded anew.
    """
    try:
        array: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, EOFError):
        path.unlink(missing_ok=True)
        return None
    if is_whole(path):
        return array
    if repair:
        warnings.warn(
            f"the pixel cache {path} was damaged since it was written; its damaged images are "
            "decoded again",
            stacklevel=2,
        )
        path.replace(path.with_suffix(".part"))
    return None


def pixel_digests(cohort: Cohort, recipe: Recipe, folder: Path) -> tuple[str, ...]:
    """Return one digest per image: of its content and of everything that makes its pixels."""
    return tuple(_sha256(recipe.name, content) for content in content_digests(cohort, folder))


def _build(
    draft: Draft,
    cohort: Cohort,
    recipe: Recipe,
    digests: Sequence[str],
    progress: Progress | None,
) -> dict[int, str]:
    """Fill the array: from what lies beside it as far as possible, by decoding for the rest.

    Returns the rows that could not be filled, and why.
    """
    draft.open(digests)
    done = set(draft.written().tolist())
    # Rows of one content are decoded once. Stored arrays of the same recipe, of other cohorts or
    # of this one before a file was added, are read before anything is decoded.
    left: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        if row not in done:
            left[digest].append(row)
    with draft.writing() as write:
        for digest, pixels in stored_rows(draft.path.parent, set(left)):
            write(left.pop(digest), pixels)
    broken: dict[int, str] = {}
    count = len(cohort) - sum(map(len, left.values()))
    # Closed at once on an error or interrupt, so that no process goes on decoding.
    with closing(_decode_all(draft, cohort, recipe, list(left.values()))) as decoded:
        for rows, fault in decoded:
            count += len(rows)
            if fault:
                broken |= {row: f"{_place(cohort, row)}{fault}" for row in rows}
            if progress:
                progress(f"decoding {cohort.name}", count, len(cohort))
    return broken


def _place(cohort: Cohort, row: int) -> str:
    """Where an image stands in its user's table, as the beginning of a message."""
    where = cohort.table["where"].iloc[row] if "where" in cohort.table else ""
    return f"{where}: " if isinstance(where, str) and where else ""


def _clear(home: Path) -> None:
    """Remove drafts that nobody writes: of files as they were before they were replaced."""
    for part in home.glob("*.part"):
        with hold(home, part.stem, wait=False) as ours:
            if ours is not None:
                Draft(part.with_suffix(".npy"), ()).discard()


def _decode_all(
    draft: Draft, cohort: Cohort, recipe: Recipe, jobs: Sequence[Rows]
) -> Generator[tuple[Rows, str]]:
    """Decode the image of each job into its rows; yields the rows, and what was wrong."""
    from joblib import cpu_count

    names, images = cohort.table["source"].to_numpy(), cohort.table["image"].to_numpy()
    tasks = [(rows, cohort.sources[names[rows[0]]], images[rows[0]]) for rows in jobs]
    separate = len(tasks) >= PROCESSES_FROM
    # Four chunks per processor at least: the last to finish then keeps the others waiting briefly.
    chunk = max(1, min(CHUNK, len(tasks) // (4 * cpu_count()))) if separate else 1
    chunks = [tasks[start : start + chunk] for start in range(0, len(tasks), chunk)]
    decode = partial(_decode_into, draft, recipe)
    with closing(shared_out(decode, chunks, separate=separate, ordered=False)) as done:
        for results in done:
            yield from results


def _decode_into(
    draft: Draft, recipe: Recipe, tasks: Sequence[tuple[Rows, Files | Rendered, str]]
) -> list[tuple[Rows, str]]:
    # Pixels go to disk here, in the process that decoded them; only rows and faults travel back.
    results = []
    with draft.writing() as write:
        for rows, source, image in tasks:
            try:
                write(rows, recipe.decode(source, image))
            except DataError as error:
                results.append((rows, str(error)))
            else:
                results.append((rows, ""))
    return results


def _sha256(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
