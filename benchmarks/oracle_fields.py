"""Gaussian fields on a torus, and mixtures of them: data whose denoiser is known exactly."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciguide.prior import Prior, Spectral

SIGMA_MIN = 0.01


def squared_wavenumbers(n: int) -> Tensor:
    """k^2 on the n x n torus, (n, n)."""
    k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    return k[:, None] ** 2 + k**2


def power_law(n: int, exponent: float) -> Tensor:
    """Variances (1 + k^2)^(-exponent / 2) of the modes of a field of mean variance 1, (n, n)."""
    S = (1 + squared_wavenumbers(n)) ** (-exponent / 2)
    return S / S.mean()


def gaussian(S: Tensor) -> Spectral:
    """The prior of one channel with mean 0 and variances S (n, n) of its Fourier modes."""
    vectors = torch.ones(1, 1, *S.shape, dtype=torch.complex128)
    return Spectral(torch.zeros(1, *S.shape, dtype=S.dtype), S[None], vectors, ("fft", "fft"))


def widest(prior: Prior) -> float:
    """sigma_0: three times the standard deviation of the largest mode."""
    return 3 * math.sqrt(prior.largest)


def hartley(x: Tensor) -> Tensor:
    """The orthonormal Hartley transform of the last two axes, real, and its own inverse."""
    f = torch.fft.fft2(x, norm="ortho")
    return f.real - f.imag


class HartleyPrior(Prior):
    """A prior of one channel whose modes are the Hartley transform's: unlike Fourier's, k and -k have variances of
    their own. `mean`: (1, n, n); `variances`: (n, n)."""

    kind = "hartley"

    def __init__(self, mean: Tensor, variances: Tensor) -> None:
        super().__init__(mean, torch.ones(mean.shape, dtype=torch.bool, device=mean.device), variances)

    def to_modes(self, v: Tensor) -> Tensor:
        return hartley(v[:, 0])

    def from_modes(self, modes: Tensor) -> Tensor:
        return hartley(modes)[:, None]

    def diagonal(self, f: Tensor) -> Tensor:
        n = f.shape[-1]
        modes = hartley(torch.eye(n * n, dtype=f.dtype, device=f.device).reshape(-1, n, n)).flatten(1)
        return (f.flatten(1) @ modes.square()).reshape(-1, 1, n, n)

    def channel_mean(self, f: Tensor) -> Tensor:
        return f.mean((-2, -1))[:, None]

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "mean": self.mean, "variances": self.variances}


class Mixture:
    """Equally likely Gaussian fields, 32 x 32, diagonal in the Hartley modes, with the exact denoiser of their mixture.

    Within a component the variances are proportional to (1 + k^2)^-1.5 and their sum over n^2 is .3; the means are the
    root of (1 + k^2)^-2, of sum .7, times N(0, 1), minus their mean; k = 0 is at 1 % of k = 1. Another `seed` gives
    another mixture.
    """

    def __init__(self, seed: int = 0, n: int = 32, components: int = 6) -> None:
        rng = np.random.default_rng([seed, 1])
        within, between = ((1 + squared_wavenumbers(n)) ** -p for p in (1.5, 2.0))
        for S, total in ((within, 0.3), (between, 0.7)):
            S[0, 0] = 0.01 * S[0, 1]
            S *= total * n**2 / S.sum()
        self.n, self.seed, self.within = n, seed, within.flatten()
        means = between.flatten().sqrt() * torch.from_numpy(rng.standard_normal((components, n * n)))
        self.means = means - means.mean(0)
        self.variance = self.within + self.means.square().mean(0)  # of each mode, exact

    def to(self, device: torch.device) -> "Mixture":
        """Itself, there."""
        self.within, self.means, self.variance = (v.to(device) for v in (self.within, self.means, self.variance))
        return self

    def draw(self, samples: int, stream: int) -> Tensor:
        """Modes (samples, n^2) of draws; another `stream` has other draws."""
        rng = np.random.default_rng([self.seed, 2, stream])
        which = torch.from_numpy(rng.integers(len(self.means), size=samples)).to(self.means.device)
        white = torch.from_numpy(rng.standard_normal((samples, self.n**2))).to(self.means)
        return self.means[which] + self.within.sqrt() * white

    def prior(self, draws: int) -> HartleyPrior:
        """The mean and the variance of each mode of so many draws."""
        modes = self.draw(draws, 0)
        shape = (self.n, self.n)
        return HartleyPrior(hartley(modes.mean(0).reshape(1, *shape)), modes.var(0).reshape(shape))

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x_0 | x] at one noise level, (B, 1, n, n)."""
        a, s2 = self.modes(x), float(sigma[0]) ** 2
        precision = 1 / (self.within + s2)
        # minus half the squared Mahalanobis distance, up to a term that all components share
        logits = (a * precision) @ self.means.T - 0.5 * (self.means.square() @ precision)
        mean = torch.softmax(logits, 1) @ self.means
        return hartley((mean + self.within * precision * (a - mean)).reshape(x.shape))

    def modes(self, x: Tensor) -> Tensor:
        """(B, n^2) of fields (B, 1, n, n)."""
        return hartley(x).flatten(1)
