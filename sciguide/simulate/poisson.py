"""Pairs (f, phi) with lap(phi) = f on the unit square, phi = 0 on its edges; and their exact posterior.

f is the cosine random field (alpha = 2, tau = 3) at all N x N points; phi solves the five-point equations on the points
inside, h = 1 / (N - 1), by a sine transform in float64, and is zero on the outermost rows and columns, which are
stored. The symbol that the solver divides by is that of the equation's own stencil, so the residual of the data is
rounding.

Both fields are linear functions of the same white noise z, f = A z and phi = G A z, so that given noise-free or noisy
point values of either, z is Gaussian with known mean and covariance: no method can do better than `Posterior.mean`, and
`Posterior.draw` is the ensemble that every ensemble should look like.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dstn, idstn
from scipy.linalg import cho_factor, cho_solve

from sciguide.equations.operator import Operator
from sciguide.equations.poisson import Poisson
from sciguide.errors import InputError
from sciguide.grid import Grid
from sciguide.simulate.gaussian_field import cosine_field, cosine_transpose

ALPHA, TAU = 2.0, 3.0
JITTER = 1e-12  # of the mean variance, where observations have no error
TITLE = "Solutions of Poisson's equation with random sources"
VARIABLES = {
    "f": {"long_name": "source, the Laplacian of phi", "units": "1"},
    "phi": {"long_name": "solution of lap(phi) = f, zero on the edges", "units": "1"},
}
Linear = Callable[[NDArray], NDArray]


def operator(n: int) -> Operator:
    """The residual lap(phi) - f on the n x n points of the unit square; channels phi, f."""
    return Poisson().on(Grid(*(coordinates(n),) * 2))


def coordinates(n: int) -> NDArray[np.float64]:
    """The points along each axis, from 0 to 1."""
    return np.linspace(0.0, 1.0, n)


@cache
def _eigenvalues(n: int) -> NDArray[np.float64]:
    """Of the stencil on the sines sin(pi k j / (n - 1)), k = 1 ... n - 2; (n - 2, n - 2)."""
    theta = np.pi * np.arange(1, n - 1) / (n - 1)
    return operator(n).symbol("phi", theta[:, None], theta).real


def solve(f: NDArray) -> NDArray[np.float64]:
    """G f: the solution phi for the sources `f` (..., n, n), zero on the edges. G is symmetric."""
    phi = np.zeros(f.shape)
    sines = dstn(f[..., 1:-1, 1:-1], type=1, axes=(-2, -1), norm="ortho")
    phi[..., 1:-1, 1:-1] = idstn(sines / _eigenvalues(f.shape[-1]), type=1, axes=(-2, -1), norm="ortho")
    return phi


def square_root(alpha: float = ALPHA, tau: float = TAU) -> tuple[Linear, Linear]:
    """(A, A^T) on fields (..., n, n): C^(1/2) of the source f = A z, and its transpose."""
    return lambda z: cosine_field(z, alpha, tau), lambda f: cosine_transpose(f, alpha, tau)


def draw(n: int, seed: int, index: int) -> dict[str, NDArray[np.float64]]:
    """Sample `index` of the set `seed`: fields f and phi (n, n), whatever else is drawn."""
    z = np.random.default_rng([seed, index]).standard_normal((n, n))
    f = cosine_field(z, ALPHA, TAU)
    return {"f": f, "phi": solve(f)}


def attributes() -> dict[str, Any]:
    """What a file says of how its samples were drawn."""
    return {"field_alpha": ALPHA, "field_tau": TAU, "boundary": "zero Dirichlet, stored", "stencil": "5-point"}


@dataclass(frozen=True)
class Posterior:
    """f and phi given m point values; `mean`: the best estimate of each, (n, n)."""

    mean: dict[str, NDArray[np.float64]]
    rows: NDArray[np.float64]  # (m, n^2): each observation as a function of the white noise
    errors: NDArray[np.float64]  # (m,) standard deviations, the jitter included
    factor: tuple[NDArray, bool]  # Cholesky factor of rows rows^T + errors^2
    root: Linear

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, NDArray[np.float64]]:
        """`count` independent draws of f and phi (count, n, n): the mean plus what conditioning leaves of a prior
        draw z, which is z - K (H z + e)."""
        n = len(self.mean["f"])
        z, e = rng.standard_normal((count, n * n)), rng.standard_normal((count, len(self.rows)))
        left = z - (cho_solve(self.factor, (z @ self.rows.T + e * self.errors).T)).T @ self.rows
        f = self.root(left.reshape(count, n, n))
        return {"f": self.mean["f"] + f, "phi": self.mean["phi"] + solve(f)}


def exact_posterior(
    n: int,
    variable: str,
    points: NDArray[np.integer],
    values: NDArray,
    errors: float | NDArray = 0.0,
    alpha: float = ALPHA,
    tau: float = TAU,
) -> Posterior:
    """The posterior on n x n points, given `values` (m,) of `variable` ("f" or "phi") at `points` (m, 2), rows (j, i),
    with independent normal errors of standard deviation `errors`. Takes 8 m n^2 bytes. Raises InputError for another
    variable, or points outside the grid."""
    points = np.asarray(points)
    if variable not in VARIABLES:
        raise InputError(f"variable {variable!r}: observe one of {', '.join(VARIABLES)}")
    if points.ndim != 2 or points.shape[1] != 2 or points.min() < 0 or points.max() >= n:
        raise InputError(f"points of shape {points.shape} must be rows (j, i) within the {n} x {n} grid")
    root, transpose = square_root(alpha, tau)
    units = np.zeros((len(points), n, n))
    units[np.arange(len(points)), points[:, 0], points[:, 1]] = 1.0
    rows = transpose(solve(units) if variable == "phi" else units).reshape(len(points), n * n)
    covariance = rows @ rows.T
    errors = np.sqrt(np.broadcast_to(errors, len(points)) ** 2.0 + JITTER * covariance.trace() / len(points))
    factor = cho_factor(covariance + np.diag(errors**2), lower=True)
    f = root((rows.T @ cho_solve(factor, np.asarray(values, np.float64))).reshape(n, n))
    return Posterior({"f": f, "phi": solve(f)}, rows, errors, factor, root)
