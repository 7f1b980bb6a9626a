"""Kolmogorov flow: two snapshots of turbulence on the torus [0, 2 pi)^2, each sample with its own viscosity.

    du/dt + u . grad(u) + grad(p) = nu lap(u) + sin(4 y) e_x,    div(u) = 0,    nu = 1 / Re

Re is log-uniform from 100 to 1000 (with the force's amplitude 1 and length 1 as units, as in Chandler and Kerswell,
2013, doi:10.1017/jfm.2013.122); the flow is chaotic for all of these. There is no drag: energy gathers in one pair of
vortices as large as the torus until viscosity takes away what the force does, after 1 / 2 nu time units. Long runs tell
the speed at which that is so, rms |u| = 1.97 (Re / 100)^0.383 within 3 %; each sample starts there, as random waves,
and is stepped in few waves for 20 time units (dozens of turnovers), then in more and more, until 3 n / 2 waves along
each axis, products on 9 n / 4 points, have had their time. Samples share nothing, and stand wherever the symmetries of
the equation put them: anywhere along x, at one of four places along y, turned by half a circle or not.

What is stored are the waves that n points hold, so that u has no divergence, and the solver's p; the second snapshot is
`DT` later. The momentum equation then holds up to the truncation of whoever differentiates.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciguide.equations.navier_stokes import NavierStokes
from sciguide.equations.operator import Operator
from sciguide.grid import Grid
from sciguide.simulate.spectral import Modes, Torus

LENGTH, FORCE, FORCED = 2 * np.pi, 1.0, 4
RE_LOW, RE_HIGH = 100.0, 1000.0
DT = 0.02  # between the snapshots: half a radian of the strongest vortices at Re = 1000
SPEED, SPEED_POWER, SPEED_SPREAD = 1.97, 0.383, 0.03  # rms of |u| at Re = 100, its growth with Re, its scatter
# waves along each axis, time units: the last is that of all that follow
STAGES = ((32, 20.0), (48, 2.0), (72, 0.6), (96, 0.4), (144, 0.3), (192, 0.3), (288, 0.3))
GROUP = 8
TITLE = "Kolmogorov flow, Reynolds numbers from 100 to 1000"
VARIABLES = {
    "u": {"long_name": "velocity along x", "units": "1"},
    "v": {"long_name": "velocity along y", "units": "1"},
    "p": {"long_name": "kinematic pressure, zero on average", "units": "1"},
    "u_next": {"long_name": "velocity along x, a time step later", "units": "1"},
    "v_next": {"long_name": "velocity along y, a time step later", "units": "1"},
    "p_next": {"long_name": "kinematic pressure, zero on average, a time step later", "units": "1"},
    "nu": {"long_name": "kinematic viscosity, one over the Reynolds number", "units": "1"},
}


def axes(n: int) -> dict[str, tuple[NDArray[np.float64], dict[str, Any]]]:
    """The coordinates y and x, from 0 to 2 pi (1 - 1 / n)."""
    return {dim: (torus(n).points, {"long_name": f"{dim}, the torus is 2 pi long", "units": "1"}) for dim in "yx"}


def static(n: int) -> dict[str, tuple[NDArray[np.float64], dict[str, Any]]]:
    """The force, (n, n)."""
    force = np.broadcast_to(FORCE * np.sin(FORCED * torus(n).points)[:, None], (n, n))
    return {"force_x": (force.copy(), {"long_name": "body force along x", "units": "1"})}


@cache
def operator(n: int) -> Operator:
    """Momentum and divergence on the n x n points of the torus; channels u ... p_next, nu, force_x."""
    grid = Grid(torus(n).points, torus(n).points, ("periodic", "periodic"))
    return NavierStokes(nu="nu", force_x="force_x", dt=DT).on(grid)


def draw(n: int, seed: int, group: int) -> dict[str, NDArray[np.float64]]:
    """The samples of `group` of the set `seed`, (GROUP, n, n) each. Raises InputError for an odd n."""
    rng = np.random.default_rng([seed, group])
    nu = 1 / np.exp(rng.uniform(np.log(RE_LOW), np.log(RE_HIGH), (GROUP, 1, 1)))
    at, w = torus(n, np.float32), None
    for solver, time in stages(n):
        w = start(solver, nu, rng) if w is None else at.resampled(w, solver.n)
        w, at = advance(solver, w, nu, round(time / DT)), solver
    w = moved(at, w, rng)
    found = dict(zip("uvp", snapshot(at, w, n), strict=True))
    later = zip("uvp", snapshot(at, advance(at, w, nu, 1), n), strict=True)
    return found | {f"{name}_next": field for name, field in later} | {"nu": np.broadcast_to(nu, (GROUP, n, n)).copy()}


@cache
def torus(n: int, real: type[np.floating] = np.float64) -> Torus:
    """n x n points. Raises InputError for an odd n."""
    return Torus(n, LENGTH, real)


def stages(n: int) -> list[tuple[Torus, float]]:
    """The solvers of the samples on n x n points, in single precision, and for how long each steps."""
    last = 2 * -(-3 * n // 4)
    found = [(torus(waves, np.float32), time) for waves, time in STAGES if waves < last]
    return [*found, (torus(last, np.float32), STAGES[min(len(found), len(STAGES) - 1)][1])]


def start(solver: Torus, nu: NDArray, rng: np.random.Generator) -> Modes:
    """Random waves, the longest strongest, of the speed that belongs to each viscosity."""
    w = solver.modes(rng.standard_normal((len(nu), solver.n, solver.n))) / solver.k2
    square = (np.abs(np.stack(solver.velocity(w))) ** 2).sum(0) * solver.twice
    speed = SPEED * (0.01 / nu) ** SPEED_POWER * np.exp(SPEED_SPREAD * rng.standard_normal(nu.shape))
    return (w * (speed / np.sqrt(square.sum((1, 2), keepdims=True)))).astype(np.complex64)


def advance(solver: Torus, w: Modes, nu: NDArray, intervals: int) -> Modes:
    """`w` after `intervals` of DT, in steps that shrink with the shortest wave."""
    steps = max(2, -(-solver.n // 16))
    force = solver.modes(-FORCED * FORCE * np.cos(FORCED * solver.points)[:, None] * np.ones(solver.n))
    return solver.advance(w, nu, force.astype(w.dtype), DT / steps, steps * intervals)


def moved(solver: Torus, w: Modes, rng: np.random.Generator) -> Modes:
    """`w` at another place of the same flow: shifted along x by anything, along y by waves of the force, and half of
    the samples turned by half a circle, which takes w(x, y) to w(-x, -y)."""
    ky, kx = solver.waves
    along_x = rng.uniform(0, LENGTH, (len(w), 1, 1))
    along_y = rng.integers(FORCED, size=(len(w), 1, 1)) * (LENGTH / FORCED)
    turned = np.where(rng.integers(2, size=(len(w), 1, 1)) == 1, w.conj(), w)
    return (turned * np.exp(-1j * (kx * along_x + ky * along_y))).astype(w.dtype)


def snapshot(solver: Torus, w: Modes, n: int) -> tuple[NDArray[np.float64], ...]:
    """u, v, p (..., n, n) of the vorticity `w`, in the waves that n points hold."""
    modes = (*solver.velocity(w), solver.pressure(w))
    return tuple(torus(n).field(solver.resampled(m, n).astype(np.complex128)) for m in modes)


def attributes() -> dict[str, Any]:
    """What a file says of how its samples were drawn."""
    return {
        "reynolds_numbers": [RE_LOW, RE_HIGH],
        "reynolds_distribution": "log-uniform, 1 / nu",
        "force": f"{FORCE:g} sin({FORCED} y) along x",
        "time_step": DT,
        "spin_up": sum(time for _, time in STAGES[:4]),
        "boundary": "periodic",
        "solver": "Fourier, products without aliases, Runge-Kutta of fourth order, viscosity exact, single precision",
    }
