"""The grid: where the points lie, what lies beyond the edges, which points exist.

Coordinates are kept as arrays, so spacings may vary along an axis (a stretched mesh, Gaussian latitudes); where they
do not, one exact number stands for them. Rows ascend in y, on the sphere in latitude. What the equations need of a grid
are the numbers of the coefficients named in `kernels/differences.py`, its boundary rules, mask and area weights.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sciguide.errors import InputError
from sciguide.kernels.differences import RULES, Geometry

EARTH_RADIUS = 6.371e6  # metres, the mean radius
DEGREES = {f"degree{s}{sep}{d}" for s in ("", "s") for sep, d in (("", ""), ("_", "north"), ("_", "east"), ("_", "N"))}
DEGREES |= {"degrees north", "degrees east", "degrees_E", "degree_E", "degreesN", "degreesE", "degreeN", "degreeE"}


@dataclass(frozen=True, eq=False)
class Grid:
    """Points (y[j], x[i]): lengths on a plane (any unit, the same for both), degrees of latitude and longitude where
    `sphere`. `boundary`: what lies beyond the edges of (y, x), see `kernels/reference.py`; `mask`: bool (ny, nx), True
    where points exist. Raises InputError for coordinates that do not ascend, or a mask or rule that does not fit."""

    y: np.ndarray
    x: np.ndarray
    boundary: tuple[str, str] = ("open", "open")
    sphere: bool = False
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in "yx":
            values = np.array(getattr(self, name), np.float64)
            object.__setattr__(self, name, values)
            if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or (np.diff(values) <= 0).any():
                raise InputError(f"grid coordinate {name}: give finite values that ascend, each once")
        if self.sphere and np.abs(self.y).max() > 90 + 1e-4:
            raise InputError(f"grid coordinate y: latitudes reach {np.abs(self.y).max():g} degrees")
        if len(self.boundary) != 2 or not set(self.boundary) <= set(RULES):
            raise InputError(f"grid boundary {self.boundary}: give (y, x), each one of {', '.join(RULES)}")
        if self.sphere and self.boundary[0] == "periodic":
            raise InputError("grid boundary: latitudes cannot be periodic")
        object.__setattr__(self, "boundary", tuple(self.boundary))
        if self.mask is not None:
            object.__setattr__(self, "mask", np.array(self.mask, bool))
            if self.mask.shape != self.shape:
                raise InputError(f"grid mask has shape {self.mask.shape}, the coordinates {self.shape}")

    @classmethod
    def uniform(
        cls,
        shape: tuple[int, int],
        spacing: tuple[float, float] = (1.0, 1.0),
        boundary: tuple[str, str] = ("open", "open"),
        mask: np.ndarray | None = None,
    ) -> "Grid":
        """A plane grid of `shape` points, `spacing` apart along (y, x)."""
        y, x = (np.arange(n) * d for n, d in zip(shape, spacing, strict=True))
        return cls(y, x, boundary, mask=mask)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.y), len(self.x)

    @property
    def latitude(self) -> np.ndarray | None:
        """Degrees, ascending, on the sphere."""
        return self.y if self.sphere else None

    @cached_property
    def spacing(self) -> tuple[float, float]:
        """Mean distance between rows and between columns; radians on the sphere. 1 along an axis of one point."""
        unit = np.deg2rad(1.0) if self.sphere else 1.0
        return tuple(float((c[-1] - c[0]) / (len(c) - 1) * unit) if len(c) > 1 else 1.0 for c in (self.y, self.x))

    @cached_property
    def geometry(self) -> Geometry:
        """What of this grid changes the formula of a stencil."""
        return Geometry(self.sphere, (is_uniform(self.y), is_uniform(self.x)))

    def metric(self, name: str, offset: int = 0) -> float | np.ndarray:
        """The coefficient `name` of `kernels/differences.py`, read `offset` rows or columns away: a float, or one
        value per row or column. Raises KeyError for a name that is not a grid's."""
        if name == "radius":
            return EARTH_RADIUS
        if name in ("dy", "dx"):
            axis = "yx".index(name[1])
            return self.spacing[axis] if self.geometry.uniform[axis] else self._gaps(axis, offset)
        if name not in ("cos_lat", "cos_face"):
            raise KeyError(name)
        halo = abs(offset)
        latitude = self._extended(0, halo + 1)
        if name == "cos_face":
            latitude[:-1] = (latitude[:-1] + latitude[1:]) / 2
        start = 1 + halo + offset
        return np.cos(np.deg2rad(np.clip(latitude[start : start + len(self.y)], -90, 90)))

    def weights(self) -> np.ndarray:
        """Area of the cell around each point, (ny, nx) float64: 0 off the mask, 1 on average over the valid points."""
        widths = []
        for axis, uniform in enumerate(self.geometry.uniform):
            widths.append(np.ones(self.shape[axis]) if uniform else (self._gaps(axis, 0) + self._gaps(axis, -1)) / 2)
        rows, columns = widths
        if self.sphere:
            rows = rows * self.metric("cos_lat")
        area = rows[:, None] * columns
        if self.mask is not None:
            area = np.where(self.mask, area, 0)
        points = np.count_nonzero(area) if self.mask is None else self.mask.sum()
        return area * (points / area.sum()) if points else area

    def _gaps(self, axis: int, offset: int) -> np.ndarray:
        """Distance from each point to the next, `offset` points further on; radians on the sphere."""
        halo = abs(offset) + 1
        gaps = np.diff(self._extended(axis, halo)) * (np.deg2rad(1.0) if self.sphere else 1.0)
        return gaps[halo + offset : halo + offset + self.shape[axis]]

    def _extended(self, axis: int, halo: int) -> np.ndarray:
        """The coordinate with `halo` more points at both ends: around the circle where periodic (the gap that closes
        a plane's circle is its mean spacing), else repeating the first and last spacing."""
        c = (self.y, self.x)[axis]
        gaps = np.diff(c) if len(c) > 1 else np.ones(1)
        if self.boundary[axis] == "periodic" and len(c) > 1:
            closed = np.append(gaps, 360.0 - (c[-1] - c[0]) if self.sphere else gaps.mean())
            before = np.pad(closed, (halo, 0), mode="wrap")[:halo]
            after = np.pad(closed, (0, halo), mode="wrap")[len(gaps) : len(gaps) + halo]
        else:
            before, after = np.full(halo, gaps[0]), np.full(halo, gaps[-1])
        return np.concatenate([c[0] - np.cumsum(before[::-1])[::-1], c, c[-1] + np.cumsum(after)])

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types; the mask as lengths of runs, False first."""
        return {
            "y": self.y.tolist(),
            "x": self.x.tolist(),
            "boundary": list(self.boundary),
            "sphere": self.sphere,
            "mask": None if self.mask is None else to_runs(self.mask),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Grid":
        """The grid that `to_dict` described. Raises InputError for anything else."""
        shape = len(state["y"]), len(state["x"])
        mask = None if state["mask"] is None else from_runs(state["mask"], shape)
        return cls(state["y"], state["x"], tuple(state["boundary"]), bool(state["sphere"]), mask)


def grid_of(
    y: np.ndarray,
    x: np.ndarray,
    y_units: str,
    x_units: str,
    mask: np.ndarray | None = None,
    boundary: tuple[str, str] | None = None,
) -> Grid:
    """The grid of the coordinates `y` (ascending) and `x` in their units: degrees make a sphere, lengths and pure
    numbers a plane (in metres, or as they are). Without `boundary` every edge is open, except that longitudes which go
    all the way round are periodic. Raises InputError for units it cannot place, and as `Grid` does."""
    degrees = [u in DEGREES for u in (y_units, x_units)]
    y, x = np.asarray(y, np.float64), np.asarray(x, np.float64)
    if any(degrees):
        if not all(degrees):
            raise InputError(f"coordinates in {y_units!r} and {x_units!r}: give both in degrees, or both as lengths")
        x = np.unwrap(x, period=360.0)
        closing, last = 360.0 - (x[-1] - x[0]), x[-1] - x[-2] if len(x) > 1 else 360.0
        around = "periodic" if abs(closing - last) < 0.01 * last else "open"
        return Grid(y, x, boundary or ("open", around), True, mask)
    return Grid(y * metres(y_units, "y"), x * metres(x_units, "x"), boundary or ("open", "open"), False, mask)


def metres(units: str, axis: str) -> float:
    """Metres per unit of length, 1 for pure numbers. Raises InputError for what is neither."""
    from cf_units import Unit

    try:
        unit = Unit(units)
        if unit.is_dimensionless() or unit == Unit("m"):
            return 1.0
        return float(unit.convert(1.0, "m"))
    except ValueError:
        raise InputError(
            f"coordinate {axis} has units {units!r}: give degrees, a length, or 1 for pure numbers"
        ) from None


def is_uniform(c: np.ndarray) -> bool:
    """Whether the values of `c` are evenly spaced, up to what float32 makes of them."""
    if len(c) < 3:
        return True
    line = np.linspace(c[0], c[-1], len(c))
    slack = 1e-4 * (c[-1] - c[0]) / (len(c) - 1) + 2 * np.finfo(np.float32).eps * np.abs(c).max()
    return bool(np.abs(c - line).max() <= slack)


def to_runs(mask: np.ndarray) -> list[int]:
    """Lengths of the alternating runs of a bool array in row order; the first run is False, perhaps of length 0."""
    flat = mask.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def from_runs(runs: list[int], shape: tuple[int, int]) -> np.ndarray:
    """The bool array of `shape` that `to_runs` described. Raises InputError where the lengths do not add up."""
    if sum(runs) != shape[0] * shape[1] or min(runs) < 0:
        raise InputError(f"grid mask: its runs cover {sum(runs)} points, the grid has {shape[0] * shape[1]}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape)
