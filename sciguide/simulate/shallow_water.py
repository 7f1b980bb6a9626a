"""Shallow water on a doubly periodic f-plane: pairs of snapshots of nearly balanced eddies.

    du/dt + (f + curl(u)) k x u + grad(g h + |u|^2 / 2) = 0,    dh/dt + div(u h) = 0

A square of 6000 km, f = 1e-4 / s, a layer of 1000 m (radius of deformation 990 km). The streamfunction of the start is
a periodic random field of wavelengths around 2000 km (alpha = 4, tau = 8 pi), the winds are in geostrophic balance with
its depths; five days of spin-up let the eddies deform each other. Solver and residual are one stencil, see
`rotating_layer.py`.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sciguide.equations.operator import Operator
from sciguide.grid import Grid
from sciguide.simulate.gaussian_field import periodic_amplitudes, periodic_field
from sciguide.simulate.rotating_layer import ATTRIBUTES, CORIOLIS, SPEED, operators, pairs, variables

SIDE = 6e6  # metres
ALPHA, TAU = 4.0, 8 * np.pi
GROUP = 8
TITLE = "Shallow water on a doubly periodic plane"
VARIABLES = variables("x_wind", "y_wind")


def axes(n: int) -> dict[str, tuple[NDArray[np.float64], dict[str, Any]]]:
    """The coordinates y and x in metres, from 0."""
    points = np.arange(n) * (SIDE / n)
    return {
        dim: (points, {"long_name": dim, "standard_name": f"projection_{dim}_coordinate", "units": "m"}) for dim in "yx"
    }


def static(n: int) -> dict[str, tuple[NDArray[np.float64], dict[str, Any]]]:
    """Nothing."""
    return {}


@cache
def _operators(n: int) -> tuple[Operator, Operator]:
    (y, _), (x, _) = axes(n).values()
    return operators(Grid(y, x, ("periodic", "periodic")))


def operator(n: int) -> Operator:
    """Momentum and mass on the torus; channels u, v, h, u_next, v_next, h_next."""
    return _operators(n)[0]


def draw(n: int, seed: int, group: int) -> dict[str, NDArray[np.float64]]:
    """The samples of `group` of the set `seed`, (GROUP, n, n) each."""
    noise = np.random.default_rng([seed, group]).standard_normal((GROUP, 2, n, n))
    return pairs(*_operators(n), torch.from_numpy(streamfunction(noise)))


def streamfunction(noise: NDArray) -> NDArray[np.float64]:
    """m2/s, (..., n, n) of white noise (..., 2, n, n): each component of the wind has the standard deviation SPEED."""
    n = noise.shape[-1]
    k = 2 * np.pi / SIDE * np.fft.fftfreq(n, 1 / n)
    square = (k**2 * periodic_amplitudes(n, ALPHA, TAU) ** 2).sum()
    return SPEED / np.sqrt(square) * periodic_field(noise, ALPHA, TAU)


def attributes() -> dict[str, Any]:
    """What a file says of how its samples were drawn."""
    return {
        **ATTRIBUTES,
        "coriolis_parameter": CORIOLIS,
        "boundary": "periodic",
        "field_alpha": ALPHA,
        "field_tau": TAU,
    }
