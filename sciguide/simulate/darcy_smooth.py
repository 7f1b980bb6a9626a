"""Flow through a smooth random medium between two corners of the unit square: the set of physics-informed diffusion
models, usually 64 x 64.

    -div(K grad p) = f,    dp/dn = 0 on the edges,    integral of p = 0

f is 10 on the corner square [0, 1/8]^2 and -10 on the opposite one; log K is the sum of the 64 leading modes of the
covariance exp(-|x - x'| / 0.1) with standard normal coefficients. p solves, in the least-squares sense,

    n^2   rows of `DarcyExpanded` with one-sided edges: the product rule, second order; they are its own J,
    4 n   rows of the normal derivative on the edges, (-3, 4, -1) / 2h, weight 1 (a corner has two),
    1     row of the integral, by the trapezoidal rule; all other rows leave the constant free, so it holds exactly.

So p is a compromise: its residual is small, not zero. `r_mae` is the measure of the published tables.
"""

from functools import cache
from typing import Any

import numpy as np
import scipy.sparse as sparse
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from sciguide.equations.operator import Operator
from sciguide.errors import InputError
from sciguide.grid import Grid
from sciguide.simulate.darcy_walls import DarcyWalls
from sciguide.simulate.karhunen_loeve import modes
from sciguide.simulate.square import axes, coordinates

__all__ = ["axes"]

MODES, LENGTH, SOURCE, CORNER = 64, 0.1, 10.0, 0.125
REACH = 4  # points in a line from which a row of the operator reads
TOLERANCE, REFINEMENTS = 1e-10, 10
TITLE = "Flow through smooth random media, walls without flux"
VARIABLES = {
    "K": {"long_name": "conductivity", "units": "1"},
    "p": {"long_name": "head", "units": "1"},
}
GROUP = 1


@cache
def operator(n: int) -> Operator:
    """The residuals of flow and walls at all n x n points; channels K, p, f, wall_x, wall_y."""
    return DarcyWalls().on(Grid(coordinates(n), coordinates(n), ("one-sided", "one-sided")))


def source(n: int) -> NDArray[np.float64]:
    """f, (n, n)."""
    x = coordinates(n)
    low, high = x <= CORNER, x >= 1 - CORNER
    return SOURCE * (np.outer(low, low) - np.outer(high, high).astype(np.float64))


def static(n: int) -> dict[str, tuple[NDArray[np.float64], dict[str, Any]]]:
    """The source that all samples share, and where the walls are."""
    wall = np.zeros((n, n))
    wall[:, [0, -1]] = 1.0
    about = {"f": (source(n), "source"), "wall_x": (wall, "where a wall bounds x")}
    about["wall_y"] = (wall.T.copy(), "where a wall bounds y")
    return {name: (values, {"long_name": text, "units": "1"}) for name, (values, text) in about.items()}


@cache
def _known(n: int) -> NDArray[np.float64]:
    """f, wall_x and wall_y, (3, n, n)."""
    return np.stack([values for values, _ in static(n).values()])


def draw(n: int, seed: int, group: int) -> dict[str, NDArray[np.float64]]:
    """Sample `group` of the set `seed`: K and p, (1, n, n)."""
    z = np.random.default_rng([seed, group]).standard_normal((1, MODES))
    K = np.exp(np.tensordot(z, modes(n, MODES, LENGTH), 1))
    return {"K": K, "p": solve(K)}


def solve(K: NDArray) -> NDArray[np.float64]:
    """The p of the conductivities `K` (..., n, n), positive. Raises InputError where K varies by so much that the
    normal equations are singular in float64."""
    n = K.shape[-1]
    return np.stack([_solve(one) for one in np.asarray(K, np.float64).reshape(-1, n, n)]).reshape(K.shape)


def r_mae(K: NDArray, p: NDArray) -> NDArray[np.float64]:
    """The mean of |.| over three channels of n^2 points, (..., n, n) -> (...): the residual; dp/dx on the edges along
    y, else 0; dp/dy on the edges along x, else 0. In physical units and float64."""
    K, p = (np.asarray(field, np.float64) for field in np.broadcast_arrays(K, p))
    n = K.shape[-1]
    known = np.broadcast_to(_known(n), (*K.shape[:-2], 3, n, n))
    u = np.concatenate([np.stack([K, p], -3), known], -3).reshape(-1, 5, n, n)
    return operator(n).residual(torch.from_numpy(u)).abs().mean((1, 2, 3)).numpy().reshape(K.shape[:-2])


