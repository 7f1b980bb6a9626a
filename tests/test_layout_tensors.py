"""`to_dataset` undoes `to_tensor`, whatever the order of the source; the layout survives its own description."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from sciguide.datasets.axes import ascending
from sciguide.datasets.layout import Layout
from sciguide.datasets.store import load_fields
from sciguide.errors import InputError


@st.composite
def fields(draw):
    """Gridded fields in CF order (time, [level], y, x): any sizes, either direction of each axis, some land."""
    ny, nx, steps, levels = (draw(st.integers(low, 5)) for low in (2, 2, 1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from(["regional", "global", "plane"]))
    spans = {
        "regional": (-20.0, 25.0, 340.0, 375.0),
        "global": (-80.0, 80.0, -180.0, 180.0 - 360.0 / nx),
        "plane": (0.0, 1.0, 0.0, 9.0),
    }
    south, north, west, east = spans[kind]
    y, x = np.linspace(south, north, ny), np.linspace(west, east, nx)
    x = (x + draw(st.sampled_from([0.0, 360.0]))) if kind != "plane" else x
    x = np.mod(x, 360.0) if kind == "regional" and draw(st.booleans()) else x
    y, x = (v[::-1] if draw(st.booleans()) else v for v in (y, x))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    names = ("y", "x") if kind == "plane" else ("lat", "lon")
    units = ("km", "km") if kind == "plane" else ("degrees_north", "degrees_east")
    coords = {
        "time": np.datetime64("2000-01-01", "ns") + np.arange(steps) * np.timedelta64(1, "D"),
        "level": ("level", rng.permutation(levels).astype(np.int32), {"units": "1"}),
        names[0]: (names[0], y.astype(dtype), {"units": units[0]}),
        names[1]: (names[1], x.astype(dtype), {"units": units[1]}),
    }
    land = rng.random((ny, nx)) < 0.3
    full, flat = rng.normal(size=(steps, levels, ny, nx)), rng.normal(size=(steps, ny, nx))
    variables = {
        "u": (("time", "level", *names), np.where(land, np.nan, full).astype(np.float32), {"units": "m s-1"}),
        "p": (("time", *names), flat.astype(np.float32), {"units": "Pa", "long_name": "pressure"}),
    }
    ds = xr.Dataset(variables, coords)
    ds = ds.sortby("level", ascending=draw(st.booleans()))
    return ds, draw(st.permutations(list(ds.sizes)))


def canonical(ds, layout):
    """The source with the attributes that the layout gives it."""
    ds = ds.copy()
    for name in layout.variables:
        ds[name].attrs = layout.variables[name].attrs
    for name, coord in layout.coordinates.items():
        ds[name].attrs = coord.attrs
    return ds


@given(fields())
@settings(max_examples=40, deadline=None)
def test_to_dataset_undoes_to_tensor(drawn):
    ds, order = drawn
    loaded, axes = load_fields(ds.transpose(*order))
    mask = np.isfinite(Layout.from_dataset(loaded, axes).stacked(loaded)).all(0)
    layout = Layout.from_dataset(loaded, axes, mask)
    tensor = layout.to_tensor(loaded)
    assert tensor.shape == (ds.sizes["time"], *layout.shape) and tensor.dtype == np.float32
    assert (np.diff(layout.y) > 0).all() and (np.diff(layout.x) > 0).all()
    again = layout.to_dataset(tensor, dim="time", coord=loaded.time.values)
    xr.testing.assert_identical(again, canonical(ds, layout)[["p", "u"]])
    # A description through JSON and through a checkpoint gives the same fields.
    copy = Layout.from_dict(json.loads(json.dumps(layout.to_dict())))
    assert copy.to_dict() == layout.to_dict()
    xr.testing.assert_identical(copy.to_dataset(tensor, dim="time", coord=loaded.time.values), again)
    assert all(copy.coordinates[n].values.dtype == c.values.dtype for n, c in layout.coordinates.items())


def test_layout_in_a_checkpoint(make_fields, tmp_path):
    ds = make_fields().assign_attrs(title="currents")
    ds.u.attrs.update(flags=np.arange(3), scale=np.float32(0.5), Unit="m s-1", valid_min=-3.0)
    layout = Layout.from_dataset(*load_fields(ds))
    torch.save(layout.to_dict(), tmp_path / "layout.pt")
    copy = Layout.from_dict(torch.load(tmp_path / "layout.pt", weights_only=True))
    xr.testing.assert_identical(copy.template, layout.template)
    assert copy.attrs == {"title": "currents"}
    expected = {"units": "m s-1", "standard_name": "eastward_sea_water_velocity", "long_name": "u"}
    assert copy.variables["u"].attrs == expected | {"flags": [0, 1, 2], "scale": 0.5}
    assert copy.names == ["u", "v"] and copy.units == ["m s-1", "m s-1"]


def test_channels_are_in_their_places(make_fields):
    """Each value of the tensor is the one at the channel's variable, level, latitude and longitude."""
    ds = make_fields(3).isel(lat=slice(None, None, -1))
    ds = xr.concat([ds, ds + 10], xr.Variable("depth", [5.0, 50.0], {"units": "m"}))
    for name in "uv":
        ds[name].attrs["units"] = "m s-1"
    loaded, axes = load_fields(ds)
    layout = Layout.from_dataset(loaded, axes)
    tensor = layout.to_tensor(loaded)
    for c, (name, level) in enumerate(layout.channels):
        for j, k in ((0, 0), (2, 5), (5, 7)):
            value = ds[name].isel(depth=level).sel(lat=layout.y[j], lon=layout.x[k]).values
            np.testing.assert_array_equal(tensor[:, c, j, k], np.where(layout.mask[c, j, k], value, np.nan))
    assert layout.names == ["u_5", "u_50", "v_5", "v_50"]
    assert layout.coordinates["depth"].attrs["positive"] == "down"


