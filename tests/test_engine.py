from __future__ import annotations

import copy
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from prognobench.errors import ConfigError, TrainingError
from prognobench.imaging.augment import Augmentation
from prognobench.records import Adapted, Loss, ParameterGroup, Preprocessing, Train
from prognobench.training.hardware import (
    autocast,
    memory_format,
    require_compiler,
    resolve_precision,
)
from prognobench.training.loader import Loader
from prognobench.training.loop import fit, predict
from prognobench.training.optimiser import schedule_factor
from prognobench.training.stopping import Stopping

IMAGE_SIZE = 8
PREPROCESSING = Preprocessing(IMAGE_SIZE, (0.5,), (0.25,))
EVEN = Loss(np.ones(2), np.zeros(2), np.zeros(2))
RECIPE = Train(epochs=4, batch_size=8, augmentation="none", head_lr=1e-2, precision="fp32")


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(1).integers(0, 2, 60)


@pytest.fixture(scope="module")
def pixels(labels):
    noise = np.random.default_rng(0).integers(0, 150, (60, IMAGE_SIZE, IMAGE_SIZE, 1))
    return (noise + 60 * labels[:, None, None, None]).astype(np.uint8)


@pytest.fixture
def loader(pixels, labels):
    def make(rows, training=False, batch_size=8, augmentation=None):
        return Loader(
            pixels,
            labels,
            np.asarray(rows, dtype=int),
            PREPROCESSING,
            batch_size=batch_size,
            shuffle=training,
            augmentation=augmentation,
            seed=("batches", 42),
        )

    return make


@pytest.fixture
def parts(loader):
    return loader(range(40), training=True), loader(range(40, 60))


def network(*layers, seed=0):
    torch.manual_seed(seed)
    body = layers or (nn.Linear(IMAGE_SIZE * IMAGE_SIZE, 6), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *body, nn.Linear(6, 2))


def adapted(model, lr=1e-2, **more):
    names = [name for name, _ in model.named_parameters()]
    head = tuple(name for name in names if name.startswith(f"{len(model) - 1}."))
    body = tuple(name for name in names if name not in head)
    groups = (ParameterGroup("body", body, lr=lr), ParameterGroup("head", head))
    return Adapted(model, groups, **more)


def train(made, parts, recipe=RECIPE, loss=EVEN):
    return fit(made, *parts, loss, recipe, device="cpu", where="cohort, cell r0-f2")


def test_training_lowers_the_loss_and_says_what_it_cost(parts):
    made = adapted(network())

    fitted = train(made, parts, Train(epochs=12, augmentation="none", batch_size=8))

    losses = [row["validation_loss"] for row in fitted.history]
    assert losses[-1] < 0.8 * losses[0]
    assert [row["epoch"] for row in fitted.history] == list(range(1, 13))
    assert fitted.cost["seconds_train"] > 0
    assert fitted.cost["peak_memory_bytes"] > 1e6
    assert fitted.cost["precision"] in ("fp32", "bf16")
    assert fitted.cost["epochs"] == 12


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(parts):
    first = network(nn.Linear(64, 6), nn.Dropout(0.3))
    second = copy.deepcopy(first)

    train(adapted(first), parts)
    torch.rand(17)
    np.random.default_rng().random()
    train(adapted(second), parts)

    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_it_does_what_a_plain_loop_does(parts):
    """AdamW, warm-up and cosine, clipping, class weights: against the bare operations."""
    loss = Loss(np.array([0.5, 2.0]), np.zeros(2), np.zeros(2))
    recipe = Train(epochs=3, batch_size=8, augmentation="none", clip=0.1, precision="fp32")
    made, plain = network(), network()

    train(adapted(made, lr=3e-3), parts, recipe, loss)

    optimiser = torch.optim.AdamW(
        [
            {"params": plain[1].parameters(), "base": 3e-3},
            {"params": plain[3].parameters(), "base": recipe.head_lr},
        ],
        weight_decay=recipe.weight_decay,
    )
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0]))
    step, best = 0, (math.inf, plain.state_dict())
    for epoch in (1, 2, 3):
        for batch in parts[0].epoch(epoch):
            step += 1
            time = step / 5
            factor = time if time < 1 else 0.5 * (1 + math.cos(math.pi * (time - 1) / 2))
            for group in optimiser.param_groups:
                group["lr"] = group["base"] * factor
            optimiser.zero_grad()
            criterion(plain(batch.images), batch.labels).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
            optimiser.step()
        with torch.no_grad():
            logits = torch.cat([plain(batch.images) for batch in parts[1].epoch(0)])
        value = criterion(logits, torch.from_numpy(parts[1].labels[40:60])).item()
        if value < best[0]:
            best = value, {name: tensor.clone() for name, tensor in plain.state_dict().items()}

    for name, tensor in made.state_dict().items():
        torch.testing.assert_close(tensor, best[1][name], rtol=1e-4, atol=1e-6)


