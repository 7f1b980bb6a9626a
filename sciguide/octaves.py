"""Residuals by wavenumber: an orthonormal real transform of the cells that are valid, and the octave of each number.

Hartley on periodic axes, sine (DST-I) on others: for constant coefficients J M J^T is nearly diagonal there.
"""

import math

import torch
from scipy.fft import dst
from torch import Tensor

BANDS = 4  # octaves of the wavenumber, the last holds all that is longer


class Octaves:
    """Of rows (..., L, Y, X) on the box (Y', X') around the cells that are `valid` (L, Y, X) in any of them. `band`:
    (Y', X'), the octave of every transformed number, 0 the shortest waves."""

    def __init__(self, valid: Tensor, boundary: tuple[str, str]) -> None:
        self.valid = valid
        any_of = valid.any(0)
        rows, columns = any_of.any(1).nonzero()[:, 0], any_of.any(0).nonzero()[:, 0]
        self.box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        sizes = [s.stop - s.start for s in self.box]
        self.transforms = [_transform(n, rule).to(valid.device) for n, rule in zip(sizes, boundary, strict=True)]
        self.band = _bands(*sizes, boundary).to(valid.device)

    def transform(self, r: Tensor) -> Tensor:
        """(..., Y, X) -> (..., Y', X')."""
        left, right = self.transforms
        return left @ r[..., self.box[0], self.box[1]] @ right.T

    def inverse(self, rho: Tensor, like: Tensor) -> Tensor:
        """The inverse of `transform`, shaped like `like`, zero where rows are not valid."""
        left, right = self.transforms
        out = torch.zeros_like(like)
        out[..., self.box[0], self.box[1]] = left.T @ rho @ right
        return torch.where(self.valid, out, 0)

    def means(self, rho: Tensor) -> Tensor:
        """The mean over each octave, (..., Y', X') -> (..., 4)."""
        return torch.stack([rho[..., self.band == b].mean(-1) for b in range(BANDS)], -1)


def _transform(n: int, rule: str) -> Tensor:
    """An orthonormal real transform of n points: Hartley on periodic axes, sine (DST-I) on others."""
    if rule == "periodic":
        angle = 2 * math.pi * torch.arange(n, dtype=torch.float64)[:, None] * torch.arange(n) / n
        return (angle.cos() + angle.sin()) / math.sqrt(n)
    return torch.from_numpy(dst(torch.eye(n, dtype=torch.float64).numpy(), type=1, axis=0, norm="ortho"))


def _bands(ny: int, nx: int, boundary: tuple[str, str]) -> Tensor:
    """The octave of every transformed number, (ny, nx)."""
    ky, kx = (_wavenumber(n, rule) for n, rule in zip((ny, nx), boundary, strict=True))
    k = (ky[:, None] ** 2 + kx**2).sqrt() / math.sqrt(2)
    return (-k.log2()).floor().clamp(0, BANDS - 1).long()


def _wavenumber(n: int, rule: str) -> Tensor:
    """Of the rows of `_transform`, over the shortest wave's."""
    i = torch.arange(n, dtype=torch.float64)
    return torch.minimum(i, n - i) / (n / 2) if rule == "periodic" else (i + 1) / n
