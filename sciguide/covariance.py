"""Estimating the prior from normalised training fields (N, C, Y, X): mean field, modes and their variances."""

import math

import torch
from torch import Tensor

from sciguide.modes import Spans
from sciguide.prior import EOF, Isotropic, Prior, Spectral, dct_matrix, transform_axes
from sciguide.shrinkage import Homogeneous, Lags, choose_shrinkage

NEGLIGIBLE_NOISE = 0.1  # of the smallest noise level is told apart from nothing at most


def fit_prior(
    kind: str,
    x: Tensor,
    mask: Tensor,
    *,
    boundary: tuple[str, str] = ("open", "open"),
    weights: Tensor | None = None,
    effective: float | None = None,
    sigma_data: float = 1.0,
    sigma_min: float = math.inf,
) -> Prior:
    """The prior of `kind` ("isotropic", "spectral", "eof" or "auto") of the training fields.

    `x`: (N, C, Y, X), zero off `mask` (C, Y, X); `boundary` of the (y, x) axes; `weights`: area weights (Y, X);
    `effective`: the effective number of independent samples, N where not given; `sigma_min`: the smallest noise level,
    well below which `eof` tells nothing apart. "auto" takes `spectral` on unmasked plane grids with at least 200
    samples and `eof` elsewhere. Computed in float64. Raises ValueError for another kind.
    """
    if kind == "auto":
        uniform = weights is None or bool((weights == weights.flatten()[0]).all())
        kind = "spectral" if bool(mask.all()) and uniform and len(x) >= 200 else "eof"
    if kind == "isotropic":
        return Isotropic(mask, torch.tensor(sigma_data, dtype=torch.float64))
    if kind == "spectral":
        return fit_spectral(x.double(), boundary)
    if kind == "eof":
        return fit_eof(x.double(), mask, weights, effective, sigma_min)
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


def fit_eof(
    x: Tensor, mask: Tensor, weights: Tensor | None, effective: float | None, sigma_min: float = math.inf
) -> EOF:
    """Leading area-weighted EOFs of the sample covariance, shrunk towards a homogeneous one.

    Few independent samples (14 in ten months of ocean currents) leave most directions of the state space unseen: the
    sample covariance gives them no variance and interpolation by it is hardly better than the mean field. So
    C = (1 - alpha) C_sample + alpha C_homogeneous with the parameters that make blocks of samples left out most likely
    (`sciguide.shrinkage`). What the leading modes leave goes into tau^2: white noise in every draw, so that modes are
    kept until it is well below the smallest noise level too. Modes of all channels together or of each one by itself,
    with a tau^2 of its own, whichever is likelier.
    """
    values = x.flatten(1)[:, mask.flatten()]
    n, d = values.shape
    choice = choose_shrinkage(x, mask, effective or n)
    anomalies = values - values.mean(0)
    homogeneous = Homogeneous.of(Lags.of((x - x.mean(0)) * mask, mask, choice.local), choice.length)

    def covariance(v: Tensor, part: slice) -> Tensor:
        own = anomalies[:, part]
        found = (1 - choice.alpha) * (own.T @ (own @ v)) / (n - 1)
        if choice.alpha == 0:
            return found
        whole = v.new_zeros(d, v.shape[1])
        whole[part] = v
        return found + choice.alpha * homogeneous.apply(whole)[part]

    w = torch.ones_like(mask, dtype=x.dtype) if weights is None else weights.to(x).expand(mask.shape)
    sample = anomalies.square().sum(0) / (n - 1)
    variance = (1 - choice.alpha) * sample + choice.alpha * homogeneous.variance
    spans = Spans(covariance, variance, w[mask], mask.flatten(1).sum(1).tolist(), NEGLIGIBLE_NOISE * sigma_min)
    found = spans.joint() if len(mask) == 1 else min(spans.joint(), spans.by_channel(), key=spans.log_det)
    field = x.new_zeros(mask.shape)
    field[mask] = values.mean(0)
    return EOF(field, mask, *found)
