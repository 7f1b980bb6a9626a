"""Generators of data with a known truth: one file per set, found by its name.

A set's module has

    TITLE           of the file
    VARIABLES       name -> CF attributes of what each sample holds, dims (sample, *axes)
    GROUP           how many samples are drawn together
    axes(n)         name -> (values, CF attributes), slow to fast, ascending
    static(n)       name -> (values, CF attributes) of what all samples share, without a sample dimension
    draw(n, seed, group)   name -> (GROUP, ny, nx), float64, of every variable; depends on nothing but its arguments
    operator(n)     the equation on the grid, its fields are variables or static; None where no local residual exists
    attributes()    what a file says of how its samples were drawn

Sample i is number i % GROUP of group i // GROUP: a larger set begins with the smaller one.
"""

from difflib import get_close_matches
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from sciguide.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = {
    "poisson": "lap(phi) = f, random sources, zero edges; the exact posterior is known",
    "helmholtz": "lap(psi) + psi = f, random sources, zero edges; the exact posterior is known",
    "darcy_smooth": "-div(K grad p) = f, smooth random K, no flux at the edges (64 x 64)",
    "darcy_twophase": "-div(K grad p) = 1, K of two values, zero edges (128 x 128)",
    "navier_stokes_pair": "vorticity on a torus at times 0 and 1, forced: no local residual (128 x 128)",
    "kolmogorov": "forced flow on a torus, Reynolds numbers 100 to 1000, pairs of snapshots u, v, p",
    "shallow_water": "nearly balanced eddies on a periodic plane, pairs of snapshots u, v, h",
    "shallow_water_sphere": "the same between 20 and 70 degrees north",
}


def get(name: str) -> ModuleType:
    """The set called `name`. Raises InputError where there is none."""
    if name not in NAMES:
        close = get_close_matches(name, NAMES, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"no data set {name!r}; {hint}there are {', '.join(NAMES)}")
    return import_module(f"{__name__}.{name}")


def samples(name: str, n: int, seed: int, count: int, first: int = 0) -> "dict[str, NDArray]":
    """Samples `first` ... `first + count - 1` of a set, each variable (count, ny, nx), float64. Raises InputError for a
    set that does not exist."""
    import numpy as np

    of = get(name)
    start, stop = first // of.GROUP, -(-(first + count) // of.GROUP)
    groups = [of.draw(n, seed, group) for group in range(start, stop)]
    skipped = first - start * of.GROUP
    return {name: np.concatenate([g[name] for g in groups])[skipped : skipped + count] for name in of.VARIABLES}
