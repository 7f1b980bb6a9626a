"""Units as files spell them, made readable for UDUNITS, and conversion between them."""

import re
from functools import lru_cache

from sciguide.errors import InputError

# UDUNITS reads `mb` as millibarn and `ms-1` as per millisecond, and refuses the others.
_SPELLINGS = {
    "degrees north": "degrees_north",
    "degree north": "degrees_north",
    "degrees east": "degrees_east",
    "degree east": "degrees_east",
    "dimensionless": "1",
    "unitless": "1",
    "none": "1",
    "non-dim": "1",
    "-": "1",
    "(0 - 1)": "1",
    "fraction": "1",
    "psu": "1e-3",
    "ms-1": "m s-1",
    "ms**-1": "m s-1",
    "ms^-1": "m s-1",
    "millibars": "hPa",
    "millibar": "hPa",
}


def canonical_units(text: str) -> str:
    """The unit as UDUNITS understands it; a spelling that needs no repair comes back unchanged."""
    text = str(text).strip()
    text = _SPELLINGS.get(text.lower(), text)
    return re.sub(r"\bmb(ar)?\b", "hPa", text)


@lru_cache
def known_units(text: str) -> bool:
    """Whether UDUNITS can read `text` (already canonical)."""
    import cf_units

    try:
        with cf_units.suppress_errors():
            return not cf_units.Unit(text).is_unknown()
    except ValueError:
        return False


@lru_cache
def conversion(given: str, wanted: str) -> tuple[float, float]:
    """(scale, offset) with wanted = scale * given + offset.

    Raises InputError if the two measure different things.
    """
    given, wanted = canonical_units(given), canonical_units(wanted)
    if given == wanted:
        return 1.0, 0.0
    import cf_units

    if not (known_units(given) and known_units(wanted) and cf_units.Unit(given).is_convertible(cf_units.Unit(wanted))):
        raise InputError(f"units `{given}` cannot be turned into `{wanted}`")
    # One unit is converted at 0 and 1, which is exact for the affine scales that UDUNITS knows.
    offset, one = (float(cf_units.Unit(given).convert(v, cf_units.Unit(wanted))) for v in (0.0, 1.0))
    return one - offset, offset
