"""Equations and their operators: orders of convergence on manufactured solutions, registry, self-sufficient storage."""

import copy
import pickle
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

from sciguide.equations import Constant, Equation, Field, ddx, div, get, grad, lap, names
from sciguide.equations.operator import Operator
from sciguide.errors import InputError
from sciguide.grid import EARTH_RADIUS, Grid

SIZES = (32, 64, 128, 256)


class Helmholtz(Equation):
    """lap(psi) + k2 psi = f, with a term that is not linear."""

    psi = Field(units="m", positive=True)
    f = Field(units="m-1")
    k2 = Constant(1.0, units="m-2")
    c = Constant(0.0)
    moves = ("psi",)
    scale = "source"

    def residual(self):
        return lap(self.psi) + self.k2 * self.psi + self.c * self.psi * ddx(self.psi) - self.f

    def source(self):
        return self.f


class Diffusion(Equation):
    """div(K grad(phi)) = f."""

    K = Field(positive=True)
    phi = Field()
    f = Field()
    moves = ("phi",)
    scale = "source"

    def residual(self):
        return div(self.K * grad(self.phi)) - self.f

    def source(self):
        return self.f


def plane(n: int) -> Grid:
    return Grid(np.linspace(0, 1, n), np.linspace(0, 1.5, n))


def stretched(n: int) -> Grid:
    s = np.linspace(0, 1, n)
    return Grid(s + 0.1 * np.sin(2 * np.pi * s), 1.5 * np.tanh(2 * s))


def sphere(n: int) -> Grid:
    return Grid(np.linspace(-70, 75, n), np.arange(n) * 360 / n, ("open", "periodic"), sphere=True)


def gaussian(n: int) -> Grid:
    lat = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(n)[0]))
    return Grid(lat, np.arange(n) * 360 / n, ("open", "periodic"), sphere=True)


def on_plane(grid: Grid) -> dict[str, np.ndarray]:
    """u, v, phi with their divergence, vorticity and Laplacian, (Y, X)."""
    y, x = np.meshgrid(grid.y, grid.x, indexing="ij")
    return {
        "u": np.sin(3 * x) * np.exp(y),
        "v": np.cos(2 * x + y),
        "phi": np.sin(3 * x) * np.exp(y),
        "div": 3 * np.cos(3 * x) * np.exp(y) - np.sin(2 * x + y),
        "curl": -2 * np.sin(2 * x + y) - np.sin(3 * x) * np.exp(y),
        "lap": -8 * np.sin(3 * x) * np.exp(y),
        "K": 2 + np.sin(x),
        "flux": ((2 + np.sin(x)) * -8 * np.sin(3 * x) + 3 * np.cos(x) * np.cos(3 * x)) * np.exp(y),
    }


def on_sphere(grid: Grid) -> dict[str, np.ndarray]:
    """Smooth where the poles are, too: u = cos(p) sin(2 l), v = sin(p) cos(p) cos(l), phi = cos(p)^2 cos(2 l)."""
    p, q = np.meshgrid(np.deg2rad(grid.y), np.deg2rad(grid.x), indexing="ij")
    a = EARTH_RADIUS
    return {
        "u": np.cos(p) * np.sin(2 * q),
        "v": np.sin(p) * np.cos(p) * np.cos(q),
        "phi": np.cos(p) ** 2 * np.cos(2 * q),
        "div": (2 * np.cos(2 * q) + (np.cos(p) ** 2 - 2 * np.sin(p) ** 2) * np.cos(q)) / a,
        "curl": (-np.sin(p) * np.sin(q) + 2 * np.sin(p) * np.sin(2 * q)) / a,
        "lap": -6 * np.cos(p) ** 2 * np.cos(2 * q) / a**2,
        "K": 2 + np.sin(p),
        "flux": -(6 * (2 + np.sin(p)) + 2 * np.sin(p)) * np.cos(p) ** 2 * np.cos(2 * q) / a**2,
    }


def orders(error) -> np.ndarray:
    errors = np.array([error(n) for n in SIZES])
    return np.log2(errors[:-1] / errors[1:]) / np.log2(np.divide(np.array(SIZES[1:]) - 1, np.array(SIZES[:-1]) - 1))


@pytest.mark.parametrize(
    "grid, exact", [(plane, on_plane), (stretched, on_plane), (sphere, on_sphere), (gaussian, on_sphere)]
)
@pytest.mark.parametrize("term", ["div", "curl", "lap", "flux"])
def test_second_order(grid, exact, term):
    def error(n):
        g = grid(n)
        truth = exact(g)
        equation, fields = {
            "div": (get("nondivergence"), ("u", "v")),
            "curl": (get("nondivergence"), ("u", "v")),
            "lap": (get("poisson"), ("phi", "lap")),
            "flux": (Diffusion, ("K", "phi", "flux")),
        }[term]
        op = equation().on(g)
        u = torch.from_numpy(np.stack([truth[f] for f in fields]))[None]
        found = op.scale_term(u) if term == "curl" else op.residual(u)
        wanted = torch.from_numpy(truth[term]) if term in ("div", "curl") else 0.0
        return op.mean_square(found - torch.where(op.valid, wanted, 0.0)).sqrt().item()

    found = orders(error)
    assert abs(found[-1] - 2) < 0.1, found