def test_template_holds_no_data(make_fields):
    layout = Layout.from_dataset(*load_fields(make_fields()))
    template = layout.template
    assert template.u.dims == ("lat", "lon") and template.u.attrs["units"] == "m s-1"
    assert template.u.variable._data.strides == (0, 0)
    members = layout.to_dataset(np.zeros((2, *layout.shape), np.float32))
    assert members.realization.dtype == np.int32 and members.realization.attrs["standard_name"] == "realization"
    assert members.lat.attrs == {
        "standard_name": "latitude",
        "long_name": "latitude",
        "units": "degrees_north",
        "axis": "Y",
    }


def test_to_tensor_converts_and_refuses(make_fields):
    ds = make_fields()
    layout = Layout.from_dataset(*load_fields(ds))
    reference = layout.to_tensor(ds)
    centimetres = ds * 100
    for name in "uv":
        centimetres[name].attrs = {"units": "cm/s"}
    np.testing.assert_allclose(layout.to_tensor(centimetres), reference, rtol=1e-6)
    np.testing.assert_array_equal(layout.to_tensor(ds.isel(time=3)), reference[3:4])
    np.testing.assert_array_equal(layout.to_tensor(ds.isel(lat=slice(None, None, -1))), reference)
    for wrong, words in (
        (ds.drop_vars("v"), "`v` is missing"),
        (ds.isel(lon=slice(5)), "coordinate `lon` .5 points"),
        (ds.assign_coords(lat=ds.lat + 0.5), "coordinate `lat`"),
        (ds.assign(u=ds.u.assign_attrs(units="K")), "`u`: units `K` cannot be turned into `m s-1`"),
        (ds.assign(u=ds.u.drop_attrs()), "`u` has no units"),
    ):
        with pytest.raises(InputError, match=words):
            layout.to_tensor(wrong)


def test_land_is_nan_whatever_is_on_it(make_fields):
    ds = make_fields()
    loaded, axes = load_fields(ds)
    mask = np.isfinite(Layout.from_dataset(loaded, axes).stacked(loaded)).all(0)
    layout = Layout.from_dataset(loaded, axes, mask)
    reference = layout.to_tensor(ds)
    for filler in (0.0, np.inf, 1e36):
        np.testing.assert_array_equal(layout.to_tensor(ds.fillna(filler)), reference)


@pytest.mark.parametrize(
    ("values", "degrees", "expected"),
    [
        ([3.0, 2, 1], False, [1, 2, 3]),
        ([350.0, 355, 0, 5], True, [350, 355, 360, 365]),
        ([-10.0, 0, 10], True, [-10, 0, 10]),
        ([270.0, 180, 90, 0], True, [0, 90, 180, 270]),
        ([-180.0, -90, 0, 90], True, [0, 90, 180, 270]),
        ([0.5, 120.5, 240.5], True, [0.5, 120.5, 240.5]),
    ],
)
def test_ascending(values, degrees, expected):
    order, result = ascending(np.array(values), degrees)
    np.testing.assert_allclose(result, expected)
    np.testing.assert_allclose(np.mod(np.array(values)[order], 360), np.mod(expected, 360))


def test_to_tensor_of_lazily_opened_files_does_not_wait_for_its_own_lock(tmp_path, make_fields):
    make_fields().to_netcdf(tmp_path / "fields.nc")
    code = """
import sys, dask
from sciguide.datasets.layout import Layout
from sciguide.datasets.store import LOCK, open_fields

def read(block):
    with LOCK:
        return block

dask.config.set(scheduler="threads")
ds, axes = open_fields(sys.argv[1])
lazy = ds.map(lambda v: v.copy(data=v.data.map_blocks(read)))
print(Layout.from_dataset(ds, axes).to_tensor(lazy).shape)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "fields.nc")], capture_output=True, timeout=60)
    assert done.stdout.decode().strip() == "(12, 2, 6, 8)", done.stderr.decode()
