"""The leading modes of the covariance exp(-|x - x'| / length), |.| Euclidean, between the points of the unit square.

They are eigenvectors of the matrix of those covariances, times the roots of their eigenvalues: the field is their sum
with independent standard normal coefficients. The symmetries of the square make many eigenvalues double, whose vectors
are any two of a plane. Here each mode is even or odd in y and in x, and its sign is fixed, so that the same
coefficients give the same field on every machine, up to rounding.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, rfft2
from scipy.sparse.linalg import LinearOperator, eigsh

from sciguide.errors import InputError


@cache
def modes(n: int, count: int, length: float) -> NDArray[np.float64]:
    """sqrt(lambda_i) phi_i, (count, n, n), of the `count` largest eigenvalues, descending. Raises InputError for a grid
    with fewer than four points to a mode."""
    if n * n < 4 * count:
        raise InputError(f"size {n}: {count} modes of a random field need at least {int(np.ceil(2 * count**0.5))}")
    even, odd, mixed = (sector(n, count // 2, length, *parity) for parity in ((1, 1), (-1, -1), (1, -1)))
    parts = [even, odd, mixed, (mixed[0], mixed[1].transpose(0, 2, 1))]
    values, fields = (np.concatenate(found) for found in zip(*parts, strict=True))
    leading = np.argsort(-values, kind="stable")[:count]
    if values[leading[-1]] < max(found.min() for found, _ in parts):  # about a quarter of the modes is in each sector
        raise ArithmeticError(f"more than {count // 2} of the {count} leading modes have the same parities")
    return np.sqrt(values[leading])[:, None, None] * fields[leading]


def sector(n: int, count: int, length: float, in_y: int, in_x: int) -> tuple[NDArray, NDArray]:
    """The `count` largest eigenvalues of fields of the given parities, 1 even and -1 odd, and their fields
    (count, n, n), of norm 1."""
    Y, X = unfolding(n, in_y), unfolding(n, in_x)
    distance = np.minimum(np.arange(2 * n), 2 * n - np.arange(2 * n)) / (n - 1)
    spectrum = rfft2(np.exp(-np.hypot(distance[:, None], distance) / length))  # of the circulant that holds the matrix
    shape, full = (Y.shape[1], X.shape[1]), (2 * n, 2 * n)

    def covariance(v: NDArray) -> NDArray:
        field = irfft2(spectrum * rfft2(Y @ v.reshape(shape) @ X.T, full), full)[:n, :n]
        return (Y.T @ field @ X).ravel()

    size = shape[0] * shape[1]
    start = np.random.default_rng(0).standard_normal(size)
    values, vectors = eigsh(LinearOperator((size, size), covariance, dtype=np.float64), count, v0=start)
    vectors = vectors * np.sign(start @ vectors)
    return values, Y @ vectors.T.reshape(count, *shape) @ X.T


def unfolding(n: int, parity: int) -> NDArray[np.float64]:
    """Orthonormal columns (n, ...): the values at n points that half of them give by the symmetry about the middle."""
    half = np.eye(n)[:, : n // 2]
    columns = (half + parity * half[::-1]) / np.sqrt(2)
    return np.column_stack([columns, np.eye(n)[:, n // 2]]) if n % 2 and parity == 1 else columns
