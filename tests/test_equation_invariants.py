"""What every equation keeps: states of rest, shifts, units, sums."""

import numpy as np
import pytest
import torch

from sciguide.equations import Constant, Field, get, names
from sciguide.grid import Grid
from sciguide.kernels.backends import using
from tests.equation_cases import UNITS, constants_of, powers, sample


@pytest.fixture(autouse=True)
def plain_tensors():
    """What generated kernels are tested against elsewhere: nothing to compile."""
    with using("reference"):
        yield


s = np.linspace(0, 1, 13)
# fields of a state that nothing changes; the others are zero
REST = {
    "poisson": {"phi": 3.0},
    "poisson3": {"phi": 3.0},
    "helmholtz": {"psi": 2.0, "f": 6.0},
    "nondivergence": {},
    "darcy": {"K": 2.0, "p": 3.0},
    "darcy_expanded": {"K": 2.0, "p": 3.0},
    "geostrophic": {"phi": 5e4},
    "geostrophic_height": {"height": 3.0},
    "burgers": {"u": 2.0},
    "advection_diffusion": {"c": 3.0, "c_next": 3.0},
    "vorticity": {"psi": 3.0, "psi_next": 2.0},
    "navier_stokes": {"p": 3.0, "p_next": 2.0},
    "navier_stokes_steady": {"p": 3.0},
    "shallow_water": {"h": 3.0, "h_next": 3.0},
    "hydrostatic": {"phi": 5e4},
    "hydrostatic_height": {"height": 5e3},
}
# what moves evenly: on a plane only
EVEN = {
    "nondivergence": {"u": 1.0, "v": 2.0},
    "advection_diffusion": {"u": 1.0, "v": 2.0, "u_next": 1.0, "v_next": 2.0},
    "navier_stokes": {"u": 1.0, "v": 2.0, "u_next": 1.0, "v_next": 2.0},
    "navier_stokes_steady": {"u": 1.0, "v": 2.0},
}
WITHOUT = {"force_x": 0.0, "force_y": 0.0}
RESIDUALS = {
    "poisson": "m-2",
    "poisson3": "m-2",
    "helmholtz": "m-2",
    "darcy": "m-2",
    "darcy_expanded": "m-2",
    "advection_diffusion": "s-1",
    "momentum_x": "m s-2",
    "momentum_y": "m s-2",
    "divergence": "s-1",
    "divergence_next": "s-1",
    "transport": "s-2",
    "inversion": "s-1",
    "inversion_next": "s-1",
    "mass": "m s-1",
}


def grid_for(name: str, kind: str, scale: dict[str, float] | None = None) -> Grid:
    """A plane (evenly spaced or not), or the sphere; `scale`: factors of lengths and times."""
    m, t = (scale or {}).get("m", 1.0), (scale or {}).get("s", 1.0)
    bend = 0.2 * s**2 if kind == "stretched" else 0.0
    y, x = (s + bend) * (t if name == "burgers" else m), (1.5 * s + bend) * m
    three = {}
    if len(get(name).axes) == 3:
        three = {"z": np.cumsum([0.2, 0.3, 0.25, 0.3]) * (m if get(name).vertical == "m" else 1.0)}
    if kind == "sphere":
        rules = ("open",) * len(three) + ("open", "periodic")
        return Grid(np.linspace(20, 70, 13), np.arange(16) * 22.5, rules, True, **three)
    rule = "periodic" if kind == "torus" else "open"
    return Grid(y, x, ("open",) * len(three) + (rule,) * 2, **three)


@pytest.mark.parametrize("kind", ["stretched", "sphere"])
@pytest.mark.parametrize("name", names())
def test_rest_and_even_motion_leave_nothing(name, kind):
    grid = grid_for(name, kind)
    known = get(name).members(Constant)
    op = get(name)(**(constants_of(name) | {k: v for k, v in WITHOUT.items() if k in known})).on(grid)
    for state in (REST[name], REST[name] | EVEN.get(name, {}) if kind != "sphere" else REST[name]):
        values = torch.tensor([state.get(f, 0.0) for f in op.fields], dtype=torch.float64)
        u = values.reshape(1, -1, *(1,) * len(grid.axes)).expand(1, -1, *grid.shape)
        assert op.valid.any() and (op.residual(u).abs() <= 1e-13 * op.magnitude(u)).all()


@pytest.mark.parametrize("name", names())
def test_a_shift_along_a_periodic_axis_changes_no_bit(name):
    torus, sphere = grid_for(name, "torus"), grid_for(name, "sphere")
    for grid, dims in ((torus, (-2, -1)), (sphere, (-1,))):
        u = torch.randn(1, len(get(name).members(Field)), *grid.shape, dtype=torch.float64).abs()
        op = get(name)().on(grid)
        by = (3, 5)[-len(dims) :]
        assert torch.equal(op.residual(u.roll(by, dims)), op.residual(u).roll(by, dims))
        moved, gradient = op.gradient(u.roll(by, dims)), op.gradient(u).roll(by, dims)  # sums in another order
        assert (moved - gradient).abs().max() <= 1e-13 * gradient.abs().max()


