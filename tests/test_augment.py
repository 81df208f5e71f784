from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from prognobench.imaging.augment import Augmentation


@pytest.fixture
def image() -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:48, :48]
    return (rows * 4 + columns).astype(np.uint8)[:, :, None]


@pytest.mark.parametrize("level", ["light", "strong"])
def test_changes_depend_on_image_and_seed_alone(level, image):
    augmentation = Augmentation(level)
    first = augmentation(image, 7)
    augmentation(image, 8)

    assert np.array_equal(augmentation(image, 7), first)
    assert np.array_equal(Augmentation(level)(image, 7), first)


def test_threads_give_the_same_as_one_after_the_other(image):
    augmentation = Augmentation("strong", horizontal_flip=True)
    seeds = range(40)
    expected = [augmentation(image, seed) for seed in seeds]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: augmentation(image, seed), seeds))

    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))
    assert len({one.tobytes() for one in found}) > 35


def test_none_returns_the_image_itself(image):
    augmentation = Augmentation("none")

    assert augmentation(image, 1) is image
    assert not augmentation.active
    assert Augmentation("none", horizontal_flip=True).active


def test_images_are_never_upside_down_and_mirrored_only_if_asked(image):
    def brighter_below(image: NDArray[np.uint8]) -> bool:
        return bool(image[30:].mean() > image[:18].mean())

    def brighter_right(image: NDArray[np.uint8]) -> bool:
        return bool(image[:, 26:].mean() > image[:, :22].mean())

    steps = np.zeros((48, 48, 1), dtype=np.uint8)
    steps[:, 24:] = 200
    kept, mirrored = Augmentation("strong"), Augmentation("strong", horizontal_flip=True)

    assert all(brighter_below(mirrored(image, seed)) for seed in range(60))
    assert all(brighter_right(kept(steps, seed)) for seed in range(60))
    sides = [brighter_right(mirrored(steps, seed)) for seed in range(60)]
    assert 15 < sum(sides) < 45


def test_strong_changes_more_than_light(image):
    def change(level) -> float:
        augmentation = Augmentation(level)
        changed = [augmentation(image, seed).astype(float) for seed in range(40)]
        return float(np.mean([np.abs(one - image).mean() for one in changed]))

    assert change("strong") > 1.5 * change("light") > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_shape_and_type_are_kept(channels):
    image = np.random.default_rng(0).integers(0, 255, (40, 40, channels)).astype(np.uint8)

    changed = Augmentation("strong")(image, 3)

    assert changed.shape == image.shape
    assert changed.dtype == np.uint8
