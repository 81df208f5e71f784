"""The pixel cache: right squares, noticed changes, safe builds."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from prognobench.errors import DataError, StoreError
from prognobench.imaging import cache, content
from prognobench.imaging.cache import Pixels, Recipe, cohort_digest, pixel_cache
from prognobench.imaging.square import to_square
from prognobench.records import Cohort, Files, ImageOptions, Rendered


def picture(seed: int, height: int = 40, width: int = 30) -> np.ndarray:
    """A smooth gradient with a bright spot: scales without surprises."""
    y, x = np.mgrid[:height, :width]
    spot = 120 * np.exp(-((y - 5 - seed) ** 2 + (x - 9) ** 2) / 20)
    return (40 + 2 * x + spot).clip(0, 250).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(picture(number)).save(folder / f"{number}.png")
    return folder


def cohort_of(root: Path, images: int = 6) -> Cohort:
    names = [f"{number}.png" for number in range(images)]
    table = pd.DataFrame(
        {
            "patient_id": [f"P{number // 2}" for number in range(images)],
            "image": names,
            "source": "images",
            "label": [number // 2 % 2 for number in range(images)],
            "centre": "unknown",
            "order": np.nan,
        }
    )
    return Cohort("made", table, ("alive", "dead"), {"images": Files(root)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the images that are decoded meanwhile."""
    names: list[str] = []
    read = cache.read_image

    def reading(path: Path, channels: int) -> np.ndarray:
        names.append(path.name)
        return read(path, channels)

    with monkeypatch.context() as patched:
        patched.setattr(cache, "read_image", reading)
        yield names


def test_every_image_is_a_square_in_the_order_of_the_table(root: Path, folder: Path) -> None:
    cohort = cohort_of(root)
    seen: list[tuple[str, int, int]] = []
    pixels = pixel_cache(
        cohort, Recipe(16, "bilinear"), folder, progress=lambda *step: seen.append(step)
    )
    assert isinstance(pixels.array, np.memmap)
    assert pixels.array.shape == (6, 16, 16, 1)
    assert not pixels.array.flags.writeable
    for row, image in enumerate(cohort.table["image"]):
        expected = to_square(picture(int(image[0])), 16, "bilinear", ImageOptions())
        assert np.array_equal(pixels.array[row], expected)
    assert seen == [("decoding made", done, 6) for done in range(1, 7)]
    assert len(set(pixels.digests)) == 6


