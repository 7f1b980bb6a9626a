"""Vorticity on the unit torus at the times 0 and 1: the pairs of DiffusionPDE and FunDPS.

    dw/dt + u . grad(w) = nu lap(w) + 0.1 (sin(2 pi (x + y)) + cos(2 pi (x + y))),    div(u) = 0,    nu = 1e-3

w at time 0 is the periodic random field of `gaussian_field` (alpha = 2.5, tau = 7), with E |xi|^2 = 1 for the complex
noise of each wave, which makes its standard deviation 0.185; published generators with E |xi|^2 = 2 have 0.262. Waves
of half the number of points, which have no sign, are left out of it. Between a state and the one a time unit later
there is no local residual: the pair is for observations only.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciguide.simulate.gaussian_field import periodic_field
from sciguide.simulate.spectral import Modes, Torus

ALPHA, TAU = 2.5, 7.0
NU, FORCE, TIME = 1e-3, 0.1, 1.0
STEPS = 32  # halving the step changes w at time 1 by 1e-8 of its size
GROUP = 8
TITLE = "Vorticity of a forced flow on a torus, and the same one time unit later"
VARIABLES = {
    "w0": {"long_name": "vorticity at time 0", "units": "1"},
    "wT": {"long_name": "vorticity at time 1", "units": "1"},
}


def axes(n: int) -> dict[str, tuple[NDArray[np.float64], dict[str, Any]]]:
    """The coordinates y and x, from 0 to 1 - 1 / n."""
    return {dim: (torus(n).points, {"long_name": f"{dim}, in sides of the torus", "units": "1"}) for dim in "yx"}


def static(n: int) -> dict[str, tuple[NDArray[np.float64], dict[str, Any]]]:
    """Nothing."""
    return {}


def operator(n: int) -> None:
    """There is none."""
    return None


def draw(n: int, seed: int, group: int) -> dict[str, NDArray[np.float64]]:
    """The samples of `group` of the set `seed`, (GROUP, n, n) each. Raises InputError for an odd n."""
    noise = np.random.default_rng([seed, group]).standard_normal((GROUP, 2, n, n))
    w = torus(n).modes(periodic_field(noise, ALPHA, TAU))
    return {"w0": torus(n).field(w), "wT": torus(n).field(later(torus(n), w, STEPS))}


@cache
def torus(n: int) -> Torus:
    """n x n points of the unit torus. Raises InputError for an odd n."""
    return Torus(n)


def later(at: Torus, w: Modes, steps: int) -> Modes:
    """`w` one time unit later, in so many steps."""
    angle = 2 * np.pi * (at.points[:, None] + at.points)
    return at.advance(w, NU, at.modes(FORCE * (np.sin(angle) + np.cos(angle))), TIME / steps, steps)


def attributes() -> dict[str, Any]:
    """What a file says of how its samples were drawn."""
    return {
        "field_alpha": ALPHA,
        "field_tau": TAU,
        "viscosity": NU,
        "force": f"{FORCE:g} (sin(2 pi (x + y)) + cos(2 pi (x + y))) in the vorticity equation",
        "time_between": TIME,
        "boundary": "periodic",
        "solver": "Fourier, products without aliases, Runge-Kutta of fourth order, viscosity exact",
    }
