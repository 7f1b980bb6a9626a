"""Shallow water on the rotating sphere, between 20 and 70 degrees north: pairs of snapshots of nearly balanced eddies.

    du/dt + (f + curl(u)) k x u + grad(g h + |u|^2 / 2) = 0,    dh/dt + div(u h) = 0,    f = 2 Omega sin(lat)

n latitudes, 2 n longitudes all the way round; a layer of 1000 m. The streamfunction of the start is a random field on
the sphere, the same everywhere, of degrees around 20, made to vanish smoothly at both edges. The rows on the edges stay
at rest, a channel between walls of still water, which takes up most of the gravity waves that reach it. Five days of
spin-up let the eddies deform each other. Solver and residual are one stencil, see `rotating_layer.py`.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln, lpmv

from sciguide.equations.operator import Operator
from sciguide.grid import EARTH_RADIUS, Grid
from sciguide.simulate.rotating_layer import ATTRIBUTES, SPEED, operators, pairs, variables

SOUTH, NORTH = 20.0, 70.0
DEGREE, LAST, POWER = 24, 60, 4.0
GROUP = 8
TITLE = "Shallow water in middle latitudes of the sphere"
VARIABLES = variables("eastward_wind", "northward_wind")


def axes(n: int) -> dict[str, tuple[NDArray[np.float64], dict[str, Any]]]:
    """n latitudes from 20 to 70, 2 n longitudes from 0."""
    lat = {"long_name": "latitude", "standard_name": "latitude", "units": "degrees_north"}
    lon = {"long_name": "longitude", "standard_name": "longitude", "units": "degrees_east"}
    return {"lat": (np.linspace(SOUTH, NORTH, n), lat), "lon": (np.arange(2 * n) * (180.0 / n), lon)}


def static(n: int) -> dict[str, tuple[NDArray[np.float64], dict[str, Any]]]:
    """Nothing."""
    return {}


@cache
def _operators(n: int) -> tuple[Operator, Operator]:
    (lat, _), (lon, _) = axes(n).values()
    return operators(Grid(lat, lon, ("open", "periodic"), sphere=True))


def operator(n: int) -> Operator:
    """Momentum and mass on all rows but the edges; channels u, v, h, u_next, v_next, h_next."""
    return _operators(n)[0]


def draw(n: int, seed: int, group: int) -> dict[str, NDArray[np.float64]]:
    """The samples of `group` of the set `seed`, (GROUP, n, 2 n) each."""
    noise = np.random.default_rng([seed, group]).standard_normal((GROUP, 2, LAST + 1, LAST + 1))
    return pairs(*_operators(n), torch.from_numpy(streamfunction(noise, n)))


def streamfunction(noise: NDArray, n: int) -> NDArray[np.float64]:
    """m2/s, (B, n, 2 n), of white noise (B, 2, degree, order); before it is made to vanish at the edges each component
    of the wind has the standard deviation SPEED."""
    degree = np.arange(LAST + 1.0)
    spectrum = np.where(degree > 0, (degree * (degree + 1) + DEGREE**2) ** -POWER, 0)
    square = ((2 * degree + 1) / (4 * np.pi) * degree * (degree + 1) * spectrum).sum() / 2
    (lat, _), (lon, _) = axes(n).values()
    waves = np.einsum("bclm,lmy->bcmy", noise * np.sqrt(spectrum)[:, None], legendre(np.sin(np.deg2rad(lat))))
    angle = np.arange(LAST + 1)[:, None] * np.deg2rad(lon)
    field = np.einsum("bmy,mx->byx", waves[:, 0], np.cos(angle)) + np.einsum("bmy,mx->byx", waves[:, 1], np.sin(angle))
    window = (1 - ((2 * lat - SOUTH - NORTH) / (NORTH - SOUTH)) ** 4) ** 2
    return SPEED * EARTH_RADIUS / np.sqrt(square) * window[:, None] * field


def legendre(z: NDArray) -> NDArray[np.float64]:
    """Of degree l and order m <= l at `z`, (LAST + 1, LAST + 1, len(z)): times cos(m lon) and sin(m lon) an orthonormal
    basis of the sphere."""
    degree, order = np.arange(LAST + 1)[:, None], np.arange(LAST + 1)
    m = np.minimum(order, degree)
    size = (2 * degree + 1) / (4 * np.pi) * np.exp(gammaln(degree - m + 1) - gammaln(degree + m + 1))
    size = np.where(order <= degree, np.where(order > 0, 2 * size, size), 0)
    return np.sqrt(size)[..., None] * lpmv(m[..., None], degree[..., None], z)


def attributes() -> dict[str, Any]:
    """What a file says of how its samples were drawn."""
    return {
        **ATTRIBUTES,
        "boundary": "periodic in longitude; the first and last row stay at rest",
        "spectrum": f"(l (l + 1) + {DEGREE}^2)^-{POWER:g} for degrees l up to {LAST}",
        "earth_radius": EARTH_RADIUS,
    }
