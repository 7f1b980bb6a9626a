"""Flow through a random medium of two phases on the unit square, head zero on the edges.

    -div(K grad p) = 1,    p = 0 on the edges, which are stored

K is 12 where a cosine random field (alpha = 2, tau = 3) is not negative, else 3. p solves the conservative five-point
equations on the points inside, h = 1 / (N - 1), K on the faces the arithmetic mean: the stencil of `Darcy` itself, so
that the residual of the data is rounding, though across a jump of K it is a poor approximation of the equation.

K lies between 3 and 12, so the Laplacian's inverse, two sine transforms, leaves the condition number 4 whatever N is:
conjugate gradients gain a factor of 3 each step.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sciguide.equations.darcy import Darcy
from sciguide.equations.operator import Operator
from sciguide.errors import InputError
from sciguide.grid import Grid
from sciguide.simulate import poisson
from sciguide.simulate.gaussian_field import cosine_field
from sciguide.simulate.square import axes, coordinates

__all__ = ["axes"]

ALPHA, TAU = 2.0, 3.0
LOW, HIGH, SOURCE = 3.0, 12.0, 1.0
TOLERANCE, STEPS, TINY = 1e-12, 200, 1e-300
TITLE = "Flow through random media of two phases"
VARIABLES = {
    "K": {"long_name": "conductivity, of two values", "units": "1"},
    "p": {"long_name": "head, zero on the edges", "units": "1"},
}
GROUP = 1


@cache
def operator(n: int) -> Operator:
    """The residual -div(K grad p) - f on the points inside the n x n; channels K, p, f."""
    return Darcy().on(Grid(coordinates(n), coordinates(n)))


def static(n: int) -> dict[str, tuple[NDArray[np.float64], dict[str, Any]]]:
    """The source that all samples share."""
    return {"f": (np.full((n, n), SOURCE), {"long_name": "source", "units": "1"})}


def draw(n: int, seed: int, group: int) -> dict[str, NDArray[np.float64]]:
    """Sample `group` of the set `seed`: K and p, (1, n, n)."""
    z = np.random.default_rng([seed, group]).standard_normal((1, n, n))
    K = np.where(cosine_field(z, ALPHA, TAU) >= 0, HIGH, LOW)
    return {"K": K, "p": solve(K)}


def solve(K: NDArray) -> NDArray[np.float64]:
    """The p of the conductivities `K` (..., n, n), positive, by conjugate gradients: residuals of 1e-12 of the source.
    Raises InputError where K varies by so much that they do not get there."""
    shape, n = K.shape, K.shape[-1]
    K = np.asarray(K, np.float64).reshape(-1, n, n)
    f = np.zeros(K.shape)
    f[:, 1:-1, 1:-1] = SOURCE
    p, r = np.zeros(K.shape), f
    size = (f * f).sum((1, 2), keepdims=True)
    direction, before = np.zeros(K.shape), np.inf
    for _ in range(STEPS):
        if ((r * r).sum((1, 2), keepdims=True) <= TOLERANCE**2 * size).all():
            return p.reshape(shape)
        z = -poisson.solve(r)
        now = (r * z).sum((1, 2), keepdims=True)
        direction = z + now / before * direction
        flow = flux_divergence(K, direction)
        step = now / np.maximum((direction * flow).sum((1, 2), keepdims=True), TINY)
        p, r, before = p + step * direction, r - step * flow, np.maximum(now, TINY)
    raise InputError(f"K from {K.min():g} to {K.max():g}: too uneven to solve for p")


def flux_divergence(K: NDArray, p: NDArray) -> NDArray[np.float64]:
    """-div(K grad p), (B, n, n), zero on the edges: the J of the operator, along p."""
    zero = np.zeros(K.shape)
    u, v = (torch.from_numpy(np.stack(fields, 1)) for fields in ((K, zero, zero), (zero, p, zero)))
    return operator(K.shape[-1]).kernels.reference.jvp(u, v)[:, 0].numpy()


def attributes() -> dict[str, Any]:
    """What a file says of how its samples were drawn."""
    return {
        "field_alpha": ALPHA,
        "field_tau": TAU,
        "conductivities": [LOW, HIGH],
        "boundary": "zero Dirichlet, stored",
        "stencil": "5-point, conservative, arithmetic means on the faces",
    }
