"""Penalised logistic regressions of many training parts, solved exactly and together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prognobench.frozen.head_inputs import EPSILON
from prognobench.frozen.heads import Part
from prognobench.frozen.lbfgs import minimise
from prognobench.losses.objective import objective, stacked_terms

STEEP = 1e-4
"""Gradient of a mean loss above which a regression counts as not solved."""


@dataclass(frozen=True)
class Solved:
    """Heads and how good they are.

    Attributes
    ----------
    weights
        ``(parts, strengths, width + 1, classes)``, the bias last, for the features as they are.
    validation_loss
        ``(parts, strengths)``.
    """

    weights: Tensor
    validation_loss: Tensor


def solve_logistic(
    features: Tensor,
    parts: Sequence[Part],
    labels: Tensor,
    strengths: Sequence[float],
    standardise: bool,
) -> Solved:
    """Minimise ``C * sum of losses + |W|^2 / 2``, as scikit-learn's ``LogisticRegression`` does.

    The bias is not penalised; two classes share one vector of weights. The solution lies in the
    span of the training images, so where these are fewer than the features the problem is solved
    in that span, at no loss.

    Parameters
    ----------
    features
        ``(images, width)``.
    labels
        ``(images,)``.
    strengths
        Inverse penalties C; a head for each.
    """
    x = features.double()
    terms = stacked_terms([part.loss for part in parts], x.device)
    classes = terms.class_weights.shape[-1]
    free = 1 if classes == 2 else classes
    spans = [_span(x[part.train], standardise) for part in parts]
    coordinates = _pad([span.coordinates(x) for span in spans])
    train, shown = _padded_rows(parts, x.device)
    inputs = coordinates.gather(1, train[..., None].expand(-1, -1, coordinates.shape[-1]))
    targets = labels[train].unsqueeze(1).expand(-1, len(strengths), -1)
    penalties = 1 / x.new_tensor(strengths)

    def logits_of(points: Tensor, inputs: Tensor) -> Tensor:
        weights = points.view(len(parts), len(strengths), -1, free)
        logits = torch.einsum("pnd,psdk->psnk", inputs, weights[:, :, :-1]) + weights[:, :, -1:]
        return torch.cat([torch.zeros_like(logits), logits], -1) if free == 1 else logits

    def losses_of(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        each, weights = objective(logits.flatten(1, 2), targets.flatten(1, 2), terms)
        return each.view_as(targets), weights.view_as(targets)

    def values(points: Tensor) -> Tensor:
        losses, weights = losses_of(logits_of(points, inputs), targets)
        penalised = points.view(len(parts), len(strengths), -1, free)[:, :, :-1]
        squares = penalised.square().sum((2, 3))
        total = (weights * shown[:, None]).sum(2)
        return (((losses * shown[:, None]).sum(2) + penalties * squares / 2) / total).flatten()

    start = x.new_zeros(len(parts) * len(strengths), (coordinates.shape[-1] + 1) * free)
    points, left = minimise(values, start, tolerance=1e-7)
    if unsolved := int((left > STEEP).sum()):
        warnings.warn(
            f"{unsolved} of {len(left)} logistic regressions are not solved (gradients of up to "
            f"{left.max():.1g} are left): standardise the features, or take smaller C",
            stacklevel=2,
        )
    logits = logits_of(points, coordinates)
    every = labels.expand(*logits.shape[:-1])
    losses, weights = losses_of(logits, every)
    validation = torch.stack(
        [
            losses[i][:, part.validation].sum(1) / weights[i][:, part.validation].sum(1)
            for i, part in enumerate(parts)
        ]
    )
    solved = points.view(len(parts), len(strengths), -1, free)
    weights = torch.stack([span.plain(w) for span, w in zip(spans, solved, strict=True)])
    if free == 1:
        weights = torch.cat([torch.zeros_like(weights), weights], -1)
    return Solved(weights, validation)


@dataclass(frozen=True)
class Span:
    """What training images span: their standardisation, and an orthonormal basis ``(rank, width)``.

    Without a basis, features are their own coordinates.
    """

    mean: Tensor
    deviation: Tensor
    basis: Tensor | None

    def coordinates(self, x: Tensor) -> Tensor:
        """Return features ``(images, width)`` in the basis."""
        scaled = (x - self.mean) / self.deviation
        return scaled if self.basis is None else scaled @ self.basis.mT

    def plain(self, weights: Tensor) -> Tensor:
        """Return weights ``(..., coordinates + 1, classes)`` as they act on the features.

        Rows beyond the basis stand for coordinates that are 0.
        """
        inner, bias = weights[..., :-1, :], weights[..., -1:, :]
        if self.basis is None:
            inner = inner[..., : len(self.mean), :]
        else:
            inner = self.basis.mT @ inner[..., : len(self.basis), :]
        outer = inner / self.deviation[:, None]
        return torch.cat([outer, bias - self.mean[None] @ outer], -2)


def _span(train: Tensor, standardise: bool) -> Span:
    mean, deviation = torch.zeros_like(train[0]), torch.ones_like(train[0])
    if standardise:
        mean, deviation = train.mean(0), train.std(0, correction=0)
        deviation[deviation < EPSILON] = 1
    if len(train) >= train.shape[1]:
        return Span(mean, deviation, None)
    scaled = (train - mean) / deviation
    return Span(mean, deviation, torch.linalg.svd(scaled, full_matrices=False).Vh)


def _pad(matrices: Sequence[Tensor]) -> Tensor:
    """Stack matrices of as many rows, filled up with columns of 0."""
    widest = max(matrix.shape[1] for matrix in matrices)
    return torch.stack([torch.nn.functional.pad(m, (0, widest - m.shape[1])) for m in matrices])


def _padded_rows(parts: Sequence[Part], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return each part's training rows, and a mask that is 0 where they are filled up."""
    most = max(len(part.train) for part in parts)
    rows = torch.zeros(len(parts), most, dtype=torch.long, device=device)
    shown = torch.zeros(len(parts), most, dtype=torch.float64, device=device)
    for i, part in enumerate(parts):
        rows[i, : len(part.train)] = torch.tensor(part.train, device=device)
        shown[i, : len(part.train)] = 1
    return rows, shown
