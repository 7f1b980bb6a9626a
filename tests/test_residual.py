"""The residual of anyone's Dataset: the real currents, controls, orientation, gaps, units, messages."""

import numpy as np
import pytest
import xarray as xr

from sciguide.equations import get
from sciguide.errors import InputError
from sciguide.residuals import residual_of

U, V = "eastward_eulerian_current_velocity", "northward_eulerian_current_velocity"
FIELDS = {"u": U, "v": V}


@pytest.fixture
def currents(shared_data) -> xr.Dataset:
    """Every thirtieth day."""
    files = sorted(shared_data("globcurrent").glob("*.nc"))[::30]
    return xr.concat([xr.open_dataset(f, decode_times=False).load() for f in files], "time")


def overall(out: xr.Dataset) -> float:
    """rms over all samples, over the scale term."""
    return float(np.sqrt((out["relative_rms"] ** 2).mean()))


def flow(shape=(2, 3), seed=0, n=(14, 20), names=("u", "v")) -> xr.Dataset:
    """Random velocities (time, level, lat, lon) with CF attributes."""
    rng = np.random.default_rng(seed)
    dims = ("time", "level", "lat", "lon")
    lat = ("lat", np.linspace(-30, 10, n[0]), {"units": "degrees_north", "standard_name": "latitude"})
    lon = ("lon", np.linspace(5, 50, n[1]), {"units": "degrees_east", "standard_name": "longitude"})
    standard = ("eastward_wind", "northward_wind")
    fields = {
        name: (dims, rng.standard_normal((*shape, *n)), {"units": "m s-1", "standard_name": s})
        for name, s in zip(names, standard, strict=True)
    }
    level = ("level", np.arange(shape[1]) * 100.0 + 100, {"units": "hPa", "positive": "down"})
    return xr.Dataset(fields, {"lat": lat, "lon": lon, "level": level, "time": np.arange(shape[0])})


def test_real_currents(currents):
    out = residual_of(currents, "nondivergence", fields=FIELDS)
    assert overall(out) == pytest.approx(0.053, abs=0.0015)
    assert out["residual"].dims == ("time", "lat", "lon") and out["rms"].dims == ("time",)
    sea = np.isfinite(currents[U].values)
    assert 0.4 < np.isfinite(out["residual"]).mean() < sea.mean()
    assert not np.isfinite(out["residual"].values[~sea]).any()


def test_agrees_with_the_operator_and_keeps_every_dimension():
    ds = flow()
    out = residual_of(ds, "nondivergence")
    assert out["residual"].dims == ds["u"].dims and out["rms"].dims == ("time", "level")
    assert out["residual"].attrs["units"] == out["rms"].attrs["units"] == "s-1"
    assert out["relative_rms"].attrs["units"] == "1" and out["level"].equals(ds["level"])
    r = out["residual"].values
    a, dlat, dlon = 6.371e6, np.deg2rad(40 / 13), np.deg2rad(45 / 19)
    cos = np.cos(np.deg2rad(ds["lat"].values))[:, None]
    u, v = ds["u"].values, ds["v"].values * cos
    expected = (u[..., 1:-1, 2:] - u[..., 1:-1, :-2]) / (2 * dlon) + (v[..., 2:, 1:-1] - v[..., :-2, 1:-1]) / (2 * dlat)
    assert np.allclose(r[..., 1:-1, 1:-1], expected / (a * cos[1:-1]), rtol=1e-10)
    assert np.isnan(r[..., 0, :]).all() and np.isnan(r[..., :, -1]).all()
    weights = np.broadcast_to(cos, (14, 20))[1:-1, 1:-1]
    mean = (weights * r[..., 1:-1, 1:-1] ** 2).sum((-2, -1)) / weights.sum()
    assert np.allclose(out["rms"], np.sqrt(mean), rtol=1e-12)
    assert np.allclose(out["relative_rms"] * out.attrs["scale"], out["rms"], rtol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        lambda ds: ds.isel(lat=slice(None, None, -1)),
        lambda ds: ds.transpose("lon", "level", "lat", "time"),
        lambda ds: ds.chunk(time=1, lat=5),
        lambda ds: ds.assign_coords(lon=ds["lon"] - 360).assign_coords(
            lon=lambda d: d["lon"].assign_attrs(ds["lon"].attrs)
        ),
        lambda ds: ds.assign(u=(ds["u"] * 3.6).assign_attrs(units="km h-1")),
    ],
    ids=["descending", "transposed", "lazy", "longitude convention", "other units"],
)
def test_harmless_differences_change_nothing(change):
    ds = flow()
    expected, out = residual_of(ds, "nondivergence"), residual_of(change(ds), "nondivergence")
    assert out["residual"].dims == change(ds)["u"].dims
    assert np.array_equal(out["lat"], change(ds)["lat"])
    aligned = out["residual"].transpose(*expected["residual"].dims).sortby("lat").values
    size = np.nanmax(np.abs(expected["residual"]))
    assert np.allclose(aligned, expected["residual"].values, rtol=0, atol=1e-12 * size, equal_nan=True)


