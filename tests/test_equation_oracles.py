"""Equations against arrays: an independent implementation in NumPy, and exact solutions beside wrong ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sciguide.equations import Constant, Field, get, names
from sciguide.grid import EARTH_RADIUS, EARTH_ROTATION, Grid
from sciguide.kernels.backends import using
from tests.equation_cases import LAYERS, constants_of, sample, truth


@pytest.fixture(autouse=True)
def plain_tensors():
    """What generated kernels are tested against elsewhere: nothing to compile."""
    with using("reference"):
        yield


s = np.linspace(0, 1, 25)
GRIDS = {
    "uniform": Grid(s, 1.5 * s),
    "stretched": Grid(s + 0.1 * np.sin(2 * np.pi * s), 1.5 * np.tanh(2 * s)),
    "sphere": Grid(20 + 50 * s**1.1, 80 * s, sphere=True),
}


class Arrays:
    """Differences of arrays (Y, X) by `np.gradient` and `np.diff`; worth nothing on the edge."""

    def __init__(self, grid: Grid) -> None:
        unit, self.a = (np.deg2rad(1.0), EARTH_RADIUS) if grid.sphere else (1.0, 1.0)
        self.sphere, self.y, self.x = grid.sphere, grid.y * unit, grid.x * unit
        self.cos = np.cos(self.y)[:, None] if grid.sphere else np.ones((len(self.y), 1))

    def ddx(self, e):
        return np.gradient(e, self.x, axis=1) / (self.a * self.cos)

    def ddy(self, e):
        return np.gradient(e, self.y, axis=0) / self.a

    def div(self, u, v):
        return self.ddx(u) + self.ddy(v * self.cos) / self.cos

    def curl(self, u, v):
        return self.div(v, -u)

    def flux(self, K, p):
        """div(K grad p): what crosses the faces of a cell, over its widths."""
        faces = (self.y[1:] + self.y[:-1])[:, None] / 2
        faces = np.cos(faces) if self.sphere else 1.0
        along_x = (K[:, 1:] + K[:, :-1]) / 2 * np.diff(p, axis=1) / np.diff(self.x)
        along_y = (K[1:] + K[:-1]) / 2 * np.diff(p, axis=0) / np.diff(self.y)[:, None] * faces
        out = np.zeros_like(p)
        out[:, 1:-1] += np.diff(along_x, axis=1) / np.gradient(self.x)[1:-1]
        out[1:-1] = out[1:-1] / self.cos[1:-1] ** 2
        out[1:-1] += np.diff(along_y, axis=0) / np.gradient(self.y)[1:-1, None] / self.cos[1:-1]
        return out / self.a**2

    def lap(self, p):
        return self.flux(np.ones_like(p), p)

    def f(self, plane):
        return 2 * EARTH_ROTATION * np.sin(self.y)[:, None] if self.sphere else plane


def middle(F: SimpleNamespace) -> SimpleNamespace:
    """The means of both time steps."""
    pairs = {k: v for k, v in vars(F).items() if not k.endswith("_next")}
    return SimpleNamespace(**{k: (v + vars(F).get(f"{k}_next", v)) / 2 for k, v in pairs.items()})


def geostrophic(o, F, c, height):
    f = o.f(c.f)
    return [F.u + o.ddy(height) / f, F.v - o.ddx(height) / f]


def momentum(o, M, c):
    return [
        M.u * o.ddx(w) + M.v * o.ddy(w) + push - c.nu * o.lap(w) - force
        for w, push, force in ((M.u, o.ddx(M.p), c.force_x), (M.v, o.ddy(M.p), c.force_y))
    ]


def navier_stokes(o, F, c):
    along_x, along_y = momentum(o, middle(F), c)
    return [
        (F.u_next - F.u) / c.dt + along_x,
        (F.v_next - F.v) / c.dt + along_y,
        o.div(F.u, F.v),
        o.div(F.u_next, F.v_next),
    ]


def shallow_water(o, F, c):
    M = middle(F)
    spin, head = o.f(c.f) + o.curl(M.u, M.v), c.g * M.h + (M.u**2 + M.v**2) / 2
    return [
        (F.u_next - F.u) / c.dt - spin * M.v + o.ddx(head),
        (F.v_next - F.v) / c.dt + spin * M.u + o.ddy(head),
        (F.h_next - F.h) / c.dt + o.div(M.u * M.h, M.v * M.h),
    ]


def vorticity(o, F, c):
    M = middle(F)
    q = M.w + o.f(0.0)
    carried = o.div(-o.ddy(M.psi) * q, o.ddx(M.psi) * q)
    return [
        (F.w_next - F.w) / c.dt + carried + c.drag * M.w - c.nu * o.lap(M.w),
        F.w - o.lap(F.psi),
        F.w_next - o.lap(F.psi_next),
    ]


def burgers(o, F, c):
    curved = np.zeros_like(F.u)
    curved[:, 1:-1] = np.diff(np.diff(F.u) / np.diff(o.x)) / np.gradient(o.x)[1:-1]
    return [o.ddy(F.u) + o.ddx(F.u**2) / 2 - c.nu * curved]


def advection_diffusion(o, F, c):
    M = middle(F)
    return [(F.c_next - F.c) / c.dt + o.div(M.u * M.c, M.v * M.c) - c.kappa * o.lap(M.c)]


def product_rule(o, F, c):
    return [-F.K * o.lap(F.p) - o.ddx(F.K) * o.ddx(F.p) - o.ddy(F.K) * o.ddy(F.p) - F.f]


ARRAYS = {
    "poisson": lambda o, F, c: [o.lap(F.phi) - F.f],
    "helmholtz": lambda o, F, c: [o.lap(F.psi) + c.k2 * F.psi - F.f],
    "nondivergence": lambda o, F, c: [o.div(F.u, F.v)],
    "darcy": lambda o, F, c: [-o.flux(F.K, F.p) - F.f],
    "darcy_expanded": product_rule,
    "geostrophic": lambda o, F, c: geostrophic(o, F, c, F.phi),
    "geostrophic_height": lambda o, F, c: geostrophic(o, F, c, c.g * F.height),
    "burgers": burgers,
    "advection_diffusion": advection_diffusion,
    "vorticity": vorticity,
    "navier_stokes": navier_stokes,
    "navier_stokes_steady": lambda o, F, c: [*momentum(o, F, c), o.div(F.u, F.v)],
    "shallow_water": shallow_water,
}


def as_namespace(name: str, u: torch.Tensor) -> SimpleNamespace:
    return SimpleNamespace(**dict(zip(get(name).members(Field), u[0].numpy(), strict=True)))


@pytest.mark.parametrize("name, kind", [(n, k) for n in ARRAYS for k in GRIDS if (n, k) != ("burgers", "sphere")])
def test_agrees_with_plain_arrays(name, kind):
    grid = GRIDS[kind]
    constants = constants_of(name, grid.sphere)
    op = get(name)(**constants).on(grid)
    u = sample(name, grid, constants.get("dt", 0.0))
    known = {k: v.value for k, v in get(name).members(Constant).items()} | constants
    with np.errstate(all="ignore"):
        expected = np.stack(ARRAYS[name](Arrays(grid), as_namespace(name, u), SimpleNamespace(**known)))
    inside = op.valid.numpy()
    assert inside.sum() >= 21 * 23
    missed = np.abs(op.residual(u)[0].numpy() - expected)[:, inside]
    assert (missed / op.magnitude(u)[0].numpy()[:, inside]).max() < 1e-12


@pytest.mark.parametrize("levels", [[100.0, 150, 250, 500, 700, 1000], [500.0, 1000], [125.0, 250, 500, 1000]])
def test_layers_agree_with_plain_arrays(levels):
    z = np.log(levels)
    grid = Grid(s[:4], s[:3], ("open",) * 3, z=z)
    for name in LAYERS:
        u = sample(name, grid)
        height, T = u[0].numpy() * [[[[1.0]]], [[[300.0]]]]
        R, g = 287.04, 9.80665 if name == "hydrostatic_height" else 1.0
        expected = g * np.diff(height, axis=0) / np.diff(z)[:, None, None] + R * (T[1:] + T[:-1]) / 2
        op = get(name)().on(grid)
        r = op.residual(torch.from_numpy(np.stack([height, T]))[None])[0, 0].numpy()
        assert np.allclose(r[:-1], expected, rtol=1e-12, atol=1e-9) and not r[-1].any()
        assert op.valid[:-1].all() and not op.valid[-1].any()


def test_one_sided_edges_are_those_of_numpy():
    """np.gradient(edge_order=2) fits the parabola through the three points at an edge, too."""
    for y, x in ((s, 1.5 * s), (GRIDS["stretched"].y, GRIDS["stretched"].x)):
        grid = Grid(y, x, ("one-sided", "one-sided"))
        u, v = sample("nondivergence", grid)[0].numpy()
        expected = np.gradient(u, x, axis=1, edge_order=2) + np.gradient(v, y, axis=0, edge_order=2)
        op = get("nondivergence")().on(grid)
        assert op.valid.all()
        assert np.allclose(op.residual(sample("nondivergence", grid))[0, 0], expected, rtol=0, atol=1e-11)


def test_harmonic_face_means():
    from sciguide.equations import div, grad

    class Harmonic(get("darcy")):
        """Of two layers in series."""

        def residual(self):
            return -div(self.K * grad(self.p, mean="harmonic")) - self.f

    x = np.arange(8.0)
    K = np.where(x < 4, 1.0, 5.0)
    p = np.concatenate([[0], np.cumsum(2 / (1 / K[1:] + 1 / K[:-1]) ** -1 / 2)])  # the same flux through every face
    u = torch.from_numpy(np.stack([np.tile(a, (3, 1)) for a in (K, p, 0 * p)]))[None]
    grid = Grid(np.arange(3.0), x)
    assert Harmonic().on(grid).residual(u).abs().max() < 1e-14
    assert get("darcy")().on(grid).residual(u).abs().max() > 0.1


# exact solutions: fields by name on a grid, then what makes them wrong


def solved(name: str, field: str, sign: float = 1.0):
    """The smooth fields with `field` chosen so that the continuous residual vanishes."""

    def make(grid, constants):
        fields = dict(zip(get(name).members(Field), sample(name, grid)[0].numpy(), strict=True))
        fields[field] = fields[field] + sign * truth(name, grid, constants)[0, 0].numpy()
        return fields

    return make


def balanced(name: str):
    def make(grid, constants):
        fields = dict(zip(get(name).members(Field), sample(name, grid)[0].numpy(), strict=True))
        r = truth(name, grid, constants)[0].numpy()
        return fields | {"u": fields["u"] - r[0], "v": fields["v"] - r[1]}

    return make


def two_steps(state):
    """The fields of `state(y, x, t, constants)` at both ends of a step."""

    def make(grid, constants):
        unit = np.deg2rad(1.0) if grid.sphere else 1.0
        y, x = np.meshgrid(grid.y * unit, grid.x * unit, indexing="ij")
        now, later = (state(y, x, t, constants) for t in (0.3, 0.3 + constants["dt"]))
        return now | {f"{k}_next": v for k, v in later.items()}

    return make


def taylor_green(y, x, t, c):
    """Decaying eddies in a steady wind (1, .5)."""
    X, Y, F = x - t, y - t / 2, np.exp(-2 * c["nu"] * t)
    u, v = 1 - np.cos(X) * np.sin(Y) * F, 0.5 + np.sin(X) * np.cos(Y) * F
    return {"u": u, "v": v, "p": -(np.cos(2 * X) + np.cos(2 * Y)) / 4 * F**2}


def carried_eddies(y, x, t, c):
    """The same as vorticity and streamfunction."""
    X, Y, F = x - t, y - t / 2, np.exp(-2 * c["nu"] * t)
    return {"w": 2 * np.cos(X) * np.cos(Y) * F, "psi": x / 2 - y - np.cos(X) * np.cos(Y) * F}


def rossby_haurwitz(y, x, t, c):
    a, R, K = EARTH_RADIUS, 4, 7.848e-6
    drift = (R * (3 + R) * K - 2 * EARTH_ROTATION) / ((1 + R) * (2 + R))
    wave = K * np.sin(y) * np.cos(y) ** R * np.cos(R * (x - drift * t))
    return {
        "w": 2 * K * np.sin(y) - wave * (R**2 + 3 * R + 2),
        "psi": a**2 * (wave - K * np.sin(y)),
    }


def kovasznay(grid, c):
    y, x = np.meshgrid(2 * np.pi * grid.y, grid.x, indexing="ij")
    rate = 0.5 / c["nu"] - np.sqrt(0.25 / c["nu"] ** 2 + 4 * np.pi**2)
    F = np.exp(rate * x)
    return {"u": 1 - F * np.cos(y), "v": rate / (2 * np.pi) * F * np.sin(y), "p": (1 - F**2) / 2}


def travelling_front(grid, c):
    t, x = np.meshgrid(grid.y, grid.x, indexing="ij")
    return {"u": 0.5 - 0.4 * np.tanh(0.2 * (x - 0.7 - 0.5 * t) / c["nu"])}


def carried_wave(y, x, t, c):
    decay = np.exp(-c["kappa"] * 13 * t)
    flow = np.ones_like(x)
    return {"c": 2 + np.sin(3 * (x - 0.8 * t) + 2 * (y + 0.6 * t)) * decay, "u": 0.8 * flow, "v": -0.6 * flow}


def poincare(y, x, t, c):
    """A wave that feels the rotation, of small amplitude, on a layer of depth 1."""
    k, m, f, g, size = 2.0, 1.5, c["f"], c["g"], 1e-4
    omega = np.sqrt(f**2 + g * (k**2 + m**2))
    phase = k * x + m * y - omega * t
    F = g * size / (omega**2 - f**2)
    u, v = omega * k * np.cos(phase) - f * m * np.sin(phase), omega * m * np.cos(phase) + f * k * np.sin(phase)
    return {"u": F * u, "v": F * v, "h": 1 + size * np.cos(phase)}


def zonal_flow(y, x, t, c):
    """Balanced on the sphere, curvature included: the second case of Williamson et al. (1992)."""
    speed, a = 40.0, EARTH_RADIUS
    h = (2.94e4 - (a * EARTH_ROTATION * speed + speed**2 / 2) * np.sin(y) ** 2) / 9.80665
    return {"u": speed * np.cos(y), "v": 0 * y, "h": h}


def flow_along(grid, c):
    """Of a streamfunction."""
    y, x = np.meshgrid(grid.y, grid.x, indexing="ij")
    return {"u": -np.cos(3 * x) * np.cos(2 * y) * 2, "v": -3 * np.sin(3 * x) * np.sin(2 * y)}


def column(grid, c):
    """Temperature linear in ln p, for which the layers' thickness is exact."""
    lnp = grid.z[:, None, None] + 0 * grid.y[:, None] + 0 * grid.x
    T, phi = 120 + 25 * lnp, -287.04 * (120 * lnp + 12.5 * lnp**2)
    return {"phi": phi + 3e6, "height": (phi + 3e6) / 9.80665, "T": T}


