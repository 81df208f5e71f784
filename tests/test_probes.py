from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prognobench.errors import TrainingError
from prognobench.frozen.estimators import EstimatorTask, fit_estimator
from prognobench.frozen.inputs import Inputs, batches_per_epoch, group_parts, padded_size
from prognobench.frozen.probes import ProbeTask, fit_probes
from prognobench.records import PARTS, Estimator, Fold, Loss, Probe, Train
from prognobench.training.loader import draw_order

N = 120
WIDTHS = {"last1": 12, "last4": 20}
PROBE = Probe(layers=("last1", "last4"), learning_rates=(1e-1, 1e-2), weight_decays=(0.0, 0.1))
RECIPE = Train(epochs=8, patience=3, batch_size=16)
NOWHERE = np.array([], dtype=int)


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(0).integers(0, 2, N)


@pytest.fixture(scope="module")
def features(labels):
    random = np.random.default_rng(1)
    made = {}
    for layer, width in WIDTHS.items():
        values = random.normal(size=(N, width)).astype(np.float32)
        values[:, :3] += 1.5 * labels[:, None]
        made[layer] = values
    # As the last block is one of the last four.
    made["last4"][:, -WIDTHS["last1"] :] = made["last1"]
    return made


def fold(number, train=72, validation=24, draw=None):
    rows = np.random.default_rng(number).permutation(N)
    end = train + validation
    return Fold(rows[:train], rows[train:end], rows[end:], number, draw=draw)


def even(classes=2):
    return Loss(np.ones(classes), np.zeros(classes), np.zeros(classes))


@pytest.fixture
def task(features, labels):
    def make(number=0, **changes):
        settings = {"fold": fold(number), "loss": even(), "probe": PROBE, "recipe": RECIPE}
        return ProbeTask(
            features=features, labels=labels, **{**settings, "seed": number, **changes}
        )

    return make


def same(a, b, tolerance=1e-5):
    np.testing.assert_allclose(a.probabilities, b.probabilities, rtol=0, atol=tolerance)
    assert a.chosen == b.chosen
    assert a.fitted.best_epoch == b.fitted.best_epoch
    assert [row["epoch"] for row in a.fitted.history] == [row["epoch"] for row in b.fitted.history]


@pytest.mark.parametrize(
    ("recipe", "probe", "loss"),
    [
        (RECIPE, PROBE, even()),
        (replace(RECIPE, schedule="plateau", plateau_patience=1, evaluate_every=2), PROBE, even()),
        (replace(RECIPE, ema=0.9, clip=0.05), replace(PROBE, standardise=True), even()),
        (RECIPE, replace(PROBE, dropout=0.3), even()),
        (
            replace(RECIPE, monitor="average_precision"),
            PROBE,
            Loss(np.array([0.6, 2.0]), np.zeros(2), np.array([0.1, 0.4]), 1.5, 0.1, True),
        ),
    ],
)
def test_heads_trained_together_are_those_trained_one_by_one(task, recipe, probe, loss):
    tasks = [
        task(number, recipe=recipe, probe=probe, loss=loss, fold=fold(number, size, draw=number))
        for number, size in enumerate((72, 71, 68, 70, 12, 9, 4))
    ]

    together = fit_probes(tasks)

    for result, one in zip(together, tasks, strict=True):
        same(result, fit_probes([one])[0])


def test_heads_of_a_grid_are_those_trained_by_themselves(task):
    whole = fit_probes([task()])[0]
    chosen = whole.chosen
    alone = replace(
        PROBE,
        layers=(chosen["layer"],),
        learning_rates=(chosen["lr"],),
        weight_decays=(chosen["weight_decay"],),
    )

    same(whole, fit_probes([task(probe=alone)])[0])
    losses = []
    for layer in WIDTHS:
        for lr in PROBE.learning_rates:
            for decay in PROBE.weight_decays:
                probe = Probe(layers=(layer,), learning_rates=(lr,), weight_decays=(decay,))
                one = fit_probes([task(probe=probe)])[0]
                losses.append(min(row["validation_loss"] for row in one.fitted.history))
    assert min(losses) == pytest.approx(
        min(row["validation_loss"] for row in whole.fitted.history), abs=1e-6
    )


