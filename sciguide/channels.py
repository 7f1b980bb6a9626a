"""Where the fields of an equation are among the channels of a model: each its own, or those of its levels, or nowhere,
because it is the same in all samples, known, and never moved."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Channels:
    """The map between channels (B, C, Y, X) and an equation's `fields` (B, F, Y, X), or (B, F, Z, Y, X) over levels.

    `channels`: of the fields that have any, in their order, or of each one's levels; `static`: the values (Y, X) of
    the others, by name. `of`: the channels of every field, none where it is static; `live`: numbers of the fields that
    have channels.
    """

    def __init__(
        self, fields: Sequence[str], channels: Sequence[int] | Sequence[Sequence[int]], static: Mapping[str, NDArray]
    ) -> None:
        self.count, self.index = len(fields), torch.as_tensor(channels)  # (F', ) or (F', Z)
        self.live = [f for f, name in enumerate(fields) if name not in static]
        own = iter(self.index.tolist())
        self.of = [np.ravel(next(own)).astype(int).tolist() if f in self.live else [] for f in range(len(fields))]
        self.static = None
        if static:
            nothing = np.zeros_like(next(iter(static.values())))
            self.static = torch.from_numpy(np.stack([static.get(name, nothing) for name in fields]))

    def gather(self, v: Tensor) -> Tensor:
        """The equation's part of a change `v` of the channels: static fields do not change."""
        found = v[:, self.index.to(v.device)]
        if self.static is None:
            return found
        out = found.new_zeros(len(v), self.count, *found.shape[2:])
        out[:, self.live] = found
        return out

    def fields(self, x: Tensor) -> Tensor:
        """The equation's fields."""
        found = self.gather(x)
        return found if self.static is None else found + self.static.to(x)

    def scatter(self, u: Tensor, like: Tensor) -> Tensor:
        """The transpose of `gather`: as channels of zeros like x (B, C, Y, X)."""
        u = u if self.static is None else u[:, self.live]
        out = torch.zeros_like(like, dtype=u.dtype)
        return out.index_add(1, self.index.to(u.device).flatten(), u.reshape(len(u), -1, *like.shape[2:]))

    def replace(self, x: Tensor, u: Tensor) -> Tensor:
        """x with the equation's channels as in its fields `u`."""
        u = u if self.static is None else u[:, self.live]
        return x.index_copy(1, self.index.to(x.device).flatten(), u.reshape(len(x), -1, *x.shape[2:]))

    def each(self, values: NDArray, otherwise: float) -> NDArray:
        """`values` (C,) of the channels, for each field (F,), or (F, Z); `otherwise` for static ones."""
        found = np.asarray(values)[self.index.numpy()]
        out = np.full((self.count, *found.shape[1:]), otherwise, found.dtype)
        out[self.live] = found
        return out
