"""The reanalysis benchmark: windows, mirrored hemispheres, sectors, what is known of how well equations hold."""

import numpy as np
import pytest
import torch
import xarray as xr

from benchmarks import reanalysis, tables
from benchmarks.reanalysis_data import (
    COUNTS,
    GRAVITY,
    SECTORS,
    SIDE,
    SOUTH,
    STRIDE,
    Window,
    cut,
    open_reanalysis,
    standard_geopotential,
    synthetic,
)
from sciguide.equations import get
from sciguide.errors import InputError
from sciguide.grid import Grid


@pytest.fixture(scope="module")
def file():
    return synthetic()


def test_standard_atmosphere():
    """The heights of the ICAO tables [m]."""
    heights = [standard_geopotential(p) / GRAVITY for p in (850, 500, 300, 200, 100)]
    np.testing.assert_allclose(heights, [1457, 5574, 9164, 11784, 16180], atol=1)


def test_windows_for_judging_share_no_column_with_others(file):
    ds, windows = cut(file)
    assert dict(ds.sizes) == {"sample": len(windows), "lat": SIDE, "lon": SIDE}
    assert len(windows) == 12 * sum(COUNTS.values()) and reanalysis.TRAINING == 12 * COUNTS["train"]
    assert [w.sector for w in windows] == [s for s in SECTORS for _ in range(12 * COUNTS[s])]
    tuned = len(windows) - reanalysis.TRAINING
    assert all(w.sector == "judge" for w in windows[-(tuned // 3) :]), "the last third of the validation samples"
    assert windows[-(tuned // 3) - 1].sector == "tune"
    columns = {s: {w.column + i for w in windows if w.sector == s for i in range(SIDE)} for s in SECTORS}
    assert not columns["judge"] & (columns["train"] | columns["tune"]) and not columns["train"] & columns["tune"]
    starts = sorted({w.column for w in windows if w.sector == "judge"})
    assert min(np.diff(starts)) >= SIDE, "those for judging do not overlap"


def test_the_mirrored_south_has_the_south_s_own_residuals(file):
    ds, windows = cut(file)
    number = next(i for i, w in enumerate(windows) if not w.north and w.level == 850)
    w, step = windows[number], 0.75 * STRIDE
    lat = -(SOUTH + step * np.arange(SIDE))[::-1]
    part = file.sel(month=w.month, level=w.level, latitude=lat).isel(longitude=slice(None, None, STRIDE))
    part = part.isel(longitude=slice(w.column, w.column + SIDE))
    for name, order in (("geostrophic", ["u", "v", "z"]), ("nondivergence", ["u", "v"])):
        own, mirrored = (get(name)().on(Grid(y, step * np.arange(SIDE), sphere=True)) for y in (lat, ds["lat"].values))
        there = torch.from_numpy(np.stack([part[n].values for n in order]))[None]
        here = torch.from_numpy(np.stack([ds[n].values[number] for n in order]).astype(float))[None]
        found = [o.mean_square(o.residual(x)).sqrt() for o, x in ((own, there), (mirrored, here))]
        torch.testing.assert_close(*found, rtol=1e-3, atol=0)


def test_files_of_another_form_are_refused(tmp_path):
    with pytest.raises(InputError, match="--data"):
        open_reanalysis(tmp_path)
    xr.Dataset({"z": ("level", [1.0])}).to_netcdf(tmp_path / "a.nc")
    with pytest.raises(InputError, match="no u, v, month"):
        open_reanalysis(tmp_path)


def test_levels_of_one_place_count_once():
    windows = [Window("judge", c, 1, level, True) for c in (0, 12) for level in (200, 500, 850)]
    assert reanalysis.places(windows)(np.arange(6.0)).tolist() == [1.0, 4.0]


@pytest.mark.slow
def test_small_table(tmp_path, monkeypatch):
    """The whole benchmark without data, few steps."""
    monkeypatch.setattr(reanalysis, "RESULTS", tmp_path)
    assert reanalysis.main(["--small", "--runs", str(tmp_path / "runs"), "--date", "2026-01-01"]) == 0
    table = tables.read_table(tmp_path / "reanalysis_small.csv")
    methods = {"formula", *reanalysis.RIVALS, *reanalysis.UNTUNED}
    assert {r["method"] for r in table} == methods and {r["level"] for r in table} == {"all", "200", "500", "850"}
    crps = {r["method"]: float(r["crps"]) for r in table if r["level"] == "all"}
    assert all(np.isfinite(v) for v in crps.values())
