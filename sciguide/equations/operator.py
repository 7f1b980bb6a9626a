"""An equation on a grid: what guidance, rewards, training statistics and evaluation call.

It is made by `Equation.on`, or from a checkpoint by `Operator.from_dict` without the equation's own file.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciguide.errors import InputError
from sciguide.grid import Grid
from sciguide.kernels.adjoint import make_program
from sciguide.kernels.geometry import AXES
from sciguide.kernels.ops import Kernels
from sciguide.kernels.site import Site
from sciguide.kernels.stencil import Stencil


class Operator:
    """Residual, energy and derivatives of one equation on one grid. Fields u are tensors
    (B, F, Y, X), or (B, F, Z, Y, X) on three axes, in physical units, coordinates ascending, channels as in `fields`;
    values off the mask are ignored. Residuals are (B, K, Y, X), as in `components`.

    `scale`: per residual the rms of the scale term over the training data; `share`: of each residual in the energy,
    in sum 1; `groups`: residuals that are components of a vector, for which one scale is found; `valid`: bool, of the
    grid's shape, the cells whose stencil exists; `linear`: whether J is constant; `moves`: the fields that a guide may
    move; `kernels`: what computes.
    """

    def __init__(
        self,
        name: str,
        formula: str,
        residual: Stencil,
        scale_term: Stencil,
        grid: Grid,
        constants: Mapping[str, float],
        moves: tuple[str, ...],
        units: str | None,
        scale: float | Sequence[float] = 1.0,
        share: Sequence[float] = (1.0,),
        groups: Sequence[Sequence[int]] = (),
    ) -> None:
        self.name, self.formula, self.grid, self.constants = name, formula, grid, dict(constants)
        self.moves, self.units, self.groups = tuple(moves), units, [list(g) for g in groups]
        self.stencils, self.components = (residual, scale_term), residual.names
        self.fields, self.linear = list(residual.fields), residual.linear
        K = len(self.components)
        self.scale = tuple(np.broadcast_to(np.asarray(scale, np.float64), (K,)).tolist())
        self.share = tuple((np.asarray(share, np.float64) / np.sum(share)).tolist())
        if not min(self.scale) > 0 or len(self.share) != K or min(self.share) < 0:
            raise InputError(f"equation {name}: scale {scale} must be positive, and weights {share} not negative")
        self.kernels = Kernels(self._site(residual, self.scale, self.share))
        self.valid = torch.from_numpy(self.kernels.site.valid).reshape(grid.shape)
        if not self.valid.any():
            sizes = " x ".join(str(1 + 2 * h) for h in residual.halo[-len(grid.axes) :])
            raise InputError(
                f"equation {name}: its stencil of {sizes} points fits nowhere between the edges and gaps of the "
                f"{' x '.join(map(str, grid.shape))} grid; give a larger grid, or data with fewer gaps"
            )

    @cached_property
    def _scale(self) -> Kernels:
        return Kernels(self._site(self.stencils[1], (1.0,) * len(self.components), self.share))

    @property
    def linear_in_moves(self) -> bool:
        """Whether r is linear in the fields that a guide may move, whatever the others are."""
        pairs = [(r.name, s.name) for found in self.kernels.site.program.curvatures for r, s, _ in found]
        return not any(r in self.moves and s in self.moves for r, s in pairs)

    def residual(self, u: Tensor) -> Tensor:
        """r (B, K, Y, X), zero where not valid."""
        return self.kernels.residual(u)

    def energy(self, u: Tensor) -> Tensor:
        """R (B,): area-weighted mean of (r / scale)^2 over the valid cells, and over the residuals by their shares."""
        return self.kernels.energy(u)

    def gradient(self, u: Tensor) -> Tensor:
        """d energy / d u, like u, of all fields, zero off the mask."""
        return self.kernels.gradient(u)

    def energy_and_gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Both in one launch; no gradient flows through it."""
        return self.kernels.energy_and_gradient(u)

    def update(self, u: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
        """The energy of u, and u - step * gradient for `step` (B, F), in one launch; no gradient flows through it."""
        return self.kernels.update(u, step)

    def jvp(self, u: Tensor, v: Tensor) -> Tensor:
        """J v, like the residual at `u`, along `v`, which is like u."""
        return self.kernels.jvp(u, v)

    def vjp(self, u: Tensor, w: Tensor) -> Tensor:
        """J^T w, like u, of the residual at `u` for `w` like the residual."""
        return self.kernels.vjp(u, w)

    def hvp(self, u: Tensor, v: Tensor) -> Tensor:
        """The second derivative of the energy along `v`, like u."""
        return self.kernels.hvp(u, v)

    def magnitude(self, u: Tensor) -> Tensor:
        """sum_o |dr/du_o| |u_o|, like the residual, against which the rounding of r is judged."""
        return self.kernels.reference.magnitude(u)

    def mean_square(self, r: Tensor) -> Tensor:
        """Area-weighted mean over the valid cells of r^2, (B, K, Y, X) -> (B, K)."""
        return self.kernels.reference.mean_square(r)

    def relative(self, r: Tensor) -> Tensor:
        """r / scale, (B, K, Y, X)."""
        scale = torch.as_tensor(self.scale, dtype=r.dtype, device=r.device)
        return r / scale.reshape(-1, *(1,) * len(self.grid.axes))

    def scale_term(self, u: Tensor) -> Tensor:
        """The terms that the equation names for comparison, (B, K, Y, X), zero where their own stencil does not fit."""
        return self._scale.residual(u)

    def scale_square(self, u: Tensor) -> Tensor:
        """Area-weighted mean squares of the scale terms, (B, K), those of a vector's components their mean; `scale` is
        the root of their mean over the data."""
        found = self._scale.reference.mean_square(self._scale.residual(u))
        for group in self.groups:
            found[:, group] = found[:, group].mean(1, keepdim=True)
        return found

    def in_units(self, offset: np.ndarray, factor: np.ndarray, log: np.ndarray) -> Kernels:
        """The same for fields x with u = offset + factor x, or the exponential of that where `log` is set, (F,) each:
        derivatives are with respect to x."""
        return Kernels(self.kernels.site.with_units(offset, factor, log))

    def scaled(self, scale: float | Sequence[float]) -> "Operator":
        """The same operator with another `scale`."""
        return self.from_dict({**self.to_dict(), "scale": scale}, self.grid)

    def symbol(self, field: str, theta_y: np.ndarray, theta_x: np.ndarray) -> np.ndarray:
        """What J of the first residual makes of exp(i (theta_y j + theta_x i)) in `field`, as a factor; thetas in
        radians per point, arrays that broadcast. Raises ValueError where J varies in space or with the fields."""
        total: complex | np.ndarray = 0.0
        for read, weight in self.kernels.reference.weights()[0].items():
            if read.name == field:
                total = total + weight * np.exp(1j * (theta_y * read.dj + theta_x * read.di))
        return np.asarray(total)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types, from which `from_dict` makes the operator again without the equation's file. The grid is
        not in it: a model stores that once, for all its equations."""
        return {
            "name": self.name,
            "formula": self.formula,
            "residual": self.stencils[0].to_json(),
            "scale_term": self.stencils[1].to_json(),
            "constants": self.constants,
            "moves": list(self.moves),
            "units": self.units,
            "scale": list(self.scale),
            "share": list(self.share),
            "groups": self.groups,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any], grid: Grid) -> "Operator":
        """Raises InputError for a tree that `to_dict` does not write."""
        try:
            stencils = [Stencil.from_json(state[k]) for k in ("residual", "scale_term")]
            kept = ("name", "formula", "constants", "moves", "units", "scale", "share", "groups")
            return cls(residual=stencils[0], scale_term=stencils[1], grid=grid, **{k: state[k] for k in kept})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"stored equation {state.get('name')!r} cannot be read: {error}") from error

    def __reduce__(self) -> tuple:
        return Operator.from_dict, (self.to_dict(), self.grid)

    def _site(self, stencil: Stencil, scale: Sequence[float], share: Sequence[float]) -> Site:
        return site_of(stencil, self.grid, self.constants, scale, share)


def site_of(
    stencil: Stencil, grid: Grid, constants: Mapping[str, float], scale: Sequence[float], share: Sequence[float]
) -> Site:
    """`stencil` on `grid`; a grid of two axes is one level."""
    farthest = max((abs(c.offset) for c in stencil.coefficients), default=0)
    pad = farthest + 2 * max(stencil.halo) + 1
    names = {c.name for c in stencil.coefficients}
    numbers = {n: constants[n] if n in constants else grid.metric(n, pad) for n in names}
    flat = len(AXES) - len(grid.axes)
    whole = [np.arange(-pad, pad + 1.0)] * flat + [grid.extended(axis, pad) for axis in grid.axes]
    shape = (1,) * flat + grid.shape
    return Site.plain(
        make_program(stencil),
        shape,
        len(grid.axes),
        numbers=numbers,
        pad=pad,
        rules=("open",) * flat + grid.boundary,
        coordinates=tuple(whole),
        widths=(np.ones(1),) * flat + grid.widths(),
        mask=None if grid.mask is None else grid.mask.reshape(shape),
        scale=np.asarray(scale),
        share=np.asarray(share),
    )
