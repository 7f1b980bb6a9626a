"""One pass into a cached array: right values and statistics, the split by time, refusals, and bounded memory."""

import tracemalloc

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from sciguide.datasets import files, statistics
from sciguide.datasets import prepare as prepare_module
from sciguide.datasets.layout import Layout
from sciguide.datasets.prepare import prepare
from sciguide.datasets.prepared import open_prepared
from sciguide.datasets.split import split_samples
from sciguide.datasets.statistics import blocks, effective_samples, measure
from sciguide.datasets.store import load_fields
from sciguide.errors import InputError


@pytest.fixture
def prepared_from(tmp_path):
    """`prepared_from(ds, ...)` writes a dataset to a file and prepares it in a cache of its own."""

    def make(ds, *args, **options):
        ds.to_netcdf(tmp_path / "data.nc")
        return prepare(tmp_path / "data.nc", *args, cache=tmp_path / "cache", **options)

    return make


SPLIT = {"train": ["2002-01-01", "2002-01-08"], "validation": ["2002-01-09", "2002-01-12"]}


def test_values_and_statistics(make_fields, prepared_from):
    ds = make_fields()
    done = prepared_from(ds, **SPLIT)
    assert done.array.shape == (12, 2, 6, 8) and done.array.dtype == np.float32
    np.testing.assert_array_equal(done.array, done.layout.to_tensor(ds))
    assert done.split == {"train": (0, 8), "validation": (8, 12)}
    assert done.times_of("validation")[0] == np.datetime64("2002-01-09")
    # An independent way to the same numbers: xarray's own weighted statistics of the training days.
    part = ds.isel(time=slice(8)).astype(np.float64).weighted(np.cos(np.deg2rad(ds.lat)))
    for c, name in enumerate("uv"):
        assert done.statistics.mean[c] == pytest.approx(float(part.mean()[name]), rel=1e-9)
        assert done.statistics.std[c] == pytest.approx(float(part.std()[name]), rel=1e-9)
        assert done.statistics.minimum[c] == ds[name][:8].min() and done.statistics.maximum[c] == ds[name][:8].max()
    np.testing.assert_array_equal(done.layout.mask, np.isfinite(ds.to_array().values).all(1))
    assert list(done.statistics.count) == [8 * 42, 8 * 42] and done.notes == ()


def test_statistics_survive_a_large_offset():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(500, 1, 4, 4)) * 0.01 + 1000).astype(np.float32)
    statistics, _, _ = measure(x, np.array([False]), np.ones((4, 1)), ["T"], np.arange(500))
    assert statistics.std[0] == pytest.approx(x.astype(np.float64).std(), rel=1e-9)


def test_logarithms(prepared_from, make_fields):
    ds = np.exp(make_fields(land=False))
    for name in "uv":
        ds[name].attrs["units"] = "m s-1"
    done = prepared_from(ds[["u", "v"]], ["u", "v"], log=["v"])
    weights = np.cos(np.deg2rad(ds.lat))
    for c, values in enumerate((ds.u, np.log(ds.v))):
        assert done.statistics.mean[c] == pytest.approx(float(values.astype("f8").weighted(weights).mean()), rel=1e-5)
    assert list(done.statistics.log) == [False, True]


def test_the_second_time_reads_nothing(make_fields, prepared_from, tmp_path, monkeypatch):
    ds = make_fields()
    first = prepared_from(ds, **SPLIT)

    def fail(*args, **options):
        raise AssertionError("the source was opened")

    monkeypatch.setattr(prepare_module, "open_fields", fail)
    source, cache = tmp_path / "data.nc", tmp_path / "cache"
    again = prepare(source, cache=cache, **SPLIT)
    assert again.fingerprint == first.fingerprint and again.to_dict() == first.to_dict()
    np.testing.assert_array_equal(again.array, first.array)
    for other in ({"units": {"u": "cm s-1"}}, {"variables": ["u"]}, {"train": [0, 5], "validation": None}):
        with pytest.raises(AssertionError):
            prepare(source, cache=cache, **(SPLIT | other))
    (ds + 1).drop_attrs().assign(u=ds.u).to_netcdf(tmp_path / "other.nc")
    with pytest.raises(AssertionError):
        prepare(tmp_path / "other.nc", cache=cache, **SPLIT)
    # A file cut short is not taken for the prepared data.
    first.path.write_bytes(first.path.read_bytes()[:-8])
    with pytest.raises(AssertionError):
        prepare(source, cache=cache, **SPLIT)


