"""Opening gridded files: what is recognised, what makes no difference, what is refused, and the lock."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import xarray as xr

from sciguide.datasets.files import digest, find_files
from sciguide.datasets.layout import Layout
from sciguide.datasets.store import load_fields, open_fields
from sciguide.datasets.units import canonical_units, conversion
from sciguide.errors import InputError


def tensor(source, **options):
    """The fields of a source as (T, C, Y, X)."""
    ds, axes = load_fields(source, **options)
    return Layout.from_dataset(ds, axes).to_tensor(ds)


def refusal(source, *words, **options):
    """Asserts that a source is refused in one line with these words."""
    with pytest.raises(InputError) as caught:
        load_fields(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert [w for w in words if w not in message] == [], message


# What is recognised

EAST = {"units": "degrees_east"}


@pytest.mark.parametrize(
    ("dims", "attrs", "axes", "expected"),
    [
        (("time", "lat", "lon"), {}, None, ("time", "lat", "lon", None)),
        (("month", "level", "latitude", "longitude"), {}, None, ("month", "latitude", "longitude", "level")),
        (("sample", "x", "y"), {}, None, ("sample", "y", "x", None)),
        (("realization", "lev2", "y", "x"), {}, None, ("realization", "y", "x", "lev2")),
        (("n", "y", "x"), {}, None, ("n", "y", "x", None)),
        (("z", "y", "x"), {}, None, (None, "y", "x", "z")),
        (("a", "b", "c"), {"b": {"axis": "Y"}, "c": {"axis": "X"}}, None, ("a", "b", "c", None)),
        (
            ("a", "b", "c"),
            {"a": {"units": "degrees_east"}, "b": {"units": "degrees_north"}},
            None,
            ("c", "b", "a", None),
        ),
        (("p", "b", "c"), {"p": {"units": "hPa"}}, {"y": "b", "x": "c"}, (None, "b", "c", "p")),
        (("lat", "lon", "q"), {}, {"sample": "q", "y": "lon", "x": "lat"}, ("q", "lon", "lat", None)),
    ],
)
def test_axes_are_found(dims, attrs, axes, expected):
    sizes = (3, 4, 5, 6)[: len(dims)]
    coords = {d: (d, np.arange(1.0, n + 1), attrs.get(d, {})) for d, n in zip(dims, sizes, strict=True)}
    ds = xr.Dataset({"u": (dims, np.random.default_rng(0).normal(size=sizes), {"units": "m"})}, coords)
    _, found = open_fields(ds, axes=axes)
    assert (found.sample, found.y, found.x, found.levels["u"]) == expected
    assert f"y: {found.y} (" in found.describe() and "\n" not in found.describe()


def test_each_variable_has_its_own_levels():
    def field(*dims):
        sizes = {"time": 1, "lev": 3, "lev1": 2, "lat": 4, "lon": 5}
        return dims, np.random.default_rng(1).normal(size=[sizes[d] for d in dims]), {"units": "K"}

    lat, lon = ("lat", [-30.0, -10, 10, 30], {"units": "degrees north"}), ("lon", np.arange(5.0))
    lev = ("lev", [1000.0, 500, 10], {"units": "millibars"})
    grid = ("lat", "lon")
    ds = xr.Dataset(
        {"T": field("time", "lev", *grid), "W": field("time", "lev1", *grid), "P": field("time", *grid)},
        {
            "time": [6],
            "lev": lev,
            "lev1": [1.0, 2],
            "lat": lat,
            "lon": lon,
        },
    )
    loaded, axes = open_fields(ds)
    assert axes.levels == {"T": "lev", "W": "lev1", "P": None} and axes.sample == "time"
    layout = Layout.from_dataset(loaded, axes)
    assert layout.names == ["P", "T_1000", "T_500", "T_10", "W_1", "W_2"]
    assert layout.lat_lon and layout.coordinates["lev"].attrs["units"] == "hPa"


def test_single_levels_become_scalars(make_fields):
    ds = make_fields().expand_dims({"depth": [5.0]}, axis=1)
    ds.depth.attrs = {"units": "m"}
    loaded, axes = open_fields(ds)
    assert loaded.u.dims == ("time", "lat", "lon") and axes.levels["u"] is None
    template = Layout.from_dataset(loaded, axes).template
    assert template.depth.shape == () and template.depth.attrs["positive"] == "down"


def test_units_are_repaired(make_fields, tmp_path):
    ds = make_fields()
    for variable in ds.variables.values():
        if "units" in variable.attrs:
            variable.attrs["Unit"] = variable.attrs.pop("units")
    ds["time"] = ("time", np.arange(12.0), {"Unit": "days since 2002-01-01"})
    ds.to_netcdf(tmp_path / "a.nc")
    loaded, _ = load_fields(tmp_path / "a.nc", units={"v": "cm s-1"})
    assert (loaded.u.units, loaded.v.units) == ("m s-1", "cm s-1")
    assert loaded.time.values[1] == np.datetime64("2002-01-02")


def test_spellings_of_units():
    assert [canonical_units(u) for u in ("mb/day", "degrees north", "ms-1", "m**2 s**-2", "millibars")] == [
        *("hPa/day", "degrees_north", "m s-1", "m**2 s**-2", "hPa")
    ]
    assert conversion("mb/day", "Pa s-1") == pytest.approx((100 / 86400, 0))
    assert conversion("degC", "K") == pytest.approx((1, 273.15))
    with pytest.raises(InputError, match="`m` cannot be turned into `m s-1`"):
        conversion("m", "m s-1")


def test_fields_are_lazy_and_others_untouched(make_fields, tmp_path):
    ds = make_fields()
    ds["w"] = ds.u * 2  # has no units: refused if it were looked at
    ds.to_netcdf(tmp_path / "a.nc")
    loaded, _ = open_fields(tmp_path / "a.nc", ["v"])
    assert list(loaded.data_vars) == ["v"] and loaded.v.chunks is not None
    loaded.close()


# What makes no difference


def test_harmless_differences(make_fields, tmp_path):
    ds = make_fields(land=False)
    reference = tensor(ds)
    assert reference.shape == (12, 2, 6, 8) and reference.dtype == np.float32
    np.testing.assert_array_equal(reference[:, 0], ds.u.values)
    ds.isel(lat=slice(None, None, -1)).transpose("lon", "time", "lat").to_netcdf(tmp_path / "flipped.nc")
    ds.chunk({"time": 5, "lon": 3}).to_zarr(tmp_path / "store.zarr", consolidated=False)
    many = tmp_path / "many"
    many.mkdir()
    # The alphabet is against the calendar, and each file counts from its own day.
    for i in range(0, 12, 4):
        encoding = {"time": {"units": f"hours since {str(ds.time.values[i])[:10]}"}}
        ds.isel(time=slice(i, i + 4)).to_netcdf(many / f"{9 - i}.nc", encoding=encoding)
    split = [tmp_path / "u.nc", tmp_path / "v.nc"]
    for path in split:
        ds[[path.stem]].to_netcdf(path)
    turned = ds.assign_coords(lon=("lon", ds.lon.values - 360, ds.lon.attrs)).isel(lon=slice(None, None, -1))
    for source in ("flipped.nc", "store.zarr", "many", "many/*.nc"):
        np.testing.assert_array_equal(tensor(tmp_path / source), reference, err_msg=source)
    np.testing.assert_array_equal(tensor(split), reference)
    np.testing.assert_array_equal(tensor(turned), reference)
    packing = {"dtype": "int16", "scale_factor": 1e-4, "_FillValue": -32767}
    ds.to_netcdf(tmp_path / "packed.nc", encoding={"u": packing, "v": packing})
    np.testing.assert_allclose(tensor(tmp_path / "packed.nc"), reference, atol=6e-5)


def test_global_longitudes_start_at_greenwich():
    lon = np.arange(-180.0, 180, 30)
    values = np.random.default_rng(0).normal(size=(2, 3, 12))
    ds = xr.Dataset(
        {"u": (("time", "lat", "lon"), values, {"units": "m"})}, {"lat": [30.0, 0, -30], "lon": lon, "time": [0, 1]}
    )
    other = ds.assign_coords(lon=lon % 360).sortby("lon")
    cut = other.roll(lon=5, roll_coords=True)
    np.testing.assert_array_equal(tensor(ds), tensor(other))
    np.testing.assert_array_equal(tensor(ds), tensor(cut))
    layout = Layout.from_dataset(*open_fields(ds))
    np.testing.assert_array_equal(layout.x, np.arange(0, 360, 30))
    np.testing.assert_array_equal(layout.to_dataset(tensor(ds)).u.values, values.astype(np.float32))


# What is refused


def test_refusals(make_fields, tmp_path):
    ds = make_fields()
    ds.to_netcdf(tmp_path / "a.nc")
    refusal(tmp_path / "b*.nc", "no NetCDF file", "b*.nc")
    refusal(tmp_path / "a.nc", "a.nc", "no variable `uu`", "it has u, v", "Did you mean `u`?", variables=["uu"])
    refusal(ds, "`units:` names `x`", units={"x": "m"})
    refusal(ds, "`axes:` has no key `lat`", axes={"lat": "y"})
    refusal(ds, "no such dimension", "Did you mean `lat`?", axes={"y": "latt"})
    bare = ds.copy(deep=True)
    del bare.u.attrs["units"]
    refusal(bare, "`u` has no units", "units: {u: m s-1}")
    bare.u.attrs["units"] = "parsnips"
    refusal(bare, "`u`", "unknown units `parsnips`")
    lon, lat = ds.lon.values, ds.lat.values
    refusal(ds.drop_vars("lat"), "`lat` has no coordinate")
    refusal(ds.assign_coords(lon=np.r_[lon[:-1], lon[-2]]), "`lon` repeats")
    refusal(ds.assign_coords(lon=lon[[0, 2, 1, *range(3, 8)]]), "`lon` is neither ascending nor descending")
    refusal(ds.assign_coords(lat=np.r_[lat[:-1], np.nan]), "`lat` holds values that are missing")
    refusal(ds.assign_coords(lat=lat * 3), "`lat` exceeds 90")
    refusal(ds.assign_coords(lon=np.linspace(0, 360, 8)), "`lon` goes around the globe and repeats")
    refusal(ds.isel(time=[0, 2, 1]), "`time` is not in ascending order")
    refusal(ds.isel(time=[0, 1, 1]), "`time` holds 2002-01-02", "twice")
    nameless = ds.rename(lat="a", lon="b").drop_attrs()
    refusal(nameless, "none of the dimensions time, a, b looks like y", "axes: {y: NAME}")
    refusal(ds.expand_dims(member=2), "`u`", "member", "besides")
    zonal = ds.assign(w=ds.u.mean("lon").assign_attrs(units="m"))
    refusal(zonal, "`w` has no dimension lon", variables=["u", "w"])
    assert list(open_fields(zonal)[0].data_vars) == ["u", "v"]
    refusal(ds.isel(lat=[0]), "`lat` has one point only")


def test_files_at_odds_are_refused(make_fields, tmp_path):
    ds = make_fields()
    first = tmp_path / "a.nc"
    ds.isel(time=slice(6)).to_netcdf(first)
    rest = ds.isel(time=slice(6, 12))
    rest.assign_coords(lon=rest.lon + 0.1).to_netcdf(tmp_path / "shifted.nc")
    refusal([first, tmp_path / "shifted.nc"], "coordinate `lon` of shifted.nc differs from a.nc")
    rest.u.attrs["units"] = "cm s-1"
    rest.to_netcdf(tmp_path / "centimetres.nc")
    refusal([first, tmp_path / "centimetres.nc"], "`u` is in cm s-1 in centimetres.nc but in m s-1 in a.nc")
    refusal([first, first], "twice")


@pytest.mark.parametrize("kind", ["NETCDF4", "NETCDF3_CLASSIC"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.6, 0.98])
def test_truncated_files_are_refused(make_fields, tmp_path, kind, kept):
    whole, part = tmp_path / "whole.nc", tmp_path / f"part{kept}.nc"
    make_fields(40).to_netcdf(whole, format=kind)
    part.write_bytes(whole.read_bytes()[: int(kept * whole.stat().st_size)])
    load_fields(whole)
    refusal(part, str(part))


def test_damage_inside_a_file_names_the_file(make_fields, tmp_path):
    ds = make_fields(20, 16, 16)
    good, bad = tmp_path / "good.nc", tmp_path / "bad.nc"
    ds.isel(time=slice(10)).to_netcdf(good)
    encoding = {"u": {"zlib": True, "fletcher32": True, "chunksizes": (10, 16, 16)}}
    ds.isel(time=slice(10, 20)).to_netcdf(bad, encoding=encoding)
    raw = bytearray(bad.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 64] = bytes(64)
    bad.write_bytes(raw)
    refusal([good, bad], str(bad), "damaged")


def test_what_is_no_grid_is_refused(tmp_path):
    (tmp_path / "text.nc").write_text("hello")
    refusal(tmp_path / "text.nc", "text.nc", "not readable")
    xr.Dataset({"a": ("n", [1.0, 2.0])}).to_netcdf(tmp_path / "line.nc")
    refusal(tmp_path / "line.nc", "no gridded variable")


# Files, digests, the lock


def test_digest_is_of_the_contents(make_fields, tmp_path):
    ds = make_fields()
    ds.to_netcdf(tmp_path / "a.nc")
    (tmp_path / "b.nc").write_bytes((tmp_path / "a.nc").read_bytes())
    ds.to_zarr(tmp_path / "c.zarr", consolidated=False)
    assert digest([tmp_path / "a.nc"]) == digest([tmp_path / "b.nc"])
    before = digest([tmp_path / "c.zarr"])
    next(p for p in (tmp_path / "c.zarr" / "u" / "c").rglob("*") if p.is_file()).write_bytes(b"")
    assert before != digest([tmp_path / "c.zarr"])
    assert [p.name for p in find_files(tmp_path)] == ["a.nc", "b.nc", "c.zarr"]


THREADS = """
import sys, threading, numpy as np, xarray as xr
from pathlib import Path
from sciguide.datasets.store import LOCK, load_fields
folder, failed = Path(sys.argv[1]), []
def work(k):
    try:
        for i in range(3):
            ds, _ = load_fields(folder / "a.nc")
            with LOCK:
                ds.to_netcdf(folder / f"{k}.nc")
            assert load_fields(folder / f"{k}.nc")[0].u.equals(ds.u)
    except BaseException as error:
        failed.append(error)
threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(failed); sys.exit(bool(failed))
"""


def test_threads_under_the_lock(make_fields, tmp_path):
    make_fields().to_netcdf(tmp_path / "a.nc")
    done = subprocess.run([sys.executable, "-c", THREADS, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, (done.stdout, done.stderr[-2000:])


def test_imports_are_light():
    heavy = "{'torch', 'lightning', 'xarray', 'dask', 'netCDF4', 'cf_units'}"
    modules = "store, layout, prepare, prepared, normaliser, loader, statistics"
    code = f"import sys; from sciguide.datasets import {modules}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# Real data


@pytest.mark.parametrize(
    ("name", "files", "variables", "description"),
    [
        ("globcurrent", "*20020[12]*.nc", None, "sample: time (by its dates); y: lat (by name); x: lon (by name)"),
        (
            "erai_uvz",
            "*.nc",
            ["z"],
            "sample: month (by name); y: latitude (by attributes); x: longitude",
        ),
        ("ncep_june", "*.nc", ["OMEGA", "T"], "sample: time (by name); y: lat (by attributes); x: lon (by attributes)"),
        ("darcy", "*.nc", None, "sample: sample (by name); y: y (by name); x: x (by name)"),
        ("lid_cavity", "*.nc", ["u", "v"], "sample: sample (by name); y: y (by name); x: x (by name)"),
        ("aviso_ssh", "*blacksea*.nc", ["adt", "ugos"], "sample: time (by its dates); y: latitude (by attributes)"),
    ],
)
def test_real_sets_open(shared_data, name, files, variables, description):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds, axes = open_fields(shared_data(name) / files, variables)
    ds.close()
    assert axes.describe().startswith(description)