def test_a_head_is_what_torch_and_a_plain_loop_make_of_it(task, features, labels):
    loss = Loss(np.array([0.5, 2.0]), np.zeros(2), np.zeros(2))
    recipe = Train(epochs=4, batch_size=16, clip=0.2)
    probe = Probe(layers=("last1",), learning_rates=(0.05,), weight_decays=(0.3,))
    made = task(probe=probe, recipe=recipe, loss=loss, seed=5)

    (result,) = fit_probes([made])

    x, y = torch.from_numpy(features["last1"]), torch.from_numpy(labels)
    head = nn.Linear(12, 2)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    groups = [
        {"params": [head.weight], "weight_decay": 0.3},
        {"params": [head.bias], "weight_decay": 0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=0.05)
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0]))
    best, step = (math.inf, x), 0
    for epoch in range(1, 5):
        order = made.fold.train[draw_order(72, None, (5, "order", epoch))]
        for rows in np.array_split(order, 5):
            step += 1
            time = step / 5
            factor = time if time < 1 else 0.5 * (1 + math.cos(math.pi * (time - 1) / 3))
            for group in optimiser.param_groups:
                group["lr"] = 0.05 * factor
            optimiser.zero_grad()
            criterion(head(x[rows]), y[rows]).backward()
            nn.utils.clip_grad_norm_(head.parameters(), 0.2)
            optimiser.step()
        with torch.no_grad():
            validation = criterion(head(x[made.fold.validation]), y[made.fold.validation]).item()
            best = min(best, (validation, head(x)), key=lambda pair: pair[0])
    np.testing.assert_allclose(result.probabilities, best[1].softmax(-1), atol=1e-5)


def test_probabilities_are_of_every_image_and_learn_the_signal(task, labels):
    (result,) = fit_probes([task()])

    test = task().fold.test
    assert result.probabilities.shape == (N, 2)
    np.testing.assert_allclose(result.probabilities.sum(1), 1)
    assert (result.probabilities[test].argmax(1) == labels[test]).mean() > 0.7
    assert set(result.chosen) == {"layer", "lr", "weight_decay"}
    assert result.fitted.cost["heads"] == 8
    width = WIDTHS[result.chosen["layer"]]
    assert result.fitted.cost["parameters_trainable"] == 2 * (width + 1)


@given(
    places=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 10)), min_size=1, max_size=5),
    views=st.integers(1, 2),
    constant=st.booleans(),
)
def test_columns_that_layers_share_are_held_once(places, views, constant):
    random = np.random.default_rng(len(places))
    wide = [torch.from_numpy(random.normal(size=(6, 10)).astype(np.float32)) for _ in range(views)]
    if constant:
        wide[0][:] = 0
    layers = [[view[:, start : start + width] for view in wide] for start, width in places]
    other = torch.from_numpy(random.normal(size=(6, 3)).astype(np.float32))
    rows = torch.tensor([[4, 1], [0, 4]])

    inputs = Inputs([*layers, wide, [other] * views])

    for view in range(views):
        found = inputs.of_layers(inputs.gather(rows, view))
        for columns, layer in zip(found, [*layers, wide, [other] * views], strict=True):
            assert torch.equal(columns, layer[view][rows])
        assert inputs.views[view].shape[1] == 13


def test_a_layer_that_the_backbone_lacks_is_left_out(task):
    probe = replace(PROBE, layers=("last1", "last4", "last4+avg"))

    same(fit_probes([task(probe=probe)])[0], fit_probes([task()])[0])
    with pytest.raises(TrainingError, match=r"r0-f0.*none of the feature layers last9"):
        fit_probes([task(probe=replace(PROBE, layers=("last9",)))])


