"""Every shipped equation a second time, in its continuous form, and smooth made-up fields to put into it.

Symbols: x, y, z the coordinates (longitude and latitude in radians on the sphere, y is time for Burgers), t the time in
the middle of a step of length `dt`. Sizes follow from the units, with lengths of 1 and times of 1 on a plane, the
Earth's radius and the time in which 50 m/s cross it on the sphere, so that all terms are of one size.
"""

import re
from types import SimpleNamespace

import numpy as np
import sympy
import torch
from sympy import cos, diff, sin, tan

from sciguide.equations import Constant, Equation, Field, get
from sciguide.grid import EARTH_RADIUS, EARTH_ROTATION, Grid

x, y, z, t, dt = sympy.symbols("x y z t dt", real=True)
SPHERE_TIME = EARTH_RADIUS / 50
# of fields that have no units of their own, so that the equation's terms agree
UNITS = {"f": "m-2", "w": "s-1"}
CONSTANTS = {
    "helmholtz": {"k2": 3.0},
    "geostrophic": {"f": 0.7},
    "geostrophic_height": {"f": 0.7, "g": 1.3},
    "burgers": {"nu": 0.05},
    "advection_diffusion": {"kappa": 0.1},
    "vorticity": {"nu": 0.1, "drag": 0.3},
    "navier_stokes": {"nu": 0.1, "force_x": 0.2, "force_y": -0.3},
    "navier_stokes_steady": {"nu": 0.1, "force_x": 0.2, "force_y": -0.3},
    "shallow_water": {"g": 1.3, "f": 0.7},
    "hydrostatic": {"R": 1.4},
    "hydrostatic_height": {"R": 1.4, "g": 1.3},
}


def powers(units: str | None) -> dict[str, int]:
    """{"m": 2, "s": -2} of "m2 s-2"; a joule per kilogram is m2 s-2."""
    found = {"m": 0, "s": 0, "K": 0}
    for unit, power in re.findall(r"([A-Za-z]+)(-?\d+)?", (units or "").replace("J kg-1", "m2 s-2")):
        found[unit] += int(power or 1)
    return found


def size(units: str | None, length: float, time: float) -> float:
    p = powers(units)
    return length ** p["m"] * time ** p["s"]


def constants_of(name: str, sphere: bool = False, step: float = 0.1) -> dict[str, float]:
    """Of the equation called `name`, so that its terms are of one size; `step` of time in units of the time scale."""
    known = get(name).members(Constant)
    length, time = (EARTH_RADIUS, SPHERE_TIME) if sphere else (1.0, 1.0)
    found = {k: v * size(known[k].units, length, time) for k, v in CONSTANTS.get(name, {}).items()}
    return found | ({"dt": step * time} if "dt" in known else {})


def fields_of(name: str, sphere: bool = False) -> dict[str, sympy.Expr]:
    """A smooth function for every field (not for those a step later), each of another shape."""
    length, time = (EARTH_RADIUS, SPHERE_TIME) if sphere else (1.0, 1.0)
    found = {}
    for n, (field, about) in enumerate(get(name).members(Field).items()):
        if about.next is None:
            shape = sin((1 + n % 2) * x + (0.7 + 0.3 * n) * y + 0.5 * n + 0.9 * t / time) * cos(0.4 * z + n)
            shape += cos(2 * x - (0.5 + 0.2 * n) * y + 0.3 * n - 0.6 * t / time) * (1 + 0.3 * sin(z + n)) / 2
            shape = 2 + shape / 2 if about.positive else shape
            found[field] = shape * size(about.units or UNITS.get(field), length, time)
    return found


class Continuum:
    """Derivatives of SymPy expressions, per unit length."""

    def __init__(self, sphere: bool) -> None:
        self.sphere, self.a = sphere, EARTH_RADIUS if sphere else 1
        self.cos = cos(y) if sphere else sympy.S.One

    def ddx(self, e):
        return diff(e, x) / (self.a * self.cos)

    def ddy(self, e):
        return diff(e, y) / self.a

    def div(self, u, v):
        return (diff(u, x) + diff(v * self.cos, y)) / (self.a * self.cos)

    def curl(self, u, v):
        return self.div(v, -u)

    def lap(self, p):
        return self.div(self.ddx(p), self.ddy(p))

    def f(self, plane):
        return 2 * EARTH_ROTATION * sin(y) if self.sphere else plane

    @property
    def curvature(self):
        return tan(y) / self.a if self.sphere else 0


def advected(o, F, e):
    return F.u * o.ddx(e) + F.v * o.ddy(e)


def momentum(o, F, c, rate):
    forces = [("momentum_x", F.u, o.ddx(F.p), c.force_x), ("momentum_y", F.v, o.ddy(F.p), c.force_y)]
    return {k: rate(w) + advected(o, F, w) + push - c.nu * o.lap(w) - force for k, w, push, force in forces}


def geostrophic(o, F, c, height):
    f = o.f(c.f)
    return {"u": F.u + o.ddy(height) / f, "v": F.v - o.ddx(height) / f}


