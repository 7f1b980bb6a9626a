"""Attributes repaired, not copied blindly: data variables keep theirs, coordinates get canonical CF ones."""

import re
from typing import Any

import numpy as np

from sciguide.datasets.units import canonical_units

_UNIT_SPELLINGS = ("Unit", "unit", "Units", "UNITS")
# Names of variables that are not carried along, and facts about the source's encoding or its values.
_STALE = {
    *("coordinates", "ancillary_variables", "grid_mapping", "cell_measures", "bounds", "formula_terms", "climatology"),
    *("valid_min", "valid_max", "valid_range", "actual_range", "missing_value", "_FillValue", "_ChunkSizes"),
    *("scale_factor", "add_offset", "number_of_significant_digits", "least_significant_digit", "axis", "positive"),
    *_UNIT_SPELLINGS,
}
_STANDARD_NAME = re.compile(r"[a-z][a-z0-9_]*( [a-z_]+)?")
_LATITUDE = {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north", "axis": "Y"}
_LONGITUDE = {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east", "axis": "X"}
_PRESSURE_UNITS = {"Pa", "hPa", "kPa", "bar"}
_LENGTH_UNITS = {"m", "km", "meter", "meters", "metre", "metres", "kilometer", "kilometers", "kilometre", "kilometres"}


def units_of(attrs: dict[str, Any]) -> str | None:
    """The unit under any of its spellings (`units`, `Unit`, ...), canonical; None where there is none."""
    for key in ("units", *_UNIT_SPELLINGS):
        if str(attrs.get(key, "")).strip():
            return canonical_units(attrs[key])
    return None


def plain(value: Any) -> Any:
    """An attribute as str, int, float, bool or a list of them, which JSON and a weights-only checkpoint can hold."""
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def data_attributes(name: str, attrs: dict[str, Any]) -> dict[str, Any]:
    """A data variable's own attributes, with `units` and `long_name` sure to be there."""
    kept = {key: plain(value) for key, value in attrs.items() if key not in _STALE}
    if not _STANDARD_NAME.fullmatch(str(kept.get("standard_name", ""))):
        kept.pop("standard_name", None)
    kept["long_name"] = str(kept.get("long_name") or name.replace("_", " "))
    kept["units"] = units_of(attrs) or "1"
    return kept


def horizontal_attributes(axis: str, name: str, attrs: dict[str, Any], lat_lon: bool) -> dict[str, Any]:
    """Canonical attributes of the y or x coordinate (`axis` is "y" or "x")."""
    if lat_lon:
        return dict(_LATITUDE if axis == "y" else _LONGITUDE)
    units = units_of(attrs) or "1"
    canonical = {"long_name": str(attrs.get("long_name") or f"{axis} coordinate"), "units": units}
    return canonical | ({"axis": axis.upper()} if units in _LENGTH_UNITS else {})


def vertical_attributes(name: str, attrs: dict[str, Any]) -> dict[str, Any]:
    """Canonical attributes of a level coordinate: pressure, depth or height where it is one, else name and unit."""
    units = units_of(attrs) or "1"
    if units in _PRESSURE_UNITS:
        return _vertical("air_pressure", "pressure", units, "down")
    if units in _LENGTH_UNITS:
        down = name.lower().startswith("dep") or attrs.get("positive") == "down"
        return _vertical("depth", "depth", units, "down") if down else _vertical("height", "height", units, "up")
    return {"long_name": str(attrs.get("long_name") or name.replace("_", " ")), "units": units}


def _vertical(standard_name: str, long_name: str, units: str, positive: str) -> dict[str, Any]:
    return {
        "standard_name": standard_name,
        "long_name": long_name,
        "units": units,
        "positive": positive,
        "axis": "Z",
    }


def is_vertical(attrs: dict[str, Any]) -> bool:
    """Whether a coordinate with these attributes is a pressure, depth or height."""
    return attrs.get("axis") == "Z" or "positive" in attrs or units_of(attrs) in _PRESSURE_UNITS | _LENGTH_UNITS
