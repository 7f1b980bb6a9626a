"""Estimating the prior from normalised training fields (N, C, Y, X): mean field, modes and their variances."""

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from sciguide.prior import EOF, Isotropic, Prior, Spectral, dct_matrix, transform_axes

MOST_MODES = 1024
FOLDS = 8


def fit_prior(
    kind: str,
    x: Tensor,
    mask: Tensor,
    *,
    boundary: tuple[str, str] = ("open", "open"),
    weights: Tensor | None = None,
    effective: float | None = None,
    sigma_data: float = 1.0,
) -> Prior:
    """The prior of `kind` ("isotropic", "spectral", "eof" or "auto") of the training fields.

    `x`: (N, C, Y, X), zero off `mask` (C, Y, X); `boundary` of the (y, x) axes; `weights`: area weights (Y, X);
    `effective`: the effective number of independent samples, N where not given. "auto" takes `spectral` on unmasked
    plane grids with at least 200 samples and `eof` elsewhere. Computed in float64. Raises ValueError for another kind.
    """
    if kind == "auto":
        uniform = weights is None or bool((weights == weights.flatten()[0]).all())
        kind = "spectral" if bool(mask.all()) and uniform and len(x) >= 200 else "eof"
    if kind == "isotropic":
        return Isotropic(mask, torch.tensor(sigma_data, dtype=torch.float64))
    if kind == "spectral":
        return fit_spectral(x.double(), boundary)
    if kind == "eof":
        return fit_eof(x.double(), mask, weights, effective)
    raise ValueError(f"prior: `{kind}` is not one of isotropic, spectral, eof, auto")


def fit_spectral(x: Tensor, boundary: tuple[str, str]) -> Spectral:
    """Eigen-decomposition of the mean cross-spectrum of the channels at every wavenumber."""
    transforms = tuple("fft" if b == "periodic" else "dct" for b in boundary)
    mean = x.mean(0)
    z = transform_axes(x - mean, transforms, (dct_matrix(x.shape[-2]), dct_matrix(x.shape[-1])))
    cross = torch.einsum("bcyx,bdyx->yxcd", z, z.conj()) / max(len(x) - 1, 1)
    variances, vectors = torch.linalg.eigh(cross)
    # an orthonormal basis per wavenumber; rounding can leave an eigenvalue below zero
    return Spectral(mean, variances.clamp(min=0).movedim(-1, 0), vectors.permute(2, 3, 0, 1).contiguous(), transforms)


def fit_eof(x: Tensor, mask: Tensor, weights: Tensor | None, effective: float | None) -> EOF:
    """Leading area-weighted EOFs, with the variances that they have on data they were not computed from.

    The variance of a sample EOF on its own sample is too large, that of the complement too small, and more so the
    fewer the independent samples. So both are measured by leaving out contiguous blocks, at least as long as the
    samples are correlated: EOFs of the rest, mean square of the block's anomalies along them. The number of modes is
    the largest whose held-out variance exceeds the mean of what is left.
    """
    values = x.flatten(1)[:, mask.flatten()]
    n, d = values.shape
    w = torch.ones_like(mask, dtype=x.dtype) if weights is None else weights.to(x).expand(mask.shape)
    root = w[mask].sqrt()
    most = min(MOST_MODES, n - 1, d - 1)
    folds = int(np.clip(effective or n, 2, min(FOLDS, n)))
    held_out, total, used = torch.zeros(most, dtype=x.dtype), 0.0, most
    for block in torch.arange(n).tensor_split(folds):
        rest = torch.ones(n, dtype=torch.bool)
        rest[block] = False
        mean, v = _leading(values[rest], root, most)
        used = min(used, v.shape[1])
        anomalies = values[block] - mean
        held_out[: v.shape[1]] += (anomalies @ v).square().sum(0) / n
        total += float(anomalies.square().sum()) / n
    left = (total - held_out.cumsum(0)) / (d - torch.arange(1, most + 1))
    above = (held_out[:used] > left[:used]).nonzero()
    r = int(above[-1]) + 1 if len(above) else 1
    mean, v = _leading(values, root, r)
    field = x.new_zeros(mask.shape)
    field[mask] = mean
    # variances fall with rank; pooling adjacent violators keeps the total
    return EOF(field, mask, v, _decreasing(held_out[:r]), left[r - 1].clamp(min=0))


def _leading(values: Tensor, root: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """Mean (D,) and the leading area-weighted principal directions (D, r), orthonormal without the weights."""
    mean = values.mean(0)
    anomalies = values - mean
    v = torch.linalg.qr(principal_directions(anomalies * root, r) / root[:, None])[0]
    # diagonal within their span
    return mean, v @ torch.linalg.eigh((anomalies @ v).T @ (anomalies @ v))[1].flip(1)


def principal_directions(anomalies: Tensor, r: int) -> Tensor:
    """The r leading right singular vectors (D, r) of `anomalies` (N, D), by the smaller Gram matrix where it has at
    most 4096 rows, else by a randomised SVD (Halko et al. 2011)."""
    n, d = anomalies.shape
    if min(n, d) > 4096:
        return torch.svd_lowrank(anomalies, q=min(r + 16, n, d), niter=4)[2][:, :r]
    if d <= n:
        return torch.linalg.eigh(anomalies.T @ anomalies)[1].flip(1)[:, :r]
    s2, u = torch.linalg.eigh(anomalies @ anomalies.T)
    carried = s2 > 1e-12 * s2[-1]  # one direction less than samples, fewer where some are copies
    return (anomalies.T @ (u[:, carried] / s2[carried].sqrt())).flip(1)[:, :r]


def _decreasing(s: Tensor) -> Tensor:
    """The closest non-increasing sequence in the least-squares sense (pool adjacent violators)."""
    return torch.from_numpy(np.array(isotonic_regression(s.numpy(), increasing=False).x))
