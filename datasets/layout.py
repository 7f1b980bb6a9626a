"""Where every value of a tensor belongs: the map between xarray fields and arrays (T, C, Y, X), both ways.

A channel is a variable, or one level of it. In tensors latitude ascends and so does longitude, a global grid beginning
at the first meridian east of Greenwich; what comes back has the source's order, coordinates, units and attributes.
"""

import base64
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sciguide.datasets.attributes import (
    data_attributes,
    horizontal_attributes,
    is_vertical,
    plain,
    units_of,
    vertical_attributes,
)
from sciguide.datasets.axes import Axes, as_slice, ascending, is_lat_lon
from sciguide.datasets.units import conversion
from sciguide.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

_GLOBALS = ("title", "institution", "source", "history", "references", "comment")
_REALIZATION = {"standard_name": "realization", "long_name": "ensemble member", "units": "1"}


class Channel(NamedTuple):
    """One channel of a tensor: a variable, and the index of its level or None."""

    variable: str
    level: int | None


class Variable(NamedTuple):
    """What a variable is apart from its values: its level dimension or None, and its attributes."""

    level: str | None
    attrs: dict[str, Any]


class Static(NamedTuple):
    """A field that is the same in all samples: values (Y, X) float64, as in tensors, and attributes."""

    values: np.ndarray
    attrs: dict[str, Any]


