"""Windows of a reanalysis: monthly mean geopotential and wind, cut into squares of a latitude band as samples.

Of a global file of z [m2 s-2], u and v [m s-1] over (month, level, latitude, longitude). The band of the southern
hemisphere is mirrored, y -> -y and v -> -v, which geostrophic balance and non-divergence do not notice: one set of
latitudes serves both. Samples of one longitude are the months, levels and hemispheres, which no sample tells.

Windows overlap where they are for training or tuning, not where they are for judging; the three have longitudes of
their own. The geopotential of the ICAO standard atmosphere at the level is taken away, one number a level, which the
equations do not notice either: else the level's height would be most of what there is to know.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from sciguide.errors import InputError
from sciguide.grid import EARTH_RADIUS, EARTH_ROTATION

SIDE, STRIDE = 12, 2  # points of a window, and points of the file per point
SOUTH = 36.0  # degrees, of a window's first row
SECTORS = {"train": (0, 120), "tune": (120, 168), "judge": (168, 240)}  # columns of the thinned circle, 1.5 degrees
COUNTS = {"train": 33, "tune": 12, "judge": 6}  # windows along a circle, of which 10, 4 and 6 do not overlap
NAMES = {"z": "geopotential", "u": "eastward_wind", "v": "northward_wind"}

GRAVITY, GAS, LAPSE = 9.80665, 287.053, 0.0065  # m s-2, J kg-1 K-1, K m-1
SURFACE, TROPOPAUSE = (1013.25, 288.15), (226.321, 216.65)  # hPa and K, of the standard atmosphere


class Window(NamedTuple):
    """Where a sample is from: which of the `SECTORS`, its first column, month, level [hPa], and hemisphere."""

    sector: str
    column: int
    month: int
    level: int
    north: bool


def open_reanalysis(path: Path) -> xr.Dataset:
    """The file, or the one NetCDF file in a folder, with latitudes ascending. Raises InputError for others."""
    files = sorted(path.glob("*.nc")) if path.is_dir() else [path]
    if len(files) != 1 or not files[0].is_file():
        raise InputError(f"--data {path}: give a file, or a folder with one .nc in it")
    ds = xr.open_dataset(files[0])
    missing = [n for n in (*NAMES, "month", "level", "latitude", "longitude") if n not in ds.variables]
    if missing:
        raise InputError(
            f"{files[0]}: no {', '.join(missing)}; it takes z, u, v over month, level, latitude, longitude"
        )
    return ds[list(NAMES)].sortby("latitude").sortby("longitude")


def standard_geopotential(level: float) -> float:
    """Of the ICAO standard atmosphere at a pressure [hPa] up to 20 km, [m2 s-2]."""
    (p0, t0), (p1, t1) = SURFACE, TROPOPAUSE
    if level >= p1:
        return GRAVITY * t0 / LAPSE * (1 - (level / p0) ** (GAS * LAPSE / GRAVITY))
    return GRAVITY * (t0 - t1) / LAPSE + GAS * t1 * float(np.log(p1 / level))


def band(ds: xr.Dataset, north: bool) -> np.ndarray:
    """(month, level, z u v, SIDE, columns) of a hemisphere, rows away from the equator, as if it were the northern."""
    rows = (SOUTH + (ds.latitude.values[1] - ds.latitude.values[0]) * STRIDE * np.arange(SIDE)) * (1 if north else -1)
    part = ds.sel(latitude=rows, method="nearest", tolerance=1e-3).isel(longitude=slice(None, None, STRIDE))
    fields = np.stack([part[n].transpose("month", "level", "latitude", "longitude").values for n in NAMES], 2)
    fields[:, :, 0] -= np.array([standard_geopotential(p) for p in part.level.values])[None, :, None, None]
    return fields if north else fields * np.array([1, 1, -1])[:, None, None]


def windows(ds: xr.Dataset, sector: str) -> list[Window]:
    """Of a sector, from west to east, at every longitude all months, levels and hemispheres."""
    first, last = SECTORS[sector]
    columns = np.linspace(first, last - SIDE, COUNTS[sector]).round().astype(int).tolist()
    return [
        Window(sector, column, int(month), int(level), north)
        for column in columns
        for month in ds.month.values
        for level in ds.level.values
        for north in (True, False)
    ]


def cut(ds: xr.Dataset) -> tuple[xr.Dataset, list[Window]]:
    """The samples in the order of `SECTORS`, and where each is from."""
    bands = {north: band(ds, north) for north in (True, False)}
    months, levels = ds.month.values.tolist(), ds.level.values.tolist()
    chosen = [w for sector in SECTORS for w in windows(ds, sector)]
    fields = [
        bands[w.north][months.index(w.month), levels.index(w.level), :, :, w.column : w.column + SIDE] for w in chosen
    ]
    spacing = float(ds.latitude[1] - ds.latitude[0]) * STRIDE
    made = {
        name: (("sample", "lat", "lon"), part, {"units": ds[name].attrs.get("units"), "standard_name": NAMES[name]})
        for name, part in zip(NAMES, np.moveaxis(np.array(fields, np.float32), 1, 0), strict=True)
    }
    coordinates = {
        "lat": ("lat", SOUTH + spacing * np.arange(SIDE), {"units": "degrees_north"}),
        "lon": ("lon", spacing * np.arange(SIDE), {"units": "degrees_east"}),
    }
    return xr.Dataset(made, coordinates), chosen


def synthetic(spacing: float = 0.75) -> xr.Dataset:
    """A file of the same form: a random stream of waves at each level and month, winds that balance it but for friction
    at the lowest level, which turns and weakens them."""
    rng = np.random.default_rng(0)
    lat, lon = np.arange(-90, 90 + spacing, spacing), np.arange(-180, 180, spacing)
    y, x = np.deg2rad(lat)[:, None], np.deg2rad(lon)
    f = 2 * EARTH_ROTATION * np.sin(y)
    per_f = f / (f**2 + 1e-10)
    fields = np.zeros((3, 2, 3, len(lat), len(lon)))
    for month, level in np.ndindex(2, 3):
        size = (6e3, 3e3, 1.5e3)[level]
        phi = -size * 4 * np.sin(y) ** 2
        for k in range(1, 9):
            along, across, phase = rng.uniform(2, 8), rng.uniform(-4, 4), rng.uniform(0, 2 * np.pi)
            phi = phi + size / 8 * np.cos(y) ** 2 * np.cos(round(along) * x + across * y + phase) / k**0.5
        slope_y = np.gradient(phi, y[:, 0], axis=0) / EARTH_RADIUS
        slope_x = np.gradient(phi, x, axis=1) / (EARTH_RADIUS * np.cos(y).clip(1e-3))
        u, v = -per_f * slope_y, per_f * slope_x
        drag = (0.02, 0.05, 0.4)[level]
        fields[:, month, level] = phi, u - drag * v, v + drag * u * np.sign(lat)[:, None]
    levels = np.array([200, 500, 850])
    fields[0] += np.array([standard_geopotential(p) for p in levels])[:, None, None]
    dims, units = ("month", "level", "latitude", "longitude"), {"z": "m2 s-2", "u": "m s-1", "v": "m s-1"}
    variables = {n: (dims, part, {"units": units[n]}) for n, part in zip(NAMES, fields, strict=True)}
    return xr.Dataset(variables, {"month": [1, 7], "level": levels, "latitude": lat, "longitude": lon})