def test_round_the_globe_every_column_is_valid():
    ds = flow(n=(14, 24)).assign_coords(lon=("lon", np.arange(24) * 15.0 - 180, {"units": "degrees_east"}))
    out = residual_of(ds, "nondivergence")["residual"].values
    assert np.isfinite(out[..., 1:-1, :]).all() and np.isnan(out[..., [0, -1], :]).all()


def test_gaps_of_each_sample_are_its_own():
    ds = flow((4, 1))
    full = residual_of(ds, "nondivergence")["residual"].values
    u = ds["u"].values
    u[1, 0, 5, 5] = np.nan
    u[2] = np.nan
    out = residual_of(ds, "nondivergence")
    r = out["residual"].values
    lost = np.isnan(r[1, 0]) & ~np.isnan(full[1, 0])
    assert np.array_equal(np.argwhere(lost), [[5, 4], [5, 5], [5, 6]])
    assert np.array_equal(r[[0, 3]], full[[0, 3]], equal_nan=True)
    assert np.isnan(r[2]).all() and np.isnan(out["rms"].values).tolist() == [[False], [False], [True], [False]]


def test_plane_periodic_and_pure_numbers():
    n = 16
    x = np.arange(n) / n
    phi = np.sin(2 * np.pi * x)[:, None] * np.cos(4 * np.pi * x)
    lap = (2 * np.cos(2 * np.pi / n) + 2 * np.cos(4 * np.pi / n) - 4) * n**2 * phi
    ds = xr.Dataset({"phi": (("y", "x"), phi), "f": (("y", "x"), lap)}, {"y": x, "x": x})
    out = residual_of(ds, "poisson", boundary=("periodic", "periodic"))
    assert float(out["relative_rms"]) < 1e-13 and np.isfinite(out["residual"]).all() and out["rms"].dims == ()
    assert np.isnan(residual_of(ds, "poisson")["residual"]).sum() == 4 * n - 4
    same = residual_of(ds, get("poisson")()), residual_of(ds, get("poisson"))
    assert same[0].identical(same[1])
    half = residual_of(ds.astype(np.float16), "poisson", boundary=("periodic", "periodic"))
    exact = residual_of(ds.astype(np.float16).astype(np.float64), "poisson", boundary=("periodic", "periodic"))
    assert np.array_equal(half["residual"], exact["residual"])


def bare(ds, name):
    return ds.assign({name: ds[name].assign_attrs(units=None).drop_attrs()})


@pytest.mark.parametrize(
    "change, arguments, says",
    [
        (lambda ds: ds.drop_vars("v"), {}, "northward velocity"),
        (lambda ds: ds.rename(u="a").assign(b=ds["u"]), {}, "a and b"),
        (lambda ds: ds, {"fields": {"u": "uu"}}, "no variable 'uu'"),
        (lambda ds: ds, {"fields": {"w": "u"}}, "fields u, v"),
        (lambda ds: ds, {"fields": {"v": "u"}}, "two fields"),
        (lambda ds: bare(ds, "u"), {}, "'u' has no units"),
        (lambda ds: ds.assign(u=ds["u"].assign_attrs(units="K")), {}, "variable 'u'.*K"),
        (
            lambda ds: ds.assign(u=ds["u"].assign_attrs(units="1"), v=ds["v"].assign_attrs(units="1")),
            {},
            "variable 'u'",
        ),
        (lambda ds: ds.drop_vars("lat"), {}, "lat"),
        (lambda ds: ds.assign_coords(lat=ds["lat"].values[::-1] * 0), {}, "'lat'"),
        (lambda ds: ds.assign(u=ds["u"].isel(time=0)), {}, "different dimensions"),
        (lambda ds: ds.where(ds["lat"] < 0, np.inf), {}, "infinite"),
        (lambda ds: ds.where(ds["lat"] > 100), {}, "gaps"),
        (lambda ds: ds.isel(lat=slice(0, 2)), {}, "3 x 3"),
        (lambda ds: ds, {"nu": 1.0}, "no constants"),
        (lambda ds: ds, {"boundary": ("open", "shut")}, "boundary"),
    ],
)
def test_mistakes_are_named(change, arguments, says):
    with pytest.raises(InputError, match=says):
        residual_of(change(flow()), "nondivergence", **arguments)


def test_constants_belong_to_an_instance():
    with pytest.raises(InputError, match="already"):
        residual_of(flow(), get("nondivergence")(), nu=1.0)


def test_no_flow_has_no_relative_residual():
    out = residual_of(flow().map(np.zeros_like, keep_attrs=True), "nondivergence")
    assert not out["rms"].any() and np.isnan(out["relative_rms"]).all()
