"""A stencil's place: the numbers of one grid, its edges, gaps and weights, and the units of its fields.

Everything here is NumPy in float64; each backend rounds once to the type it computes in.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .geometry import AXES, RULES, Ghosts, field_rule, ghosts
from .program import Program, Table, number


@dataclass(frozen=True, eq=False)
class Site:
    """Where a program of F fields and K residuals is evaluated, on `shape` = (nz, ny, nx) points; nz is 1 and tensors
    have no z where `axes` is 2.

    `numbers`: of every coefficient, a float, or values along its axis from `pad` points before the first to `pad` after
    the last; `rules`: beyond the edges of (z, y, x); `coordinates`: of each axis, with the same `pad`; `widths`: of the
    cells along each axis, their product is the area; `mask`: bool (nz, ny, nx), True where points exist, None for all;
    `scale`, `share`: (K,), what each residual is divided by, and its part of the energy, together 1.

    Fields are u = offset + factor x, or the exponential of that where `log` is set, (F,) each; derivatives are with
    respect to x. Raises ValueError for what does not fit together.
    """

    program: Program
    shape: tuple[int, int, int]
    axes: int
    numbers: dict[str, float | NDArray[np.float64]]
    pad: int
    rules: tuple[str, str, str]
    coordinates: tuple[NDArray, NDArray, NDArray]
    widths: tuple[NDArray, NDArray, NDArray]
    mask: NDArray[np.bool_] | None
    scale: NDArray[np.float64]
    share: NDArray[np.float64]
    offset: NDArray[np.float64]
    factor: NDArray[np.float64]
    log: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if not set(self.rules) <= set(RULES):
            raise ValueError(f"boundary {self.rules}: the rules are {', '.join(RULES)}")
        if self.mask is not None and self.mask.shape != self.shape:
            raise ValueError(f"mask has shape {self.mask.shape}, not {self.shape}")
        for name, values in self.numbers.items():
            sizes = {n + 2 * self.pad for n in self.shape}
            if np.ndim(values) and len(values) not in sizes:
                raise ValueError(f"coefficient {name} has {len(values)} values, not one of {sorted(sizes)}")

    @classmethod
    def plain(cls, program: Program, shape: tuple[int, int, int], axes: int, **given: object) -> "Site":
        """A site whose `given` parts are completed: unit widths and scales, fields as they are."""
        F, K = len(program.fields), len(program.names)
        defaults: dict = {
            "mask": None,
            "scale": np.ones(K),
            "share": np.full(K, 1 / K),
            "offset": np.zeros(F),
            "factor": np.ones(F),
            "log": np.zeros(F, bool),
            "widths": tuple(np.ones(n) for n in shape),
        }
        return cls(program, shape, axes, **{**defaults, **given})

    def with_units(self, offset: NDArray, factor: NDArray, log: NDArray) -> "Site":
        """The same place for fields in other units, such as normalised ones."""
        return replace(self, offset=np.asarray(offset), factor=np.asarray(factor), log=np.asarray(log))

    def ghosts(self, axis: int, name: str, degree: int = 2) -> Ghosts:
        """The ghosts of field `name` along axis 0, 1, 2 = z, y, x."""
        halo, rule = self.program.halo[axis], field_rule(self.rules[axis], name in self.program.positive)
        near = self.coordinates[axis][self.pad - halo : self.pad + self.shape[axis] + halo]
        return ghosts(rule, self.shape[axis], halo, near, degree)

    def coefficient(self, name: str, axis: str, offset: int, margin: int = 0) -> NDArray | float:
        """The numbers of a coefficient read `offset` points further on, for the cells from -margin to n + margin; one
        number where it does not vary."""
        values = self.numbers[name]
        if np.ndim(values) == 0:
            return float(values)
        first = self.pad + offset - margin
        return values[first : first + self.shape[AXES.index(axis)] + 2 * margin]

    def broadcast(self, name: str, axis: str, offset: int) -> NDArray | float:
        """The same, shaped to broadcast over (Z, Y, X)."""
        values = self.coefficient(name, axis, offset)
        return values if np.ndim(values) == 0 else values.reshape([-1 if a == axis else 1 for a in AXES])

    def table(self, table: Table) -> NDArray[np.float64]:
        """The values of `table`: (1,), or along its axis with twice the halo at both ends, where they are 0 unless the
        axis is periodic: there are no cells, and beyond a pole the numbers need not be finite."""
        if not table.axis:
            return np.array([number(table.tree, self.coefficient)], np.float64)
        axis = AXES.index(table.axis)
        margin, n = 2 * self.program.halo[axis], self.shape[axis]
        found = number(table.tree, lambda name, axis, offset: self.coefficient(name, axis, offset, margin))
        found = np.broadcast_to(np.asarray(found, np.float64), (n + 2 * margin,)).copy()
        if self.rules[axis] != "periodic":
            found[:margin] = found[margin + n :] = 0
        return found

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """(nz, ny, nx): the cells that exist, and all of whose reads do. A zero ghost exists; a ghost that is made of a
        masked point does not, nor anything beyond an open edge."""
        missing = np.zeros(self.shape, bool) if self.mask is None else ~self.mask
        for axis, (n, halo, rule) in enumerate(zip(self.shape, self.program.halo, self.rules, strict=True)):
            near = self.coordinates[axis][self.pad - halo : self.pad + n + halo]
            degree = max((r.degree for r in self.program.reads), default=2)
            found = ghosts(rule, n, halo, near, degree)
            made = np.moveaxis(missing, axis, 0)[found.source] & (found.weight != 0)[..., *(None,) * 2]
            beyond = np.full_like(made[:, 0], True) if rule == "open" else made.any(1)
            beyond = np.moveaxis(beyond, 0, axis)
            low, high = np.split(beyond, [halo], axis)
            missing = np.concatenate([low, missing, high], axis)
        out = np.ones(self.shape, bool) if self.mask is None else self.mask.copy()
        (hz, hy, hx), (nz, ny, nx) = self.program.halo, self.shape
        for dk, dj, di in {(r.dk, r.dj, r.di) for r in self.program.reads}:
            out &= ~missing[hz + dk : hz + dk + nz, hy + dj : hy + dj + ny, hx + di : hx + di + nx]
        return out

    @cached_property
    def total(self) -> float:
        """The area of the valid cells, 1 where there are none."""
        wz, wy, wx = self.widths
        if self.mask is None:  # a box: no sum over all cells
            parts = [w[self.valid.any(tuple({0, 1, 2} - {a}))].sum() for a, w in enumerate(self.widths)]
            area = float(np.prod(parts))
        else:
            area = float((wz[:, None, None] * wy[:, None] * wx)[self.valid].sum())
        return area if area > 0 else 1.0

    @cached_property
    def cell_weight(self) -> NDArray[np.float64]:
        """(nz, ny, nx): the share of each valid cell in the area, 0 elsewhere."""
        wz, wy, wx = self.widths
        return np.where(self.valid, wz[:, None, None] * wy[:, None] * wx / self.total, 0.0)