def shallow_water(o, F, c):
    f = o.f(c.f) + F.u * o.curvature
    return {
        "momentum_x": diff(F.u, t) + advected(o, F, F.u) - f * F.v + c.g * o.ddx(F.h),
        "momentum_y": diff(F.v, t) + advected(o, F, F.v) + f * F.u + c.g * o.ddy(F.h),
        "mass": diff(F.h, t) + advected(o, F, F.h) + F.h * o.div(F.u, F.v),
    }


def vorticity(o, F, c):
    q = F.w + o.f(0)
    carried = o.ddx(F.psi) * o.ddy(q) - o.ddy(F.psi) * o.ddx(q)
    inversion = F.w - o.lap(F.psi)
    return {
        "transport": diff(F.w, t) + carried + c.drag * F.w - c.nu * o.lap(F.w),
        "inversion": before(inversion),
        "inversion_next": after(inversion),
    }


def before(e):
    return e.subs(t, t - dt / 2)


def after(e):
    return e.subs(t, t + dt / 2)


STRONG = {
    "poisson": lambda o, F, c: o.lap(F.phi) - F.f,
    "poisson3": lambda o, F, c: o.lap(F.phi) + diff(F.phi, z, 2) - F.f,
    "helmholtz": lambda o, F, c: o.lap(F.psi) + c.k2 * F.psi - F.f,
    "nondivergence": lambda o, F, c: o.div(F.u, F.v),
    "darcy": lambda o, F, c: -o.div(F.K * o.ddx(F.p), F.K * o.ddy(F.p)) - F.f,
    "darcy_expanded": lambda o, F, c: -o.div(F.K * o.ddx(F.p), F.K * o.ddy(F.p)) - F.f,
    "geostrophic": lambda o, F, c: geostrophic(o, F, c, F.phi),
    "geostrophic_height": lambda o, F, c: geostrophic(o, F, c, c.g * F.height),
    "burgers": lambda o, F, c: diff(F.u, y) + F.u * diff(F.u, x) - c.nu * diff(F.u, x, 2),
    "advection_diffusion": lambda o, F, c: diff(F.c, t) + o.div(F.u * F.c, F.v * F.c) - c.kappa * o.lap(F.c),
    "vorticity": vorticity,
    "navier_stokes": lambda o, F, c: {
        **momentum(o, F, c, lambda e: diff(e, t)),
        "divergence": before(o.div(F.u, F.v)),
        "divergence_next": after(o.div(F.u, F.v)),
    },
    "navier_stokes_steady": lambda o, F, c: {**momentum(o, F, c, lambda e: 0), "divergence": o.div(F.u, F.v)},
    "shallow_water": shallow_water,
    # a layer's residual stands between two levels
    "hydrostatic": lambda o, F, c: diff(F.phi, z) + c.R * F.T,
    "hydrostatic_height": lambda o, F, c: c.g * diff(F.height, z) + c.R * F.T,
}
PLANE_ONLY = ("burgers", "navier_stokes", "navier_stokes_steady")  # they have no metric terms
LAYERS = ("hydrostatic", "hydrostatic_height")


def on_grid(e: sympy.Expr, grid: Grid, step: float, half_level: bool = False) -> np.ndarray:
    """The values of `e` on the grid, with a time step of `step`, at a time that is nothing special."""
    time = SPHERE_TIME if grid.sphere else 1.0
    unit = np.deg2rad(1.0) if grid.sphere else 1.0
    coordinates = dict(zip(grid.axes, np.meshgrid(*grid.coordinates, indexing="ij"), strict=True))
    levels = coordinates.get("z", np.zeros(grid.shape))
    if half_level:
        levels = levels + np.append(np.diff(grid.z), 0)[:, None, None] / 2
    values = sympy.lambdify((x, y, z, t, dt), e, "numpy")
    found = values(coordinates["x"] * unit, coordinates["y"] * unit, levels, 0.3 * time, step)
    return np.broadcast_to(np.asarray(found, np.float64), grid.shape)


def sample(name: str, grid: Grid, step: float = 0.1) -> torch.Tensor:
    """The smooth fields of the equation on `grid`, (1, F, ...) float64; `step` in seconds."""
    exact, members = fields_of(name, grid.sphere), get(name).members(Field)
    stepped = any(m.next for m in members.values())
    out = []
    for field, about in members.items():
        e = exact[about.next or field]
        out.append(on_grid(after(e) if about.next else before(e) if stepped else e, grid, step))
    return torch.from_numpy(np.stack(out))[None]


def truth(name: str, grid: Grid, constants: dict[str, float]) -> torch.Tensor:
    """The continuous residual of the same fields, (1, K, ...)."""
    known = {k: v.value for k, v in get(name).members(Constant).items()} | constants
    found = STRONG[name](
        Continuum(grid.sphere), SimpleNamespace(**fields_of(name, grid.sphere)), SimpleNamespace(**known)
    )
    found = found if isinstance(found, dict) else {"residual": found}
    step = constants.get("dt", 0.0)
    return torch.from_numpy(np.stack([on_grid(e, grid, step, name in LAYERS) for e in found.values()]))[None]


def of_order(name: str, order: int) -> type[Equation]:
    """The equation with differences of another order."""
    return get(name) if order == get(name).order else type(get(name).__name__, (get(name),), {"order": order})
