"""An equation on a grid: what guidance, rewards, training statistics and evaluation call.

It is made by `Equation.on`, or from a checkpoint by `Operator.from_dict` without the equation's own file.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from sciguide.errors import InputError
from sciguide.grid import Grid
from sciguide.kernels.reference import Reference
from sciguide.kernels.stencil import Stencil


class Operator:
    """`residual`, `energy`, `gradient`, `jvp` and `vjp` of one equation on one grid. Fields u are tensors
    (B, F, Y, X) in physical units, rows ascending, channels as in `fields`; values off the mask are ignored.

    `scale`: the rms of the equation's scale term over the training data, one number; `valid`: bool (Y, X), the cells
    whose stencil exists; `linear`: whether J is constant; `moves`: the fields that a guide may move."""

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
        scale: float = 1.0,
    ) -> None:
        self.name, self.formula, self.grid, self.constants = name, formula, grid, dict(constants)
        self.moves, self.units, self.scale = tuple(moves), units, float(scale)
        if not self.scale > 0:
            raise InputError(f"equation {name}: scale {scale} must be positive")
        self.stencils = residual, scale_term
        self.fields, self.linear = list(residual.fields), residual.linear
        self._residual, self._scale = self._backend(residual, self.scale), self._backend(scale_term, 1.0)
        self.valid = self._residual.valid
        if not self.valid.any():
            (ny, nx), (height, width) = grid.shape, (1 + 2 * h for h in residual.halo)
            raise InputError(
                f"equation {name}: its stencil of {height} x {width} points fits nowhere between the edges and gaps of "
                f"the {ny} x {nx} grid; give a larger grid, or data with fewer gaps"
            )

    def residual(self, u: Tensor) -> Tensor:
        """r (B, Y, X), zero where not valid."""
        return self._residual.residual(u)

    def energy(self, u: Tensor) -> Tensor:
        """R (B,): area-weighted mean of (r / scale)^2 over the valid cells."""
        return self._residual.energy(u)

    def gradient(self, u: Tensor) -> Tensor:
        """d energy / d u (B, F, Y, X), of all fields, zero off the mask."""
        return self._residual.gradient(u)

    def jvp(self, u: Tensor, v: Tensor) -> Tensor:
        """J v (B, Y, X) of the residual at `u` along `v` (B, F, Y, X)."""
        return self._residual.jvp(u, v)

    def vjp(self, u: Tensor, w: Tensor) -> Tensor:
        """J^T w (B, F, Y, X) of the residual at `u` for `w` (B, Y, X)."""
        return self._residual.vjp(u, w)

    def magnitude(self, u: Tensor) -> Tensor:
        """sum_o |dr/du_o| |u_o| (B, Y, X), against which the rounding of r is judged."""
        return self._residual.magnitude(u)

    def mean_square(self, r: Tensor) -> Tensor:
        """Area-weighted mean over the valid cells of r^2, (B, Y, X) -> (B,)."""
        return self._residual.mean_square(r)

    def scale_term(self, u: Tensor) -> Tensor:
        """The term that the equation names for comparison, (B, Y, X), zero where its own stencil does not fit."""
        return self._scale.residual(u)

    def scale_square(self, u: Tensor) -> Tensor:
        """Area-weighted mean square of the scale term, (B,); `scale` is the root of its mean over the data."""
        return self._scale.energy(u)

    def scaled(self, scale: float) -> "Operator":
        """The same operator with another `scale`."""
        return self.from_dict({**self.to_dict(), "scale": scale}, self.grid)

    def symbol(self, field: str, theta_y: np.ndarray, theta_x: np.ndarray) -> np.ndarray:
        """What J makes of exp(i (theta_y j + theta_x i)) in `field`, as a factor; thetas in radians per point, arrays
        that broadcast. Raises ValueError where J varies in space or with the fields."""
        total: complex | np.ndarray = 0.0
        for point, weight in self._residual.weights().items():
            if point.name == field:
                total = total + weight * np.exp(1j * (theta_y * point.dj + theta_x * point.di))
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
            "scale": self.scale,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any], grid: Grid) -> "Operator":
        """Raises InputError for a tree that `to_dict` does not write."""
        try:
            stencils = [Stencil.from_json(state[k]) for k in ("residual", "scale_term")]
            rest = {k: state[k] for k in ("name", "formula", "constants", "moves", "units", "scale")}
            return cls(residual=stencils[0], scale_term=stencils[1], grid=grid, **rest)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"stored equation {state.get('name')!r} cannot be read: {error}") from error

    def __reduce__(self) -> tuple:
        return Operator.from_dict, (self.to_dict(), self.grid)

    def _backend(self, stencil: Stencil, scale: float) -> Reference:
        values = {
            c: self.constants[c.name] if c.name in self.constants else self.grid.metric(c.name, c.offset)
            for c in stencil.coefficients
        }
        return Reference(stencil, values, self.grid.boundary, self.grid.weights(), self.grid.mask, scale)
