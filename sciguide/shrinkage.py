"""A homogeneous covariance for fields on a grid with land, and how far to trust it against the sample covariance.

The correlations between the channels at a lag are averaged over all pairs of valid points at that lag (by FFT on a
grid padded to twice its size), tapered by a Gaussian of `length` grid points (Gaspari and Cohn 1999 on localisation),
made positive semi-definite by dropping negative eigenvalues of the circulant, and multiplied by standard deviations
that lie between the channel's mean (`local` = 0) and the point's own (`local` = 1).
"""

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

LENGTHS = (0.1, 0.2, 0.4, 0.8)  # of the taper, in units of the longer side
LOCAL = (0.0, 0.5, 1.0)
ALPHA = (0.0, 0.1, 0.3, 0.6, 0.8, 1.0)
POINTS = 256  # per channel, at most, on which candidates are compared
ENOUGH = 500  # independent samples from which the sample covariance takes part
FOLDS = 5
NUGGET = 1e-2  # of the mean variance: white noise added to every candidate, so that all are invertible


class Lags(NamedTuple):
    """Correlations by lag (C, C, 2Y, 2X) without a taper, and the `variance` (C, Y, X) of the points on the `mask`."""

    correlation: Tensor
    variance: Tensor
    mask: Tensor

    @classmethod
    def of(cls, anomalies: Tensor, mask: Tensor, local: float) -> "Lags":
        """From anomalies (N, C, Y, X), zero off the mask."""
        n, _, ny, nx = anomalies.shape
        variance = anomalies.square().sum(0) / max(n - 1, 1)
        mean = variance.sum((1, 2), keepdim=True) / mask.sum((1, 2), keepdim=True)
        variance = torch.where(mask, (1 - local) * mean + local * variance, 0)
        std = torch.where(mask & (variance > 1e-12 * mean), variance, torch.inf).sqrt()
        spectrum = torch.fft.rfft2(anomalies / std, s=(2 * ny, 2 * nx))
        pairs = torch.fft.rfft2(torch.isfinite(std).to(anomalies), s=(2 * ny, 2 * nx))
        channels = range(len(mask))
        sums = [[(spectrum[:, a].conj() * spectrum[:, b]).mean(0) for b in channels] for a in channels]
        sums = torch.fft.irfft2(torch.stack([torch.stack(row) for row in sums]), s=(2 * ny, 2 * nx))
        counts = torch.fft.irfft2(pairs[:, None].conj() * pairs, s=(2 * ny, 2 * nx))
        return cls(torch.where(counts > 0.5, sums / counts.clamp(min=1), 0), variance, mask)


class Homogeneous(NamedTuple):
    """`correlation` (C, C, 2Y, 2X): by lag, positive semi-definite; `variance` (D,) of the D valid points; `mask`."""

    correlation: Tensor
    variance: Tensor
    mask: Tensor

    @classmethod
    def of(cls, lags: "Lags", length: float) -> "Homogeneous":
        """Tapered by a Gaussian of `length` grid points and made positive semi-definite."""
        lag_y, lag_x = (torch.fft.fftfreq(k, 1 / k, dtype=lags.variance.dtype) for k in lags.correlation.shape[-2:])
        taper = torch.exp(-(lag_y[:, None] ** 2 + lag_x**2) / (2 * length**2))
        cross = torch.fft.rfft2(lags.correlation * taper).permute(2, 3, 0, 1)
        values, vectors = torch.linalg.eigh((cross + cross.mH) / 2)
        cross = (vectors * values.clamp(min=0)[..., None, :]) @ vectors.mH
        correlation = torch.fft.irfft2(cross.permute(2, 3, 0, 1), s=taper.shape)
        # dropping eigenvalues adds variance: back to correlations
        root = correlation.diagonal()[0, 0].clamp(min=1e-30).sqrt()
        return cls(correlation / (root[:, None] * root)[..., None, None], lags.variance[lags.mask], lags.mask)

    def apply(self, v: Tensor) -> Tensor:
        """The covariance times the columns of `v` (D, k)."""
        ny, nx = self.mask.shape[1:]
        std = self.variance.sqrt()[:, None]
        fields = v.new_zeros(v.shape[1], *self.mask.shape)
        fields[:, self.mask] = (std * v).T
        kernel, size = torch.fft.rfft2(self.correlation).conj(), self.correlation.shape[-2:]
        out = torch.empty_like(fields)
        for part, target in zip(fields.split(64), out.split(64), strict=True):
            spectrum = torch.fft.rfft2(part, s=size)
            for a in range(len(kernel)):
                total = sum(kernel[a, b] * spectrum[:, b] for b in range(len(kernel)))
                target[:, a] = torch.fft.irfft2(total, s=size)[..., :ny, :nx]
        return std * out[:, self.mask].T

    def matrix(self, index: Tensor) -> Tensor:
        """The covariance among the valid points `index` (k,), dense (k, k)."""
        c, y, x = (part[index] for part in self.mask.nonzero(as_tuple=True))
        std = self.variance[index].sqrt()
        ny, nx = self.correlation.shape[-2:]
        lags = (y[None] - y[:, None]) % ny, (x[None] - x[:, None]) % nx
        return std[:, None] * std * self.correlation[c[:, None], c[None], *lags]


class Shrinkage(NamedTuple):
    """C = (1 - alpha) C_sample + alpha C_homogeneous(length, local); `length` in grid points."""

    alpha: float
    length: float
    local: float


def choose_shrinkage(x: Tensor, mask: Tensor, effective: float) -> Shrinkage:
    """The parameters of the largest Gaussian likelihood of contiguous blocks left out.

    `x`: (N, C, Y, X), zero off `mask`; `effective`: independent samples among them. Compared on at most 256 points a
    channel; the mean comes from the samples that stay in, so its own error counts. Below `ENOUGH` independent samples
    alpha is 1: a covariance that contains the few samples makes their own Wiener errors too small, and a network
    trained on these is worse on others than no network (measured on ocean currents: docs/design.md).
    """
    n, generator = len(x), torch.Generator().manual_seed(0)
    index = torch.randperm(int(mask.sum()), generator=generator)[: POINTS * len(mask)].sort().values
    side = max(mask.shape[1:])
    alphas = ALPHA if effective >= ENOUGH else (1.0,)
    candidates = list(itertools.product(alphas, [f * side for f in LENGTHS], LOCAL))
    loss = torch.zeros(len(candidates))
    for block in torch.arange(n).tensor_split(min(FOLDS, n)):
        rest = torch.ones(n, dtype=torch.bool)
        rest[block] = False
        mean = x[rest].mean(0)
        anomalies = (x[rest] - mean) * mask
        kept = anomalies[:, mask][:, index]
        sample = kept.T @ kept / max(len(kept) - 1, 1)
        left_out = ((x[block] - mean)[:, mask][:, index]).T
        nugget = NUGGET * sample.diagonal().mean() * torch.eye(len(index), dtype=x.dtype)
        lags = {local: Lags.of(anomalies, mask, local) for local in LOCAL}
        made = {(k, v): Homogeneous.of(lags[v], k).matrix(index) for k, v in {c[1:] for c in candidates}}
        for i, (alpha, length, local) in enumerate(candidates):
            lower = torch.linalg.cholesky((1 - alpha) * sample + alpha * made[length, local] + nugget)
            white = torch.linalg.solve_triangular(lower, left_out, upper=False)
            loss[i] += float(white.square().sum()) + 2 * float(lower.diagonal().log().sum()) * left_out.shape[1]
    return Shrinkage(*candidates[int(loss.argmin())])