def test_accumulated_batches_are_one_larger_batch(loader, labels):
    loss = Loss(np.array([0.5, 3.0]), np.zeros(2), np.zeros(2))
    models = network(), network()
    validation = loader(range(40, 60))
    for model, batch_size, accumulate in zip(models, (8, 4), (1, 2), strict=True):
        recipe = replace(RECIPE, batch_size=batch_size, accumulate=accumulate)
        train(adapted(model), (loader(range(40), True, batch_size), validation), recipe, loss)

    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_the_best_epoch_is_restored(parts):
    made = network()

    fitted = train(adapted(made, lr=0.3), parts, replace(RECIPE, epochs=10, head_lr=0.3))

    losses = {row["epoch"]: row["validation_loss"] for row in fitted.history}
    assert fitted.best_epoch == min(losses, key=losses.__getitem__)
    logits = torch.from_numpy(predict(made, parts[1], device="cpu", precision="fp32")).log()
    labels = torch.from_numpy(parts[1].labels[parts[1].rows])
    assert nn.functional.nll_loss(logits, labels).item() == pytest.approx(
        losses[fitted.best_epoch], rel=1e-4
    )


def test_training_stops_after_patience_epochs_without_improvement(parts):
    recipe = Train(epochs=50, patience=3, batch_size=8, head_lr=0.5, schedule="constant")

    fitted = train(adapted(network(), lr=0.5), parts, recipe)

    last = fitted.history[-1]["epoch"]
    assert last == fitted.best_epoch + 3 < 50


def test_evaluation_every_few_epochs_and_at_the_end(parts):
    fitted = train(adapted(network()), parts, Train(epochs=7, evaluate_every=3, batch_size=8))

    assert [row["epoch"] for row in fitted.history] == [3, 6, 7]


def test_without_a_validation_part_every_epoch_is_trained_and_the_last_kept(loader, parts):
    made, reference = network(), network()

    fitted = train(adapted(made), (parts[0], loader([])), Train(epochs=5, patience=1, batch_size=8))
    train(adapted(reference), parts, Train(epochs=5, patience=9, batch_size=8))

    assert fitted.best_epoch == fitted.history[-1]["epoch"] == 5
    assert "validation_loss" not in fitted.history[0]
    assert fitted.cost["stopped"] == "fixed number of epochs"


@pytest.mark.parametrize("monitor", ["mcc", "average_precision"])
def test_a_metric_can_decide_which_epoch_is_best(parts, monitor):
    fitted = train(adapted(network()), parts, Train(epochs=6, batch_size=8, monitor=monitor))

    values = {row["epoch"]: row["monitor"] for row in fitted.history}
    assert values[fitted.best_epoch] == max(values.values())


def test_a_plateau_lowers_the_rate_tenfold_down_to_its_floor(parts):
    recipe = Train(
        **{"epochs": 12, "patience": 50, "batch_size": 8, "schedule": "plateau"},
        **{"plateau_patience": 2, "warmup_epochs": 0.0, "min_lr": 0.02},
    )

    fitted = train(adapted(network(), lr=0.6), parts, recipe)

    rates = [row["lr"] for row in fitted.history]
    assert rates[0] == 0.6
    assert min(rates) < 0.1
    assert all(rate >= 0.02 for rate in rates)


def test_the_head_trains_alone_first(parts):
    made = network()
    before = made[1].weight.clone()

    fitted = train(adapted(made, head_first_epochs=2), parts, Train(epochs=1, batch_size=8))
    assert [row["epoch"] for row in fitted.history] == [1, 2, 3]

    only_head = network()
    train(adapted(only_head, lr=0.0, head_first_epochs=2), parts, Train(epochs=1, batch_size=8))
    assert torch.equal(only_head[1].weight, before)
    assert all(p.requires_grad for p in made.parameters())


def test_averaged_weights_are_what_is_kept(parts):
    plain, averaged = network(), network()
    recipe = {"epochs": 3, "batch_size": 8, "augmentation": "none"}

    train(adapted(plain), parts, Train(**recipe))
    train(adapted(averaged), parts, Train(**recipe, ema=0.9))

    assert not torch.equal(plain[1].weight, averaged[1].weight)
    assert (plain[1].weight - averaged[1].weight).abs().max() < 0.1


def test_a_loss_that_is_not_finite_names_cell_epoch_and_step(parts):
    class Breaking(nn.Linear):
        calls = 0

        def forward(self, x):
            if self.training:
                Breaking.calls += 1
            return super().forward(x) * (math.nan if Breaking.calls == 8 else 1)

    made = network(Breaking(64, 6))

    with pytest.raises(TrainingError, match=r"cohort, cell r0-f2.* nan in epoch 2, step 3 of 5"):
        train(adapted(made), parts)


