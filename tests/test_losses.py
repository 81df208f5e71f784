"""Losses: the objective against independent formulas, weights, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from prognobench.errors import ConfigError, DataError
from prognobench.losses.correction import describe_shift
from prognobench.losses.objective import loss_terms, objective, stacked_terms
from prognobench.metrics.probability import shift_log_odds
from prognobench.records import Loss
from prognobench.registry import LOSSES

COUNTS = np.array([30, 6, 12])


def batch(classes: int = 3, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(size, classes, generator=random)
    return logits, torch.randint(0, classes, (size,), generator=random)


def mean(logits: torch.Tensor, targets: torch.Tensor, loss: Loss) -> torch.Tensor:
    losses, weights = objective(logits, targets, loss_terms(loss))
    return losses.sum() / weights.sum()


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_loss_is_finite_and_prefers_the_right_class(name: str) -> None:
    loss = LOSSES[name](COUNTS)
    targets = torch.arange(3)
    right, wrong = 20 * torch.eye(3), 20 * torch.eye(3).roll(1, 0)
    good, bad = mean(right, targets, loss), mean(wrong, targets, loss)
    assert torch.isfinite(good)
    assert good < bad
    logits, targets = batch()
    logits.requires_grad_(True)
    mean(logits, targets, loss).backward()
    assert torch.isfinite(logits.grad).all()


def test_weighted_cross_entropy_is_torchs() -> None:
    logits, targets = batch()
    loss = LOSSES["cross_entropy"](COUNTS)
    weight = torch.tensor(loss.class_weights, dtype=torch.float32)
    torch.testing.assert_close(
        mean(logits, targets, loss), functional.cross_entropy(logits, targets, weight=weight)
    )


def test_label_smoothing_is_torchs_where_classes_weigh_the_same() -> None:
    logits, targets = batch()
    loss = LOSSES["cross_entropy"](COUNTS, weighting="none", label_smoothing=0.2)
    expected = functional.cross_entropy(logits, targets, label_smoothing=0.2)
    torch.testing.assert_close(mean(logits, targets, loss), expected)


def test_focal_loss_is_the_papers() -> None:
    logits, targets = batch()
    p = logits.double().softmax(-1)[torch.arange(len(targets)), targets]
    expected = (-((1 - p) ** 2.5) * p.log()).mean()
    loss = LOSSES["focal"](COUNTS, gamma=2.5, weighting="none")
    torch.testing.assert_close(mean(logits, targets, loss).double(), expected, rtol=1e-5, atol=0)


def test_margins_grow_with_rarity_and_lower_the_right_logit_alone() -> None:
    logits, targets = batch()
    loss = LOSSES["ldam"](COUNTS, max_margin=0.4)
    assert loss.margin.max() == pytest.approx(0.4)
    assert loss.margin[0] / loss.margin[1] == pytest.approx((30 / 6) ** -0.25)
    lowered = logits.clone()
    for row, target in enumerate(targets):
        lowered[row, target] -= loss.margin[target]
    expected = functional.cross_entropy(lowered, targets)
    torch.testing.assert_close(mean(logits, targets, loss), expected)


def test_logit_adjustment_adds_log_priors() -> None:
    logits, targets = batch()
    prior = torch.tensor(COUNTS / COUNTS.sum(), dtype=torch.float32)
    expected = functional.cross_entropy(logits + 2 * prior.log(), targets)
    loss = LOSSES["logit_adjusted"](COUNTS, tau=2.0)
    torch.testing.assert_close(mean(logits, targets, loss), expected)


def test_adjusted_training_predicts_as_if_classes_were_equally_frequent() -> None:
    # Of three equal images one is of the second class: what there is to learn is the prior.
    targets = torch.tensor([0, 0, 1])
    logits = torch.zeros(2, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=1.0)
    loss = LOSSES["logit_adjusted"](np.array([2, 1]))
    for _ in range(50):
        optimiser.zero_grad()
        mean(logits.expand(3, 2), targets, loss).backward()
        optimiser.step()
    torch.testing.assert_close(logits.detach().softmax(-1), torch.tensor([0.5, 0.5]))


def test_many_heads_at_once_are_each_alone() -> None:
    names = list(LOSSES)
    losses = [LOSSES[name](COUNTS) for name in names]
    logits, targets = batch()
    logits = torch.stack([logits + i for i in range(len(names))])
    together, weights = objective(logits, targets.expand(len(names), -1), stacked_terms(losses))
    for i, loss in enumerate(losses):
        alone = objective(logits[i], targets, loss_terms(loss))
        torch.testing.assert_close(together[i], alone[0])
        torch.testing.assert_close(weights[i], alone[1])


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    logits, targets = batch()
    terms = loss_terms(LOSSES["focal"](COUNTS))
    losses, weights = objective(logits, targets, terms)
    parts = [objective(logits[rows], targets[rows], terms) for rows in (slice(5), slice(5, None))]
    total = sum(part[0].sum() for part in parts) / sum(part[1].sum() for part in parts)
    torch.testing.assert_close(total, losses.sum() / weights.sum())


def test_half_precision_is_raised_and_double_kept() -> None:
    logits, targets = batch()
    terms = loss_terms(LOSSES["cross_entropy"](COUNTS))
    assert objective(logits.bfloat16(), targets, terms)[0].dtype == torch.float32
    assert objective(logits.double(), targets, terms)[0].dtype == torch.float64


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradients_are_finite_where_the_model_is_certain(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    mean(logits, torch.tensor([0, 0]), LOSSES["focal"](COUNTS[:2], gamma=gamma)).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    ("weighting", "ratio"),
    [
        ("none", 1.0),
        ("balanced", 5.0),
        ("inverse_sqrt", math.sqrt(5)),
        ("effective_number", (1 - 0.9**30) / (1 - 0.9**6)),
    ],
)
def test_class_weights(weighting: str, ratio: float) -> None:
    weights = LOSSES["cross_entropy"](COUNTS, weighting=weighting, beta=0.9).class_weights
    assert weights[1] / weights[0] == pytest.approx(ratio)
    assert (weights * COUNTS).sum() == pytest.approx(COUNTS.sum())


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_class_that_is_absent_is_named(name: str) -> None:
    with pytest.raises(DataError, match="class 1 does not occur in the training part"):
        LOSSES[name](np.array([5, 0]))


def test_weights_and_balanced_sampler_only_if_asked() -> None:
    build = LOSSES["cross_entropy"]
    with pytest.raises(ConfigError, match=r"loss\.weighting=none"):
        build(COUNTS, balanced_sampling=True)
    both = build(COUNTS, balanced_sampling=True, weights_and_sampling=True)
    assert both.balanced_sampling
    assert both.class_weights[1] > both.class_weights[0]
    assert build(COUNTS, balanced_sampling=True, weighting="none").class_weights.tolist() == [1] * 3


def test_every_loss_config_composes() -> None:
    from prognobench.cli.compose import compose
    from prognobench.cli.config_files import options

    names = options("loss")
    assert "cross_entropy" in names
    configs = compose([f"loss={','.join(names)}"], multirun=True)
    assert [config.loss.name for config in configs] == names
    for config in configs:
        LOSSES[config.loss.builder](COUNTS, **config.loss.settings)


def settle(loss: Loss, targets: torch.Tensor) -> np.ndarray:
    """Return what a model that knows no image forecasts once the loss is least."""
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12)

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        value = mean(logits.expand(len(targets), 3), targets, loss)
        value.backward()
        return value

    for _ in range(5):
        optimiser.step(step)
    forecast: np.ndarray = logits.detach().softmax(-1).numpy()
    return forecast


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cross_entropy", {}),
        ("cross_entropy", {"weighting": "inverse_sqrt"}),
        ("cross_entropy", {"weighting": "effective_number"}),
        ("cross_entropy", {"weighting": "none"}),
        ("cross_entropy", {"weighting": "none", "balanced_sampling": True}),
        (
            "cross_entropy",
            {"weighting": "balanced", "balanced_sampling": True, "weights_and_sampling": True},
        ),
        ("logit_adjusted", {}),
        ("logit_adjusted", {"tau": 0.5}),
        ("focal", {"gamma": 0.0}),
    ],
)
def test_an_exact_shift_gives_the_prevalence_back(name: str, settings: dict[str, object]) -> None:
    loss = LOSSES[name](COUNTS, **settings)
    # The sampler shows every class equally often, all other losses see the images as they are.
    shown = np.full(3, COUNTS.sum() // 3) if loss.balanced_sampling else COUNTS
    forecast = settle(loss, torch.tensor(np.repeat(np.arange(3), shown)))
    shift = np.array(describe_shift(loss, COUNTS)["log_odds_shift"])
    assert shift[0] == 0
    np.testing.assert_allclose(shift_log_odds(forecast, shift), COUNTS / COUNTS.sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("focal", {}, "focal exponent"),
        ("ldam", {}, "margins"),
        ("cross_entropy", {"label_smoothing": 0.1}, "label smoothing"),
    ],
)
def test_a_loss_without_an_exact_shift_says_why(
    name: str, settings: dict[str, object], reason: str
) -> None:
    described = describe_shift(LOSSES[name](COUNTS, **settings), COUNTS)
    assert described["log_odds_shift"] is None
    assert reason in described["log_odds_shift_missing"]


def test_no_shift_leaves_probabilities_as_they_are() -> None:
    probabilities = np.array([[0.1, 0.9], [0.3, 0.7]])
    assert shift_log_odds(probabilities, np.zeros(2)).tolist() == probabilities.tolist()
    # The log odds of 0.5 are 0: shifted by log 4 they are those of 1 to 4.
    moved = shift_log_odds(np.array([0.5, 0.5]), np.log([1.0, 4.0]))
    np.testing.assert_allclose(moved, [0.8, 0.2])
    certain = shift_log_odds(np.eye(2), np.log([1.0, 4.0]))
    assert certain.tolist() == np.eye(2).tolist()
