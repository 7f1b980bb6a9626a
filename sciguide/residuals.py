"""The residual of an equation on anyone's data, with no model at all.

    sciguide.residual(ds, "nondivergence", fields={"u": "uo", "v": "vo"})

Axes come from CF attributes, then names; a field of the equation is the variable of that name, else the one with a
standard name that the equation knows, else what `fields` says. The arithmetic is in float64, whatever the data are in.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr

from sciguide.coordinates import time_step
from sciguide.equations import Equation, get
from sciguide.equations.operator import Operator
from sciguide.errors import InputError
from sciguide.gaps import Gaps
from sciguide.matching import conversions, found_units, match_fields
from sciguide.placement import Place


def residual_of(
    ds: xr.Dataset,
    equation: str | type[Equation] | Equation,
    fields: Mapping[str, str] | None = None,
    axes: Mapping[str, str] | None = None,
    boundary: tuple[str, ...] | None = None,
    **constants: float | str,
) -> xr.Dataset:
    """`residual` on the grid of `ds` (NaN where its stencil does not fit, beside gaps and at open edges), `rms` and
    `relative_rms` over every dimension that is none of the equation's axes, level by level where it is over (y, x).

    `rms` is area-weighted; `relative_rms` divides it by the rms of the equation's scale term over the whole of `ds`,
    one number. Where the equation has several residuals, all three have a first dimension `component` with their names,
    and each its own scale, but one for the components of a vector. Equations over two times pair each time with the
    next, and carry the coordinate of the earlier one; their `dt` is that of the coordinate unless it is given.

    `fields`: the variable for each field of the equation; `axes`: names of the dimensions `y`, `x`, `level`, `time`;
    `boundary`: for each of the equation's axes, as in `Grid`, by default open, but periodic around the globe;
    `constants`: the equation's, numbers, or names of variables where they vary; a field that no guide moves may lack
    dimensions that others have. Raises InputError for fields that are missing, ambiguous, in wrong units or infinite,
    and for unusable coordinates.
    """
    given, equation = equation, _instance(equation, constants)
    match = match_fields(ds, equation, fields)
    place = Place.of(ds, equation, match, axes, boundary)
    units = found_units(ds, equation, match)
    pure = not place.grid.sphere and set(units.values()) == {"1"}
    factors = [(1.0, 0.0)] * len(units) if pure else conversions(units, equation, match)
    if "dt" in equation.constants and "dt" not in constants:
        equation = _with_step(given, equation, ds, place, bool(match.later), pure)
    residual, square, scale_square = _evaluate(place, equation.on(place.grid), factors)
    if np.isnan(square).all():
        raise InputError(f"equation {equation.name}: no stencil is free of gaps in {', '.join(match.names)}")
    return _dataset(place, equation, residual, square, np.sqrt(np.nanmean(scale_square, 0)))


def _dataset(
    place: Place, equation: Equation, residual: np.ndarray, square: np.ndarray, scale: np.ndarray
) -> xr.Dataset:
    """Of residuals (N, K, ...), their mean squares (N, K) and their scales (K,)."""
    names = list(equation.terms("residual"))
    rms = np.sqrt(square).T.reshape(-1, *place.sizes)
    divisor = np.where(scale > 0, scale, np.nan).reshape(-1, *(1,) * len(place.sizes))
    values = {"residual": place.restore(residual), "rms": rms, "relative_rms": rms / divisor}
    dims = {"residual": place.dims, "rms": place.others, "relative_rms": place.others}
    coords = {k: c for k, c in place.ds.coords.items() if set(c.dims) <= set(place.dims)}
    if len(names) == 1:
        values, scale = {k: v[0] for k, v in values.items()}, float(scale[0])
    else:
        dims, coords = {k: ("component", *d) for k, d in dims.items()}, {**coords, "component": names}
    about, units = equation.formula(), {} if equation.units is None else {"units": equation.units}
    attrs = {
        "residual": {"long_name": f"residual of {about}", **units},
        "rms": {"long_name": f"area-weighted rms of the residual of {about}", **units},
        "relative_rms": {"long_name": f"rms over that of {equation.scale}", "units": "1"},
    }
    out = xr.Dataset(
        {k: (dims[k], v, attrs[k]) for k, v in values.items()},
        coords,
        {"equation": equation.name, "formula": about, "scale_term": equation.scale, "scale": scale},
    )
    source = next(iter(place.ds.data_vars.values())).dims
    return out.assign(residual=out["residual"].transpose(..., *source))


def _instance(equation: str | type[Equation] | Equation, constants: Mapping[str, float | str]) -> Equation:
    if isinstance(equation, Equation):
        if constants:
            raise InputError(
                f"equation {equation.name} has its constants already; {', '.join(constants)} cannot be given"
            )
        return equation
    return (get(equation) if isinstance(equation, str) else equation)(**constants)


def _with_step(given: object, equation: Equation, ds: xr.Dataset, place: Place, later: bool, pure: bool) -> Equation:
    """The equation with `dt` of the time coordinate. Raises InputError where that contradicts an instance."""
    ready = isinstance(given, Equation)
    if not later and not ready:
        raise InputError(f"equation {equation.name}: both times are variables of their own: give dt, in seconds")
    if not later:
        return equation
    if place.time not in ds.coords:
        raise InputError(f"dimension {place.time!r} has no coordinate; assign one, or give dt, in seconds")
    dt, had = time_step(ds[place.time], pure), equation.constants["dt"]
    if ready and not math.isclose(dt, had, rel_tol=1e-4):
        raise InputError(f"equation {equation.name} was made with dt = {had:g}; the times are {dt:g} apart")
    return equation if ready else type(equation)(**{**equation.constants, **equation.named, "dt": dt})


def _evaluate(
    place: Place, operator: Operator, factors: list[tuple[float, float]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residuals (N, K, [Z,] Y, X), their mean squares and those of the scale terms (N, K), NaN where there are none."""
    count, K, start = math.prod(place.sizes), len(operator.components), 0
    residual = np.full((count, K, *place.grid.shape), np.nan)
    squares = np.full((2, count, K), np.nan)
    gaps = Gaps(operator)
    for block in place.blocks(factors):
        rows = slice(start, start := start + len(block))
        for out, found in zip((residual, *squares), gaps.measure(torch.from_numpy(block)), strict=True):
            out[rows] = found.numpy()
    return residual, *squares
