"""Many smooth problems minimised at once by L-BFGS."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

MEMORY = 10
ARMIJO = 1e-4


def minimise(
    values: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    tolerance: float = 1e-6,
    iterations: int = 1000,
) -> tuple[Tensor, Tensor]:
    """Return where each of many independent functions is smallest, and the gradient left there.

    Limited-memory BFGS (Liu and Nocedal 1989) with step lengths halved until the function falls
    enough (Armijo), each problem with its own.

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
    value, slope = _evaluate(values, x)
    steps: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=MEMORY)
    for _ in range(iterations):
        open_ = slope.abs().amax(1) > tolerance
        if not open_.any():
            break
        direction = -_two_loops(slope, steps)
        descent = (direction * slope).sum(1)
        # Where curvature misled, the gradient itself is a way down.
        uphill = descent >= 0
        direction = torch.where(uphill[:, None], -slope, direction)
        descent = torch.where(uphill, -slope.square().sum(1), descent)
        length = torch.where(open_, 1.0, 0.0).to(x)
        if not steps:
            length /= slope.norm(dim=1).clamp_min(1.0)
        for _ in range(30):
            moved = x + length[:, None] * direction
            found, tilted = _evaluate(values, moved)
            short = ~(found <= value + ARMIJO * length * descent)
            if not short.any():
                break
            length = torch.where(short, length / 2, length)
        moved = torch.where(short[:, None], x, moved)
        found, tilted = torch.where(short, value, found), torch.where(short[:, None], slope, tilted)
        s, y = moved - x, tilted - slope
        curvature = (s * y).sum(1)
        good = curvature > 1e-12 * s.norm(dim=1) * y.norm(dim=1)
        inverse = torch.where(good, 1 / torch.where(good, curvature, 1.0), 0.0)
        steps.append((s, y, inverse))
        if not s.any():
            break
        x, value, slope = moved, found, tilted
    return x, slope.abs().amax(1)


def _evaluate(values: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    point = x.detach().requires_grad_()
    value = values(point)
    (slope,) = torch.autograd.grad(value.sum(), point)
    return value.detach(), slope


def _two_loops(slope: Tensor, steps: deque[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Multiply the gradients by the inverse Hessians that the last steps suggest."""
    result = slope.clone()
    shares = []
    for s, y, inverse in reversed(steps):
        share = inverse * (s * result).sum(1)
        shares.append(share)
        result -= share[:, None] * y
    if steps:
        _, y, inverse = steps[-1]
        scale = 1 / (inverse * y.square().sum(1)).clamp_min(1e-300)
        result *= torch.where(inverse > 0, scale, 1.0)[:, None]
    for (s, y, inverse), share in zip(steps, reversed(shares), strict=True):
        result += (share - inverse * (y * result).sum(1))[:, None] * s
    return result
