"""Which dimension is which: by CF attributes, then by name, and by what the user says before either."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sciguide.datasets.attributes import is_vertical, units_of
from sciguide.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

_NAMES = {
    "y": ("lat", "latitude", "y", "nav_lat", "yc", "rlat", "nlat", "j", "nj", "south_north"),
    "x": ("lon", "longitude", "x", "nav_lon", "xc", "rlon", "nlon", "i", "ni", "west_east"),
    "sample": (
        *("time", "t", "valid_time", "date", "sample", "samples", "realization", "member", "number", "ensemble"),
        *("run", "case", "record", "snapshot", "month", "season", "year", "day"),
    ),
    "level": ("level", "lev", "plev", "pressure", "depth", "height", "altitude", "z", "sigma", "hybrid", "layer"),
}
_TIMES = ("time", "t", "valid_time", "date")  # among the samples' names those that tell when, not which
_CF_KEYS = {"y": ("Y", "latitude"), "x": ("X", "longitude"), "sample": ("T", "time"), "level": ("Z", "vertical")}


@dataclass(frozen=True)
class Axes:
    """The dimensions of a set of fields.

    `sample` is None where there is one sample only; `levels` maps each variable to its own level dimension or None;
    `how` tells for each axis how it was found; `static` names fields over (y, x) alone, the same for all samples.
    """

    y: str
    x: str
    sample: str | None
    levels: dict[str, str | None]
    how: dict[str, str]
    static: tuple[str, ...] = ()

    def describe(self) -> str:
        """One line: what was taken for what, and why."""
        parts = [f"{key}: {getattr(self, key)} ({self.how[key]})" for key in ("sample", "y", "x") if key in self.how]
        dims = dict.fromkeys(d for d in self.levels.values() if d)
        parts += [f"level: {d} of {', '.join(v for v, lev in self.levels.items() if lev == d)}" for d in dims]
        parts += [f"the same in all samples: {', '.join(self.static)}"] * bool(self.static)
        return "; ".join(parts)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """' Did you mean `x`?' for the nearest of `names`, or nothing."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" Did you mean `{near[0]}`?" if near else ""


def find_axes(
    ds: "xr.Dataset", variables: Iterable[str], given: Mapping[str, str] | None = None, where: str = "the data"
) -> Axes:
    """Finds the axes that `variables` share, and the level dimension of each.

    `given` overrides the search: keys y, x, sample, level; values names of dimensions. `where` names the file in
    messages. Raises InputError where an axis is missing or ambiguous.
    """
    given, variables = dict(given or {}), list(variables)
    dims = list(dict.fromkeys(str(d) for v in variables for d in ds[v].dims))
    _check_given(given, dims, where)
    ways = _ways(ds, dims)
    how = dict.fromkeys(given, "given")

    def pick(key: str, candidates: list[str]) -> str | None:
        for reason, names in ways[key]:
            found = [d for d in candidates if d in names]
            if found and key not in given:
                how[key] = reason
                return min(found, key=names.index)
        return given.get(key)

    y, x = (pick(key, [d for d in dims if d not in given.values()]) for key in ("y", "x"))
    for key, dim in (("y", y), ("x", x)):
        if dim is None:
            raise InputError(
                f"{where}: none of the dimensions {', '.join(dims)} looks like {key}: write `axes: {{{key}: NAME}}`"
            )
    rest = [d for d in dims if d not in (y, x, given.get("level"))]
    long = [d for d in rest if ds.sizes[d] > 1]
    sample = pick("sample", long) or pick("sample", rest)
    if sample is None:
        # A long dimension that all variables share and that is no level counts samples, whatever its name.
        vertical = [d for _, names in ways["level"] for d in names]
        unknown = [d for d in long if d not in vertical and all(d in ds[v].dims for v in variables)]
        if unknown:
            sample, how["sample"] = unknown[0], "what was left"
    for name in variables:
        for dim in (y, x, *([sample] if sample else [])):
            if dim not in ds[name].dims:
                raise InputError(f"{where}: `{name}` has no dimension {dim}; leave it out of `variables:`")
    levels = {name: _level_of(ds, name, (y, x, sample), given.get("level"), where) for name in variables}
    return Axes(y, x, sample, levels, how)


def _check_given(given: Mapping[str, str], dims: list[str], where: str) -> None:
    for key, dim in given.items():
        if key not in _NAMES:
            raise InputError(f"`axes:` has no key `{key}`: use y, x, sample, level.{did_you_mean(key, _NAMES)}")
        if dim not in dims:
            raise InputError(
                f"`axes: {{{key}: {dim}}}`: {where} has no such dimension; there are {', '.join(dims)}."
                + did_you_mean(dim, dims)
            )


