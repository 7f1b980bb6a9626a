"""CF-1.11 for a Dataset of fields (realization, [time], [level], y, x): attributes, cell bounds and encodings.

`sciguide.datasets.attributes` has repaired what single attributes say; here they are made to fit the file that they
go into. A `standard_name` that the CF table does not know, or whose units do not fit, is kept as
`source_standard_name`; latitude and longitude get bounds. Dimensions are told by order and kind: the last two are y
and x, a datetime is time, any other is vertical.

Eaton et al.: NetCDF Climate and Forecast (CF) Metadata Conventions, version 1.11.
"""

import gzip
import re
from functools import cache
from importlib.resources import files
from typing import Any

import cf_units
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from sciguide.datasets.attributes import data_attributes, horizontal_attributes, units_of, vertical_attributes

TIME = {"standard_name": "time", "long_name": "time", "axis": "T", "units_metadata": "leap_seconds: none"}
TIME_ENCODING = {"units": "days since 1990-01-01 00:00:00", "calendar": "standard", "dtype": "float64"}
REALIZATION = {"standard_name": "realization", "long_name": "member of the ensemble", "units": "1"}
FILL = np.float32(9.969209968386869e36)  # netCDF's own fill value of a float
# True of the source's values or of other variables of its file, not of generated fields.
SOURCE_ONLY = frozenset({"cell_methods", "flag_values", "flag_masks", "flag_meanings", "compress", "calendar"})


@cache
def standard_names() -> dict[str, str]:
    """The CF standard names and their canonical units, from the table in the package."""
    text = gzip.decompress((files("sciguide") / "templates" / "standard_names.txt.gz").read_bytes()).decode()
    return dict(line.split(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def fits(units: str, wanted: str) -> bool:
    """Whether `units` can be converted to `wanted`; False for what UDUNITS cannot read."""
    try:
        with cf_units.suppress_errors():
            return cf_units.Unit(units).is_convertible(cf_units.Unit(wanted))
    except ValueError:
        return False


def variable_name(text: str) -> str:
    """`text` as part of a variable's name: letters, digits and underscores."""
    return re.sub(r"[^A-Za-z0-9]", "_", text)


def field_attributes(name: str, attrs: dict[str, Any]) -> dict[str, Any]:
    """The attributes of field `name` as they may stand in a file."""
    kept = {
        key: value
        for key, value in data_attributes(name, attrs).items()
        if key not in SOURCE_ONLY and re.fullmatch(r"[A-Za-z]\w*", key) and isinstance(value, str | int | float)
    }
    wanted = standard_names().get(kept.get("standard_name", ""))
    if "standard_name" in kept and (wanted is None or not fits(kept["units"], wanted)):
        kept["source_standard_name"] = kept.pop("standard_name")
    return kept


def cell_bounds(points: NDArray, low: float = -np.inf, high: float = np.inf) -> NDArray[np.float64]:
    """Cell edges (n, 2) half-way between monotone `points` (n,), n >= 2, cut at `low` and `high`."""
    points = np.asarray(points, np.float64)
    middle = (points[1:] + points[:-1]) / 2
    edges = np.concatenate([[2 * points[0] - middle[0]], middle, [2 * points[-1] - middle[-1]]])
    return np.stack([edges[:-1], edges[1:]], axis=1).clip(low, high)


def _horizontal(ds: xr.Dataset, dim: str, axis: str) -> xr.Dataset:
    """`ds` with canonical attributes for its y or x axis (`axis`) `dim`, and bounds for latitude or longitude."""
    source = ds[dim].attrs
    points = ds[dim].values.astype(np.float64)
    degrees = units_of(source) in ("degrees_north", "degrees_east")
    attrs = horizontal_attributes(axis, dim, source, degrees)
    if not degrees:
        attrs.pop("axis", None)  # on a plain length, checkers take an axis for a latitude or longitude without units
    projection = f"projection_{axis}_coordinate"
    if source.get("standard_name") == projection and any("grid_mapping_name" in v.attrs for v in ds.values()):
        attrs["standard_name"] = projection
    out = ds.assign_coords({dim: (dim, points, attrs)})
    if degrees and len(points) > 1:
        bounds = "lat_bnds" if axis == "y" else "lon_bnds"
        out[bounds] = ((dim, "nv"), cell_bounds(points, *((-90.0, 90.0) if axis == "y" else ())))
        out[dim].attrs["bounds"] = bounds
    return out


def repaired(fields: xr.Dataset) -> xr.Dataset:
    """`fields`, one member with dims (realization, [time], [level], y, x), with valid CF-1.11 attributes.

    Data become float32; scalar coordinates and a grid mapping are kept, other auxiliary coordinates are dropped, and
    so are the Dataset's own attributes.
    """
    mappings = [n for n, v in fields.variables.items() if "grid_mapping_name" in v.attrs]
    names = [n for n in fields.data_vars if n not in mappings]
    out = fields.reset_coords([c for c in fields.coords if c in mappings])
    out = out.drop_vars([c for c, v in out.coords.items() if v.ndim and c not in out.dims])
    for dim in dict.fromkeys(d for n in names for d in out[n].dims if d != "realization"):
        if dim not in out.coords:
            out = out.assign_coords({dim: (dim, np.arange(out.sizes[dim], dtype=np.float64))})
        axis = {out[n].dims[-1 - i]: "xy"[i] for n in names for i in range(2)}.get(dim)
        if axis:
            out = _horizontal(out, dim, axis)
        elif np.issubdtype(out[dim].dtype, np.datetime64):
            out[dim].attrs = dict(TIME)
        else:
            points = out[dim].values
            points = points.astype(np.int32) if points.dtype.kind in "iu" else points
            out = out.assign_coords({dim: (dim, points, vertical_attributes(dim, out[dim].attrs))})
    for name in names:
        attrs = field_attributes(name, fields[name].attrs)
        if fields[name].attrs.get("grid_mapping") in mappings:
            attrs["grid_mapping"] = fields[name].attrs["grid_mapping"]
        out[name] = (out[name].dims, out[name].values.astype(np.float32), attrs)
    for name in mappings:
        out[name].attrs.setdefault("long_name", "coordinate reference system")
    out.attrs = {}
    return out


def encodings(ds: xr.Dataset) -> dict[str, dict[str, Any]]:
    """How each variable of a repaired Dataset is stored.

    Fields: deflate 1, shuffle, checksum, one chunk a field, a fill value. The rest: no fill value, and a checksum too,
    since a flipped bit in a coordinate is as bad; single numbers are left to the SHA-256 of the file.
    """
    out: dict[str, dict[str, Any]] = {}
    for name, variable in ds.variables.items():
        shape = variable.shape
        if variable.dtype == np.float32 and variable.ndim >= 3:
            chunks = (1,) * (len(shape) - 2) + shape[-2:]
            out[name] = {"zlib": True, "complevel": 1, "shuffle": True, "fletcher32": True, "chunksizes": chunks}
            out[name]["_FillValue"] = FILL
        else:
            out[name] = {"_FillValue": None} | ({"fletcher32": True, "chunksizes": shape} if variable.size > 1 else {})
        if np.issubdtype(variable.dtype, np.datetime64):
            out[name] |= TIME_ENCODING
    return out
