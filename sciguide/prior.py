"""The prior: the joint Gaussian N(mu, C) of all channels of the data.

C is diagonal in orthonormal *modes* with variances S, so that every function of it is a scaling of modes. For white
noise of standard deviation sigma on top of it,

    W(x) = mu + C (C + sigma^2)^-1 (x - mu)        the Wiener filter, the best linear estimate of the clean field,
    M    = C sigma^2 (C + sigma^2)^-1              the covariance of its error.

One object serves the preconditioning of the network, the start of the sampler, its integrator, the metric of guidance
and the draws of the posterior's spread. Three representations, chosen from the grid by `fit_prior`:

- `Isotropic`  mu = 0, C = sigma_data^2 (EDM's preconditioning, Karras et al. 2022, arXiv 2206.00364, table 1);
- `Spectral`   a cross-spectrum between the channels per wavenumber, FFT on periodic axes and DCT-II on others;
- `EOF`        leading empirical orthogonal functions V and one variance tau^2 on their complement,
               C = V S V^T + tau^2 (I - V V^T), land left out of the vectors.

Fields are normalised tensors (B, C, Y, X), zero where the mask is False; `sigma` is a float or a tensor (B,).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor, nn

NEGLIGIBLE = 1e-12  # modes with a smaller share of the largest variance carry no network output


class Prior(nn.Module, ABC):
    """N(mu, C). A representation supplies the three abstract methods; this class supplies all that is made of them.

    `mean`: (C, Y, X); `mask`: bool (C, Y, X), True where the field lives; `variances`: S, the shape of the modes of one
    sample. Buffers are not in the `state_dict`: a checkpoint holds them once, as `to_dict()`.
    """

    kind: str

    def __init__(self, mean: Tensor, mask: Tensor, variances: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("variances", variances, persistent=False)

    @abstractmethod
    def to_modes(self, v: Tensor) -> Tensor:
        """Coefficients (B, *variances.shape) of the fields `v` (B, C, Y, X); values off the mask are ignored."""

    @abstractmethod
    def from_modes(self, modes: Tensor) -> Tensor:
        """The fields (B, C, Y, X) of `modes`, zero off the mask."""

    @abstractmethod
    def diagonal(self, f: Tensor) -> Tensor:
        """The diagonal of f(C) at every point: `f` (B, *variances.shape) -> (B, C, Y, X), zero off the mask."""

    @abstractmethod
    def channel_mean(self, f: Tensor) -> Tensor:
        """Its mean over each channel's points, (B, C), without computing it."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """What `prior_from_dict` needs: a kind and tensors."""

    def cast(self, dtype: torch.dtype) -> "Prior":
        """A copy in the real `dtype` and the complex one that belongs to it."""

        def convert(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.dtype == torch.bool:
                return value
            return value.to(dtype.to_complex() if value.is_complex() else dtype)

        return prior_from_dict({k: convert(v) for k, v in self.to_dict().items()})

    @property
    def largest(self) -> float:
        """The largest variance of a mode."""
        return float(self.variances.max())

    def _sigma(self, sigma: float | Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=self.variances.dtype, device=self.variances.device)
        return sigma.reshape(-1, *[1] * self.variances.ndim)

    def error_variances(self, sigma: float | Tensor) -> Tensor:
        """The variances of M, (B or 1, *variances.shape)."""
        s2 = self._sigma(sigma) ** 2
        return self.variances * (s2 / (self.variances + s2))

    def scale_modes(self, v: Tensor, scale: Tensor) -> Tensor:
        """f(C) v for the function of C whose value on each mode is `scale`."""
        return self.from_modes(scale * self.to_modes(v))

    def filter(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """W(x), the Wiener filter's estimate of the clean field."""
        s2 = self._sigma(sigma) ** 2
        return self.mean + self.scale_modes(x - self.mean, self.variances / (self.variances + s2))

    def sample(self, noise: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """A draw of N(mu, C + sigma^2) from white `noise` (B, C, Y, X), by the symmetric root."""
        return self.mean + self.scale_modes(noise, (self.variances + self._sigma(sigma) ** 2).sqrt())

    def apply_M(self, v: Tensor, sigma: float | Tensor) -> Tensor:
        """M v, (B, C, Y, X)."""
        return self.scale_modes(v, self.error_variances(sigma))

    def apply_weighted(
        self, v: Tensor, sigma: float | Tensor, weights: Tensor, groups: Sequence[Sequence[int]]
    ) -> Tensor:
        """sum_d w_cd M_cd v_d of every channel c, (B, C, Y, X), M_cd the blocks of M: symmetric `weights`
        (B or 1, C, C), alike for the channels of each of the `groups` and zero for others."""
        out = torch.zeros_like(v)
        for own in groups:
            alone = torch.zeros_like(v)
            alone[:, own] = v[:, own]
            out += weights[:, :, own[0], None, None] * self.apply_M(alone, sigma)
        return out

    def sqrt_M(self, v: Tensor, sigma: float | Tensor) -> Tensor:
        """M^(1/2) v by the symmetric root, (B, C, Y, X)."""
        return self.scale_modes(v, self.error_variances(sigma).sqrt())

    def error_std(self, sigma: float | Tensor) -> Tensor:
        """Root mean square error of W per channel, (B or 1, C, 1, 1)."""
        return self.channel_mean(self.error_variances(sigma)).sqrt()[..., None, None]

    def noisy_std(self, sigma: float | Tensor) -> Tensor:
        """Root mean square of x - mu per channel at noise level `sigma`, (B or 1, C, 1, 1)."""
        return self.channel_mean(self.variances + self._sigma(sigma) ** 2).sqrt()[..., None, None]


class Isotropic(Prior):
    """mu = 0 and C = sigma_data^2 on the mask: no structure at all."""

    kind = "isotropic"

    def __init__(self, mask: Tensor, sigma_data: float | Tensor = 1.0) -> None:
        sigma_data = torch.as_tensor(sigma_data)
        super().__init__(
            torch.zeros(mask.shape, dtype=sigma_data.dtype), mask, (sigma_data**2).expand(mask.shape).clone()
        )

    def to_modes(self, v: Tensor) -> Tensor:
        return torch.where(self.mask, v, 0)

    def from_modes(self, modes: Tensor) -> Tensor:
        return modes

    def diagonal(self, f: Tensor) -> Tensor:
        return torch.where(self.mask, f, 0)

    def channel_mean(self, f: Tensor) -> Tensor:
        return f.mean((-2, -1))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "mask": self.mask, "sigma_data": self.variances.flatten()[0].sqrt()}


class Spectral(Prior):
    """A channel-by-channel covariance per wavenumber, for regular grids without a mask.

    `transforms`: "fft" or "dct" for (y, x); `vectors`: (C, K, Y, X), the unit eigenvectors of each wavenumber's C x C
    cross-spectrum (K = C), complex where an axis is periodic; `variances`: (K, Y, X), their eigenvalues.
    """

    kind = "spectral"

    def __init__(self, mean: Tensor, variances: Tensor, vectors: Tensor, transforms: tuple[str, str]) -> None:
        super().__init__(mean, torch.ones(mean.shape, dtype=torch.bool), variances)
        self.transforms = tuple(transforms)
        self.register_buffer("vectors", vectors, persistent=False)
        for axis, n in zip("yx", mean.shape[-2:], strict=True):
            self.register_buffer(f"cosines_{axis}", dct_matrix(n).to(mean.dtype), persistent=False)

    def transform(self, v: Tensor) -> Tensor:
        """Orthonormal transform of the last two axes."""
        return transform_axes(v, self.transforms, (self.cosines_y, self.cosines_x))

    def to_modes(self, v: Tensor) -> Tensor:
        return torch.einsum("ckyx,bcyx->bkyx", self.vectors.conj(), self.transform(v).to(self.vectors.dtype))

    def from_modes(self, modes: Tensor) -> Tensor:
        v = torch.einsum("ckyx,bkyx->bcyx", self.vectors, modes)
        return transform_axes(v, self.transforms, (self.cosines_y.T, self.cosines_x.T), inverse=True)

    def diagonal(self, f: Tensor) -> Tensor:
        power = torch.einsum("ckyx,bkyx->bcyx", self.vectors.abs() ** 2, f)
        # squares of what the modes are at a point: of cosines, or alike for all
        for kind, cosines, axis in zip(self.transforms, (self.cosines_y, self.cosines_x), (-2, -1), strict=True):
            square = cosines.square() if kind == "dct" else torch.full_like(cosines, 1 / len(cosines))
            power = (power.movedim(axis, -1) @ square).movedim(-1, axis)
        return power

    def channel_mean(self, f: Tensor) -> Tensor:
        return torch.einsum("ckyx,bkyx->bc", self.vectors.abs() ** 2, f) / f[0, 0].numel()

    def to_dict(self) -> dict[str, Any]:
        keys = ("mean", "variances", "vectors")
        return {"kind": self.kind, "transforms": list(self.transforms), **{k: getattr(self, k) for k in keys}}


class EOF(Prior):
    """Leading modes V (columns of `vectors`, (D, r), orthonormal on the D points of the mask) with `leading` variances
    (r,), and on the orthogonal complement one variance `tau2`, or one of each channel (C,): then V must span as many
    directions as its parts in the channels do, so that V V^T and the complement are block-diagonal. The modes of a
    sample are the r amplitudes followed by the remainder on the D points: redundant, but every function of C is still a
    scaling of them."""

    kind = "eof"

    def __init__(self, mean: Tensor, mask: Tensor, vectors: Tensor, leading: Tensor, tau2: Tensor) -> None:
        points = mask.flatten(1).sum(1)
        self.points = points.tolist()
        tau2 = torch.as_tensor(tau2, dtype=leading.dtype).expand(len(mask))
        super().__init__(mean, mask, torch.cat([leading, tau2.repeat_interleave(points)]))
        self.register_buffer("vectors", vectors, persistent=False)
        self.register_buffer("tau2", tau2, persistent=False)
        self.register_buffer("index", mask.flatten().nonzero()[:, 0], persistent=False)
        ends = vectors.shape[1] + points.cumsum(0)  # the last of a channel's variances stands for all of it
        self.register_buffer("last", ends - 1, persistent=False)
        loads = [v.square().sum(0) / max(len(v), 1) for v in vectors.split(self.points)]
        self.register_buffer("loads", torch.stack(loads), persistent=False)  # (C, r): mean of V^2 per channel

    def to_modes(self, v: Tensor) -> Tensor:
        v = v.flatten(1)[:, self.index]
        amplitudes = v @ self.vectors
        return torch.cat([amplitudes, v - amplitudes @ self.vectors.T], 1)

    def from_modes(self, modes: Tensor) -> Tensor:
        r = self.vectors.shape[1]
        v = modes[:, :r] @ self.vectors.T + modes[:, r:]
        out = v.new_zeros(len(v), self.mask.numel())
        out[:, self.index] = v
        return out.reshape(-1, *self.mask.shape)

    def apply_weighted(
        self, v: Tensor, sigma: float | Tensor, weights: Tensor, groups: Sequence[Sequence[int]]
    ) -> Tensor:
        """As w_cc m_tau v_c + V_c (m - m_tau) sum_d w_cd V_d^T v_d with the rows V_c of V of each channel: two small
        products a channel, whatever the weights."""
        m, r = self.error_variances(sigma), self.vectors.shape[1]
        rows, rest = self.vectors.split(self.points), m[:, self.last]
        used = [c for own in groups for c in own]
        inside = [v[:, c][:, self.mask[c]] for c in used]
        amplitudes = torch.stack([own @ rows[c] for own, c in zip(inside, used, strict=True)], 1)
        mixed = (m[:, None, :r] - rest[:, used, None]) * (weights[:, used][:, :, used] @ amplitudes)
        out = torch.zeros_like(v)
        for k, c in enumerate(used):
            scale = (weights[:, c, c] * rest[:, c])[:, None]
            out[:, c, self.mask[c]] = scale * inside[k] + mixed[:, k] @ rows[c].T
        return out

    def diagonal(self, f: Tensor) -> Tensor:
        r, square = self.vectors.shape[1], self.vectors.square()
        out = f.new_zeros(len(f), self.mask.numel())
        out[:, self.index] = f[:, :r] @ square.T + f[:, r:] * (1 - square.sum(1))
        return out.reshape(-1, *self.mask.shape)

    def channel_mean(self, f: Tensor) -> Tensor:
        return f[:, : self.vectors.shape[1]] @ self.loads.T + f[:, self.last] * (1 - self.loads.sum(1))

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            **{"mean": self.mean, "mask": self.mask, "vectors": self.vectors},
            **{"leading": self.variances[: self.vectors.shape[1]], "tau2": self.tau2},
        }


def prior_from_dict(state: dict[str, Any]) -> Prior:
    """The prior that `to_dict` described. Raises KeyError for a kind that does not exist."""
    kinds = {"isotropic": Isotropic, "spectral": Spectral, "eof": EOF}
    arguments = {k: v for k, v in state.items() if k != "kind"}
    return kinds[state["kind"]](**arguments)


def dct_matrix(n: int) -> Tensor:
    """The orthonormal DCT-II of n points as a matrix, float64: coefficients = matrix @ values."""
    return torch.from_numpy(dct(np.eye(n), axis=0, norm="ortho"))


def transform_axes(v: Tensor, transforms: tuple[str, str], matrices: tuple[Tensor, Tensor], inverse: bool = False):
    """Apply "fft" or "dct" (as a matrix) along the last two axes of `v`; the inverse returns the real part."""
    fft = torch.fft.ifft if inverse else torch.fft.fft
    for axis, (kind, matrix) in zip((-2, -1), zip(transforms, matrices, strict=True), strict=True):
        if kind == "fft":
            v = fft(v, dim=axis, norm="ortho")
        else:
            moved = v.movedim(axis, -1)
            v = (moved @ matrix.T.to(moved.dtype)).movedim(-1, axis)
    return v.real if inverse and v.is_complex() else v