def _level_of(ds: "xr.Dataset", name: str, taken: tuple[str | None, ...], given: str | None, where: str) -> str | None:
    """The one dimension longer than 1 that is left over, whatever other variables have."""
    left = [str(d) for d in ds[name].dims if d not in taken and ds.sizes[d] > 1]
    if len(left) > 1 or (left and left[0].lower() in _NAMES["sample"] and left[0] != given):
        raise InputError(
            f"{where}: `{name}` has the dimensions {', '.join(left)} besides {', '.join(d for d in taken if d)}; only "
            "one more is possible, a level: select one value of the others, or name the right ones under `axes:`"
        )
    return left[0] if left else None


def level_dimension(ds: "xr.Dataset", dims: Iterable[str]) -> str | None:
    """The dimension among `dims` that is the vertical, None where none looks like it."""
    return next((d for _, names in _ways(ds, list(dims))["level"] for d in names if d in dims), None)


def time_dimension(ds: "xr.Dataset", dims: Iterable[str]) -> str | None:
    """The dimension among `dims` that is time (not a number of members or cases), None where none looks like it."""
    ways = dict(_ways(ds, list(dims))["sample"])
    names = [*ways["by its dates"], *ways["by attributes"], *(d for d in ways["by name"] if d.lower() in _TIMES)]
    return next((d for d in names if d in dims), None)


def _ways(ds: "xr.Dataset", dims: list[str]) -> dict[str, list[tuple[str, list[str]]]]:
    """For each axis the ways to find it, best first: (how, dimensions that qualify)."""
    import cf_xarray  # noqa: F401  (registers the accessor)

    coords = ds.drop_vars(list(ds.data_vars)).drop_vars([c for c in ds.coords if c not in dims])
    attributes = coords.cf
    guessed = coords.cf.guess_coord_axis().cf
    ways = {}
    for key, (axis, coordinate) in _CF_KEYS.items():
        declared = [*attributes.axes.get(axis, []), *attributes.coordinates.get(coordinate, [])]
        similar = [*guessed.axes.get(axis, []), *guessed.coordinates.get(coordinate, [])]
        named = [d for n in _NAMES[key] for d in dims if d.lower() == n]
        ways[key] = [("by attributes", declared), ("by name", named), ("by attributes and name", similar)]
    dated = [d for d in dims if d in coords.variables and " since " in str(units_of(coords[d].attrs) or "")]
    dated += [d for d in dims if d in coords.variables and coords[d].dtype.kind == "M"]
    ways["sample"].insert(0, ("by its dates", dated))
    ways["level"].append(("by units", [d for d in dims if d in coords.variables and is_vertical(coords[d].attrs)]))
    return ways


def ascending(values: np.ndarray, degrees: bool) -> tuple[np.ndarray, np.ndarray]:
    """The order that makes a coordinate ascend, and the coordinate in that order, both (n,).

    With `degrees` it is a longitude: 350, 0, 10 and -10, 0, 10 are the same three meridians, and a grid that closes
    around the globe starts at the first one from 0 on. Raises ValueError saying what is wrong with it.
    """
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise ValueError("holds values that are missing or no numbers: repair it")
    unwrapped = np.unwrap(values, period=360.0) if degrees and values.size > 1 else values
    steps = np.diff(unwrapped)
    if (steps == 0).any():
        raise ValueError(f"repeats {values[1:][steps == 0][0]:g}: drop the repeated row")
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError("is neither ascending nor descending: sort it")
    order = np.arange(values.size) if (steps > 0).all() else np.arange(values.size)[::-1]
    result = unwrapped[order]
    if degrees and values.size > 1:
        span = float(result[-1] - result[0])
        if span > 360.0 - 1e-6:
            raise ValueError(f"goes around the globe and repeats the meridian {values[0]:g}: drop the last column")
        if abs(span + float(steps.mean()) * np.sign(steps[0]) - 360.0) < 0.01 * abs(float(steps.mean())):
            result = np.mod(result, 360.0)
            start = int(np.argmin(result))
            order, result = np.roll(order, -start), np.roll(result, -start)
    return order, result


def is_lat_lon(ds: "xr.Dataset", y: str, x: str) -> bool:
    """Whether y and x are latitude and longitude in degrees."""

    def is_angle(name: str, standard_name: str) -> bool:
        attrs, units = ds[name].attrs, units_of(ds[name].attrs) or "degrees"
        named = name.lower().startswith(standard_name[:3]) or attrs.get("standard_name") == standard_name
        return units.startswith(f"degrees_{'north' if standard_name == 'latitude' else 'east'}") or (
            named and units.startswith("degree")
        )

    return is_angle(y, "latitude") and is_angle(x, "longitude")


def as_slice(order: np.ndarray) -> Any:
    """A slice where one will do, so that lazy arrays stay in their chunks."""
    if np.array_equal(order, np.arange(order.size)):
        return slice(None)
    return slice(None, None, -1) if np.array_equal(order[::-1], np.arange(order.size)) else order
