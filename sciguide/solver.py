"""Conjugate gradients for many members at once."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Solved(NamedTuple):
    """Weights of the rows, like them, and their image; for each member (B,) the iterations that it took, and the
    relative residual that was left."""

    weights: Tensor
    image: Tensor
    iterations: Tensor
    left: Tensor


def conjugate_gradients(
    system: Callable[[Tensor], tuple[Tensor, Tensor]],
    precondition: Callable[[Tensor], Tensor],
    r: Tensor,
    iterations: int | Tensor,
    tolerance: float,
) -> Solved:
    """Preconditioned conjugate gradients for every row of the batch `r` (B, ...) at once, in float64.

    `system(w)`: A w, and a linear image of w, found on the way, of which the solution's is returned too. Stops when
    the true residual of every member is below `tolerance` times |r|, after one iteration at least, which is a step
    along the preconditioned right-hand side of the best length. A member that has converged, or has had its
    `iterations`, one number or one for each (B,), is left alone.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)

    size = dot(r, r).sqrt().clamp(min=1e-300)
    most = torch.as_tensor(iterations, device=r.device).expand(len(r)).clamp(min=1).reshape(size.shape)
    last, taken = int(most.max()), torch.zeros_like(most)
    w, rest, image = torch.zeros_like(r), r, None
    z = precondition(rest)
    p, rz = z, dot(rest, z)
    for number in range(1, last + 1):
        Ap, moved = system(p)
        alive = (dot(rest, rest).sqrt() > tolerance * size) & (number <= most)
        taken = taken + alive
        alpha = torch.where(alive, rz / dot(p, Ap).clamp(min=1e-300), 0)
        w, rest = w + alpha * p, rest - alpha * Ap
        moved = alpha.reshape(-1, *(1,) * (moved.ndim - 1)) * moved
        image = moved if image is None else image.add_(moved)
        if number == last:
            break
        if not bool(((dot(rest, rest).sqrt() > tolerance * size) & (number < most)).any()):
            rest = r - system(w)[0]  # the recurrence drifts: the true residual decides
            if not bool(((dot(rest, rest).sqrt() > 2 * tolerance * size) & (number < most)).any()):
                break
        z = precondition(rest)
        before, rz = rz, dot(rest, z)
        p = z + torch.where(alive, rz / before.clamp(min=1e-300), 0) * p
    return Solved(w, image, taken.flatten(), (dot(rest, rest).sqrt() / size).flatten())
