"""Logistic regressions of many training parts under given penalties, solved exactly at once."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prognobench.frozen.inputs import EPSILON, Part, stack_image_weights
from prognobench.losses.objective import objective, stacked_terms

STEEP = 1e-4
"""Gradient of a mean loss above which a regression counts as not solved."""

MEMORY, HALVINGS = 10, 30
"""Steps that L-BFGS remembers (scipy's default), and how often it halves a step that is too long:
30 times leaves a billionth, below which rounding hides the fall.
"""

ARMIJO = 1e-4
"""Share of the fall that the slope promises with which a step is content (Armijo 1966)."""


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
    span of the training images: a part of the weights that is at right angles to all of them
    changes no loss and costs penalty. So where images are fewer than features the problem is
    solved in that span, exactly: with 40 images of 768 features it has 41 unknowns, not 769.

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
    problem = _Problem(x, parts, labels, strengths, standardise)
    points, left = minimise(problem.values, problem.start(), tolerance=1e-7)
    _warn_of_unsolved(left)
    losses, weights = problem.losses(
        problem.logits(points, problem.coordinates), labels.expand(len(parts), len(strengths), -1)
    )
    losses, weights = (each * problem.counts[:, None] for each in (losses, weights))
    validation = torch.stack(
        [
            losses[i][:, part.validation].sum(1) / weights[i][:, part.validation].sum(1)
            for i, part in enumerate(parts)
        ]
    )
    return Solved(problem.weights(points), validation)


class _Problem:
    """The regressions of all parts and strengths as functions of one matrix of points.

    A point is a regression's weights ``(coordinates + 1, free)``, flattened. Of two classes the
    first has the logit 0, since only differences of logits count: ``free`` is 1, else the classes.

    Attributes
    ----------
    coordinates
        Of every image in the span of each part ``(parts, images, coordinates)``.
    """

    def __init__(
        self,
        x: Tensor,
        parts: Sequence[Part],
        labels: Tensor,
        strengths: Sequence[float],
        standardise: bool,
    ) -> None:
        self.terms = stacked_terms([part.loss for part in parts], x.device)
        classes = self.terms.class_weights.shape[-1]
        self.free = 1 if classes == 2 else classes
        self.spans = [_span(x[part.train], standardise) for part in parts]
        # Parts are solved as one batch, so their coordinates are padded to one number. Those that a
        # smaller part lacks are 0 for every image: their weights have no gradient and stay 0.
        self.coordinates = _pad_columns([span.coordinates(x) for span in self.spans])
        self.shape = (len(parts), len(strengths))
        train, shown = _pad_rows(parts, x.device)
        counts = stack_image_weights(parts, labels)
        # How much each image counts for each part, and the same for its training rows.
        self.counts = torch.ones(len(parts), len(x)).to(x) if counts is None else counts.to(x)
        self.shown = shown * self.counts.gather(1, train)
        wanted = train[..., None].expand(-1, -1, self.coordinates.shape[-1])
        self.inputs = self.coordinates.gather(1, wanted)
        self.targets = labels[train].unsqueeze(1).expand(-1, len(strengths), -1)
        self.penalties = 1 / x.new_tensor(strengths)

    def start(self) -> Tensor:
        """Return the point where all weights are 0."""
        size = (self.coordinates.shape[-1] + 1) * self.free
        return self.coordinates.new_zeros(self.shape[0] * self.shape[1], size)

    def logits(self, points: Tensor, inputs: Tensor) -> Tensor:
        """Return ``(parts, strengths, images, classes)``."""
        weights = points.view(*self.shape, -1, self.free)
        # p parts, n images, d coordinates, s strengths, k free classes: a part's images are
        # multiplied with the weights of all its strengths at once.
        logits = torch.einsum("pnd,psdk->psnk", inputs, weights[:, :, :-1]) + weights[:, :, -1:]
        return torch.cat([torch.zeros_like(logits), logits], -1) if self.free == 1 else logits

    def losses(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return each image's loss and weight, ``(parts, strengths, images)``."""
        each, weights = objective(logits.flatten(1, 2), targets.flatten(1, 2), self.terms)
        return each.view_as(targets), weights.view_as(targets)

    def values(self, points: Tensor) -> Tensor:
        """Return what is minimised, one value for each point."""
        losses, weights = self.losses(self.logits(points, self.inputs), self.targets)
        penalised = points.view(*self.shape, -1, self.free)[:, :, :-1]
        squares = penalised.square().sum((2, 3))
        shown = self.shown[:, None]
        # scikit-learn's C times the sum of losses is divided by C and by the sum of weights: where
        # it is smallest stays the same, and one tolerance suits every C and parts of every size.
        total = (weights * shown).sum(2)
        return (((losses * shown).sum(2) + self.penalties * squares / 2) / total).flatten()

    def weights(self, points: Tensor) -> Tensor:
        """Return ``(parts, strengths, width + 1, classes)``, for the features as they are."""
        solved = points.view(*self.shape, -1, self.free)
        pairs = zip(self.spans, solved, strict=True)
        weights = torch.stack([span.unscale(of_part) for span, of_part in pairs])
        return torch.cat([torch.zeros_like(weights), weights], -1) if self.free == 1 else weights


def _warn_of_unsolved(left: Tensor) -> None:
    if unsolved := int((left > STEEP).sum()):
        warnings.warn(
            f"{unsolved} of {len(left)} logistic regressions are not solved (gradients of up to "
            f"{left.max():.1g} are left): standardise the features, or take smaller C",
            stacklevel=3,
        )


# ------------------------------------------------------------------ the span of the images


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

    def unscale(self, weights: Tensor) -> Tensor:
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
    # An orthonormal basis keeps the length of the weights, and with it the penalty.
    return Span(mean, deviation, torch.linalg.svd(scaled, full_matrices=False).Vh)


def _pad_columns(matrices: Sequence[Tensor]) -> Tensor:
    """Stack matrices of as many rows, padded with columns of 0."""
    widest = max(matrix.shape[1] for matrix in matrices)
    return torch.stack([torch.nn.functional.pad(m, (0, widest - m.shape[1])) for m in matrices])


def _pad_rows(parts: Sequence[Part], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return each part's training rows, and a mask that is 0 where they are padded."""
    most = max(len(part.train) for part in parts)
    rows = torch.zeros(len(parts), most, dtype=torch.long, device=device)
    shown = torch.zeros(len(parts), most, dtype=torch.float64, device=device)
    for i, part in enumerate(parts):
        rows[i, : len(part.train)] = torch.tensor(part.train, device=device)
        shown[i, : len(part.train)] = 1
    return rows, shown


# ------------------------------------------------------------------ the solver


def minimise(
    values: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    tolerance: float = 1e-6,
    iterations: int = 1000,
) -> tuple[Tensor, Tensor]:
    """Return where each of many independent functions is smallest, and the gradient left there.

    Limited-memory BFGS (Liu and Nocedal 1989) with step lengths halved until the function falls
    enough (Armijo 1966), each problem with its own. (``torch.optim.LBFGS`` and scipy's solve one
    problem at a time.)

    Parameters
    ----------
    values
        Points ``(problems, parameters)`` -> function values ``(problems,)``, differentiable.
    start
        Where to begin, in double precision.
    tolerance
        A problem is solved once no component of its gradient is larger.

    Returns
    -------
    Points ``(problems, parameters)``, and the largest component of each gradient ``(problems,)``.
    """
    x = start.clone()
    # Each line below holds for all problems at once, one row each; torch.where picks by problem.
    value, slope = _evaluate(values, x)
    steps: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=MEMORY)
    for _ in range(iterations):
        unsolved = slope.abs().amax(1) > tolerance
        if not unsolved.any():
            break
        direction = -_apply_inverse_hessian(slope, steps)
        descent = (direction * slope).sum(1)
        # Where curvature misled, the gradient itself is a way down.
        uphill = descent >= 0
        direction = torch.where(uphill[:, None], -slope, direction)
        descent = torch.where(uphill, -slope.square().sum(1), descent)
        # A solved problem is computed with the others, but moves by 0.
        length = torch.where(unsolved, 1.0, 0.0).to(x)
        if not steps:
            # Nothing is known of the curvature yet: the first step is no longer than 1.
            length /= slope.norm(dim=1).clamp_min(1.0)
        for _ in range(HALVINGS):
            moved = x + length[:, None] * direction
            found, tilted = _evaluate(values, moved)
            # Written so that NaN counts as too long a step.
            long = ~(found <= value + ARMIJO * length * descent)
            if not long.any():
                break
            length = torch.where(long, length / 2, length)
        # Where no length would do, the problem stays where it is.
        moved = torch.where(long[:, None], x, moved)
        found, tilted = torch.where(long, value, found), torch.where(long[:, None], slope, tilted)
        s, y = moved - x, tilted - slope
        curvature = (s * y).sum(1)
        # A step without positive curvature says nothing of the Hessian, and 0 leaves it out.
        good = curvature > 1e-12 * s.norm(dim=1) * y.norm(dim=1)
        inverse = torch.where(good, 1 / torch.where(good, curvature, 1.0), 0.0)
        steps.append((s, y, inverse))
        if not s.any():
            break
        x, value, slope = moved, found, tilted
    return x, slope.abs().amax(1)


def _evaluate(values: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the functions' values and gradients."""
    point = x.detach().requires_grad_()
    value = values(point)
    # The problems are independent, so the gradient of their sum is each one's own.
    (slope,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), slope


def _apply_inverse_hessian(slope: Tensor, steps: deque[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Multiply the gradients by the inverse Hessians that the last steps suggest.

    The two-loop recursion (Nocedal 1980): a step s that changed the gradient by y says that the
    inverse Hessian takes y to s. The matrix itself, which would have the square of the number of
    parameters, is never formed. A step whose ``inverse`` is 0 drops out of both loops.
    """
    result = slope.clone()
    shares = []
    for s, y, inverse in reversed(steps):
        share = inverse * (s * result).sum(1)
        shares.append(share)
        result -= share[:, None] * y
    if steps:
        # Between the loops stands a multiple of the identity, as large as the latest curvature.
        _, y, inverse = steps[-1]
        scale = 1 / (inverse * y.square().sum(1)).clamp_min(1e-300)
        result *= torch.where(inverse > 0, scale, 1.0)[:, None]
    for (s, y, inverse), share in zip(steps, reversed(shares), strict=True):
        result += (share - inverse * (y * result).sum(1))[:, None] * s
    return result
