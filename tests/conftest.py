"""Fixtures that several tests share: small made-up fields, and real data where they are at hand."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """`shared_data("globcurrent")` is a folder of real data; the test is skipped where it is absent."""
    root = Path(os.environ.get("SCIGUIDE_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data")

    def find(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"real data `{name}` are not in {root}; set SCIGUIDE_SHARED_DATA")
        return root / name

    return find


@pytest.fixture
def make_fields() -> Callable:
    """`make_fields(...)` is a Dataset of random currents u and v on a regional lat-lon grid, daily, with some land."""
    import xarray as xr

    def make(steps: int = 12, ny: int = 6, nx: int = 8, land: bool = True, seed: int = 0) -> xr.Dataset:
        rng = np.random.default_rng(seed)
        values = rng.normal([[[[0.2]]], [[[-0.1]]]], 0.5, (2, steps, ny, nx)).astype(np.float32)
        if land:
            values[..., :2, :3] = np.nan
        dims = ("time", "lat", "lon")
        time = np.datetime64("2002-01-01", "ns") + np.arange(steps) * np.timedelta64(1, "D")
        coords = {
            "time": time,
            "lat": ("lat", np.linspace(-40, -30, ny), {"units": "degrees_north"}),
            "lon": ("lon", np.linspace(14.875, 34.875, nx), {"units": "degrees_east"}),
        }
        names = {"u": "eastward_sea_water_velocity", "v": "northward_sea_water_velocity"}
        fields = {
            k: (dims, values[i], {"units": "m s-1", "standard_name": n}) for i, (k, n) in enumerate(names.items())
        }
        return xr.Dataset(fields, coords)

    return make