def test_without_layers_the_pooled_feature_is_read(task, features):
    probe = replace(PROBE, layers=())
    pooled = replace(task(probe=probe), features={"": features["last1"]})
    named = task(probe=replace(PROBE, layers=("last1",)))

    (result,) = fit_probes([pooled])

    assert result.chosen["layer"] == "pooled"
    np.testing.assert_allclose(
        result.probabilities, fit_probes([named])[0].probabilities, atol=1e-6
    )


def test_without_validation_the_default_head_trains_every_epoch(task):
    probe = replace(PROBE, learning_rates=(1e-1, 2e-3, 1e-5))
    few = fold(0, train=8, validation=24)
    made = task(fold=replace(few, validation=NOWHERE), probe=probe)

    (result,) = fit_probes([made])

    assert result.chosen == {"layer": "last1", "lr": 2e-3, "weight_decay": 0.0}
    assert result.fitted.best_epoch == result.fitted.history[-1]["epoch"] == RECIPE.epochs
    assert result.fitted.cost["heads"] == 1


def test_augmented_views_take_turns(task, features):
    flipped = {layer: -values for layer, values in features.items()}
    recipe = replace(RECIPE, epochs=1, warmup_epochs=0.0, schedule="constant")
    probe = Probe(layers=("last1",), learning_rates=(1e-2,))

    plain = fit_probes([task(recipe=recipe, probe=probe)])[0]
    mirrored = fit_probes([task(recipe=recipe, probe=probe, views=(flipped,))])[0]

    # The first epoch trains on the first view, whose signal points the other way.
    assert np.corrcoef(plain.probabilities[:, 1], mirrored.probabilities[:, 1])[0, 1] < -0.5


def test_heads_that_diverge_are_an_error_that_names_the_cell(task, features):
    broken = {layer: np.full_like(values, np.nan) for layer, values in features.items()}

    with pytest.raises(TrainingError, match=r"r0-f3.*no head"):
        fit_probes([replace(task(3), features=broken)])


def test_several_classes(task):
    classes = np.random.default_rng(3).integers(0, 3, N)
    made = replace(task(loss=even(3)), labels=classes)

    (result,) = fit_probes([made])

    assert result.probabilities.shape == (N, 3)


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("size", [72, 9])
def test_exact_heads_agree_with_scikit_learn(task, features, classes, standardise, size):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    outcome = np.arange(N) % classes
    rows = np.random.default_rng(size).permutation(N)
    split = Fold(np.sort(rows)[:size], rows[size : size + 24], rows[-10:], 0)
    counts = np.bincount(outcome[split.train], minlength=classes)
    loss = Loss(size / (classes * counts), np.zeros(classes), np.zeros(classes))
    probe = Probe(layers=("last4",), strengths=(0.01, 1.0), standardise=standardise)

    (result,) = fit_probes([replace(task(fold=split, loss=loss, probe=probe), labels=outcome)])

    regression = LogisticRegression(
        C=result.chosen["C"], class_weight="balanced", tol=1e-10, max_iter=5000
    )
    reference = make_pipeline(*([StandardScaler()] if standardise else []), regression)
    inputs = features["last4"].astype(float)
    reference.fit(inputs[split.train], outcome[split.train])
    np.testing.assert_allclose(
        result.probabilities, reference.predict_proba(inputs), rtol=0, atol=1e-4
    )


def test_regressions_that_are_not_solved_are_told(task, features):
    scales = np.logspace(0, 5, WIDTHS["last1"], dtype=np.float32)
    noise = np.random.default_rng(0).normal(size=(N, WIDTHS["last1"])).astype(np.float32)
    far = {**features, "last1": noise * scales + 1000}
    probe = Probe(layers=("last1",), strengths=(100.0,), standardise=False)

    with pytest.warns(UserWarning, match="1 of 1 logistic regressions are not solved"):
        fit_probes([replace(task(probe=probe), features=far)])