def test_nothing_is_left_of_a_failure(make_fields, prepared_from, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "measure", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepared_from(make_fields())
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []
    with pytest.raises(OSError):
        open_prepared(tmp_path / "cache")


def test_points_that_come_and_go(make_fields, prepared_from):
    ds = make_fields()
    ds.u[3, 4, 5] = np.nan
    ds.v[10, 5, 7] = np.nan
    done = prepared_from(ds, **SPLIT)
    assert done.notes == (
        "`u`: 1 points have no value in some training samples and count as land",
        "`v`: 1 values are missing in the validation samples",
    )
    assert not done.layout.mask[0, 4, 5] and done.layout.mask[1, 5, 7]
    assert np.isnan(done.array[:, 0, 4, 5]).all()
    assert np.isfinite(done.rows("train")[:, done.layout.mask]).all()


def test_bad_values_are_refused(make_fields, prepared_from):
    def refused(name, index, value, words, **options):
        ds = make_fields()
        ds[name][index] = value
        with pytest.raises(InputError, match=words):
            prepared_from(ds, **options)

    everywhere = slice(None)
    refused("u", everywhere, np.nan, "`u` is all missing")
    refused("u", (3, everywhere), np.nan, "`u` has no point .*sample 2002-01-04T00:00:00 is all missing")
    refused("v", (5, 4, 4), np.inf, "`v` holds infinite values .1 points of sample 2002-01-06")
    refused("v", (5, 4, 4), 1e36, "`v` holds the value 1e.36, a fill value that is not declared")
    refused("v", (11, 4, 4), -1e20, "`v` holds the value -1e.20", **SPLIT)
    refused("u", everywhere, 0.25, "`u` is constant .0.25.")
    refused("u", 0, 0.25, "`log:` names `u`, which is not positive", log=["u"])
    refused("u", 0, 0.25, "`log:` names `uu`.* Did you mean `u`", log=["uu"])


def test_damage_found_while_reading(make_fields, tmp_path):
    path = tmp_path / "data.nc"
    encoding = {"u": {"zlib": True, "fletcher32": True, "chunksizes": (40, 16, 16)}}
    make_fields(40, 16, 16).to_netcdf(path, encoding=encoding)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 4 : len(raw) // 4 + 64] = bytes(64)
    path.write_bytes(raw)
    with pytest.raises(InputError, match="data.nc: damaged"):
        prepare(path, cache=tmp_path / "cache")


def test_a_cache_that_cannot_be_used(make_fields, tmp_path, monkeypatch):
    make_fields().to_netcdf(tmp_path / "data.nc")
    with pytest.raises(InputError, match="cannot write to the cache"):
        prepare(tmp_path / "data.nc", cache=tmp_path / "data.nc")
    monkeypatch.setattr(prepare_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match="GB free and needs"):
        prepare(tmp_path / "data.nc", cache=tmp_path / "cache")


# The split


def test_splits():
    days = np.datetime64("2002-01-01T00:00:00", "s") + np.arange(0, 90) * np.timedelta64(1, "D")
    assert split_samples(days, train=["2002-01", "2002-02"], validation=["2002-03-01", "2002-03-02"]) == {
        "train": (0, 59),
        "validation": (59, 61),
    }
    assert split_samples(days, train=["2002-01-05T00:00:00", "2002-01-05T12"]) == {"train": (4, 5)}
    assert split_samples(np.arange(10), train=[0, 0.7], test=[0.7, 1.0]) == {"train": (0, 7), "test": (7, 10)}
    assert split_samples(days, train=[3, 9], test=None) == {"train": (3, 9)}
    calendar = np.array([f"2000-02-{d:02d}T00:00:00" for d in range(1, 31)])
    assert split_samples(calendar, train=["2000-02-29", "2000-02-30"]) == {"train": (28, 30)}


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ({"train": ["2003-01-01", "2003-02-01"]}, "`train: .* holds no sample: the data have 90 samples, 2002-01-01"),
        ({"train": ["2002-02-01", "2002-01-01"]}, "holds no sample"),
        ({"train": ["2002-01", "2002-02"], "test": ["2002-02-20", "2002-03"]}, "`test` and `train` share 9 samples"),
        ({"train": [0, 91]}, "beyond the data"),
        ({"train": [0.5, 1.2]}, "no fractions"),
        ({"train": [1, 2, 3]}, "not a pair"),
    ],
)
def test_refused_splits(ranges, words):
    days = np.datetime64("2002-01-01T00:00:00", "s") + np.arange(0, 90) * np.timedelta64(1, "D")
    with pytest.raises(InputError, match=words):
        split_samples(days, **ranges)


