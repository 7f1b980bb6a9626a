"""Gridded fields opened lazily: NetCDF (one, many, a pattern, a folder) or Zarr, as xarray on Dask, and checked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciguide.datasets.attributes import units_of
from sciguide.datasets.axes import Axes, ascending, did_you_mean, find_axes, is_lat_lon
from sciguide.datasets.files import LOCK, Source, find_files, first_line, locked, open_file, repaired, unreadable
from sciguide.datasets.units import canonical_units, known_units
from sciguide.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LOCK", "Source", "find_files", "load_fields", "open_fields"]


@locked
def open_fields(
    source: "Source | xr.Dataset",
    variables: Sequence[str] | None = None,
    units: Mapping[str, str] | None = None,
    axes: Mapping[str, str] | None = None,
) -> "tuple[xr.Dataset, Axes]":
    """Opens fields lazily, says which axis is which, and refuses what would go wrong later.

    `source`: see `find_files`, or a Dataset already open. `variables`: names to load; by default every gridded one,
    sorted. `units`: supplies or overrides the unit of a variable (nothing is converted). `axes`: see `find_axes`.

    Every variable of the result has a unit and the dimensions sample (if any), its level (if any), y and x, in the
    source's order; others, of length 1, have become scalar coordinates. Times are decoded. What lies beside them over
    (y, x) alone, the same for all samples, comes along as coordinates. Close it when done.
    Raises InputError for files that are absent, damaged or at odds with each other, variables that are not there,
    units that are missing, and coordinates that are missing, repeated or not monotone.
    """
    import xarray as xr

    if isinstance(source, xr.Dataset):
        where, parts = "the dataset", [repaired(source)]
    else:
        paths = find_files(source)
        where = paths[0].name if len(paths) == 1 else f"{paths[0].name} and {len(paths) - 1} more"
        parts = [open_file(path) for path in paths]
    names = _wanted(parts, variables, axes, where)
    ds = _joined([part[[n for n in names if n in part]] for part in parts], names, axes, where)
    for name, unit in (units or {}).items():
        if name not in names:
            raise InputError(f"`units:` names `{name}`, which is not loaded.{did_you_mean(name, names)}")
        ds[name].attrs["units"] = canonical_units(unit)
    found = find_axes(ds, names, axes, where)
    _check_units(ds, names, where)
    kept = {found.y, found.x, found.sample, *found.levels.values()}
    ds = _decoded(ds.isel({d: 0 for d in ds.dims if d not in kept and ds.sizes[d] == 1}), found.sample)
    _check_coordinates(ds, found, where)
    static = _static(parts, found, names)
    ds, found = ds.assign_coords(static), replace(found, static=tuple(static))
    ds.set_close(locked(lambda: [part.close() for part in parts]))
    return ds, found


@locked
def load_fields(*args: Any, **kwargs: Any) -> "tuple[xr.Dataset, Axes]":
    """`open_fields`, read into memory and closed."""
    ds, axes = open_fields(*args, **kwargs)
    try:
        return ds.load(scheduler="synchronous"), axes
    except Exception as error:
        raise unreadable(args[0], list(axes.levels), error) from error
    finally:
        ds.close()


def _wanted(
    parts: "list[xr.Dataset]", variables: Sequence[str] | None, axes: Mapping[str, str] | None, where: str
) -> list[str]:
    there = {str(n): part[n] for part in reversed(parts) for n in part.data_vars}
    if variables is not None:
        for name in variables:
            if name not in there:
                listed = ", ".join(sorted(there))
                raise InputError(f"{where} has no variable `{name}`; it has {listed}.{did_you_mean(name, there)}")
        return list(variables)
    numeric = [n for n, field in there.items() if field.ndim >= 2 and field.dtype.kind in "iufb"]
    if not numeric:
        raise InputError(f"{where} has no gridded variable")
    largest = max(numeric, key=lambda n: there[n].ndim)
    found = find_axes(next(part for part in parts if largest in part), [largest], axes, where)
    needed = {found.y, found.x, found.sample} - {None}
    # Sorted, for a Zarr store lists them in any order.
    return sorted(n for n in numeric if needed <= set(there[n].dims))


def _static(parts: "list[xr.Dataset]", axes: Axes, names: Sequence[str]) -> "dict[str, xr.DataArray]":
    """Numbers over (y, x) alone, on the grid of the fields, that are not among them."""
    found = {}
    for part in parts:
        for name, field in part.data_vars.items():
            flat = set(field.dims) == {axes.y, axes.x} and field.dtype.kind in "iufb"
            if flat and name not in names and axes.sample is not None:
                found.setdefault(str(name), field.drop_vars([c for c in field.coords if c not in field.dims]))
    return dict(sorted(found.items()))


def _joined(parts: "list[xr.Dataset]", names: list[str], axes: Mapping[str, str] | None, where: str) -> "xr.Dataset":
    """One dataset: files with the same variables follow each other along the samples, others stand side by side."""
    import xarray as xr

    groups: dict[tuple[str, ...], list[xr.Dataset]] = {}
    for part in parts:
        if part.data_vars:
            groups.setdefault(tuple(n for n in names if n in part), []).append(part)
    joined = [_followed(group, list(held), axes, where) for held, group in groups.items()]
    if len(joined) == 1:
        return joined[0].copy()
    try:
        return xr.merge(joined, join="exact", compat="override", combine_attrs="drop_conflicts")
    except ValueError as error:
        raise InputError(
            f"{where}: the files hold different variables on different grids or times ({first_line(error)})"
        ) from error


def _followed(parts: "list[xr.Dataset]", names: list[str], axes: Mapping[str, str] | None, where: str) -> "xr.Dataset":
    import xarray as xr

    if len(parts) == 1:
        return parts[0]
    found = find_axes(parts[0], names, axes, where)
    for part in parts[1:]:
        _check_same(parts[0], part, names, found)
    sample = found.sample or "sample"
    if sample in parts[0].variables and len({units_of(part[sample].attrs) for part in parts}) > 1:
        parts = [_decoded(part, sample) for part in parts]
    ds = xr.concat(parts, sample, data_vars="all", coords="minimal", compat="override", join="override")
    # Names of files need not be in the order of their times.
    return ds.sortby(sample) if _is_dated(ds, sample) and not ds.indexes[sample].is_monotonic_increasing else ds


def _check_same(first: "xr.Dataset", part: "xr.Dataset", names: list[str], axes: Axes) -> None:
    def file(ds: "xr.Dataset") -> str:
        return Path(str(ds[names[0]].encoding.get("source", "a part"))).name

    for dim in {axes.y, axes.x, *axes.levels.values()} - {None}:
        if not (dim in first.coords and dim in part.coords and np.array_equal(first[dim].values, part[dim].values)):
            if first.sizes[dim] != part.sizes.get(dim) or (dim in first.coords) or (dim in part.coords):
                raise InputError(f"coordinate `{dim}` of {file(part)} differs from {file(first)}: bring to one grid")
    for name in names:
        if units_of(first[name].attrs) != units_of(part[name].attrs):
            raise InputError(
                f"`{name}` is in {units_of(part[name].attrs)} in {file(part)} but in {units_of(first[name].attrs)} in "
                f"{file(first)}: convert one of them"
            )


def _is_dated(ds: "xr.Dataset", sample: str | None) -> bool:
    if sample not in ds.coords:
        return False
    return " since " in str(ds[sample].attrs.get("units", "")) or ds[sample].dtype.kind in "MO"


def _decoded(ds: "xr.Dataset", sample: str | None) -> "xr.Dataset":
    """The same with the sample coordinate as dates, where it is `days since ...` and the like."""
    import xarray as xr

    if sample not in ds.coords or " since " not in str(ds[sample].attrs.get("units", "")):
        return ds
    try:
        dates = xr.decode_cf(ds[[sample]], decode_timedelta=False)[sample]
    except Exception as error:
        raise InputError(f"coordinate `{sample}` is not decodable as times: {first_line(error)}") from error
    return ds.assign_coords({sample: dates})


def _check_units(ds: "xr.Dataset", names: Iterable[str], where: str) -> None:
    for name in names:
        unit = ds[name].attrs.get("units")
        if unit is None:
            raise InputError(
                f"{where}: `{name}` has no units: write `units: {{{name}: m s-1}}` (its own) under `data:`"
            )
        if not known_units(unit):
            raise InputError(
                f"{where}: `{name}` has the unknown units `{unit}`: write `units: {{{name}: ...}}`, as UDUNITS"
            )


def _check_coordinates(ds: "xr.Dataset", axes: Axes, where: str) -> None:
    for dim in (axes.y, axes.x):
        if dim not in ds.coords:
            raise InputError(f"{where}: dimension `{dim}` has no coordinate: add a variable {dim}({dim})")
        if ds.sizes[dim] < 2:
            raise InputError(f"{where}: dimension `{dim}` has one point only; fields need two dimensions")
    lat_lon = is_lat_lon(ds, axes.y, axes.x)
    for dim, degrees in (
        (axes.y, False),
        (axes.x, lat_lon),
        *((d, False) for d in axes.levels.values() if d in ds.coords),
    ):
        values = ds[dim].values
        try:
            ascending(values, degrees)
        except ValueError as error:
            raise InputError(f"{where}: coordinate `{dim}` {error}") from error
    if lat_lon and np.abs(ds[axes.y].values).max() > 90.001:
        raise InputError(f"{where}: latitude `{axes.y}` exceeds 90 degrees")
    if _is_dated(ds, axes.sample):
        index = ds.indexes[axes.sample]
        if not index.is_unique:
            raise InputError(f"{where}: `{axes.sample}` holds {index[index.duplicated()][0]} twice: drop one")
        if not index.is_monotonic_increasing:
            raise InputError(f"{where}: `{axes.sample}` is not in ascending order: sort it")