def _solve(K: NDArray) -> NDArray[np.float64]:
    """By the normal equations with one point held, refined: their solution errs by 1e-6, three steps make it 1e-12.
    It takes half the time of the augmented system, which needs no refinement."""
    n, uneven = K.shape[-1], f"K from {K.min():g} to {K.max():g}: too uneven to solve for p"
    rows = sparse.vstack([matrix(K), walls(n)]).tocsc()[:, 1:]
    f = np.concatenate([source(n).ravel(), np.zeros(4 * n)])
    columns = rows.T.tocsr()
    normal = (columns @ rows).tocsc()
    try:
        factor = splu(normal, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    except RuntimeError as error:
        raise InputError(uneven) from error
    p = np.zeros(n * n - 1)
    for _ in range(REFINEMENTS):
        step = factor.solve(columns @ (f - rows @ p))
        p += step
        if np.abs(step).max() <= TOLERANCE * np.abs(p).max():
            break
    else:
        raise InputError(uneven)
    p = np.concatenate([[0.0], p])
    return (p - p @ _integral(n)).reshape(n, n)


def matrix(K: NDArray) -> sparse.csr_array:
    """d residual / d p of the operator, (n^2, n^2) in row order, for `K` (n, n): from J v of 4 x 4 combs v, of whose
    teeth no row reads two."""
    n = K.shape[-1]
    combs, comb, row, column = _pattern(n)
    u = torch.zeros(combs.shape, dtype=torch.float64)
    u[:, 0] = torch.from_numpy(K)
    found = operator(n).kernels.reference.jvp(u, combs)[:, 0].reshape(len(combs), -1).numpy()
    found = sparse.csr_array((found[comb, row], (row, column)), shape=(n * n, n * n))
    found.eliminate_zeros()
    return found


@cache
def _pattern(n: int) -> tuple[torch.Tensor, NDArray, NDArray, NDArray]:
    """The combs as fields (16, 5, n, n); and for every entry that the matrix may have, its comb, row and column."""
    line = np.arange(n)
    combs = torch.zeros(REACH**2, 5, n, n, dtype=torch.float64)
    for c in range(REACH**2):
        combs[c, 1, c // REACH :: REACH, c % REACH :: REACH] = 1.0
    near = np.clip(line - 1, 0, n - REACH)[:, None] + np.arange(REACH)  # (n, 4): what a row reads along its axis
    j, i, a, b = (index.ravel() for index in np.indices((n, n, REACH, REACH)))
    at_j, at_i = near[j, a], near[i, b]
    cross = (at_j == j) | (at_i == i)
    comb, row, column = (at_j % REACH) * REACH + at_i % REACH, j * n + i, at_j * n + at_i
    return combs, comb[cross], row[cross], column[cross]


@cache
def walls(n: int) -> sparse.csr_array:
    """Rows dp/dx on the first and last columns, then dp/dy on the first and last rows, (4 n, n^2)."""
    slope = np.zeros((2, n))
    slope[0, :3], slope[1, -3:] = (-3, 4, -1), (1, -4, 3)
    slope, line = slope * (n - 1) / 2, sparse.eye_array(n)
    return sparse.vstack([sparse.kron(line, slope), sparse.kron(slope, line)]).tocsr()


def _integral(n: int) -> NDArray[np.float64]:
    """Weights of the trapezoidal rule, (n^2,), in sum 1."""
    weights = np.ones(n)
    weights[[0, -1]] = 0.5
    return np.outer(weights, weights).ravel() / (n - 1) ** 2


def attributes() -> dict[str, Any]:
    """What a file says of how its samples were drawn."""
    return {
        "field_covariance": f"log K: {MODES} leading modes of exp(-distance / {LENGTH})",
        "boundary": "zero normal flux, in the least-squares sense",
        "stencil": "product rule, one-sided edges, second order",
        "solver": "least squares of the equation, the normal derivatives (weight 1) and the integral",
    }
