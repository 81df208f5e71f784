"""The pixel cache: every image decoded and scaled once, into one memory-mapped array."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from prognobench.errors import DataError, StoreError
from prognobench.imaging.content import cohort_digest, content_digests
from prognobench.imaging.decode import read_image
from prognobench.imaging.draft import Draft, stored_rows
from prognobench.imaging.square import to_square
from prognobench.records import Cohort, Files, ImageOptions, Rendered

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Pixels", "cohort_digest", "pixel_cache"]

VERSION = 1
"""Part of every digest: to be raised whenever the same file would be decoded to other pixels."""

PROCESSES_FROM = 300
"""So many images are worth the second that starting processes takes; fewer share this one."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Pixels:
    """The images of a cohort as every model starts from them.

    Attributes
    ----------
    array
        uint8 ``(images, side, side, channels)``, memory-mapped, in the order of the cohort's table.
    digests
        One per image: of the content of its file and of everything that made its pixels.
    """

    array: NDArray[np.uint8]
    digests: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """What makes the pixels, beside the content of the file."""

    side: int
    interpolation: str
    options: ImageOptions

    @property
    def name(self) -> str:
        settings = repr(
            (VERSION, self.side, self.interpolation, sorted(asdict(self.options).items()))
        )
        return f"{self.side}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"

    def decode(self, source: Files | Rendered, image: str) -> NDArray[np.uint8]:
        """Decode one image: uint8 ``(side, side, channels)``."""
        if isinstance(source, Files):
            decoded = read_image(source.root / image, self.options.channels)
        else:
            decoded = source.render(image)
            if self.options.channels == 3:
                decoded = np.repeat(decoded[:, :, None], 3, axis=2)
        return to_square(decoded, self.side, self.interpolation, self.options)


def pixel_cache(
    cohort: Cohort,
    side: int,
    interpolation: Literal["nearest", "bilinear", "bicubic", "area", "lanczos"],
    folder: Path,
    *,
    options: ImageOptions = ImageOptions(),  # noqa: B008
    progress: Progress | None = None,
) -> Pixels:
    """Return a cohort's images as squares, decoding those that were not decoded before.

    The array lies under ``folder/pixels``, named by the content of all images and by everything
    that makes pixels of it, so that a changed file or setting is another array. A build that was
    killed goes on where it stopped; two builds of the same array take turns.

    Parameters
    ----------
    side, interpolation
        Size of the squares and how images are scaled to it.
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
    recipe = Recipe(side, interpolation, options)
    contents = content_digests(cohort, folder)
    digests = tuple(_sha256(recipe.name, content) for content in contents)
    home = folder / "pixels" / recipe.name
    path = home / f"{_sha256(*digests)[:32]}.npy"
    if not path.exists():
        from filelock import FileLock

        draft = Draft(path, (len(cohort), side, side, options.channels))
        try:
            home.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():
                    _build(draft, cohort, recipe, digests, progress)
                    _clear(home)
        except OSError as error:
            draft.discard()
            size = draft.shape[0] * draft.row_bytes / 1e9
            raise StoreError(
                f"the pixel cache {path} cannot be written: {error.strerror or error}; "
                f"it takes {size:.2g} GB (another folder can be chosen with paths.cache)"
            ) from error
    return Pixels(np.load(path, mmap_mode="r"), digests)


def _build(
    draft: Draft,
    cohort: Cohort,
    recipe: Recipe,
    digests: Sequence[str],
    progress: Progress | None,
) -> None:
    """Fill the array: from what lies beside it as far as possible, by decoding for the rest."""
    draft.open(digests)
    done = set(draft.written().tolist())
    left: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        if row not in done:
            left[digest].append(row)
    for digest, pixels in stored_rows(draft.path.parent, set(left)):
        draft.write(left.pop(digest), pixels)
    faults = []
    count = len(cohort) - sum(map(len, left.values()))
    with closing(_decode_all(draft, cohort, recipe, list(left.values()))) as decoded:
        for rows, fault in decoded:
            count += rows
            faults += [fault] if fault else []
            if progress:
                progress(f"decoding {cohort.name}", count, len(cohort))
    if faults:
        raise DataError(sorted(faults))
    draft.finish()


def _clear(home: Path) -> None:
    """Remove drafts that nobody writes: of files as they were before they were replaced."""
    from filelock import FileLock, Timeout

    for part in home.glob("*.part"):
        with suppress(Timeout), FileLock(part.with_suffix(".lock"), blocking=False):
            Draft(part.with_suffix(".npy"), ()).discard()


def _decode_all(
    draft: Draft, cohort: Cohort, recipe: Recipe, jobs: Sequence[list[int]]
) -> Generator[tuple[int, str]]:
    """Decode the image of each job into its rows; yields the number of rows, and what was wrong.

    Threads share this process where there is little to do. More goes to processes that are
    started afresh: forking one in which torch has threads can hang, and some decoders keep the
    interpreter's lock.
    """
    from joblib import Parallel, cpu_count, delayed

    parallel = Parallel(
        n_jobs=max(1, min(cpu_count(), len(jobs))),
        backend="loky" if len(jobs) >= PROCESSES_FROM else "threading",
        return_as="generator_unordered",
        max_nbytes=None,
    )
    sources, images = cohort.table["source"].to_numpy(), cohort.table["image"].to_numpy()
    yield from parallel(
        delayed(_decode_into)(
            draft, rows, recipe, cohort.sources[sources[rows[0]]], images[rows[0]]
        )
        for rows in jobs
    )


def _decode_into(
    draft: Draft, rows: Sequence[int], recipe: Recipe, source: Files | Rendered, image: str
) -> tuple[int, str]:
    try:
        pixels = recipe.decode(source, image)
    except DataError as error:
        return len(rows), str(error)
    draft.write(rows, pixels)
    return len(rows), ""


def _sha256(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
