"""The grid: spacings, metric numbers, area weights, units, round trips."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sciguide.errors import InputError
from sciguide.grid import EARTH_RADIUS, Grid, grid_of, is_uniform


def read(grid: Grid, name: str, offset: int) -> np.ndarray | float:
    """The coefficient as it is read `offset` points further on."""
    pad = abs(offset)
    values = grid.metric(name, pad)
    return values if np.ndim(values) == 0 else values[pad + offset : len(values) - pad + offset]


def test_uniform_spacing_is_one_exact_number():
    grid = Grid.uniform((5, 9), (0.1, 0.25))
    assert grid.geometry()[:2] == (False, (True, True))
    assert grid.metric("dx") == 0.25 and read(grid, "dy", -1) == 0.4 / 4
    assert np.array_equal(grid.weights(), np.ones((5, 9)))
    assert grid.latitude is None


def test_float32_coordinates_count_as_uniform_and_gaussian_latitudes_do_not():
    assert is_uniform(np.arange(14.875, 35, 0.25).astype(np.float32))
    assert is_uniform(np.arange(-180, 180, 0.01).astype(np.float32))
    nodes = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(64)[0]))
    assert not is_uniform(nodes)


def test_stretched_spacing_per_column_and_beyond_the_edges():
    x = np.array([0.0, 1.0, 3.0, 4.0])
    grid = Grid([0.0, 1.0], x)
    assert np.array_equal(grid.metric("dx"), [1, 2, 1, 1])
    assert np.array_equal(read(grid, "dx", -1), [1, 1, 2, 1])
    around = Grid([0.0, 1.0], x, ("open", "periodic"))
    assert np.allclose(around.metric("dx"), [1, 2, 1, 4 / 3])
    assert np.allclose(read(around, "dx", -1), [4 / 3, 1, 2, 1])
    assert np.allclose(read(around, "dx", -3), [2, 1, 4 / 3, 1])
    assert np.allclose(read(around, "dx", 2), [1, 4 / 3, 1, 2])
    assert np.allclose(grid.weights()[0], np.array([1, 1.5, 1.5, 1]) / 1.25)


def test_sphere_metric():
    grid = Grid([-90.0, -45.0, 0.0, 45.0, 90.0], np.arange(0, 360, 30.0), ("open", "periodic"), sphere=True)
    assert grid.metric("radius") == EARTH_RADIUS
    assert np.allclose(grid.metric("cos_lat"), [0, 0.5**0.5, 1, 0.5**0.5, 0])
    assert np.allclose(read(grid, "cos_lat", 1), [0.5**0.5, 1, 0.5**0.5, 0, 0])
    assert np.allclose(grid.metric("cos_face"), np.cos(np.deg2rad([-67.5, -22.5, 22.5, 67.5, 90])))
    assert np.allclose(read(grid, "cos_face", -1), np.cos(np.deg2rad([90, -67.5, -22.5, 22.5, 67.5])))
    assert np.isclose(grid.spacing[1], np.pi / 6)
    area = grid.weights()
    assert np.isclose(area.mean(), 1) and np.allclose(area[1] / area[2], 0.5**0.5)
    assert np.array_equal(grid.latitude, grid.y)


def test_area_of_uneven_latitudes_sums_to_the_sphere():
    lat = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(64)[0]))
    weights = Grid(lat, np.arange(0, 360, 4.0), ("open", "periodic"), sphere=True).weights()
    gauss = np.polynomial.legendre.leggauss(64)[1]
    assert np.abs(weights[:, 0] / weights[:, 0].sum() - gauss / gauss.sum()).max() < 2e-4


def test_mask_weighs_nothing():
    mask = np.zeros((3, 4), bool)
    mask[1, 1:3] = True
    weights = Grid.uniform((3, 4), mask=mask).weights()
    assert np.array_equal(weights, mask * 1.0)
    assert not Grid.uniform((3, 4), mask=np.zeros((3, 4), bool)).weights().any()


@settings(max_examples=30, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))), st.booleans())
def test_dict_round_trip(mask, sphere):
    rng = np.random.default_rng(mask.size)
    y, x = (np.cumsum(rng.uniform(0.1, 1, n)) for n in mask.shape)
    grid = Grid(y, x, ("neumann", "periodic"), sphere, mask)
    again = Grid.from_dict(json.loads(json.dumps(grid.to_dict())))
    assert np.array_equal(again.y, grid.y) and np.array_equal(again.x, grid.x) and np.array_equal(again.mask, mask)
    assert (again.boundary, again.sphere) == (grid.boundary, grid.sphere)
    assert Grid.from_dict(Grid.uniform((2, 3)).to_dict()).mask is None


def test_grid_of_degrees_and_lengths():
    lat, lon = np.linspace(-60, 60, 25), np.arange(-180, 180, 15.0)
    globe = grid_of(lat, lon, "degrees_north", "degrees_east")
    assert globe.sphere and globe.boundary == ("open", "periodic")
    assert grid_of(lat, lon[:-3], "degrees_north", "degrees_east").boundary == ("open", "open")
    across = grid_of(lat, [170.0, 175.0, 180.0, -175.0], "degree_N", "degree_E")
    assert np.array_equal(across.x, [170, 175, 180, 185])
    plane = grid_of([0.0, 1.0], [0.0, 2.0, 4.0], "km", "m", boundary=("periodic", "neumann"))
    assert plane.spacing == (1000.0, 2.0) and plane.boundary == ("periodic", "neumann")
    assert grid_of([0.0, 1.0], [0.0, 2.0], "1", "1").spacing == (1.0, 2.0)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: Grid([1.0, 0.0], [0.0, 1.0]), "ascend"),
        (lambda: Grid([0.0, np.nan], [0.0, 1.0]), "finite"),
        (lambda: Grid([0.0, 91.0], [0.0, 1.0], sphere=True), "latitudes"),
        (lambda: Grid([0.0, 1.0], [0.0, 1.0], ("open", "shut")), "boundary"),
        (lambda: Grid([0.0, 1.0], [0.0, 1.0], ("periodic", "open"), sphere=True), "latitudes"),
        (lambda: Grid([0.0, 1.0], [0.0, 1.0], mask=np.ones((3, 2))), "mask"),
        (lambda: grid_of([0.0, 1.0], [0.0, 1.0], "degrees_north", "m"), "both"),
        (lambda: grid_of([0.0, 1.0], [0.0, 1.0], "s", "s"), "length"),
        (lambda: grid_of([0.0, 1.0], [0.0, 1.0], "nonsense", "m"), "length"),
        (lambda: Grid.from_dict(Grid.uniform((2, 2)).to_dict() | {"mask": [3]}), "mask"),
    ],
)
def test_mistakes_are_named(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_unknown_metric():
    with pytest.raises(KeyError):
        Grid.uniform((2, 2)).metric("sigma")