class Coordinate(NamedTuple):
    """Values in the source's order and type, (n,) or (), and canonical attributes."""

    values: np.ndarray
    attrs: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Layout:
    """Grid, variables and mask of a set of fields.

    `coordinates` holds y, x, the levels and scalars; `mask` is (C, Y, X), True where there is a value, in the order
    of tensors; `levels` maps each level dimension to its length; `static` holds fields beside them that equations may
    ask for.
    """

    variables: dict[str, Variable]
    coordinates: dict[str, Coordinate]
    levels: dict[str, int]
    y_name: str
    x_name: str
    sample_name: str
    lat_lon: bool
    mask: np.ndarray
    attrs: dict[str, Any]
    static: dict[str, Static] = field(default_factory=dict)

    @classmethod
    def from_dataset(cls, ds: "xr.Dataset", axes: Axes, mask: np.ndarray | None = None) -> "Layout":
        """The layout of what `open_fields` returned; `mask` (C, Y, X), by default everything valid."""
        lat_lon = is_lat_lon(ds, axes.y, axes.x)
        coordinates = {
            dim: Coordinate(ds[dim].values, horizontal_attributes(key, dim, ds[dim].attrs, lat_lon))
            for key, dim in (("y", axes.y), ("x", axes.x))
        }
        levels = {str(d): int(ds.sizes[d]) for d in axes.levels.values() if d is not None}
        for name, coord in ds.coords.items():
            if name in levels or (coord.ndim == 0 and coord.dtype.kind in "iuf"):
                vertical = name in levels or is_vertical(coord.attrs)
                kept = (
                    vertical_attributes(str(name), coord.attrs) if vertical else data_attributes(str(name), coord.attrs)
                )
                coordinates[str(name)] = Coordinate(coord.values, kept)
        variables = {n: Variable(d, data_attributes(n, ds[n].attrs)) for n, d in axes.levels.items()}
        if mask is None:
            count = sum(levels[v.level] if v.level else 1 for v in variables.values())
            mask = np.ones((count, ds.sizes[axes.y], ds.sizes[axes.x]), bool)
        attrs = {key: plain(ds.attrs[key]) for key in _GLOBALS if key in ds.attrs}
        names = axes.y, axes.x, axes.sample or "sample"
        layout = cls(variables, coordinates, levels, *names, lat_lon, mask, attrs)
        rows = np.ix_(*(order for order, _ in layout._ascending))
        for name in axes.static:
            found = ds[name].transpose(axes.y, axes.x)
            layout.static[name] = Static(found.values.astype(np.float64)[rows], data_attributes(name, found.attrs))
        return layout

    @cached_property
    def _ascending(self) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Of y and x the order that makes them ascend, and their values in it."""
        y, x = (self.coordinates[n].values for n in (self.y_name, self.x_name))
        return ascending(y, False), ascending(x, self.lat_lon)

    @cached_property
    def channels(self) -> tuple[Channel, ...]:
        """The channels in the order of tensors: variables as named, levels of each in the source's order."""
        return tuple(
            Channel(name, level)
            for name, variable in self.variables.items()
            for level in (range(self.levels[variable.level]) if variable.level else [None])
        )

    @property
    def names(self) -> list[str]:
        """A readable name for each channel: `u`, or `u_500` where 500 is the level's value."""
        return [n if lev is None else f"{n}_{self._level_value(n, lev):g}" for n, lev in self.channels]

    @property
    def units(self) -> list[str]:
        """The unit of each channel."""
        return [str(self.variables[name].attrs["units"]) for name, _ in self.channels]

    @cached_property
    def y(self) -> np.ndarray:
        """The y coordinate as in tensors, (Y,), ascending."""
        return self._ascending[0][1]

    @cached_property
    def x(self) -> np.ndarray:
        """The x coordinate as in tensors, (X,), ascending."""
        return self._ascending[1][1]

    @property
    def y_attrs(self) -> dict[str, Any]:
        return self.coordinates[self.y_name].attrs

    @property
    def x_attrs(self) -> dict[str, Any]:
        return self.coordinates[self.x_name].attrs

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, Y, X)"""
        return self.mask.shape

    @property
    def template(self) -> "xr.Dataset":
        """Dimensions (level, y, x), coordinates and attributes; the values are one NaN, repeated without memory."""
        import xarray as xr

        sizes = self.levels | {self.y_name: self.shape[1], self.x_name: self.shape[2]}
        fields = {}
        for name, variable in self.variables.items():
            dims = self._dims(variable)
            values = np.broadcast_to(np.float32(np.nan), tuple(sizes[d] for d in dims))
            fields[name] = (dims, values, dict(variable.attrs))
        coords = {
            name: ((name,) if coord.values.ndim else (), coord.values, dict(coord.attrs))
            for name, coord in self.coordinates.items()
        }
        return xr.Dataset(fields, coords, dict(self.attrs))

    def to_tensor(self, ds: "xr.Dataset") -> np.ndarray:
        """Fields of this layout as (T, C, Y, X) float32, physical, NaN off the mask. T is 1 without a sample dimension.

        The order of dimensions, of latitude, and the convention of longitude are free; units are converted.
        Raises InputError where a variable is missing, or the grid or what a unit measures differs.
        """
        from sciguide.datasets.files import LOCK

        for name in self.variables:
            if name not in ds:
                raise InputError(f"variable `{name}` is missing; there are {', '.join(map(str, ds.data_vars))}")
        for dim, values in ((self.y_name, self.y), (self.x_name, self.x)):
            self._check_coordinate(ds, dim, values)
        for dim in self.levels:
            level = self.coordinates.get(dim)
            if level is not None and not (dim in ds.coords and np.array_equal(ds[dim].values, level.values)):
                raise InputError(f"coordinate `{dim}` differs: expected {', '.join(map(str, level.values))}")
        import dask

        # threads of Dask would wait for the lock that is held here
        with LOCK, dask.config.set(scheduler="synchronous"):
            array = np.array(self.stacked(ds), np.float32)
        for channel, (name, _) in enumerate(self.channels):
            unit = units_of(ds[name].attrs)
            if unit is None:
                raise InputError(f"`{name}` has no units; expected {self.units[channel]}")
            try:
                scale, offset = conversion(unit, self.units[channel])
            except InputError as error:
                raise InputError(f"`{name}`: {error}") from error
            if (scale, offset) != (1.0, 0.0):
                array[:, channel] = array[:, channel] * scale + offset
        return np.where(self.mask, array, np.float32(np.nan))

    def stacked(self, ds: "xr.Dataset") -> Any:
        """The fields as a NumPy or Dask array (T, C, Y, X) float32, as lazy as they are, neither checked nor masked."""
        order = {
            self.y_name: as_slice(ascending(ds[self.y_name].values, False)[0]),
            self.x_name: as_slice(ascending(ds[self.x_name].values, self.lat_lon)[0]),
        }
        parts = []
        for name, variable in self.variables.items():
            values = ds[name]
            others = [str(d) for d in values.dims if d not in self._dims(variable)]
            long = [d for d in others if values.sizes[d] > 1]
            if len(long) > 1:
                raise InputError(f"`{name}` has the dimensions {', '.join(long)} besides its grid: stack or select")
            values = values.isel({d: 0 for d in others if d not in long}).isel(order)
            sample = long[0] if long else self.sample_name
            values = (values if long else values.expand_dims(sample)).transpose(sample, *self._dims(variable))
            parts.append((values.data if variable.level else values.data[:, None]).astype(np.float32))
        return np.concatenate(parts, axis=1)

    def to_dataset(self, array: np.ndarray, dim: str = "realization", coord: Any = None) -> "xr.Dataset":
        """The fields of an array (N, C, Y, X), physical, as a Dataset (dim, [level], y, x) in the source's order.

        NaN off the mask. `coord`: the values of the coordinate `dim`; by default realizations are numbered from 0,
        other dimensions have none.
        """
        array = np.where(self.mask, array, np.asarray(np.nan, array.dtype))
        back_y, back_x = (np.argsort(order) for order, _ in self._ascending)
        array = array[:, :, back_y][..., back_x]
        ds = self.template.drop_vars(list(self.variables))
        for name, variable in self.variables.items():
            found = [i for i, channel in enumerate(self.channels) if channel.variable == name]
            values = array[:, found] if variable.level else array[:, found[0]]
            ds[name] = ((dim, *self._dims(variable)), values, dict(variable.attrs))
        if coord is None and dim == "realization":
            coord = np.arange(len(array), dtype=np.int32)
        if coord is not None:
            ds = ds.assign_coords({dim: (dim, coord, dict(_REALIZATION) if dim == "realization" else {})})
        return ds

    def to_dict(self) -> dict[str, Any]:
        """Plain Python types only, exact: it goes into JSON and into checkpoints read with `weights_only=True`."""
        return {
            "variables": {n: {"level": v.level, "attrs": v.attrs} for n, v in self.variables.items()},
            "coordinates": {
                n: {"dtype": str(c.values.dtype), "values": c.values.tolist(), "attrs": c.attrs}
                for n, c in self.coordinates.items()
            },
            "levels": self.levels,
            "y_name": self.y_name,
            "x_name": self.x_name,
            "sample_name": self.sample_name,
            "lat_lon": self.lat_lon,
            "mask": {"shape": list(self.shape), "bits": _packed(np.packbits(self.mask))},
            "static": {n: {"values": _packed(s.values), "attrs": s.attrs} for n, s in self.static.items()},
            "attrs": self.attrs,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> "Layout":
        """The inverse of `to_dict`."""
        shape = state["mask"]["shape"]
        bits = np.frombuffer(_unpacked(state["mask"]["bits"]), np.uint8)
        static = {n: (np.frombuffer(_unpacked(s["values"])), s["attrs"]) for n, s in state["static"].items()}
        return cls(
            {n: Variable(v["level"], v["attrs"]) for n, v in state["variables"].items()},
            {n: Coordinate(np.array(c["values"], c["dtype"]), c["attrs"]) for n, c in state["coordinates"].items()},
            **{key: state[key] for key in ("levels", "y_name", "x_name", "sample_name", "lat_lon", "attrs")},
            mask=np.unpackbits(bits, count=int(np.prod(shape))).astype(bool).reshape(shape),
            static={n: Static(values.reshape(shape[1:]), attrs) for n, (values, attrs) in static.items()},
        )

    def _dims(self, variable: Variable) -> tuple[str, ...]:
        return (*((variable.level,) if variable.level else ()), self.y_name, self.x_name)

    def _level_value(self, name: str, index: int) -> float:
        level = self.coordinates.get(str(self.variables[name].level))
        return index if level is None else level.values[index]

    def _check_coordinate(self, ds: "xr.Dataset", dim: str, values: np.ndarray) -> None:
        if dim not in ds.coords:
            raise InputError(f"coordinate `{dim}` is missing; there are {', '.join(map(str, ds.coords))}")
        there = ascending(ds[dim].values, self.lat_lon and dim == self.x_name)[1]
        # A thousandth of a cell: coordinates stored in float32 here and in float64 there are the same.
        if there.shape == values.shape:
            offset = there - values
            if self.lat_lon and dim == self.x_name:
                offset = (offset + 180.0) % 360.0 - 180.0
            if np.abs(offset).max() <= 1e-3 * np.diff(values).min():
                return
        raise InputError(
            f"coordinate `{dim}` ({there.size} points, {there[0]:g} to {there[-1]:g}) is not this grid's "
            f"({values.size} points, {values[0]:g} to {values[-1]:g}): interpolate to it first"
        )


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(array.tobytes())).decode()


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
