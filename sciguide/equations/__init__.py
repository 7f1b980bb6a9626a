"""Equations: one file each, found by name, or by `module:Class` where it is the user's own.

A user's file needs `from sciguide.equations import Constant, Equation, Field, div, grad` and the like.
"""

from difflib import get_close_matches
from importlib import import_module
from pkgutil import iter_modules

from sciguide.equations.base import Constant, Equation, Field
from sciguide.errors import InputError
from sciguide.kernels.stencil import coriolis, curl, curvature, ddt, ddx, ddy, ddz, div, expand, grad, lap

__all__ = [
    "Constant",
    "Equation",
    "Field",
    "coriolis",
    "curl",
    "curvature",
    "ddt",
    "ddx",
    "ddy",
    "ddz",
    "div",
    "expand",
    "get",
    "grad",
    "lap",
    "names",
]


def names() -> list[str]:
    """The equations that come with the package."""
    return sorted(m.name for m in iter_modules(__path__) if m.name not in ("base", "operator"))


def get(name: str) -> type[Equation]:
    """The equation called `name`, or the class that `module:Class` names. Raises InputError where there is none."""
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"equation {name!r}: {error}; give module:Class of an importable module") from error
        if not (isinstance(found, type) and issubclass(found, Equation)):
            raise InputError(f"equation {name!r} is no subclass of sciguide.equations.Equation")
        return found
    if name not in names():
        close = get_close_matches(name, names(), 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"no equation {name!r}; {hint}there are {', '.join(names())}, or module:Class for your own")
    module = import_module(f"{__name__}.{name}")
    return next(
        v
        for v in vars(module).values()
        if isinstance(v, type) and issubclass(v, Equation) and v.__module__ == module.__name__
    )
