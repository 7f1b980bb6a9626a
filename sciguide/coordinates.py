"""Coordinates as equations want them: heights upwards or the logarithm of pressure, times in seconds."""

from typing import Any

import numpy as np
import xarray as xr

from sciguide.datasets.attributes import units_of
from sciguide.datasets.units import canonical_units, known_units
from sciguide.errors import InputError
from sciguide.grid import is_uniform


def vertical(name: str, values: np.ndarray, attrs: dict[str, Any], wanted: str) -> np.ndarray:
    """The levels of coordinate `name` in the units `wanted` (n,); lengths count upwards. Pure numbers stand for lengths
    as they are. Raises InputError for units of another kind."""
    import cf_units

    units, values = units_of(attrs) or "1", np.asarray(values, np.float64)
    if units != "1" or wanted != "m":
        if not (known_units(units) and cf_units.Unit(units).is_convertible(cf_units.Unit(wanted))):
            raise InputError(
                f"coordinate {name!r} is in {units!r}, the equation's third axis in {wanted!r}: set its attribute "
                f"`units`, such as {'m' if wanted == 'm' else 'hPa'}, or name the right one under axes"
            )
        with np.errstate(invalid="ignore", divide="ignore"):  # a pressure of 0 has no logarithm: `ascending` says so
            values = cf_units.Unit(units).convert(values, cf_units.Unit(wanted))
    return -values if wanted == "m" and attrs.get("positive") == "down" else values


def elapsed(coord: xr.DataArray, pure: bool) -> np.ndarray:
    """Time since the first, in seconds, (n,); without units it is taken as it is where all else is `pure` numbers.
    Raises InputError for what is no time."""
    import cf_units

    name, values = coord.name, coord.values
    if values.dtype.kind == "M":
        return (values - values[0]) / np.timedelta64(1, "s")
    if values.dtype.kind == "m":
        return values / np.timedelta64(1, "s")
    if values.dtype.kind == "O" and hasattr(values[0], "calendar"):
        return np.array([(v - values[0]).total_seconds() for v in values])
    if values.dtype.kind not in "iuf":
        raise InputError(f"coordinate {name!r} holds neither times nor numbers")
    units = canonical_units((units_of(coord.attrs) or "1").partition(" since ")[0])
    if units == "1":
        if not pure:
            raise InputError(f"coordinate {name!r} has no units: set its attribute `units`, such as s, or give dt")
        return values.astype(np.float64)
    if not (known_units(units) and cf_units.Unit(units).is_time()):
        raise InputError(f"coordinate {name!r} is in {units!r}, which is no time")
    return cf_units.Unit(units).convert((values - values[0]).astype(np.float64), "s")


def time_step(coord: xr.DataArray, pure: bool) -> float:
    """The step between the times of `coord`, as `elapsed` has them. Raises InputError where they are not even, or go
    back."""
    times = elapsed(coord, pure)
    steps = np.diff(times)
    if not (np.isfinite(steps).all() and (steps > 0).all() and is_uniform(times)):
        found = f"from {steps.min():g} to {steps.max():g}"
        raise InputError(
            f"coordinate {coord.name!r} has steps {found}{'' if pure else ' s'}: equations over two times need even, "
            "positive ones; select or interpolate, or give dt"
        )
    return float(times[-1] - times[0]) / len(steps)
