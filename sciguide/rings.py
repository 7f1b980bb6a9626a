"""Rings of the wavenumber: a smooth isotropic spectrum of fields on a grid, by FFT on periodic axes and DCT-II on
others."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sciguide.prior import dct_matrix, transform_axes

RINGS = 24
PROBES = 4


class Rings:
    """Of fields (..., Y, X) on `device`: RINGS of them, evenly spaced in the logarithm of the wavenumber. `position`
    (Y, X): of every number of the transform, 0 to RINGS - 1; the mean, the first number, belongs to none."""

    def __init__(
        self, shape: tuple[int, int], boundary: Sequence[str], device: torch.device | str | None = None
    ) -> None:
        self.transforms = tuple("fft" if rule == "periodic" else "dct" for rule in boundary)
        self.matrices = tuple(dct_matrix(n).to(device) for n in shape)
        ky, kx = (_wavenumber(n, rule) for n, rule in zip(shape, boundary, strict=True))
        k = (ky[:, None] ** 2 + kx**2).sqrt()
        longest = float(k[k > 0].min())
        position = (k.clamp(min=longest) / longest).log() / math.log(float(k.max()) / longest) * (RINGS - 1)
        self.position = position.to(device)

    def scale(self, v: Tensor, factors: Tensor) -> Tensor:
        """The fields with every number of their transform multiplied, `factors` (Y, X)."""
        matrices = tuple(m.to(v) for m in self.matrices)
        found = factors.to(v) * transform_axes(v, self.transforms, matrices)
        return transform_axes(found, self.transforms, tuple(m.T for m in matrices), inverse=True)

    def response(self, operator: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        """Mean |operator(v)|^2 / |v|^2 of random fields v of each ring, as `operator` has them (PROBES, Y, X), spread
        over the wavenumbers, (Y, X), log-linear between rings; and of a constant, in its place."""
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(PROBES, *self.position.shape, generator=generator, dtype=like.dtype).to(like)
        found, places = [], []
        for ring in range(RINGS):
            there = (self.position.round() == ring).to(like)
            there[0, 0] = 0
            if there.any():
                v = self.scale(z, there)
                found.append(operator(v).square().sum() / v.square().sum())
                places.append(float(self.position[there > 0].mean()))
        out = _between(like.new_tensor(places), torch.stack(found).log(), self.position.to(like)).exp()
        out[0, 0] = operator(torch.ones_like(z[:1])).square().sum() / z[0].numel()
        return out


def _wavenumber(n: int, rule: str) -> Tensor:
    """In half waves per point."""
    i = torch.arange(n, dtype=torch.float64)
    return 2 * torch.minimum(i, n - i) / n if rule == "periodic" else i / n


def _between(places: Tensor, values: Tensor, at: Tensor) -> Tensor:
    """Linear interpolation of `values` at ascending `places`, constant beyond the ends."""
    right = torch.searchsorted(places, at.contiguous()).clamp(1, len(places) - 1)
    part = ((at - places[right - 1]) / (places[right] - places[right - 1])).clamp(0, 1)
    return (1 - part) * values[right - 1] + part * values[right]
