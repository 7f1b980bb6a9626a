"""Generators of data with a known truth: one file per set, found by its name.

A set's module has `TITLE`, `VARIABLES` (their attributes), `coordinates(n)`, `draw(n, seed, index)`, `operator(n)`
(whose fields are the variables) and `attributes()`.
"""

from difflib import get_close_matches
from importlib import import_module
from types import ModuleType

from sciguide.errors import InputError

NAMES = ("poisson",)


def get(name: str) -> ModuleType:
    """The set called `name`. Raises InputError where there is none."""
    if name not in NAMES:
        close = get_close_matches(name, NAMES, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"no data set {name!r}; {hint}there are {', '.join(NAMES)}")
    return import_module(f"{__name__}.{name}")