def test_nothing_is_decoded_twice(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = cohort_of(root)
    first = pixel_cache(cohort, Recipe(16, "bicubic"), folder)
    with counted(monkeypatch) as decoded:
        again = pixel_cache(cohort, Recipe(16, "bicubic"), folder)
        backwards = replace(cohort, table=cohort.table[::-1].reset_index(drop=True))
        turned = pixel_cache(backwards, Recipe(16, "bicubic"), folder)
    assert decoded == []
    assert again.digests == first.digests == turned.digests[::-1]
    assert np.array_equal(turned.array, first.array[::-1])


def test_images_added_to_a_cohort_are_decoded_alone(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixel_cache(cohort_of(root, 4), Recipe(16, "bicubic"), folder)
    with counted(monkeypatch) as decoded:
        grown = pixel_cache(cohort_of(root, 6), Recipe(16, "bicubic"), folder)
    assert sorted(decoded) == ["4.png", "5.png"]
    fresh = pixel_cache(cohort_of(root, 6), Recipe(16, "bicubic"), folder / "other")
    assert np.array_equal(grown.array, fresh.array)


def test_an_image_listed_twice_is_decoded_once(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "1.png").write_bytes((root / "0.png").read_bytes())
    with counted(monkeypatch) as decoded:
        pixels = pixel_cache(cohort_of(root), Recipe(16, "bicubic"), folder)
    assert len(decoded) == 5
    assert pixels.digests[0] == pixels.digests[1]
    assert np.array_equal(pixels.array[0], pixels.array[1])


def test_a_changed_file_is_noticed(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content, "SETTLED_NS", 0)
    cohort = cohort_of(root)
    before, digest = (
        pixel_cache(cohort, Recipe(16, "bicubic"), folder),
        cohort_digest(cohort, folder),
    )
    old = (root / "2.png").stat()
    Image.fromarray(picture(20)).save(root / "2.png")
    changed = (root / "2.png").read_bytes()
    # Same size, same time of modification: only the other time tells.
    (root / "2.png").write_bytes(changed[: old.st_size].ljust(old.st_size, b"\0"))
    os.utime(root / "2.png", ns=(old.st_atime_ns, old.st_mtime_ns))
    assert cohort_digest(cohort, folder) != digest
    (root / "2.png").write_bytes(changed)
    after = pixel_cache(cohort, Recipe(16, "bicubic"), folder)
    differing = [a != b for a, b in zip(after.digests, before.digests, strict=True)]
    assert differing == [False, False, True, False, False, False]
    assert not np.array_equal(after.array[2], before.array[2])
    assert np.array_equal(after.array[3], before.array[3])


def test_settings_are_part_of_the_digests(root: Path, folder: Path) -> None:
    cohort = cohort_of(root)
    made = [
        pixel_cache(cohort, Recipe(16, "bicubic"), folder),
        pixel_cache(cohort, Recipe(24, "bicubic"), folder),
        pixel_cache(cohort, Recipe(16, "nearest"), folder),
        pixel_cache(cohort, Recipe(16, "bicubic", ImageOptions(equalise=True)), folder),
        pixel_cache(cohort, Recipe(16, "bicubic", ImageOptions(channels=3)), folder),
    ]
    assert len({pixels.digests for pixels in made}) == len(made)
    assert made[-1].array.shape == (6, 16, 16, 3)


def test_cohort_digest_is_of_content_not_of_place(root: Path, folder: Path, tmp_path: Path) -> None:
    cohort = cohort_of(root)
    digest = cohort_digest(cohort, folder)
    moved = tmp_path / "moved"
    root.rename(moved)
    assert cohort_digest(cohort_of(moved), folder) == digest
    table = cohort.table
    for column, value in (("label", 1 - table["label"]), ("patient_id", "P" + table["patient_id"])):
        other = replace(cohort_of(moved), table=table.assign(**{column: value}))
        assert cohort_digest(other, folder) != digest
    described = replace(cohort_of(moved), table=table.assign(remark="a fine image"))
    assert cohort_digest(described, folder) == digest
    assert cohort_digest(replace(described, covariates=("remark",)), folder) != digest


def test_cohort_digest_tells_codes_from_numbers(root: Path, folder: Path) -> None:
    cohort = replace(cohort_of(root), covariates=("icd",))
    numbers = 250.5 + np.arange(len(cohort))

    def digest(cells: np.ndarray) -> str:
        return cohort_digest(replace(cohort, table=cohort.table.assign(icd=cells)), folder)

    assert digest(numbers.astype(str)) != digest(numbers)
    assert digest(numbers.astype(str)) == digest(numbers.astype(str).astype(object))


def test_cohort_digest_does_not_know_the_last_bits_of_a_risk(root: Path, folder: Path) -> None:
    cohort = cohort_of(root)
    risk = np.random.default_rng(0).random((len(cohort), 2))

    def digest(risk: np.ndarray) -> str:
        return cohort_digest(replace(cohort, risk=risk), folder)

    assert digest(np.nextafter(risk, 1)) == digest(risk)
    assert digest(risk + 1e-6) != digest(risk)


def test_digests_of_files_are_remembered(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = cohort_of(root)
    digest = cohort_digest(cohort, folder)
    assert not list(folder.glob("digests/*")), "files that may change unnoticed are not remembered"
    monkeypatch.setattr(content, "SETTLED_NS", 0)
    assert cohort_digest(cohort, folder) == digest
    (memory,) = folder.glob("digests/*.json")
    with monkeypatch.context() as patched:
        patched.setattr(content, "_digest", lambda path: pytest.fail(f"{path} was read again"))
        assert cohort_digest(cohort, folder) == digest
    memory.write_text("{ half")
    assert cohort_digest(cohort, folder) == digest
    blocked = folder / "file"
    blocked.write_text("not a folder")
    assert cohort_digest(cohort, blocked) == digest


# ------------------------------------------------------------------ what can go wrong


def test_all_broken_images_are_told_at_once_and_the_others_kept(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (root / "3.png").read_bytes()
    (root / "1.png").write_bytes(b"no image")
    (root / "3.png").write_bytes(whole[:60])
    with pytest.raises(DataError) as caught:
        pixel_cache(cohort_of(root), Recipe(16, "bicubic"), folder)
    assert [Path(fault.split(":")[0]).name for fault in caught.value.faults] == ["1.png", "3.png"]
    assert not list(folder.glob("pixels/*/*.npy"))
    (root / "3.png").write_bytes(whole)
    Image.fromarray(picture(1)).save(root / "1.png")
    with counted(monkeypatch) as decoded:
        pixel_cache(cohort_of(root), Recipe(16, "bicubic"), folder)
    assert sorted(decoded) == ["1.png", "3.png"]
    assert not list(folder.glob("pixels/*/*.part"))


@pytest.mark.parametrize("left", [0, 40, 1000])
def test_an_array_that_was_damaged_is_built_anew(root: Path, folder: Path, left: int) -> None:
    whole = np.array(pixel_cache(cohort_of(root), Recipe(16, "bicubic"), folder).array)
    (path,) = folder.glob("pixels/*/*.npy")
    path.write_bytes(path.read_bytes()[:left])

    again = pixel_cache(cohort_of(root), Recipe(16, "bicubic"), folder)

    assert np.array_equal(again.array, whole)


@pytest.mark.parametrize("damage", ["bit", "blank image", "half"])
def test_pixels_that_changed_are_never_used(
    root: Path, folder: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = np.array(pixel_cache(cohort_of(root), Recipe(16, "bicubic"), folder).array)
    (path,) = folder.glob("pixels/*/*.npy")
    row = whole[0].size
    content = bytearray(path.read_bytes())
    start = len(content) - whole.size
    if damage == "bit":
        content[start + row + 5] ^= 1
    else:
        size = row if damage == "blank image" else whole.size // 2
        content[start : start + size] = bytes(size)
    path.write_bytes(content)

    with counted(monkeypatch) as decoded, pytest.warns(match="was damaged since it was written"):
        again = pixel_cache(cohort_of(root), Recipe(16, "bicubic"), folder)

    assert np.array_equal(again.array, whole)
    assert len(set(decoded)) == {"bit": 1, "blank image": 1}.get(damage, len(whole) // 2)
    with counted(monkeypatch) as decoded:  # what was repaired is not looked at again
        pixel_cache(cohort_of(root), Recipe(16, "bicubic"), folder)
    assert not decoded


def test_damaged_pixels_of_another_cohort_are_not_taken(root: Path, folder: Path) -> None:
    cohort = cohort_of(root)
    whole = np.array(pixel_cache(cohort, Recipe(16, "bicubic"), folder).array)
    (path,) = folder.glob("pixels/*/*.npy")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    fewer = replace(cohort, table=cohort.table.iloc[1:].reset_index(drop=True), digests=None)
    assert np.array_equal(pixel_cache(fewer, Recipe(16, "bicubic"), folder).array, whole[1:])


def test_a_cache_that_is_a_file_is_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match=r"another folder can be chosen with paths\.cache"):
        pixel_cache(cohort_of(root), Recipe(16, "bicubic"), tmp_path / "file")


def test_all_missing_files_are_told_at_once(root: Path, folder: Path) -> None:
    (root / "1.png").unlink()
    (root / "4.png").unlink()
    for look in (cohort_digest, lambda c, f: pixel_cache(c, Recipe(16, "bicubic"), f)):
        with pytest.raises(DataError) as caught:
            look(cohort_of(root), folder)
        assert len(caught.value.faults) == 2
        assert "4.png: No such file" in caught.value.faults[1]


def test_a_full_disk_is_told_and_nothing_is_left(root: Path, folder: Path) -> None:
    cohort = cohort_of(root)
    cohort_digest(cohort, folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            StoreError, match=r"cannot be written: File too large; it takes 0\.\d+ GB"
        ):
            pixel_cache(cohort, Recipe(224, "bicubic"), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(folder.glob("pixels/*/*"))


@dataclass(frozen=True)
class Slow:
    """Draws images slowly enough that a build can be caught at work."""

    seconds: float

    def __call__(self, name: str) -> np.ndarray:
        time.sleep(self.seconds)
        return picture(int(name))


def drawn(images: int, seconds: float) -> Cohort:
    table = pd.DataFrame(
        {
            "patient_id": [str(number) for number in range(images)],
            "image": [str(number) for number in range(images)],
            "source": "images",
            "label": 0,
            "centre": "unknown",
            "order": np.nan,
        }
    )
    return Cohort("drawn", table, ("a", "b"), {"images": Rendered("slow", Slow(seconds))})


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_cache import Recipe, drawn, pixel_cache
pixel_cache(
    drawn(40, 0.05),
    Recipe(16, "bicubic"),
    Path({folder!r}),
    progress=lambda *s: print(s[1], flush=True),
)
"""


def test_a_killed_build_goes_on_where_it_stopped(folder: Path) -> None:
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder))
    build = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert build.stdout is not None
    for line in build.stdout:
        if int(line) >= 10:
            break
    os.kill(build.pid, signal.SIGKILL)
    build.communicate()
    assert not list(folder.glob("pixels/*/*.npy"))
    (part,) = folder.glob("pixels/*/*.part")
    # A row that was torn by the kill has a wrong checksum and is drawn again.
    with part.open("r+b") as file:
        file.seek(part.stat().st_size - 40 * 256)
        file.write(b"torn")
    steps: list[int] = []
    pixels = pixel_cache(
        drawn(40, 0),
        Recipe(16, "bicubic"),
        folder,
        progress=lambda _, done, all_: steps.append(done),
    )
    assert 1 <= len(steps) <= 31
    fresh = pixel_cache(drawn(40, 0), Recipe(16, "bicubic"), folder / "fresh")
    assert np.array_equal(pixels.array, fresh.array)


def test_two_builds_at_once_take_turns(folder: Path) -> None:
    made: list[Pixels] = []
    steps: list[int] = []

    def build() -> None:
        made.append(
            pixel_cache(
                drawn(20, 0.02),
                Recipe(16, "bicubic"),
                folder,
                progress=lambda *step: steps.append(step[1]),
            )
        )

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(steps) == 20
    assert np.array_equal(made[0].array, made[1].array)


def test_processes_give_the_same_as_threads(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = pixel_cache(cohort_of(root), Recipe(16, "bicubic"), folder)
    (root / "5.png").write_bytes(b"no image")
    monkeypatch.setattr(cache, "PROCESSES_FROM", 1)
    with pytest.raises(DataError, match=r"5\.png"):
        pixel_cache(cohort_of(root), Recipe(16, "bicubic"), folder / "other")
    processes = pixel_cache(cohort_of(root, 5), Recipe(16, "bicubic"), folder / "third")
    assert np.array_equal(threads.array[:5], processes.array)


# ------------------------------------------------------------------ squares


def square(image: np.ndarray, image_size: int = 20, interpolation: str = "area", **options: object):
    return to_square(image, image_size, interpolation, ImageOptions(**options))[:, :, 0]


def test_minmax_stretches_the_whole_range() -> None:
    stretched = square(picture(0, 20, 20))
    assert (stretched.min(), stretched.max()) == (0, 255)
    flat = np.full((20, 20), 77, dtype=np.uint8)
    assert np.array_equal(square(flat), flat)
    untouched = picture(0, 20, 20)
    assert np.array_equal(square(untouched, minmax=False), untouched)


def test_equalise_flattens_the_histogram() -> None:
    dark = (picture(0, 64, 64) // 4).astype(np.uint8)
    equal = square(dark, 64, equalise=True)
    assert abs(np.median(equal) - 128) < 20
    colour = np.stack([dark, dark // 2, dark // 3], axis=2)
    result = to_square(colour, 64, "area", ImageOptions(channels=3, equalise=True))
    assert result.shape == (64, 64, 3)
    assert result[..., 0].mean() > result[..., 2].mean()


def test_fit_keeps_or_changes_the_aspect_ratio() -> None:
    tall = np.full((40, 20), 200, dtype=np.uint8)
    tall[:10], tall[-10:] = 100, 100
    assert square(tall, minmax=False).min() == 100
    padded = square(tall, fit="pad", minmax=False)
    assert (padded[:, :5] == 0).all()
    assert (padded[:, 5:15] >= 100).all()
    assert (padded[:, 15:] == 0).all()
    assert (square(tall, fit="crop", minmax=False) == 200).all()


def test_black_borders_are_cropped() -> None:
    image = np.zeros((60, 50), dtype=np.uint8)
    image[20:40, 10:30] = 150
    image[0, 0] = 8
    assert (square(image, crop_borders=True, minmax=False) == 150).all()
    black = np.zeros((60, 50), dtype=np.uint8)
    assert (square(black, crop_borders=True) == 0).all()


def test_large_images_are_averaged_not_sampled() -> None:
    stripes = np.zeros((1024, 1024), dtype=np.uint8)
    stripes[:, ::2] = 200
    for interpolation in ("bilinear", "bicubic", "area", "lanczos"):
        assert np.abs(square(stripes, 64, interpolation, minmax=False).astype(int) - 100).max() <= 1
    assert set(np.unique(square(stripes, 64, "nearest", minmax=False))) <= {0, 200}


def test_halving_stays_close_to_the_filter_alone() -> None:
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (20, 20), dtype=np.uint8))
    for size in ((1024, 1024), (1001, 903)):
        large = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))
        filtered = Image.fromarray(large).resize((64, 64), Image.Resampling.BICUBIC)
        difference = np.abs(square(large, 64, "bicubic", minmax=False).astype(int) - filtered)
        assert difference.mean() < 1


@pytest.mark.real_data
def test_a_real_cohort_is_decoded_whole(real_cohort_root: Path, folder: Path) -> None:
    from prognobench.registry import DATASETS

    cohort = DATASETS["covid_chestxray"](root=real_cohort_root, task="icu")
    pixels = pixel_cache(cohort, Recipe(64, "bicubic"), folder)
    assert pixels.array.shape == (len(cohort), 64, 64, 1)
    assert pixels.array.reshape(len(cohort), -1).std(axis=1).min() > 10


def test_an_array_that_another_process_finished_meanwhile_is_taken(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, recipe = cohort_of(root), Recipe(16, "bicubic")
    expected = pixel_cache(cohort, recipe, folder / "other").array.copy()
    finish = cache.Draft.finish
    ended: list[int] = []

    def finish_late(draft: cache.Draft) -> None:
        # While this process was stopped, another took its lease over and finished the draft.
        finish(draft)
        ended.append(1)
        finish(draft)

    monkeypatch.setattr(cache.Draft, "finish", finish_late)
    assert np.array_equal(pixel_cache(cohort, recipe, folder).array, expected)
    assert ended == [1]


def test_an_array_that_is_gone_each_time_is_an_error(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def lose(draft: cache.Draft) -> None:
        tries.append(1)
        draft.part.unlink()
        draft.part.open("rb")

    monkeypatch.setattr(cache.Draft, "finish", lose)
    with pytest.raises(StoreError, match="cannot be written: No such file"):
        pixel_cache(cohort_of(root), Recipe(16, "bicubic"), folder)
    assert len(tries) == cache.MOST_TRIES
