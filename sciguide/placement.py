"""Where the fields of an equation lie in a Dataset: its axes, the grid, what remains, and the samples one by one.

Coordinates ascend in the grid, whatever they do in the data. The third axis is in the units that the equation asks for,
a length upwards or the logarithm of pressure; time is in seconds, or as it is where it is a pure number.
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import dask
import numpy as np
import xarray as xr

from sciguide.coordinates import elapsed, vertical
from sciguide.datasets.attributes import units_of
from sciguide.datasets.axes import ascending, find_axes, is_lat_lon, level_dimension, time_dimension
from sciguide.datasets.store import LOCK
from sciguide.equations import Equation
from sciguide.errors import InputError
from sciguide.grid import Grid, grid_of
from sciguide.matching import Match

BLOCK_POINTS = 2**22  # values of one field in memory at a time


class Place(NamedTuple):
    """`fields`: one array for each field of the equation, (*others, *axes); `order`: of ascent along the grid's axes,
    `others`: the remaining dimensions with their `sizes`; `ds`: the variables, without the last time where fields a
    time step later are read along `time`."""

    ds: xr.Dataset
    fields: list[xr.DataArray]
    grid: Grid
    others: tuple[Hashable, ...]
    sizes: tuple[int, ...]
    order: dict[str, np.ndarray]
    time: str | None

    @classmethod
    def of(
        cls,
        ds: xr.Dataset,
        equation: Equation,
        match: Match,
        axes: Mapping[str, str] | None = None,
        boundary: tuple[str, ...] | None = None,
    ) -> "Place":
        """Raises InputError for axes that cannot be found, coordinates that are no use, and fields that differ."""
        ds, given = ds[match.names], dict(axes or {})
        dims = max((ds[n].dims for n in match.names), key=len)
        if any(set(ds[n].dims) != set(dims) for f, n in match.variables.items() if f in equation.moves) or any(
            not set(ds[n].dims) <= set(dims) for n in match.names
        ):
            found = "; ".join(f"{n} {ds[n].dims}" for n in match.names)
            raise InputError(f"the fields have different dimensions: {found}; select or average until they agree")
        (ds,) = xr.broadcast(ds[sorted(match.names, key=lambda n: -ds[n].ndim)])
        if boundary is not None and len(boundary) != len(equation.axes):
            raise InputError(f"boundary {boundary}: equation {equation.name} is over ({', '.join(equation.axes)})")
        time = _time(ds, equation, given) if match.later or "t" in equation.axes else None
        grid, order = _grid(ds, equation, given, time, boundary)
        if match.later and ds.sizes[time] < 2:
            raise InputError(f"equation {equation.name} compares two times, {time!r} has one")
        others = tuple(d for d in dims if d not in order)
        now, later = slice(None, -1 if match.later else None), slice(1, None)
        fields = []
        for name, variable in match.variables.items():
            values = ds[variable].transpose(*others, *order)
            fields.append(values.isel({time: later if name in match.later else now}) if match.later else values)
        kept = ds.isel({time: now}) if match.later else ds
        return cls(kept, fields, grid, others, tuple(kept.sizes[d] for d in others), order, time)

    @property
    def dims(self) -> tuple[Hashable, ...]:
        return *self.others, *self.order

    def restore(self, values: np.ndarray) -> np.ndarray:
        """(N, K, [Z,] Y, X), ascending, to (K, *sizes, ...) in the order of the source."""
        back = np.ix_(*(np.argsort(o) for o in self.order.values()))
        values = np.moveaxis(values, 1, 0)[(slice(None), slice(None), *back)]
        return values.reshape(len(values), *self.sizes, *values.shape[2:])

    def blocks(self, factors: list[tuple[float, float]]) -> Iterator[np.ndarray]:
        """The samples in turn, (B, F, [Z,] Y, X) float64, ascending, in the equation's units; read under the lock of
        the files. Raises InputError for values out of range."""
        first = self.others[0] if self.others else None
        step = max(1, BLOCK_POINTS * self.sizes[0] // max(self.fields[0].size, 1)) if first else 1
        rows = np.ix_(*self.order.values())
        for start in range(0, self.sizes[0] if first else 1, step):
            with LOCK, dask.config.set(scheduler="synchronous"):  # its threads would wait for the lock
                parts = [_checked(a.isel({first: slice(start, start + step)}) if first else a) for a in self.fields]
            parts = [p.reshape(-1, *self.grid.shape)[(slice(None), *rows)] for p in parts]
            yield np.stack([p * factor + offset for p, (factor, offset) in zip(parts, factors, strict=True)], 1)


def _time(ds: xr.Dataset, equation: Equation, axes: Mapping[str, str]) -> str:
    dims = [str(d) for d in next(iter(ds.data_vars.values())).dims]
    found = axes.get("time") or time_dimension(ds, dims)
    if found not in dims:
        raise InputError(
            f"equation {equation.name} is about times, and none of the dimensions {', '.join(dims)} looks like time: "
            'say axes={"time": "..."}'
        )
    return found


def _level(ds: xr.Dataset, equation: Equation, axes: Mapping[str, str], left: list[str]) -> str:
    found = axes.get("level") or level_dimension(ds, left)
    if found not in left:
        raise InputError(
            f"equation {equation.name} is over levels, and none of the dimensions {', '.join(left) or 'left'} looks "
            'like them: say axes={"level": "..."}'
        )
    return found


def _grid(
    ds: xr.Dataset,
    equation: Equation,
    given: dict[str, str],
    time: str | None,
    boundary: tuple[str, ...] | None,
) -> tuple[Grid, dict[str, np.ndarray]]:
    """The grid of the equation's axes, and the order in which each dimension ascends."""
    names = list(ds.data_vars)
    dims = [str(d) for d in ds[names[0]].dims]
    given = {k: d for k, d in given.items() if k != "time"} | ({"y": time} if "t" in equation.axes else {})
    # One element along each dimension: which are y and x does not depend on how many others are longer than 1.
    found = find_axes(ds.isel({d: slice(0, 1) for d in dims}), names, given, "the dataset")
    lat_lon = all(d in ds.coords for d in (found.y, found.x)) and is_lat_lon(ds, found.y, found.x)
    values = {d: _coordinate(ds, d) for d in (found.y, found.x)}
    units = [units_of(ds[d].attrs) or "1" for d in values]
    if lat_lon:
        units = ["degrees_north", "degrees_east"]
    if "t" in equation.axes:
        values[found.y], units[0] = elapsed(ds[found.y], pure=True), "1"
    order = {}
    if "z" in equation.axes:
        level = _level(ds, equation, given, [d for d in dims if d not in values])
        values = {level: vertical(level, _coordinate(ds, level), ds[level].attrs, equation.vertical), **values}
    for dim, coordinate in values.items():
        try:
            order[dim], values[dim] = ascending(coordinate, lat_lon and dim == found.x)
        except ValueError as error:
            raise InputError(f"coordinate {dim!r} {error}") from error
    grid = grid_of(values[found.y], values[found.x], *units, boundary=boundary and boundary[-2:])
    if "z" in equation.axes:
        grid = replace(grid, z=values[level], boundary=((boundary or ("open",))[0], *grid.boundary))
    return grid, order


def _coordinate(ds: xr.Dataset, dim: str) -> np.ndarray:
    if dim not in ds.coords:
        raise InputError(f"dimension {dim!r} has no coordinate; assign one, in degrees or as lengths")
    return ds[dim].values


def _checked(field: xr.DataArray) -> np.ndarray:
    """The values in float64. Those of half precision may have left its range before they came here."""
    values = np.asarray(field)
    out = values.astype(np.float64)
    if np.isinf(out).any():
        raise InputError(
            f"variable {field.name!r} is infinite in places: it overflowed {values.dtype}, or its fill value is not "
            "declared"
        )
    largest = np.nanmax(np.abs(out), initial=0.0)
    if values.dtype == np.float16 and 0 < largest < np.finfo(np.float16).tiny:
        raise InputError(
            f"variable {field.name!r} is below the range of float16, at most {largest:.1g}: keep it in float32"
        )
    return out