@pytest.mark.parametrize("name", names())
def test_other_units_of_length_time_and_temperature_only_rescale(name):
    """By powers of two, so not a bit changes. It holds the units that fields, constants and residuals declare, too."""
    factor = {"m": 8.0, "s": 0.25, "K": 2.0}

    def of(units):
        return float(np.prod([factor[k] ** p for k, p in powers(units).items()]))

    known, members = get(name).members(Constant), get(name).members(Field)
    constants = {k: c.value for k, c in known.items()} | constants_of(name)
    u = sample(name, grid_for(name, "stretched"), constants.get("dt", 0.0))
    op = get(name)(**constants).on(grid_for(name, "stretched"))
    scaled = {k: v * of(known[k].units) for k, v in constants.items()}
    other = get(name)(**scaled).on(grid_for(name, "stretched", factor))
    by = torch.tensor([of(f.units or UNITS.get(k.removesuffix("_next"))) for k, f in members.items()])
    r, changed = op.residual(u), other.residual(u * by.double().reshape(-1, *(1,) * (u.ndim - 2)))
    units = [get(name).units or RESIDUALS.get(name) or RESIDUALS[c] for c in op.components]
    assert torch.equal(changed, r * torch.tensor([of(x) for x in units]).reshape(-1, *(1,) * (u.ndim - 2)))


SUMS = {
    "darcy": ("residual", lambda F, c: -F["f"]),
    "poisson": ("residual", lambda F, c: -F["f"]),
    "nondivergence": ("residual", lambda F, c: 0 * F["u"]),
    "advection_diffusion": ("residual", lambda F, c: (F["c_next"] - F["c"]) / c["dt"]),
    "shallow_water": ("mass", lambda F, c: (F["h_next"] - F["h"]) / c["dt"]),
    "vorticity": (
        "transport",
        lambda F, c: (F["w_next"] - F["w"]) / c["dt"] + c["drag"] * (F["w"] + F["w_next"]) / 2,
    ),
}


@pytest.mark.parametrize("kind", ["torus", "sphere"])
@pytest.mark.parametrize("name", SUMS)
def test_what_leaves_a_cell_enters_its_neighbour(name, kind):
    """The area-weighted sum of r is that of the terms that are no divergence."""
    grid = grid_for(name, kind)
    constants = constants_of(name)
    op = get(name)(**constants).on(grid)
    u = torch.rand(1, len(op.fields), *grid.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if kind == "sphere":  # nothing near the edges, through which it could leave
        u[:, :, :4], u[:, :, -4:] = 0.0, 0.0
    fields = dict(zip(op.fields, u[0], strict=True))
    component, rest = SUMS[name]
    r = op.residual(u)[0, op.components.index(component)]
    weight = torch.from_numpy(grid.weights()) * op.valid
    missed = (weight * (r - rest(fields, constants))).sum().abs()
    assert missed < 1e-12 * (weight * op.magnitude(u)[0, op.components.index(component)]).sum()


def test_burgers_keeps_its_mean():
    grid = Grid(s, np.arange(16) / 16, ("open", "periodic"))
    u = torch.rand(1, 1, 13, 16, dtype=torch.float64)
    r = get("burgers")().on(grid).residual(u)[0, 0]
    tendency = (u[0, 0, 2:] - u[0, 0, :-2]) * 6
    assert torch.allclose(r[1:-1].sum(1), tendency.sum(1), rtol=0, atol=1e-10)


def test_formulas_read_like_the_equations():
    for name in names():
        text = get(name)().formula()
        assert text.count(" = 0") == len(get(name)().terms("residual")) and "Point" not in text
    assert get("helmholtz")().formula() == "k2*psi + lap(psi) - f = 0"
    assert get("darcy")().formula() == "-f - div(K*grad(p)) = 0"
    assert get("darcy_expanded")().formula() == "-f - expand(div(K*grad(p))) = 0"
    assert get("burgers")().formula().startswith("ddt(u) + ddx(u**2/2) - nu*lap(u) = 0")
    assert "v*ddy(u) + ddx(p) - force_x - nu*lap(u) = 0" in get("navier_stokes_steady")().formula()


@pytest.mark.parametrize("name", names())
def test_documentation_names_every_field_and_constant(name):
    import sys

    equation = get(name)
    text = sys.modules[equation.__module__].__doc__
    if name in ("poisson3",):
        return
    for k, member in {**equation.members(Field), **equation.members(Constant)}.items():
        said = f"`{k}`" in text or k.endswith("_next") or "as in `" in text.lower()
        assert said and (member.long_name or k in text), k