n = np.linspace(0, 1, 65)
PLANE, WIDE = Grid(n, 1.5 * n), Grid(4 * n, 5 * n)
GLOBE = Grid(np.linspace(-70, 70, 71), np.arange(90) * 4.0, ("open", "periodic"), sphere=True)
FINE = Grid(np.linspace(-70, 70, 141), np.arange(180) * 2.0, ("open", "periodic"), sphere=True)
NORTH = Grid(np.linspace(20, 70, 61), np.arange(120) * 3.0, ("open", "periodic"), sphere=True)
LEVELS = Grid(n[:3], n[:3], ("open",) * 3, z=np.log([100.0, 200, 300, 500, 700, 850, 1000]))


def negated(field):
    return lambda F: F | {field: -F[field]}


def factor(field, by):
    return lambda F: F | {field: by * F[field]}


def reversed_in_time(F):
    return {k: F[k[: -len("_next")] if k.endswith("_next") else f"{k}_next"] for k in F}


# name, grid, constants, exact fields, wrong fields, wrong constants
EXACT = [
    ("poisson", PLANE, {}, solved("poisson", "f"), [negated("f"), factor("phi", 1.5)], []),
    ("poisson", NORTH, {}, solved("poisson", "f"), [negated("f"), factor("phi", 1.5)], []),
    ("helmholtz", PLANE, {"k2": 9.0}, solved("helmholtz", "f"), [negated("f")], [{"k2": 4.0}, {"k2": -9.0}]),
    ("darcy", PLANE, {}, solved("darcy", "f"), [negated("f"), lambda F: F | {"K": 1 / F["K"]}], []),
    ("darcy_expanded", PLANE, {}, solved("darcy_expanded", "f"), [negated("p"), factor("K", 2.0)], []),
    ("nondivergence", PLANE, {}, flow_along, [negated("v"), lambda F: {"u": F["v"], "v": F["u"]}], []),
    (
        "geostrophic",
        NORTH,
        {},
        balanced("geostrophic"),
        [negated("v"), factor("phi", 1 / 9.8), lambda F: {k: v[::-1] for k, v in F.items()}],
        [],
    ),
    ("geostrophic", PLANE, {"f": 0.7}, balanced("geostrophic"), [negated("u")], [{"f": -0.7}, {"f": 0.5}]),
    ("geostrophic_height", NORTH, {}, balanced("geostrophic_height"), [negated("v")], [{"g": 1.0}]),
    ("burgers", WIDE, {"nu": 0.1}, travelling_front, [negated("u"), lambda F: {"u": F["u"][::-1]}], [{"nu": 0.2}]),
    (
        "advection_diffusion",
        PLANE,
        {"kappa": 0.1, "dt": 0.05},
        two_steps(carried_wave),
        [negated("u"), negated("v_next"), reversed_in_time],
        [{"kappa": 0.2}, {"kappa": -0.1}, {"dt": 0.1}],
    ),
    (
        "vorticity",
        WIDE,
        {"nu": 0.2, "dt": 0.02},
        two_steps(carried_eddies),
        [negated("psi"), reversed_in_time],
        [{"nu": 0.4}, {"drag": 0.2}, {"dt": 0.04}],
    ),
    (
        "vorticity",
        FINE,
        {"dt": 600.0},
        two_steps(rossby_haurwitz),
        [negated("psi"), reversed_in_time],
        [{"drag": 1e-5}],
    ),
    (
        "navier_stokes",
        WIDE,
        {"nu": 0.2, "dt": 0.02},
        two_steps(taylor_green),
        [negated("v"), negated("p"), reversed_in_time],
        [{"nu": 0.4}, {"force_x": 0.1}, {"dt": 0.04}],
    ),
    (
        "navier_stokes_steady",
        Grid(n - 0.5, 1.5 * n - 0.5),
        {"nu": 0.05},
        kovasznay,
        [negated("v"), negated("p"), lambda F: {k: v.T for k, v in F.items()}],
        [{"nu": 0.1}, {"force_y": 0.5}],
    ),
    (
        "shallow_water",
        PLANE,
        {"g": 1.3, "f": 1.7, "dt": 0.02},
        two_steps(poincare),
        [negated("v"), reversed_in_time],
        [{"f": -1.7}, {"g": 2.0}, {"dt": 0.04}],
    ),
    ("shallow_water", GLOBE, {"dt": 600.0}, two_steps(zonal_flow), [negated("u"), lambda F: F | {"h": F["h"] * 2}], []),
    ("hydrostatic", LEVELS, {}, column, [factor("phi", 1 / 9.8), lambda F: F | {"T": F["T"] - 273.15}], [{"R": 461.5}]),
    ("hydrostatic_height", LEVELS, {}, column, [factor("height", 9.8), negated("T")], [{"g": 1.0}]),
]


def test_every_equation_has_an_exact_solution():
    assert {e[0] for e in EXACT} | {"poisson3"} == set(names())


@pytest.mark.parametrize("name, grid, constants, exact, wrong_fields, wrong_constants", EXACT)
def test_a_wrong_field_or_constant_scores_worse(name, grid, constants, exact, wrong_fields, wrong_constants):
    right = exact(grid, constants)
    scale = None

    def score(fields, **changed):
        nonlocal scale
        op = get(name)(**(constants | changed)).on(grid)
        u = torch.from_numpy(np.stack([fields[f] for f in op.fields]))[None]
        if scale is None:
            scale = op.scale_square(u)[0]
        there = scale > 1e-12 * scale.max()  # a steady zonal flow has no flux along either axis
        return (op.mean_square(op.residual(u))[0] / scale)[there].mean().sqrt().item()

    good = score(right)
    bad = [score(change(right)) for change in wrong_fields] + [score(right, **change) for change in wrong_constants]
    assert good < 0.01 and min(bad) > 10 * good
