"""Tensor operations of the reference: constants that follow their company, ghosts and their transpose."""

import torch
from torch import Tensor

from .geometry import Ghosts


class Constant:
    """A tensor that follows the type and device of what it meets; a boolean one only the device."""

    def __init__(self, value: Tensor) -> None:
        self.value = value
        self._copies: dict[tuple, Tensor] = {}

    def like(self, other: Tensor) -> Tensor:
        """The value where `other` lives, converted once."""
        dtype = self.value.dtype if self.value.dtype == torch.bool else other.dtype
        key = dtype, other.device
        if key not in self._copies:
            with torch.inference_mode(False):  # an inference tensor kept here could not be used under autograd later
                self._copies[key] = self.value.to(other.device, dtype)
        return self._copies[key]


def extend(v: Tensor, dim: int, halo: int, ghosts: Ghosts) -> Tensor:
    """`v` with `halo` more points at both ends of `dim`, as the boundary rule has them."""
    if not halo:
        return v
    made = torch.zeros_like(v.index_select(dim, torch.zeros(2 * halo, dtype=torch.long, device=v.device)))
    shape = [-1 if d == dim % v.ndim else 1 for d in range(v.ndim)]
    for source, weight in zip(ghosts.source.T, ghosts.weight.T, strict=True):
        if weight.any():
            part = v.index_select(dim, torch.from_numpy(source.copy()).to(v.device))
            made = made + part * torch.from_numpy(weight).to(v.device, v.dtype).reshape(shape)
    low, high = made.split(halo, dim)
    return torch.cat([low, v, high], dim)


def fold(v: Tensor, dim: int, halo: int, ghosts: Ghosts) -> Tensor:
    """The transpose of `extend`: what was added to a ghost goes to the points that it is made of."""
    if not halo:
        return v
    n = v.shape[dim] - 2 * halo
    low, inside, high = v.split([halo, n, halo], dim)
    made = torch.cat([low, high], dim)
    shape = [-1 if d == dim % v.ndim else 1 for d in range(v.ndim)]
    for source, weight in zip(ghosts.source.T, ghosts.weight.T, strict=True):
        if weight.any():
            part = made * torch.from_numpy(weight).to(v.device, v.dtype).reshape(shape)
            inside = inside.index_add(dim, torch.from_numpy(source.copy()).to(v.device), part)
    return inside


def promote(u: Tensor) -> Tensor:
    """Half precision to float32: a residual is a small difference of large terms."""
    return u.float() if u.dtype in (torch.float16, torch.bfloat16) else u