class Hungry(nn.Linear):
    """Runs out of memory on more than so many images, and computes nothing of none."""

    most = 3

    def forward(self, x):
        assert len(x)
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


def test_out_of_memory_is_answered_by_smaller_parts_of_the_same_batch(parts):
    plain, hungry = network(), network(Hungry(64, 6), nn.ReLU())
    hungry.load_state_dict(plain.state_dict())

    train(adapted(plain), parts)
    fitted = train(adapted(hungry), parts)

    assert fitted.cost["micro_batches"] == 4
    for a, b in zip(plain.parameters(), hungry.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_batch_normalisation_that_sees_parts_alone_is_told(parts):
    made = nn.Sequential(nn.Flatten(), Hungry(64, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))

    with pytest.warns(UserWarning, match="batch normalisation sees one part at a time"):
        train(adapted(made), parts)


@pytest.mark.parametrize("size", [3, 12])
def test_where_single_images_fit_every_part_has_one(loader, size, monkeypatch):
    monkeypatch.setattr(Hungry, "most", 1)
    made = network(Hungry(64, 6), nn.ReLU())
    # Batches of 3, or of 12 and 11: what the larger one was split into is too much for the other.
    rows = range(size if size == 3 else 23)

    fitted = train(adapted(made), (loader(rows, True, size), loader(range(40, 60), False, size)))

    assert fitted.cost["micro_batches"] == size


def test_out_of_memory_on_one_image_is_an_error(parts):
    class Starving(nn.Linear):
        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(TrainingError, match="out of memory on a single image"):
        train(adapted(network(Starving(64, 6))), parts)


def test_predictions_come_in_the_order_of_the_rows(loader):
    model = network()
    rows = np.array([5, 1, 30, 2, 44])

    found = predict(model, loader(rows, batch_size=2), device="cpu", precision="fp32")
    one_by_one = [predict(model, loader([row]), device="cpu", precision="fp32")[0] for row in rows]

    assert found.dtype == np.float64
    np.testing.assert_allclose(found, one_by_one, rtol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1)


def test_bf16_agrees_with_fp32_within_its_precision(loader):
    """What a fold's metrics are made of changes by far less than between folds."""
    parts = loader(range(40), training=True), loader(range(40, 60))
    found = {}
    for precision in ("fp32", "bf16"):
        model = network()
        recipe = Train(epochs=8, batch_size=8, augmentation="none", precision=precision)
        fitted = train(adapted(model), parts, recipe)
        assert fitted.cost["precision"] == precision
        found[precision] = predict(model, parts[1], device="cpu", precision=precision)

    assert np.abs(found["fp32"] - found["bf16"]).max() < 0.03
    assert not np.array_equal(found["fp32"], found["bf16"])
    assert (found["fp32"].argmax(1) == found["bf16"].argmax(1)).mean() >= 0.9


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_compiled_network_learns_the_same(parts):
    compiled, plain = network(), network()

    found = train(adapted(compiled), parts, replace(RECIPE, compile=True))
    expected = train(adapted(plain), parts)

    assert compiled._compiled_call_impl is not None
    for a, b in zip(found.history, expected.history, strict=True):
        assert a["validation_loss"] == pytest.approx(b["validation_loss"], rel=1e-4)
    for name, value in compiled.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-3, atol=1e-5)


def test_compiling_without_a_compiler_is_said_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")

    with pytest.raises(ConfigError, match=r"no-such-compiler is not found.*train.compile=false"):
        require_compiler()


def test_precision_is_taken_as_asked_or_from_the_hardware():
    cpu = torch.device("cpu")

    assert resolve_precision("fp32", cpu) == "fp32"
    assert resolve_precision("bf16", cpu) == "bf16"
    assert resolve_precision("auto", cpu) in ("fp32", "bf16")
    with pytest.raises(ConfigError, match=r"tf32 needs a GPU .*device=cpu"):
        resolve_precision("tf32", cpu)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_fp32_on_a_gpu_rounds_neither_products_nor_convolutions():
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for precision, rounded in (("fp32", False), ("tf32", True), ("bf16", True)):
            autocast(precision, torch.device("cuda"))
            assert [backend.allow_tf32 for backend in backends] == [rounded] * 2
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def test_convolutional_networks_run_channels_last_and_transformers_do_not():
    patches = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten())
    convolutional = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Flatten())

    assert memory_format(convolutional) == torch.channels_last
    assert memory_format(patches) == torch.contiguous_format


def test_a_convolutional_network_with_batch_norm_trains(loader):
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 2),
    )
    augmented = loader(range(40), training=True, augmentation=Augmentation("light"))

    fitted = train(
        adapted(model), (augmented, loader(range(40, 60))), Train(epochs=3, batch_size=8)
    )

    assert model[1].num_batches_tracked.item() == 5 * fitted.best_epoch