def test_exact_heads_solved_together_are_those_solved_one_by_one(task):
    probe = Probe(layers=("last1", "last4"), strengths=(1e-3, 0.1, 10.0), standardise=True)
    tasks = [task(i, probe=probe, fold=fold(i, size)) for i, size in enumerate((72, 70, 8, 5))]

    for result, one in zip(fit_probes(tasks), tasks, strict=True):
        same(result, fit_probes([one])[0], tolerance=1e-4)
    blind = task(probe=probe, fold=replace(fold(0), validation=NOWHERE))
    assert fit_probes([blind])[0].chosen == {"layer": "last1", "C": 0.1}


# ------------------------------------------------------------------ classical classifiers


def logistic(strength):
    def make(seed):
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=strength)

    return make


@pytest.fixture
def estimator_task(features, labels):
    def make(estimator, **changes):
        covariates = pd.DataFrame(
            {
                "age": np.where(np.arange(N) % 7 == 0, np.nan, 50.0 + labels * 20),
                "sex": np.where(np.arange(N) % 2, "F", "M"),
            }
        )
        covariates.loc[[3, 5], "sex"] = None
        settings = {"labels": labels, "fold": fold(0), "loss": even(), "seed": 0}
        return EstimatorTask(
            features=features,
            covariates=covariates,
            estimator=estimator,
            **{**settings, **changes},
        )

    return make


def test_the_candidate_with_the_least_validation_loss_is_chosen(estimator_task, features, labels):
    from sklearn.metrics import log_loss

    strengths = (1e-4, 1e-2, 1.0)
    estimator = Estimator("features", {f"C={c:g}": logistic(c) for c in strengths}, "last4")
    task = estimator_task(estimator)

    result = fit_estimator(task)

    losses = {}
    for c in strengths:
        inputs = features["last4"].astype(float)
        fitted = logistic(c)(0).fit(inputs[task.fold.train], labels[task.fold.train])
        probabilities = fitted.predict_proba(inputs)
        rows = task.fold.validation
        losses[f"C={c:g}"] = log_loss(labels[rows], probabilities[rows])
    assert result.chosen == {"candidate": min(losses, key=losses.__getitem__)}
    recorded = [row["validation_loss"] for row in result.fitted.history]
    np.testing.assert_allclose(recorded, list(losses.values()), rtol=1e-4)


def test_covariates_become_numbers_by_what_the_training_part_knows(estimator_task):
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    seen = {}

    class Spy(LogisticRegression):
        def fit(self, X, y, **more):
            seen["shape"], seen["more"] = X.shape, more
            return super().fit(X, y)

    estimator = Estimator("covariates", {"one": lambda seed: make_pipeline(SimpleImputer(), Spy())})
    result = fit_estimator(estimator_task(estimator))

    assert seen["shape"] == (72, 3)
    assert np.isfinite(result.probabilities).all()


def test_both_inputs_tell_the_classifier_where_covariates_begin(estimator_task):
    seen = {}

    class Fusion:
        classes_ = np.array([0, 1])

        def fit(self, X, y, covariates):
            seen["columns"], seen["covariates"] = X.shape[1], covariates
            return self

        def predict_proba(self, X):
            return np.full((len(X), 2), 0.5)

    fit_estimator(estimator_task(Estimator("both", {"one": lambda seed: Fusion()}, "last1")))

    assert seen == {"columns": 12 + 3, "covariates": 3}


def test_a_class_that_the_training_part_lacks_gets_probability_zero(estimator_task):
    classes = np.where(np.arange(N) % 2, 0, 2)
    task = estimator_task(
        Estimator("features", {"one": logistic(1.0)}, "last1"), labels=classes, loss=even(3)
    )

    result = fit_estimator(task)

    assert result.probabilities.shape == (N, 3)
    assert (result.probabilities[:, 1] == 0).all()


