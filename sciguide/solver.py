"""Conjugate gradients for many members at once."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Solved(NamedTuple):
    """Weights of the rows, like them, and their image; iterations taken, and the relative residual (B,) that was
    left."""

    weights: Tensor
    image: Tensor
    iterations: int
    left: Tensor


def conjugate_gradients(
    system: Callable[[Tensor], tuple[Tensor, Tensor]],
    precondition: Callable[[Tensor], Tensor],
    r: Tensor,
    iterations: int,
    tolerance: float,
) -> Solved:
    """Preconditioned conjugate gradients for every row of the batch `r` (B, ...) at once, in float64.

    `system(w)`: A w, and a linear image of w, found on the way, of which the solution's is returned too. Stops when
    the true residual of every member is below `tolerance` times |r|, after one iteration at least, which is a step
    along the preconditioned right-hand side of the best length. A member that has converged is left alone.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)

    size = dot(r, r).sqrt().clamp(min=1e-300)
    w, rest, image = torch.zeros_like(r), r, None
    z = precondition(rest)
    p, rz = z, dot(rest, z)
    taken = 0
    while taken < max(1, iterations):
        taken += 1
        Ap, moved = system(p)
        alive = dot(rest, rest).sqrt() > tolerance * size
        alpha = torch.where(alive, rz / dot(p, Ap).clamp(min=1e-300), 0)
        w, rest = w + alpha * p, rest - alpha * Ap
        moved = alpha.reshape(-1, *(1,) * (moved.ndim - 1)) * moved
        image = moved if image is None else image.add_(moved)
        if taken >= iterations:
            break
        if not bool((dot(rest, rest).sqrt() > tolerance * size).any()):
            rest = r - system(w)[0]  # the recurrence drifts: the true residual decides
            if not bool((dot(rest, rest).sqrt() > 2 * tolerance * size).any()):
                break
        z = precondition(rest)
        before, rz = rz, dot(rest, z)
        p = z + torch.where(alive, rz / before.clamp(min=1e-300), 0) * p
    return Solved(w, image, taken, (dot(rest, rest).sqrt() / size).flatten())