def test_checkpointed_activations_change_memory_and_no_number(parts):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.checkpointing = nn.Linear(64, 6), False

        def set_grad_checkpointing(self, enable=True):
            self.checkpointing = enable

        def forward(self, x):
            if self.checkpointing and self.training:
                return torch.utils.checkpoint.checkpoint(self.linear, x, use_reentrant=False)
            return self.linear(x)

    plain = network(Block())
    checkpointed = copy.deepcopy(plain)
    train(adapted(plain), parts, Train(epochs=2, batch_size=8))
    train(adapted(checkpointed), parts, Train(epochs=2, batch_size=8, checkpoint_activations=True))

    assert checkpointed[1].checkpointing
    assert torch.equal(plain[1].linear.weight, checkpointed[1].linear.weight)


def test_schedules_start_and_end_where_they_should():
    cosine = Train(warmup_epochs=2, schedule="cosine")

    assert schedule_factor(cosine, 1, 10, 5) == 0.5
    assert schedule_factor(cosine, 2, 10, 5) == 1
    assert schedule_factor(cosine, 6, 10, 5) == pytest.approx(0.5)
    assert schedule_factor(cosine, 10, 10, 5) == pytest.approx(0)
    assert schedule_factor(Train(warmup_epochs=50), 10, 10, 1) == pytest.approx(0)
    assert schedule_factor(Train(warmup_epochs=0, schedule="constant"), 9, 10, 1) == 1


def test_a_single_step_trains(loader):
    made = network()
    before = made[1].weight.clone()

    train(adapted(made), (loader(range(8), True), loader(range(40, 60))), replace(RECIPE, epochs=1))

    assert not torch.equal(made[1].weight, before)


def watched(shape, *evaluations, recipe=RECIPE):
    """Which of the evaluations (quality, loss) were better than ever, and what came of them."""
    stopping = Stopping(torch.zeros(shape, dtype=torch.float64), recipe)
    better = [
        stopping.watch(epoch, *(torch.as_tensor(value, dtype=torch.float64) for value in values))
        for epoch, values in enumerate(evaluations, start=1)
    ]
    return stopping, better


def test_an_equal_value_is_decided_by_the_second():
    stopping, better = watched((), (0.5, 2.0), (0.5, 2.0), (0.5, 1.0), (math.nan, 0.0))

    assert [bool(each) for each in better] == [True, False, True, False]
    assert stopping.best_epoch == 3


def test_no_epoch_is_best_whose_loss_is_not_finite():
    stopping, better = watched((), (0.5, math.nan), (-math.inf, math.inf), (-3.0, 3.0))

    assert [bool(each) for each in better] == [False, False, True]
    assert stopping.best_epoch == 3


def test_many_heads_stop_as_each_of_them_does_alone():
    recipe = Train(patience=3, schedule="plateau", plateau_patience=2)
    qualities = np.random.default_rng(0).integers(0, 4, (9, 5)).astype(float)
    losses = np.random.default_rng(1).integers(0, 3, (9, 5)).astype(float)

    together, _ = watched((5,), *zip(qualities, losses, strict=True), recipe=recipe)

    assert not together.running.all()
    assert (together.plateau < 1).any()
    for i in range(5):
        alone, _ = watched((), *zip(qualities[:, i], losses[:, i], strict=True), recipe=recipe)
        for name in ("running", "quality", "loss", "best_epoch", "plateau"):
            assert getattr(together, name)[i] == getattr(alone, name)


def test_many_images_of_a_patient_count_as_one(pixels, labels):
    # Image 0 three times: what it weighs is one third each time.
    rows = np.concatenate([np.arange(60), [0, 0]])
    weights = np.ones(62)
    weights[[0, 60, 61]] = 1 / 3
    cohort = (pixels[rows], labels[rows])
    recipe = replace(RECIPE, epochs=2, batch_size=64)

    def train_on(images, training, validation, loss):
        parts = [
            Loader(*images, np.asarray(of_part), PREPROCESSING, batch_size=64, seed=("b", 1))
            for of_part in (training, validation)
        ]
        return train(adapted(network()), parts, recipe, loss)

    plain = train_on((pixels, labels), range(40), range(40, 60), EVEN)
    several = [*range(40), 60, 61]
    weighted = train_on(cohort, several, range(40, 60), replace(EVEN, image_weights=weights))
    np.testing.assert_allclose(weighted.validation, plain.validation, atol=1e-5)
    # The same in the validation part.
    validation = [*range(20), 60, 61]
    expected = train_on((pixels, labels), range(20, 60), range(20), EVEN)
    found = train_on(cohort, range(20, 60), validation, replace(EVEN, image_weights=weights))
    losses = [[row["validation_loss"] for row in each.history] for each in (expected, found)]
    np.testing.assert_allclose(*losses, atol=1e-6)
