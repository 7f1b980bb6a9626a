"""Gaussian random fields with covariance sigma^2 (-lap + tau^2)^-alpha on the unit square, sigma = tau^(alpha - 1).

Both are sums of orthogonal modes with independent normal coefficients and no mean:

- `cosine`: Neumann cosines on N x N cell centres, the inputs of the sparse reconstruction benchmarks of DiffusionPDE
  and FunDPS: orthonormal inverse DCT of tau^(alpha-1) (pi^2 |k|^2 + tau^2)^(-alpha/2) N z;
- `periodic`: Re ifft2[N^2 sqrt(2) sigma (4 pi^2 |k|^2 + tau^2)^(-alpha/2) xi] with complex xi, E |xi|^2 = 1, so that
  the variance is sigma^2 sum_k (4 pi^2 |k|^2 + tau^2)^-alpha. (Older versions of the published generator have
  E |xi|^2 = 2 and sqrt(2) times this standard deviation.)

The white noise is the argument, float64: a field is a linear function of it, which `poisson.Posterior` relies on.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn, ifft2


def cosine_amplitudes(n: int, alpha: float, tau: float) -> NDArray[np.float64]:
    """Standard deviation of each orthonormal cosine coefficient, (n, n); 0 for the mean."""
    k = np.arange(n)
    k2 = k[:, None] ** 2 + k**2
    amplitudes = n * tau ** (alpha - 1) * (np.pi**2 * k2 + tau**2) ** (-alpha / 2)
    amplitudes[0, 0] = 0.0
    return amplitudes


def cosine_field(noise: NDArray, alpha: float, tau: float) -> NDArray[np.float64]:
    """The field on n x n cell centres of white `noise` (..., n, n): C^(1/2) z."""
    return idctn(cosine_amplitudes(noise.shape[-1], alpha, tau) * noise, axes=(-2, -1), norm="ortho")


def cosine_transpose(field: NDArray, alpha: float, tau: float) -> NDArray[np.float64]:
    """The transpose of `cosine_field`, (..., n, n) -> (..., n, n)."""
    return cosine_amplitudes(field.shape[-1], alpha, tau) * dctn(field, axes=(-2, -1), norm="ortho")


def periodic_amplitudes(n: int, alpha: float, tau: float) -> NDArray[np.float64]:
    """Square root of the variance that each wavenumber, in the order of the FFT, adds to the field; (n, n)."""
    k = np.fft.fftfreq(n, 1 / n)
    k2 = k[:, None] ** 2 + k**2
    amplitudes = tau ** (alpha - 1) * (4 * np.pi**2 * k2 + tau**2) ** (-alpha / 2)
    amplitudes[0, 0] = 0.0
    return amplitudes


def periodic_field(noise: NDArray, alpha: float, tau: float) -> NDArray[np.float64]:
    """The periodic field of white `noise` (..., 2, n, n): the real and imaginary parts of sqrt(2) xi."""
    n = noise.shape[-1]
    xi = noise[..., 0, :, :] + 1j * noise[..., 1, :, :]
    return ifft2(n**2 * periodic_amplitudes(n, alpha, tau) * xi).real