def test_energy_is_the_mean_over_valid_cells_and_scale():
    rng = np.random.default_rng(0)
    mask = rng.random((12, 14)) > 0.05
    grid = Grid(np.linspace(30, 60, 12), np.linspace(0, 20, 14), sphere=True, mask=mask)
    op = get("nondivergence")().on(grid, scale=1e-6)
    u = torch.from_numpy(rng.standard_normal((3, 2, 12, 14)))
    r, w = op.residual(u)[:, 0].numpy(), grid.weights() * op.valid.numpy()
    assert 0 < op.valid.sum() < 120
    assert np.allclose(op.energy(u), (w * (r / 1e-6) ** 2).sum((1, 2)) / w.sum(), rtol=1e-12)
    z = op.scale_term(u)[:, 0].numpy()
    assert np.allclose(op.scale_square(u)[:, 0], (w * z**2).sum((1, 2)) / w.sum(), rtol=1e-12)
    assert torch.allclose(op.scaled(2e-6).energy(u) * 4, op.energy(u))
    assert op.fields == ["u", "v"] and op.moves == ("u", "v") and op.linear and op.units == "s-1"


def test_constants():
    grid = plane(20)
    u = torch.rand(2, 2, 20, 20, dtype=torch.float64) + 1
    plain, other = Helmholtz().on(grid), Helmholtz(k2=3.0, c=2.0).on(grid)
    inside = torch.where(plain.valid, u[:, 0], 0)
    slope = torch.zeros_like(inside)
    slope[:, 1:-1, 1:-1] = (u[:, 0, 1:-1, 2:] - u[:, 0, 1:-1, :-2]) / (2 * grid.spacing[1])
    assert torch.allclose(other.residual(u), plain.residual(u) + (2 * inside + 2 * inside * slope)[:, None])
    assert not other.linear
    with pytest.raises(InputError, match="no constant 'nu'; its constants are k2, c"):
        Helmholtz(nu=1.0)
    with pytest.raises(InputError, match="finite"):
        Helmholtz(k2=float("nan"))
    with pytest.raises(InputError, match="no constants"):
        get("poisson")(k=1)


def test_formula():
    assert get("poisson")().formula() == "lap(phi) - f = 0"
    assert get("nondivergence")().formula() == "div(u, v) = 0"


def test_stored_operator_is_the_same(tmp_path):
    grid = Grid(np.linspace(0, 1, 9) ** 1.2, np.linspace(0, 1, 8), mask=np.arange(72).reshape(9, 8) != 3)
    op = Helmholtz(k2=2.0, c=0.1).on(grid, scale=3.0)
    torch.save({"grid": grid.to_dict(), "equation": op.to_dict()}, tmp_path / "m.pt")
    state = torch.load(tmp_path / "m.pt", weights_only=True)
    again = Operator.from_dict(state["equation"], Grid.from_dict(state["grid"]))
    u = torch.rand(2, 2, 9, 8, dtype=torch.float64) + 1
    for other in (again, pickle.loads(pickle.dumps(op)), copy.deepcopy(op)):
        assert torch.equal(other.gradient(u), op.gradient(u)) and torch.equal(other.residual(u), op.residual(u))
        assert other.to_dict() == op.to_dict()
    for broken in (
        {**state["equation"], "residual": {"fields": ["u"], "positive": [], "names": ["r"], "residuals": [["eval"]]}},
        {"name": "x"},
    ):
        with pytest.raises(InputError, match="cannot be read"):
            Operator.from_dict(broken, grid)


def test_symbol_is_what_the_operator_makes_of_a_wave():
    n = 12
    grid = Grid.uniform((n, n), (0.3, 0.2), ("periodic", "periodic"))
    op = get("poisson")().on(grid)
    ky, kx = 2 * np.pi / n * 2, 2 * np.pi / n * 3
    j, i = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    wave = torch.from_numpy(np.cos(ky * j + kx * i))
    u = torch.stack([wave, torch.zeros_like(wave)])[None]
    assert np.allclose(op.jvp(u, u)[0, 0], op.symbol("phi", ky, kx).real * wave.numpy())
    assert op.symbol("f", ky, kx) == -1
    with pytest.raises(ValueError, match="varies"):
        get("nondivergence")().on(sphere(8)).symbol("v", ky, kx)


def test_registry(monkeypatch):
    assert names() == sorted(names()) and {"nondivergence", "poisson"} <= set(names())
    for name in names():
        equation = get(name)()
        assert equation.name == name and type(equation).__doc__ and sys.modules[type(equation).__module__].__doc__
        grid = plane(9) if len(equation.axes) == 2 else replace(plane(9), z=np.arange(5.0), boundary=("open",) * 3)
        assert Operator.from_dict(equation.on(grid).to_dict(), grid).name == name
    module = types.ModuleType("my_equations")
    module.Helmholtz, module.other = Helmholtz, 3
    monkeypatch.setitem(sys.modules, "my_equations", module)
    assert get("my_equations:Helmholtz") is Helmholtz
    for name, says in [
        ("poison", "did you mean 'poisson'"),
        ("zzz", "nondivergence, poisson"),
        ("my_equations:other", "subclass"),
        ("my_equations:None", "None"),
        ("no_such_module:X", "no_such_module"),
        (":", "module:Class"),
    ]:
        with pytest.raises(InputError, match=says):
            get(name)


@pytest.mark.parametrize(
    "body, says",
    [
        ({"moves": ("w",)}, "moves"),
        ({"moves": ()}, "moves"),
        ({"scale": "size"}, "scale"),
        ({"dx": Constant(1.0)}, "grid's"),
    ],
)
def test_an_incomplete_equation_is_refused_on_definition(body, says):
    complete = {"u": Field(), "moves": ("u",), "scale": "residual", "residual": lambda self: ddx(self.u)}
    type("Complete", (Equation,), dict(complete))
    with pytest.raises(TypeError, match=says):
        type("Broken", (Equation,), complete | body)


def test_a_grid_without_a_valid_cell_is_refused():
    with pytest.raises(InputError, match="3 x 3"):
        get("poisson")().on(Grid.uniform((2, 9)))
    with pytest.raises(InputError, match="positive"):
        get("poisson")().on(plane(9), scale=0.0)