def test_a_candidate_that_cannot_be_fitted_is_left_out_and_noted(estimator_task):
    def refuse(seed):
        raise ValueError("more neighbours than patients")

    candidates = {"bad": refuse, "good": logistic(1.0)}
    result = fit_estimator(estimator_task(Estimator("features", candidates, "last1")))

    assert result.chosen == {"candidate": "good"}
    assert "more neighbours than patients" in result.fitted.cost["notes"][0]
    with pytest.raises(TrainingError, match="more neighbours than patients"):
        fit_estimator(estimator_task(Estimator("features", {"bad": refuse}, "last1")))


def test_without_validation_the_middle_candidate_is_taken(estimator_task):
    candidates = {f"C={c:g}": logistic(c) for c in (0.1, 1.0, 10.0)}
    task = estimator_task(
        Estimator("features", candidates, "last1"), fold=replace(fold(0), validation=NOWHERE)
    )

    assert fit_estimator(task).chosen == {"candidate": "C=1"}


@given(st.lists(st.integers(1, 200), min_size=1, max_size=30), st.integers(1, 100_000))
def test_how_far_a_part_is_filled_up_depends_on_it_alone(sizes: list[int], columns: int) -> None:
    parts = [np.arange(start, start + size) for start, size in enumerate(sizes)]

    groups = group_parts(parts, columns, torch.device("cpu"))

    assert sorted(m for group in groups for m in group.members.tolist()) == list(range(len(parts)))
    for group in groups:
        for row, member in enumerate(group.members.tolist()):
            part = parts[member]
            shown = group.mask[min(row, len(group.mask) - 1)].bool()
            assert group.rows.shape[1] == padded_size(len(part)) < 2 * len(part) + 1
            assert group.rows[min(row, len(group.rows) - 1)][shown].tolist() == part.tolist()


@given(st.integers(1, 500), st.integers(1, 64))
def test_a_batch_is_filled_up_to_its_size_at_most(images: int, batch_size: int) -> None:
    steps, size = batches_per_epoch(images, Train(batch_size=batch_size))
    assert math.ceil(images / steps) <= size <= batch_size


@pytest.mark.parametrize(
    "probe", [Probe(layers=("last1",), learning_rates=(1e-1, 1e-2)), Probe(strengths=(0.1, 1.0))]
)
@pytest.mark.parametrize("monitor", ["loss", "average_precision"])
def test_many_images_of_a_patient_count_as_one(task, features, labels, probe, monitor):
    # Every third patient has three equal images; a batch holds the whole part.
    repeats = np.where(np.arange(N) % 3 == 0, 3, 1)
    rows = np.repeat(np.arange(N), repeats)
    weights = 1 / repeats[rows]
    first = np.cumsum(repeats) - repeats
    layer = "last1" if probe.layers else ""
    single = {layer: features["last1"]}
    several = {layer: features["last1"][rows]}
    recipe = replace(RECIPE, batch_size=1024, monitor=monitor)
    split = fold(0)
    images = {part: np.flatnonzero(np.isin(rows, getattr(split, part))) for part in PARTS}
    whole = Fold(**images, fold=0)
    loss = Loss(np.array([0.5, 2.0]), np.zeros(2), np.zeros(2))
    common = {"probe": probe, "recipe": recipe}

    (one,) = fit_probes([replace(task(fold=split, loss=loss, **common), features=single)])
    weighted = task(fold=whole, loss=replace(loss, image_weights=weights), **common)
    (many,) = fit_probes([replace(weighted, features=several, labels=labels[rows])])

    assert many.chosen == one.chosen
    np.testing.assert_allclose(many.probabilities[first], one.probabilities, atol=1e-4)
    unweighted = task(fold=whole, loss=loss, **common)
    (images_count,) = fit_probes([replace(unweighted, features=several, labels=labels[rows])])
    assert np.abs(images_count.probabilities[first] - one.probabilities).max() > 1e-3
