"""Conjugate gradients for many members at once."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Solved(NamedTuple):
    """Weights of the rows, like them, iterations taken, and the relative residual (B,) that was left."""

    weights: Tensor
    iterations: int
    left: Tensor


def conjugate_gradients(
    system: Callable[[Tensor], Tensor],
    precondition: Callable[[Tensor], Tensor],
    r: Tensor,
    iterations: int,
    tolerance: float,
) -> Solved:
    """Preconditioned conjugate gradients for every row of the batch `r` (B, ...) at once, in float64.

    Stops when the true residual of every member is below `tolerance` times |r|; with no iterations returns the
    preconditioned right-hand side. A member that has converged is left alone.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)

    if iterations == 0:
        return Solved(precondition(r), 0, r.new_ones(len(r)))
    size = dot(r, r).sqrt().clamp(min=1e-300)
    w, rest = torch.zeros_like(r), r
    z = precondition(rest)
    p, rz = z, dot(rest, z)
    taken = 0
    while taken < iterations:
        taken += 1
        Ap = system(p)
        alive = dot(rest, rest).sqrt() > tolerance * size
        alpha = torch.where(alive, rz / dot(p, Ap).clamp(min=1e-300), 0)
        w, rest = w + alpha * p, rest - alpha * Ap
        if not bool((dot(rest, rest).sqrt() > tolerance * size).any()):
            rest = r - system(w)  # the recurrence drifts: the true residual decides
            if not bool((dot(rest, rest).sqrt() > 2 * tolerance * size).any()):
                break
        z = precondition(rest)
        before, rz = rz, dot(rest, z)
        p = z + torch.where(alive, rz / before.clamp(min=1e-300), 0) * p
    return Solved(w, taken, (dot(rest, rest).sqrt() / size).flatten())
