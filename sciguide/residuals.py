"""The residual of an equation on anyone's data, with no model at all.

    sciguide.residual(ds, "nondivergence", fields={"u": "uo", "v": "vo"})

Axes come from CF attributes, then names; a field of the equation is the variable of that name, else the one with a
standard name that the equation knows, else what `fields` says. The arithmetic is in float64, whatever the data are in.
"""

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import dask
import numpy as np
import torch
import xarray as xr

from sciguide.datasets.attributes import units_of
from sciguide.datasets.axes import ascending, did_you_mean, find_axes, is_lat_lon
from sciguide.datasets.store import LOCK
from sciguide.datasets.units import canonical_units, conversion
from sciguide.equations import Equation, Field, get
from sciguide.equations.operator import Operator
from sciguide.errors import InputError
from sciguide.grid import Grid, grid_of

BLOCK_POINTS = 2**22  # values of one field in memory at a time


def residual_of(
    ds: xr.Dataset,
    equation: str | type[Equation] | Equation,
    fields: Mapping[str, str] | None = None,
    axes: Mapping[str, str] | None = None,
    boundary: tuple[str, str] | None = None,
    **constants: float,
) -> xr.Dataset:
    """`residual` on the grid of `ds` (NaN where its stencil does not fit, beside gaps and at open edges), `rms` and
    `relative_rms` over every other dimension.

    `rms` is area-weighted; `relative_rms` divides it by the rms of the equation's scale term over the whole of `ds`,
    one number. `fields`: the variable for each field of the equation; `axes`: names of the dimensions y and x;
    `boundary`: for (y, x), as in `Grid`, by default open, but periodic around the globe; `constants`: the equation's.
    Raises InputError for fields that are missing, ambiguous, in wrong units or infinite, and for unusable coordinates.
    """
    equation = _instance(equation, constants)
    names = match_fields(ds, equation, fields)
    place = _Place.of(ds[list(names.values())], axes, boundary)
    factors = _factors(ds, equation, names, place.grid.sphere)
    residual, square, scale_square = _evaluate(place, equation, list(names.values()), factors)
    if np.isnan(square).all():
        equation.on(place.grid)  # says so, where the grid itself is too small
        raise InputError(f"equation {equation.name}: no stencil is free of gaps in {', '.join(names.values())}")

    scale = float(np.sqrt(np.nanmean(scale_square)))
    rms = np.sqrt(square).reshape(place.sizes)
    relative = rms / scale if scale > 0 else np.full_like(rms, np.nan)
    about, units = equation.formula(), {} if equation.units is None else {"units": equation.units}
    out = xr.Dataset(
        {
            "residual": (place.dims, place.restore(residual), {"long_name": f"residual of {about}", **units}),
            "rms": (place.others, rms, {"long_name": f"area-weighted rms of the residual of {about}", **units}),
            "relative_rms": (place.others, relative, {"long_name": f"rms over that of {equation.scale}", "units": "1"}),
        },
        coords={k: c for k, c in place.ds.coords.items() if set(c.dims) <= set(place.dims)},
        attrs={"equation": equation.name, "formula": about, "scale_term": equation.scale, "scale": scale},
    )
    return out.assign(residual=out["residual"].transpose(*place.ds[names[next(iter(names))]].dims))


def _instance(equation: str | type[Equation] | Equation, constants: Mapping[str, float]) -> Equation:
    if isinstance(equation, Equation):
        if constants:
            raise InputError(
                f"equation {equation.name} has its constants already; {', '.join(constants)} cannot be given"
            )
        return equation
    return (get(equation) if isinstance(equation, str) else equation)(**constants)


