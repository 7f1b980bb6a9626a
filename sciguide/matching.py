"""Which variable is which field of an equation, and in which units.

A field is the variable of that name, else the one with a standard name that the equation knows, else the one whose name
differs in case only; `fields={"phi": "z"}` says it before any of these. A field a time step later is the variable of
that name where there is one, else what it follows, at the next time.
"""

from collections.abc import Mapping
from typing import NamedTuple

import xarray as xr

from sciguide.datasets.attributes import units_of
from sciguide.datasets.axes import did_you_mean
from sciguide.datasets.units import canonical_units, conversion
from sciguide.equations import Equation, Field
from sciguide.errors import InputError


class Match(NamedTuple):
    """The variable of each field, in the order of the equation; the fields in `later` are read one time further on."""

    variables: dict[str, str]
    later: frozenset[str]

    @property
    def names(self) -> list[str]:
        """The variables, each once."""
        return list(dict.fromkeys(self.variables.values()))


def match_fields(ds: xr.Dataset, equation: Equation, fields: Mapping[str, str] | None = None) -> Match:
    """The variable of `ds` for each field of the equation. Raises InputError where it is absent or ambiguous."""
    wanted, there = equation.fields, [str(n) for n in ds.data_vars]
    fields = {**equation.named, **(fields or {})}
    for name, variable in fields.items():
        if name not in wanted:
            raise InputError(f"equation {equation.name} has the fields {', '.join(wanted)}, not {name!r}")
        if variable not in there:
            raise InputError(f"no variable {variable!r}; there are {', '.join(there)}.{did_you_mean(variable, there)}")
    now = {n: fields.get(n) or _search(ds, there, equation, f) for n, f in wanted.items() if f.next is None}
    if len(set(now.values())) < len(now):
        raise InputError(f"equation {equation.name}: one variable stands for two fields: {now}")
    told = now | {n: fields.get(n, n) for n, f in wanted.items() if n in fields or n in there}
    later = frozenset(wanted) - frozenset(told)
    return Match({n: told[n] if n in told else now[str(f.next)] for n, f in wanted.items()}, later)


def _search(ds: xr.Dataset, there: list[str], equation: Equation, field: Field) -> str:
    known = {n for n in there if n in field.standard_names or ds[n].attrs.get("standard_name") in field.standard_names}
    alike = [n for n in there if n.lower() == field.name.lower()]
    candidates = [n for n in there if n == field.name] or sorted(known) or alike
    if len(candidates) != 1:
        what = f"{' and '.join(candidates)} all look like" if candidates else f"none of {', '.join(there)} looks like"
        hint = f'fields={{"{field.name}": "..."}}'
        raise InputError(f"equation {equation.name}: {what} its field {field.name} ({field.long_name}); say {hint}")
    return candidates[0]


def found_units(ds: xr.Dataset, equation: Equation, match: Match) -> dict[str, str]:
    """The units of each field as they are found. Raises InputError where a field that needs units has none."""
    fields, found = equation.fields, {}
    for name, variable in match.variables.items():
        units = units_of(ds[variable].attrs)
        if units is None and fields[name].units is not None:
            raise InputError(
                f"variable {variable!r} has no units; set its attribute `units`, such as {fields[name].units}"
            )
        found[name] = canonical_units(units or "1")
    return found


def conversions(found: Mapping[str, str], equation: Equation, match: Match) -> list[tuple[float, float]]:
    """(factor, offset) that turn each field into the equation's units. Raises InputError where that cannot be."""
    fields, out = equation.fields, []
    for name, variable in match.variables.items():
        try:
            out.append(conversion(found[name], fields[name].units or found[name]))
        except InputError as error:
            raise InputError(f"variable {variable!r}: {error}, the units of {name} in {equation.name}") from error
    return out