def test_dates_without_times_and_training_left_out(make_fields, prepared_from):
    ds = make_fields().rename(time="sample").drop_vars("sample")
    with pytest.raises(InputError, match="no time axis; write sample numbers"):
        prepared_from(ds, train=["2002", "2003"])
    with pytest.raises(InputError, match="not `train`"):
        prepared_from(ds, test=[0, 3])


def test_other_calendars(make_fields, prepared_from):
    ds = make_fields()
    ds["time"] = xr.date_range("2000-02-25", periods=12, calendar="360_day", use_cftime=True)
    done = prepared_from(ds, train=["2000-02-25", "2000-02-30"])
    assert done.array.shape[0] == 6 and done.times[-1] == "2000-02-30T00:00:00"


def test_only_what_is_named_is_kept(make_fields, prepared_from):
    ds = make_fields()
    done = prepared_from(ds, train=[6, 9], test=[1, 3])
    assert done.split == {"test": (0, 2), "train": (2, 5)} and done.array.shape[0] == 5
    np.testing.assert_array_equal(done.rows("train")[:, 0], ds.u.values[6:9])
    np.testing.assert_array_equal(done.rows("test")[:, 0], ds.u.values[1:3])
    with pytest.raises(InputError, match="no validation samples"):
        done.rows("validation")


# Size


def test_each_chunk_is_read_once_and_memory_is_bounded(tmp_path, monkeypatch):
    """120 MB in chunks against the grain of the samples, prepared in a fraction of that."""
    steps, ny, nx = 480, 256, 256
    values = da.random.default_rng(0).normal(size=(steps, ny, nx), chunks=(120, 64, 256)).astype(np.float32)
    coords = {"y": np.arange(ny) * 1.0, "x": np.arange(nx) * 1.0}
    ds = xr.Dataset({"u": (("sample", "y", "x"), values, {"units": "m"})}, coords)
    ds.to_zarr(tmp_path / "big.zarr", consolidated=False)
    read = []
    original = prepare_module.open_fields

    def counted(*args, **options):
        loaded, axes = original(*args, **options)
        loaded["u"].data = loaded.u.data.map_blocks(lambda block: read.append(block.nbytes) or block, dtype=np.float32)
        return loaded, axes

    monkeypatch.setattr(prepare_module, "open_fields", counted)
    monkeypatch.setattr(files, "_CHUNK_BYTES", "8MiB")
    monkeypatch.setattr(statistics, "_BLOCK_BYTES", 2**21)
    tracemalloc.start()
    done = prepare(tmp_path / "big.zarr", cache=tmp_path / "cache")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(read) == values.nbytes
    assert done.array.nbytes == values.nbytes and done.statistics.std[0] == pytest.approx(1, rel=1e-2)
    assert peak < 0.5 * values.nbytes, peak / values.nbytes