def match_fields(ds: xr.Dataset, equation: Equation, fields: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variable of `ds` for each field of the equation. Raises InputError where it is absent or ambiguous."""
    wanted: dict[str, Field] = equation.members(Field)
    there = [str(n) for n in ds.data_vars]
    for name, variable in (fields or {}).items():
        if name not in wanted:
            raise InputError(f"equation {equation.name} has the fields {', '.join(wanted)}, not {name!r}")
        if variable not in there:
            raise InputError(f"no variable {variable!r}; there are {', '.join(there)}.{did_you_mean(variable, there)}")
    found = {}
    for name, field in wanted.items():
        if name in (fields or {}):
            found[name] = fields[name]
            continue
        known = {
            n for n in there if n in field.standard_names or ds[n].attrs.get("standard_name") in field.standard_names
        }
        candidates = [n for n in there if n == name] or sorted(known) or [n for n in there if n.lower() == name.lower()]
        if len(candidates) != 1:
            what = (
                f"{' and '.join(candidates)} all look like" if candidates else f"none of {', '.join(there)} looks like"
            )
            hint = f'fields={{"{name}": "..."}}'
            raise InputError(f"equation {equation.name}: {what} its field {name} ({field.long_name}); say {hint}")
        found[name] = candidates[0]
    if len(set(found.values())) < len(found):
        raise InputError(f"equation {equation.name}: one variable stands for two fields: {found}")
    return found


def _factors(ds: xr.Dataset, equation: Equation, names: Mapping[str, str], sphere: bool) -> list[tuple[float, float]]:
    """(scale, offset) to the units of each field of the equation. Where all are pure numbers, they stay as they are."""
    fields, found = equation.members(Field), {}
    for name, variable in names.items():
        units = units_of(ds[variable].attrs)
        if units is None and fields[name].units is not None:
            raise InputError(
                f"variable {variable!r} has no units; set its attribute `units`, such as {fields[name].units}"
            )
        found[name] = canonical_units(units or "1")
    if not sphere and set(found.values()) == {"1"}:
        return [(1.0, 0.0)] * len(found)
    factors = []
    for name, variable in names.items():
        try:
            factors.append(conversion(found[name], fields[name].units or found[name]))
        except InputError as error:
            raise InputError(f"variable {variable!r}: {error}, the units of {name} in {equation.name}") from error
    return factors


class _Place(NamedTuple):
    """Where the fields live: `ds` their variables; `others`, then y and x: their dimensions, in `order` of ascent."""

    ds: xr.Dataset
    grid: Grid
    others: tuple[Hashable, ...]
    sizes: tuple[int, ...]
    order: dict[str, np.ndarray]

    @classmethod
    def of(cls, ds: xr.Dataset, axes: Mapping[str, str] | None, boundary: tuple[str, str] | None) -> "_Place":
        names = list(ds.data_vars)
        if any(set(ds[n].dims) != set(ds[names[0]].dims) for n in names):
            dims = "; ".join(f"{n} {ds[n].dims}" for n in names)
            raise InputError(f"the fields have different dimensions: {dims}; select or average until they agree")
        # One element along each dimension: which are y and x does not depend on how many others are longer than 1.
        found = find_axes(ds.isel({d: slice(0, 1) for d in ds.dims}), names, axes, "the dataset")
        order, values = {}, {}
        lat_lon = all(d in ds.coords for d in (found.y, found.x)) and is_lat_lon(ds, found.y, found.x)
        for dim in (found.y, found.x):
            if dim not in ds.coords:
                raise InputError(f"dimension {dim!r} has no coordinate; assign one, in degrees or as lengths")
            try:
                order[dim], values[dim] = ascending(ds[dim].values, lat_lon and dim == found.x)
            except ValueError as error:
                raise InputError(f"coordinate {dim!r} {error}") from error
        units = [units_of(ds[d].attrs) or "1" for d in (found.y, found.x)]
        units = ["degrees_north", "degrees_east"] if lat_lon else units
        grid = grid_of(values[found.y], values[found.x], *units, boundary=boundary)
        others = tuple(d for d in ds[names[0]].dims if d not in order)
        return cls(ds, grid, others, tuple(ds.sizes[d] for d in others), order)

    @property
    def dims(self) -> tuple[Hashable, ...]:
        return *self.others, *self.order

    def restore(self, values: np.ndarray) -> np.ndarray:
        """(N, Y, X), ascending, to the sizes and the order of the source."""
        back = np.ix_(*(np.argsort(o) for o in self.order.values()))
        return values[(slice(None), *back)].reshape(*self.sizes, *values.shape[1:])

    def blocks(self, names: list[str], factors: list[tuple[float, float]]) -> Iterator[np.ndarray]:
        """The samples in turn, (B, F, Y, X) float64, ascending; read under the lock of the files."""
        arrays = [self.ds[n].transpose(*self.dims) for n in names]
        first = self.others[0] if self.others else None
        step = max(1, BLOCK_POINTS * self.sizes[0] // max(arrays[0].size, 1)) if first else 1
        rows = np.ix_(*self.order.values())
        for start in range(0, self.sizes[0] if first else 1, step):
            with LOCK, dask.config.set(scheduler="synchronous"):  # its threads would wait for the lock
                parts = [
                    np.asarray(a.isel({first: slice(start, start + step)}) if first else a, np.float64) for a in arrays
                ]
            parts = [p.reshape(-1, *self.grid.shape)[(slice(None), *rows)] for p in parts]
            yield np.stack([p * factor + offset for p, (factor, offset) in zip(parts, factors, strict=True)], 1)


def _evaluate(
    place: _Place, equation: Equation, names: list[str], factors: list[tuple[float, float]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residual (N, Y, X), its mean square and that of the scale term (N,), NaN where there is none. Samples with the
    same gaps share an operator."""
    grid, count = place.grid, math.prod(place.sizes)
    residual, start = np.full((count, *grid.shape), np.nan), 0
    square, scale_square = np.full((2, count), np.nan)

    @lru_cache(maxsize=16)
    def operator(gaps: bytes) -> Operator | None:
        mask = np.unpackbits(np.frombuffer(gaps, np.uint8), count=math.prod(grid.shape)).reshape(grid.shape) == 0
        try:
            return equation.on(replace(grid, mask=mask))
        except InputError:
            return None

    for block in place.blocks(names, factors):
        for name, values in zip(names, block.swapaxes(0, 1), strict=True):
            if np.isinf(values).any():
                raise InputError(
                    f"variable {name!r} is infinite in places: it overflowed, or its fill value is not declared"
                )
        gaps = np.packbits(np.isnan(block).any(1).reshape(len(block), -1), axis=1)
        kinds, which = np.unique(gaps, axis=0, return_inverse=True)
        for kind, bits in enumerate(kinds):
            if (op := operator(bits.tobytes())) is None:
                continue
            members = np.flatnonzero(which.ravel() == kind)
            u, rows = torch.from_numpy(block[members]), start + members
            r = op.residual(u)
            residual[rows] = torch.where(op.valid, r[:, 0], torch.nan).numpy()
            square[rows], scale_square[rows] = op.mean_square(r)[:, 0].numpy(), op.scale_square(u)[:, 0].numpy()
        start += len(block)
    return residual, square, scale_square
