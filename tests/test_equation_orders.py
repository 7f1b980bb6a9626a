"""Orders of convergence: every equation on smooth fields against its continuous form."""

import numpy as np
import pytest

from sciguide.equations import names
from sciguide.grid import Grid
from sciguide.kernels.backends import using
from tests.equation_cases import LAYERS, PLANE_ONLY, STRONG, constants_of, of_order, sample, truth


@pytest.fixture(autouse=True)
def plain_tensors():
    """What generated kernels are tested against elsewhere: nothing to compile."""
    with using("reference"):
        yield


FLAT = [n for n in STRONG if n not in (*LAYERS, "poisson3")]


def plane(n: int, rule: str = "open") -> Grid:
    return Grid(np.linspace(0, 1, n + 1), np.linspace(0, 1.5, n + 1), (rule, rule))


def stretched(n: int, rule: str = "open") -> Grid:
    s = np.linspace(0, 1, n + 1)
    return Grid(s + 0.1 * np.sin(2 * np.pi * s), 1.5 * np.tanh(1.5 * s), (rule, rule))


def sphere(n: int) -> Grid:
    return Grid(np.linspace(20, 75, n + 1), np.arange(n) * 360 / n, ("open", "periodic"), sphere=True)


def gaussian(n: int) -> Grid:
    lat = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(2 * n)[0]))
    return Grid(lat[(lat > 30) & (lat < 75)], np.arange(n) * 360 / n, ("open", "periodic"), sphere=True)


def error(name: str, grid: Grid, step: float, order: int = 2, edge: bool = False) -> np.ndarray:
    """rms over the valid cells, or over those of the edge, of what each residual misses of the continuous one."""
    constants = constants_of(name, grid.sphere, step)
    op = of_order(name, order)(**constants).on(grid)
    missed = op.residual(sample(name, grid, constants.get("dt", 0.0))) - truth(name, grid, constants)
    counted = op.valid.clone()
    if edge:
        counted[1:-1, 1:-1] = False
    return missed[0, :, counted].square().mean(1).sqrt().numpy()


def orders(name: str, n: int, make, order: int = 2, **options) -> np.ndarray:
    """From n to 2 n points along each axis, per residual; the step in time shrinks as the error does."""
    coarse, fine = (error(name, make(m), 0.02 * (32 / m) ** (order // 2), order, **options) for m in (n, 2 * n))
    return np.log2(coarse / fine)


def test_every_equation_has_its_case():
    assert sorted(STRONG) == names()


def one_sided(n: int) -> Grid:
    return plane(n, "one-sided")


def one_sided_stretched(n: int) -> Grid:
    return stretched(n, "one-sided")


def cases(*makes):
    """Every equation on every one of these grids that it is made for."""
    return [(n, m) for n in FLAT for m in makes if not (n in PLANE_ONLY and m in (sphere, gaussian))]


@pytest.mark.parametrize("name, make", cases(plane, stretched, sphere, gaussian))
def test_second_order(name, make):
    found = orders(name, 64, make)
    assert np.abs(found - 2).max() < 0.1, found


@pytest.mark.parametrize("name", ["poisson", "geostrophic", "burgers"])
def test_second_order_from_32_to_256(name):
    found = np.array([orders(name, n, plane) for n in (32, 64, 128)])
    assert np.abs(found - 2).max() < 0.1, found


@pytest.mark.parametrize("name, make", cases(one_sided, one_sided_stretched))
def test_one_sided_edges(name, make):
    found = orders(name, 64, make, edge=True)
    assert np.abs(found - 2).max() < 0.1, found


@pytest.mark.parametrize("name, make", cases(plane, sphere))
def test_fourth_order(name, make):
    found = orders(name, 64, make, order=4)
    assert np.abs(found - 4).max() < 0.1, found


@pytest.mark.parametrize("name, make", cases(one_sided))
def test_fourth_order_at_one_sided_edges(name, make):
    found = orders(name, 64, make, order=4, edge=True)
    assert np.abs(found - 4).max() < 0.1, found


def test_three_axes():
    def block(n):
        x = np.linspace(0, 1, n + 1)
        return Grid(1.2 * x, x + 0.1 * x**2, ("open",) * 3, z=0.8 * x)

    assert abs(orders("poisson3", 16, block)[0] - 2) < 0.1


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    """A layer's residual is that of the continuous equation in its middle, to second order of its thickness."""

    def levels(n):
        z = np.linspace(0, 1, n + 1)
        return Grid(np.arange(2.0), np.arange(3.0), ("open",) * 3, z=z + 0.2 * z**2)

    assert abs(orders(name, 32, levels)[0] - 2) < 0.1