def test_blocks_cover_everything():
    array = np.zeros((10, 2**20, 1), np.float32)
    found = list(blocks(array, 1, 10))
    assert [rows for rows, _ in found] == [slice(1, 5), slice(5, 9), slice(9, 10)]


# Independent samples


@pytest.mark.parametrize("a", [0.0, 0.5, 0.8, 0.95])
def test_effective_samples_of_autoregressive_fields(a):
    """The variance of the mean of x_t = a x_{t-1} + noise is that of T (1 - a) / (1 + a) independent samples."""
    total, rng = 4000, np.random.default_rng(1)
    x = np.empty((total, 10, 10))
    x[0] = rng.normal(size=(10, 10))
    for t in range(1, total):
        x[t] = a * x[t - 1] + np.sqrt(1 - a * a) * rng.normal(size=(10, 10))
    x[:, 0, 0] = np.nan
    assert effective_samples(x) == pytest.approx(total * (1 - a) / (1 + a), rel=0.1)


def test_effective_samples_at_the_edges():
    assert effective_samples(np.random.default_rng(0).normal(size=(1, 4))) == 1
    assert effective_samples(np.ones((7, 3))) == 7
    swing = np.array([1.0, -1.0] * 20)[:, None]
    assert effective_samples(swing) == 40


# Real data


def test_globcurrent(shared_data, tmp_path):
    source = shared_data("globcurrent")
    done = prepare(source, train=["2002-01-01", "2002-09-30"], validation=["2002-10-01", "2002-10-31"], cache=tmp_path)
    assert done.array.shape == (304, 2, 41, 81) and done.split == {"train": (0, 273), "validation": (273, 304)}
    assert done.layout.mask.mean() == pytest.approx(0.768, abs=5e-4)
    assert 10 < done.effective < 18
    assert done.layout.units == ["m s-1", "m s-1"] and done.layout.lat_lon


def test_reanalysis_with_levels(shared_data, tmp_path):
    source = shared_data("erai_uvz") / "eraint_uvz.nc"
    done = prepare(source, ["u", "z"], cache=tmp_path)
    assert done.layout.names == ["u_200", "u_500", "u_850", "z_200", "z_500", "z_850"]
    ds, _ = load_fields(source, ["u", "z"])
    assert ds.latitude[0] > ds.latitude[-1] and (np.diff(done.layout.y) > 0).all()
    assert done.array[1, 4, 10, 0] == np.float32(ds.z.sel(level=500, latitude=done.layout.y[10], longitude=0)[1])
    again = done.layout.to_dataset(done.array, dim="month", coord=ds.month.values)
    xr.testing.assert_equal(again, ds.astype(np.float32))


def test_land_mask_that_changes(shared_data, tmp_path):
    done = prepare(shared_data("aviso_ssh") / "*med*.nc", train=[0, 0.8], validation=[0.8, 1.0], cache=tmp_path)
    assert "`adt`: 8 points have no value in some training samples and count as land" in done.notes
    assert np.isfinite(done.rows("train")[:, done.layout.mask]).all()


def test_files_without_samples(shared_data, tmp_path):
    done = prepare(shared_data("lid_cavity"), ["u", "v"], cache=tmp_path)
    assert done.array.shape == (4, 2, 101, 101) and not done.layout.lat_lon and done.effective == 4
    assert done.array[:, 0, -1].max(1) == pytest.approx([0.5, 1, 2, 4], rel=1e-3)  # lids a x (1 - x), a = 2 to 16


def test_samples_without_time(shared_data, tmp_path):
    done = prepare(shared_data("darcy") / "*.nc", train=[0, 0.8], validation=[0.8, 1.0], cache=tmp_path)
    assert done.layout.names == ["k_mask", "u"] and done.effective == 800
    ds, axes = load_fields(shared_data("darcy") / "darcy_train_16.nc")
    assert ds.u.dims == ("sample", "x", "y")
    np.testing.assert_array_equal(done.array, Layout.from_dataset(ds, axes).to_tensor(ds))
    np.testing.assert_array_equal(done.array[5, 1], ds.u.isel(sample=5).values.T)
