"""The grid: where the points lie, what lies beyond the edges, which points exist.

Coordinates are kept as arrays, so spacings may vary along an axis (a stretched mesh, Gaussian latitudes); where they
do not, one exact number stands for them. Rows ascend in y, on the sphere in latitude. What the equations need of a grid
are the numbers of the coefficients named in `kernels/geometry.py`, its boundary rules, mask and area weights.
"""

import math
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np

from sciguide.errors import InputError
from sciguide.kernels.geometry import RULES, Geometry

EARTH_RADIUS = 6.371e6  # metres, the mean radius
EARTH_ROTATION = 7.292115e-5  # radians per second
DEGREES = {f"degree{s}{sep}{d}" for s in ("", "s") for sep, d in (("", ""), ("_", "north"), ("_", "east"), ("_", "N"))}
DEGREES |= {"degrees north", "degrees east", "degrees_E", "degree_E", "degreesN", "degreesE", "degreeN", "degreeE"}


@dataclass(frozen=True, eq=False)
class Grid:
    """Points (y[j], x[i]), and levels z[k] where there are three axes: lengths on a plane (any unit, the same for all),
    degrees of latitude and longitude where `sphere`; z is in the units that the equation asks for.

    `boundary`: what lies beyond the edges of (y, x), or (z, y, x), see `kernels/geometry.py`; `mask`: bool of the
    grid's shape, True where points exist. Raises InputError for coordinates that do not ascend, or a mask or rule that
    does not fit."""

    y: np.ndarray
    x: np.ndarray
    boundary: tuple[str, ...] = ("open", "open")
    sphere: bool = False
    mask: np.ndarray | None = None
    z: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in self.axes:
            values = np.array(getattr(self, name), np.float64)
            object.__setattr__(self, name, values)
            if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or (np.diff(values) <= 0).any():
                raise InputError(f"grid coordinate {name}: give finite values that ascend, each once")
        if self.sphere and np.abs(self.y).max() > 90 + 1e-4:
            raise InputError(f"grid coordinate y: latitudes reach {np.abs(self.y).max():g} degrees")
        if len(self.boundary) != len(self.axes) or not set(self.boundary) <= set(RULES):
            axes = ", ".join(self.axes)
            raise InputError(f"grid boundary {self.boundary}: give ({axes}), each one of {', '.join(RULES)}")
        if self.sphere and self.boundary[-2] == "periodic":
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
    def axes(self) -> tuple[str, ...]:
        """(y, x), or (z, y, x)."""
        return ("y", "x") if self.z is None else ("z", "y", "x")

    @property
    def coordinates(self) -> tuple[np.ndarray, ...]:
        """Of the axes, in their order."""
        return tuple(getattr(self, name) for name in self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """(ny, nx), or (nz, ny, nx)."""
        return tuple(len(c) for c in self.coordinates)

    @property
    def latitude(self) -> np.ndarray | None:
        """Degrees, ascending, on the sphere."""
        return self.y if self.sphere else None

    @cached_property
    def spacing(self) -> tuple[float, ...]:
        """Mean distance between points along each axis; radians on the sphere. 1 along an axis of one point."""
        found = [float((c[-1] - c[0]) / (len(c) - 1)) if len(c) > 1 else 1.0 for c in self.coordinates]
        return tuple(
            d * self._unit(axis) if n > 1 else d for d, axis, n in zip(found, self.axes, self.shape, strict=True)
        )

    def geometry(self, order: int = 2) -> Geometry:
        """What of this grid changes the formula of a stencil of that order."""
        onesided = tuple(rule == "one-sided" for rule in self.boundary)
        return Geometry(self.sphere, tuple(is_uniform(c) for c in self.coordinates), onesided, self.axes, order)

    def metric(self, name: str, pad: int = 0) -> float | np.ndarray:
        """The coefficient `name` of `kernels/geometry.py`: a float, or values along its axis from `pad` points before
        the first to `pad` after the last. Raises KeyError for a name that is not a grid's."""
        if name == "radius":
            return EARTH_RADIUS
        if name in ("dz", "dy", "dx"):
            axis = self.axes.index(name[1])
            if is_uniform(self.coordinates[axis]):
                return self.spacing[axis]
            return np.diff(self.extended(name[1], pad + 1))[1:] * self._unit(name[1])
        if name not in ("cos_lat", "cos_face", "tan_lat", "coriolis"):
            raise KeyError(name)
        latitude = self.extended("y", pad + 1)
        at = (latitude[1:-1] + latitude[2:]) / 2 if name == "cos_face" else latitude[1:-1]
        radians = np.deg2rad(np.clip(at, -90, 90))
        if name == "coriolis":
            return 2 * EARTH_ROTATION * np.sin(radians)
        return np.tan(radians) if name == "tan_lat" else np.cos(radians)

    def widths(self) -> tuple[np.ndarray, ...]:
        """Of the cells along each axis, times the cosine of the latitude along y on the sphere: their product is the
        area up to a constant. 1 where the spacing is even."""
        found = []
        for axis, c in zip(self.axes, self.coordinates, strict=True):
            gaps = np.diff(self.extended(axis, 1)) * self._unit(axis)
            width = np.ones(len(c)) if is_uniform(c) else (gaps[1:] + gaps[:-1]) / 2
            found.append(width * self.metric("cos_lat") if self.sphere and axis == "y" else width)
        return tuple(found)

    def weights(self) -> np.ndarray:
        """Area of the cell around each point, of the grid's shape, float64: 0 off the mask, 1 on average over the
        valid points."""
        area = reduce(np.multiply.outer, self.widths())
        if self.mask is not None:
            area = np.where(self.mask, area, 0)
        points = area.size if self.mask is None else self.mask.sum()
        return area * (points / area.sum()) if points else area

    def extended(self, axis: str, halo: int) -> np.ndarray:
        """The coordinate with `halo` more points at both ends: around the circle where periodic (the gap that closes
        a plane's circle is its mean spacing), else repeating the first and last spacing."""
        c, rule = getattr(self, axis), self.boundary[self.axes.index(axis)]
        gaps = np.diff(c) if len(c) > 1 else np.ones(1)
        if rule == "periodic" and len(c) > 1:
            closed = np.append(gaps, 360.0 - (c[-1] - c[0]) if self.sphere else gaps.mean())
            before = np.pad(closed, (halo, 0), mode="wrap")[:halo]
            after = np.pad(closed, (0, halo), mode="wrap")[len(gaps) : len(gaps) + halo]
        else:
            before, after = np.full(halo, gaps[0]), np.full(halo, gaps[-1])
        return np.concatenate([c[0] - np.cumsum(before[::-1])[::-1], c, c[-1] + np.cumsum(after)])

    def _unit(self, axis: str) -> float:
        """Radians per degree along latitude and longitude."""
        return np.deg2rad(1.0) if self.sphere and axis != "z" else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types; the mask as lengths of runs, False first."""
        return {
            "y": self.y.tolist(),
            "x": self.x.tolist(),
            "boundary": list(self.boundary),
            "sphere": self.sphere,
            "mask": None if self.mask is None else to_runs(self.mask),
            "z": None if self.z is None else self.z.tolist(),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Grid":
        """The grid that `to_dict` described. Raises InputError for anything else."""
        shape = tuple(len(state[axis]) for axis in "zyx" if state[axis] is not None)
        mask = None if state["mask"] is None else from_runs(state["mask"], shape)
        return cls(state["y"], state["x"], tuple(state["boundary"]), bool(state["sphere"]), mask, state["z"])


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


def from_runs(runs: list[int], shape: tuple[int, ...]) -> np.ndarray:
    """The bool array of `shape` that `to_runs` described. Raises InputError where the lengths do not add up."""
    if sum(runs) != math.prod(shape) or min(runs) < 0:
        raise InputError(f"grid mask: its runs cover {sum(runs)} points, the grid has {math.prod(shape)}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape)
