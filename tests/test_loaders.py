from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from prognobench.imaging.augment import Augmentation
from prognobench.records import Preprocessing
from prognobench.training.loader import Loader

GREY = Preprocessing(8, (0.4,), (0.2,))
COLOUR = Preprocessing(8, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1)).astype(np.uint8)


@pytest.fixture
def labels():
    return np.array([0] * 15 + [1] * 5)


def rows_of(loader, epoch):
    return np.concatenate([batch.rows for batch in loader.epoch(epoch)])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("preprocessing", [GREY, COLOUR])
def test_images_are_normalised_and_grey_stands_for_every_channel(
    pixels, labels, preprocessing, memory_format
):
    loader = Loader(pixels, labels, np.array([3, 1, 4]), preprocessing, batch_size=8)

    (batch,) = loader.epoch(0, memory_format)

    mean, std = (np.reshape(v, (-1, 1, 1)) for v in (preprocessing.mean, preprocessing.std))
    expected = (pixels[[3, 1, 4]].transpose(0, 3, 1, 2) / 255 - mean) / std
    assert batch.images.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=memory_format)
    np.testing.assert_allclose(batch.images.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert batch.labels.tolist() == labels[[3, 1, 4]].tolist()
    assert batch.rows.tolist() == [3, 1, 4]


def test_colour_images_keep_their_channels(labels):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)

    (batch,) = Loader(pixels, labels, np.arange(2), COLOUR, batch_size=8).epoch(0)

    expected = (pixels[1, 2, 3] / 255 - COLOUR.mean) / COLOUR.std
    np.testing.assert_allclose(batch.images[1, :, 2, 3], expected, rtol=1e-5, atol=1e-5)


def test_without_shuffling_rows_come_in_their_order(pixels, labels):
    rows = np.array([7, 2, 19, 0, 5])

    assert rows_of(Loader(pixels, labels, rows, GREY, batch_size=2), 3).tolist() == rows.tolist()


def test_an_epoch_shows_each_row_once_in_another_order(pixels, labels):
    loader = Loader(
        pixels, labels, np.arange(5, 20), GREY, batch_size=4, shuffle=True, seed=("a", 1)
    )

    first, second = rows_of(loader, 1), rows_of(loader, 2)

    assert sorted(first) == sorted(second) == list(range(5, 20))
    assert first.tolist() != second.tolist()
    assert rows_of(loader, 1).tolist() == first.tolist()


def test_batches_have_nearly_equal_sizes(pixels, labels):
    loader = Loader(pixels, labels, np.arange(17), GREY, batch_size=16, shuffle=True)

    assert [len(batch.rows) for batch in loader.epoch(1)] == [9, 8]
    assert len(loader) == 2


def test_order_and_augmentation_depend_on_the_axes_alone(pixels, labels):
    def loader(*seed):
        return Loader(
            pixels,
            labels,
            np.arange(20),
            GREY,
            batch_size=6,
            shuffle=True,
            augmentation=Augmentation("strong"),
            seed=seed,
        )

    def epoch(made, n):
        return torch.cat([batch.images for batch in made.epoch(n)])

    one = loader("batches", 42, 0)
    expected = {n: epoch(one, n) for n in (1, 2, 3)}
    with ThreadPoolExecutor(3) as pool:
        beside = dict(zip((3, 1, 2), pool.map(lambda n: epoch(one, n), (3, 1, 2)), strict=True))

    assert all(torch.equal(beside[n], expected[n]) for n in expected)
    assert torch.equal(epoch(loader("batches", 42, 0), 2), expected[2])
    assert not torch.equal(epoch(loader("batches", 42, 1), 2), expected[2])


def test_an_image_is_augmented_anew_in_each_epoch(pixels, labels):
    loader = Loader(
        pixels, labels, np.array([3]), GREY, batch_size=1, augmentation=Augmentation("strong")
    )

    images = [next(iter(loader.epoch(n))).images.numpy().tobytes() for n in range(8)]

    assert len(set(images)) > 5


def test_balanced_sampling_draws_classes_equally_often(pixels, labels):
    loader = Loader(pixels, labels, np.arange(20), GREY, batch_size=4, balanced=True)

    drawn = rows_of(loader, 1)

    assert np.bincount(labels[drawn]).tolist() == [10, 10]
    assert set(drawn[labels[drawn] == 1]) == set(range(15, 20))
    assert len(set(drawn[labels[drawn] == 0])) == 10


def test_no_rows_give_no_batches(pixels, labels):
    loader = Loader(pixels, labels, np.array([], dtype=int), GREY, batch_size=4, shuffle=True)

    assert len(loader) == 0
    assert list(loader.epoch(1)) == []


def test_an_error_in_a_thread_reaches_the_caller(labels):
    class Torn:
        def __getitem__(self, rows):
            raise OSError("the disk is gone")

    loader = Loader(Torn(), labels, np.arange(4), GREY, batch_size=2)

    with pytest.raises(OSError, match="the disk is gone"):
        list(loader.epoch(1))


def test_an_epoch_may_be_left_early(pixels, labels):
    loader = Loader(pixels, labels, np.arange(20), GREY, batch_size=2)

    for batch in loader.epoch(1):
        assert batch.rows.tolist() == [0, 1]
        break

    assert rows_of(loader, 1).tolist() == list(range(20))
