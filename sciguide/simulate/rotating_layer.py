"""Nearly balanced flow of a shallow layer, stepped by the very stencil that the `ShallowWater` operator has.

The residual r(s, s_next) of the operator, s = (u, v, h), is tendency plus (s_next - s) / dt at the mean of both, so

- the tendency is -r(s, s), which classical Runge-Kutta steps take through the spin-up;
- a step of the implicit midpoint rule is the root of r(s, .), found by Newton's method and GMRES with the operator's
  own J: of a pair one such step apart the residual is rounding.

With centred differences of the vector-invariant form the sum of h (u^2 + v^2) / 2 + g (h - h_edge)^2 / 2 over the area
is conserved exactly, up to the time step, on a torus (any constant h_edge) and in a channel whose edge rows, where the
operator is not valid, stay at rest with the depth h_edge. Vorticity that reaches the grid is taken out by a filter.

States are tensors (B, 3, ny, nx), float64.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, gmres
from torch import Tensor

from sciguide.equations.geostrophic_height import GeostrophicHeight
from sciguide.equations.operator import Operator
from sciguide.equations.shallow_water import ShallowWater
from sciguide.errors import InputError
from sciguide.grid import Grid

GRAVITY = 9.80665
DEPTH = 1000.0  # metres, mean of the layer: gravity waves of 99 m/s
CORIOLIS = 1e-4  # per second, on the plane
SPEED = 10.0  # m/s, rms of each component at the start
DT = 1800.0  # seconds between the snapshots
SPIN_UP = 120  # hours
STEP = 900.0  # seconds, of the spin-up on 64 points; it shrinks with the spacing
FILTER_EVERY, FILTER_POWER = 4, 8
NEWTON, KRYLOV = 10, 1e-5  # at most so many iterations, each reducing what is left by this factor
TOLERANCE = 1e-10  # of the last change, which leaves KRYLOV of it
ATTRIBUTES = {
    "gravity": GRAVITY,
    "mean_depth": DEPTH,
    "start": "geostrophic balance with a random streamfunction",
    "start_speed": SPEED,
    "time_step": DT,
    "spin_up_hours": SPIN_UP,
    "stencil": "centred, vector-invariant, conserves energy; implicit midpoint rule between the snapshots",
    "filter": f"Shapiro's of order {2 * FILTER_POWER}, every {FILTER_EVERY} steps of the spin-up",
}


def variables(x_wind: str, y_wind: str) -> dict[str, dict[str, str]]:
    """Attributes of u ... h_next, whose winds have these standard names."""
    now = {
        "u": {"long_name": "velocity along x", "standard_name": x_wind, "units": "m s-1"},
        "v": {"long_name": "velocity along y", "standard_name": y_wind, "units": "m s-1"},
        "h": {"long_name": "depth of the layer", "standard_name": "cell_thickness", "units": "m"},
    }
    later = {f"{k}_next": a | {"long_name": f"{a['long_name']}, a time step later"} for k, a in now.items()}
    return now | later


def pairs(equation: Operator, heights: Operator, psi: Tensor) -> dict[str, np.ndarray]:
    """u ... h_next (B, ny, nx) of the streamfunctions `psi` (B, ny, nx), m2/s, after the spin-up and a time step.
    `heights`: `GeostrophicHeight` on the same grid."""
    steps = round(SPIN_UP * 3600 / step_of(equation))
    s = spin_up(equation, balanced(heights, psi), step_of(equation), steps)
    both = torch.cat([s, midpoint_step(equation, s)], 1)
    return {name: both[:, i].numpy() for i, name in enumerate(equation.fields)}


def step_of(equation: Operator) -> float:
    """Seconds of a step of the spin-up: STEP on 64 points, in proportion to the spacing."""
    return STEP * min(1.0, 64 / equation.grid.shape[0])


def balanced(heights: Operator, psi: Tensor) -> Tensor:
    """The depths DEPTH + f psi / g, and winds in geostrophic balance with them by the stencil of `heights`."""
    grid = heights.grid
    f = torch.as_tensor(grid.metric("coriolis")[:, None] if grid.sphere else heights.constants["f"])
    rise = f * psi / heights.constants["g"]
    still = torch.zeros_like(psi)
    winds = -heights.residual(torch.stack([still, still, rise], 1))
    return torch.cat([winds, DEPTH + rise[:, None]], 1)


def tendency(equation: Operator, s: Tensor) -> Tensor:
    """ds/dt; zero on edge rows where the stencil does not fit."""
    return -equation.residual(torch.cat([s, s], 1))


def runge_kutta(rate: Callable[[Tensor], Tensor], s: Tensor, dt: float) -> Tensor:
    """One classical step of fourth order."""
    a = rate(s)
    b = rate(s + dt / 2 * a)
    c = rate(s + dt / 2 * b)
    return s + dt / 6 * (a + 2 * (b + c) + rate(s + dt * c))


def spin_up(equation: Operator, s: Tensor, dt: float, steps: int) -> Tensor:
    """`s` after that many filtered steps."""
    for i in range(steps):
        s = runge_kutta(lambda now: tendency(equation, now), s, dt)
        if i % FILTER_EVERY == FILTER_EVERY - 1:
            s = smoothed(s, equation.grid.boundary)
    return s


def smoothed(s: Tensor, boundary: tuple[str, ...]) -> Tensor:
    """`s` without its waves of two points along either axis: a wave of angle theta per point keeps
    1 - sin(theta / 2)^16. Edge rows that are not periodic stay."""
    for dim, rule in zip((-2, -1), boundary, strict=True):
        rough = s
        for _ in range(FILTER_POWER):
            rough = (2 * rough - rough.roll(1, dim) - rough.roll(-1, dim)) / 4
            if rule != "periodic":
                rough = rough.clone()
                rough.select(dim, 0).zero_()
                rough.select(dim, -1).zero_()
        s = s - rough
    return s


def midpoint_step(equation: Operator, s: Tensor) -> Tensor:
    """The state `dt` of the equation later, to rounding. Raises InputError where Newton's method does not get there."""
    dt, later = equation.constants["dt"], s.clone()
    wave = (equation.constants["g"] * DEPTH) ** 0.5
    size = torch.tensor([wave, wave, DEPTH], dtype=s.dtype).reshape(3, 1, 1)  # in these, J is nearly skew-symmetric

    def rate(change: np.ndarray) -> np.ndarray:
        v = torch.from_numpy(change.reshape(s.shape)) * size
        along = torch.cat([torch.zeros_like(v), v], 1)
        moved = dt * equation.jvp(torch.cat([s, later], 1), along) + torch.where(equation.valid, 0, v)
        return (moved / size).numpy().ravel()

    J = LinearOperator((s.numel(), s.numel()), rate, dtype=np.float64)
    for _ in range(NEWTON):
        r = (dt * equation.residual(torch.cat([s, later], 1)) / size).numpy().ravel()
        change, _ = gmres(J, -r, rtol=KRYLOV, restart=80, maxiter=2)
        later = later + torch.from_numpy(change.reshape(s.shape)) * size
        if np.abs(change).max() < TOLERANCE:
            return later
    raise InputError(f"shallow water: a step of {dt:g} s did not converge; the flow is too fast for the grid")


def operators(grid: Grid) -> tuple[Operator, Operator]:
    """`ShallowWater` and `GeostrophicHeight` on `grid`."""
    of = {"g": GRAVITY, "f": CORIOLIS}
    return ShallowWater(**of, dt=DT).on(grid), GeostrophicHeight(**of).on(grid)
