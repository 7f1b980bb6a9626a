"""Pairs (f, u) with L u = f on the unit square, u = 0 on its edges, L with constant weights; and their exact posterior.

f is the cosine random field (alpha = 2, tau = 3) at all N x N points; u solves the equation's five-point stencil on the
points inside, h = 1 / (N - 1), by a sine transform in float64, and is zero on the outermost rows and columns, which are
stored. The symbol that the solver divides by is that of the equation's own stencil, so the residual of the data is
rounding.

Both fields are linear functions of the same white noise z, f = A z and u = G A z, so that given noise-free or noisy
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

from sciguide.equations.base import Equation
from sciguide.equations.operator import Operator
from sciguide.errors import InputError
from sciguide.grid import Grid
from sciguide.simulate.gaussian_field import cosine_field, cosine_transpose
from sciguide.simulate.square import coordinates

ALPHA, TAU = 2.0, 3.0
JITTER = 1e-12  # of the mean variance, where observations have no error
Linear = Callable[[NDArray], NDArray]


def square_root(alpha: float = ALPHA, tau: float = TAU) -> tuple[Linear, Linear]:
    """(A, A^T) on fields (..., n, n): C^(1/2) of the source f = A z, and its transpose."""
    return lambda z: cosine_field(z, alpha, tau), lambda f: cosine_transpose(f, alpha, tau)


@dataclass(frozen=True)
class Posterior:
    """f and the solution given m point values; `mean`: the best estimate of each, (n, n), by name."""

    mean: dict[str, NDArray[np.float64]]
    rows: NDArray[np.float64]  # (m, n^2): each observation as a function of the white noise
    errors: NDArray[np.float64]  # (m,) standard deviations, the jitter included
    factor: tuple[NDArray, bool]  # Cholesky factor of rows rows^T + errors^2
    root: Linear
    pair: "LinearPair"

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, NDArray[np.float64]]:
        """`count` independent draws of both fields (count, n, n): the mean plus what conditioning leaves of a prior
        draw z, which is z - K (H z + e)."""
        n = len(self.mean["f"])
        z, e = rng.standard_normal((count, n * n)), rng.standard_normal((count, len(self.rows)))
        left = z - (cho_solve(self.factor, (z @ self.rows.T + e * self.errors).T)).T @ self.rows
        drawn = self.pair.fields(self.root(left.reshape(count, n, n)))
        return {name: self.mean[name] + field for name, field in drawn.items()}


@dataclass(frozen=True)
class LinearPair:
    """The pairs of an equation L `solution` = f. L is symmetric, and no sine is in its null space."""

    equation: type[Equation]
    solution: str

    def operator(self, n: int) -> Operator:
        """The residual L u - f on the n x n points of the unit square."""
        return self.equation().on(Grid(*(coordinates(n),) * 2))

    def solve(self, f: NDArray) -> NDArray[np.float64]:
        """G f: the solution for the sources `f` (..., n, n), zero on the edges. G is symmetric."""
        u = np.zeros(f.shape)
        sines = dstn(f[..., 1:-1, 1:-1], type=1, axes=(-2, -1), norm="ortho")
        u[..., 1:-1, 1:-1] = idstn(sines / _eigenvalues(self, f.shape[-1]), type=1, axes=(-2, -1), norm="ortho")
        return u

    def fields(self, f: NDArray) -> dict[str, NDArray[np.float64]]:
        """The sources `f` (..., n, n) and their solutions, by name."""
        return {"f": f, self.solution: self.solve(f)}

    def draw(self, n: int, seed: int, group: int) -> dict[str, NDArray[np.float64]]:
        """Sample `group` of the set `seed`, which is alone in its group: both fields (1, n, n)."""
        return self.fields(cosine_field(np.random.default_rng([seed, group]).standard_normal((1, n, n)), ALPHA, TAU))

    def exact_posterior(
        self,
        n: int,
        variable: str,
        points: NDArray[np.integer],
        values: NDArray,
        errors: float | NDArray = 0.0,
        alpha: float = ALPHA,
        tau: float = TAU,
    ) -> Posterior:
        """The posterior on n x n points, given `values` (m,) of `variable` ("f" or the solution) at `points` (m, 2),
        rows (j, i), with independent normal errors of standard deviation `errors`. Takes 8 m n^2 bytes. Raises
        InputError for another variable, or points outside the grid."""
        points = np.asarray(points)
        if variable not in ("f", self.solution):
            raise InputError(f"variable {variable!r}: observe one of f, {self.solution}")
        if points.ndim != 2 or points.shape[1] != 2 or points.min() < 0 or points.max() >= n:
            raise InputError(f"points of shape {points.shape} must be rows (j, i) within the {n} x {n} grid")
        root, transpose = square_root(alpha, tau)
        units = np.zeros((len(points), n, n))
        units[np.arange(len(points)), points[:, 0], points[:, 1]] = 1.0
        rows = transpose(units if variable == "f" else self.solve(units)).reshape(len(points), n * n)
        covariance = rows @ rows.T
        errors = np.sqrt(np.broadcast_to(errors, len(points)) ** 2.0 + JITTER * covariance.trace() / len(points))
        factor = cho_factor(covariance + np.diag(errors**2), lower=True)
        f = root((rows.T @ cho_solve(factor, np.asarray(values, np.float64))).reshape(n, n))
        return Posterior(self.fields(f), rows, errors, factor, root, self)

    def attributes(self) -> dict[str, Any]:
        """What a file says of how its samples were drawn."""
        return {"field_alpha": ALPHA, "field_tau": TAU, "boundary": "zero Dirichlet, stored", "stencil": "5-point"}


@cache
def _eigenvalues(pair: LinearPair, n: int) -> NDArray[np.float64]:
    """Of the stencil on the sines sin(pi k j / (n - 1)), k = 1 ... n - 2; (n - 2, n - 2)."""
    theta = np.pi * np.arange(1, n - 1) / (n - 1)
    return pair.operator(n).symbol(pair.solution, theta[:, None], theta).real
