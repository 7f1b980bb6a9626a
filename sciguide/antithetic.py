"""The posterior mean of a nonlinear residual, by antithetic draws.

The residual of the clean estimate is not the estimate of the residual: for x ~ N(x0, M) and a quadratic r

    E r(x) = r(x0) + tr(H M) / 2,        Var r(x) = J M J^T + tr(H M H M) / 2,

H the second derivative of a row, J the first at x0. At high noise x0 is an over-smooth average, and pushing r(x0) to 0
inflates what M will add. So r(x0) is replaced by the mean over pairs of (r(x0 + e) + r(x0 - e)) / 2, e = M^(1/2) z: odd
terms cancel within a pair, J is estimated by the derivative at x0, and the network is not called. For a quadratic r the
mean is unbiased, and the variance between pairs is that of tr(H M H M) / 2, what J M J^T lacks of Var r(x).

z is keyed by seed, member and step (`sciguide.noise`), so a member does not depend on its batch.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciguide.noise import normals
from sciguide.prior import Prior

PAIRS = 8
FIRST_STEP = 2**16  # of the noise of guidance: the start has 0, and no other use of noise has so many


class MeanResidual(NamedTuple):
    """The posterior mean of a residual (B, ...), the variance of that mean, and the variance between `pairs` pairs that
    it comes from: `spread` = pairs x `variance`."""

    mean: Tensor
    variance: Tensor
    spread: Tensor


def mean_residual(residual: Callable[[Tensor], Tensor], x0: Tensor, draws: Tensor) -> MeanResidual:
    """Over the pairs x0 + e and x0 - e of `draws` e (P, B, C, Y, X) about the estimates `x0` (B, C, Y, X); `residual`
    maps (B, C, Y, X) to (B, ...) row by row of the batch. ValueError for fewer than two pairs."""
    if len(draws) < 2:
        raise ValueError(f"{len(draws)} pair of draws: the variance of their mean needs two")
    pairs = torch.stack([(residual(x0 + e) + residual(x0 - e)) / 2 for e in draws])
    spread = pairs.var(0)
    return MeanResidual(pairs.mean(0), spread / len(draws), spread)


def error_draws(prior: Prior, sigma: float, seed: int, members: Sequence[int], step: int, pairs: int = PAIRS) -> Tensor:
    """`pairs` draws of N(0, M) at noise level `sigma` for each of the `members`, (pairs, B, C, Y, X), in the prior's
    dtype; `step`: the index of the noise level in the chain."""
    shape = (pairs, *prior.mask.shape)
    z = torch.from_numpy(normals(seed, members, FIRST_STEP + step, shape, np.float64)).to(prior.mean)
    return prior.sqrt_M(z.flatten(0, 1), sigma).unflatten(0, (len(members), pairs)).movedim(1, 0)
