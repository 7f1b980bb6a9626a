"""Real fields obey their equations to the published digits, and notice mistakes. Skipped where the data are absent."""

import csv

import numpy as np
import pytest
import xarray as xr

from benchmarks.mistakes import ROUNDED
from benchmarks.residual_controls import CAVITY, NU, SETS, one_phase, rows_of
from benchmarks.tables import RESULTS
from sciguide.datasets.units import conversion
from sciguide.equations import div, grad
from sciguide.equations.darcy import Darcy
from sciguide.errors import InputError
from sciguide.residuals import residual_of

# rms of the residual over what it is compared with, of the data as they are
KNOWN = {
    ("erai_uvz", "month 1, 200 hPa"): 0.085,
    ("erai_uvz", "month 1, 500 hPa"): 0.089,
    ("erai_uvz", "month 1, 850 hPa"): 0.364,
    ("erai_uvz", "month 7, 200 hPa"): 0.068,
    ("erai_uvz", "month 7, 500 hPa"): 0.085,
    ("erai_uvz", "month 7, 850 hPa"): 0.534,
    ("ncep_june", "geostrophic, 500 hPa"): 0.069,
    ("ncep_june", "geostrophic, 250 hPa"): 0.067,
    ("ncep_june", "hydrostatic"): 0.0032,
    ("globcurrent", "divergence over vorticity"): 0.053,
    ("lid_cavity", "lid_a02"): 0.0052,
    ("lid_cavity", "lid_a04"): 0.0039,
    ("lid_cavity", "lid_a08"): 0.0027,
    ("lid_cavity", "lid_a16"): 0.0027,
    ("darcy", "cells in one phase, median"): 0.023,
    ("aviso_ssh", "geostrophic"): 0.086,
}


@pytest.mark.parametrize("name", SETS)
def test_data_obey_and_mistakes_show(name, shared_data):
    cases = list(SETS[name](shared_data(name)))
    assert {(c.data, c.name) for c in cases} == {k for k in KNOWN if k[0] == name}
    with (RESULTS / "residual_controls.csv").open() as file:
        table = {(r["data"], r["case"], r["fields"]): r for r in csv.DictReader(r for r in file if r[0] != "#")}
    for case in cases:
        rows = {row["fields"]: row for row in rows_of(case)}
        known = KNOWN[name, case.name]
        assert rows["as they are"]["residual"] == pytest.approx(known, abs=0.0006 if known > 0.01 else 0.00006)
        for mistake in case.mistakes:
            assert rows[mistake]["times"] > (1 if case.friction else 2.5), (case.name, mistake)
        for fields, row in rows.items():
            committed = table[name, case.name, fields]["residual"]
            same = committed == row["residual"] or float(committed) == pytest.approx(row["residual"], rel=2e-3)
            assert same, (case.name, fields)


def test_half_precision_costs_digits(shared_data):
    """As many as the residual is small for, and never gains any."""
    for name in ("lid_cavity", "aviso_ssh"):
        for case in SETS[name](shared_data(name)):
            real, half, brain = (case.measure(f(case.ds)) for f in (lambda ds: ds, *ROUNDED.values()))
            assert (2.5 if name == "lid_cavity" else 1.0) * real < half < brain, case.name


def test_geopotential_overflows_float16(shared_data):
    ds = xr.load_dataset(next(shared_data("erai_uvz").glob("*.nc")))
    with np.errstate(over="ignore"):
        half = ds.assign(z=ds["z"].astype(np.float16))
    assert np.isinf(half["z"]).mean() == pytest.approx(1 / 3, abs=0.01)
    with pytest.raises(InputError, match="variable 'z' is infinite in places: it overflowed float16"):
        residual_of(half, "geostrophic")


def test_vertical_wind_per_day(shared_data):
    with xr.open_dataset(next(shared_data("ncep_june").glob("*.nc")), decode_times=False) as ds:
        assert conversion(ds["OMEGA"].attrs["units"], "Pa s-1")[0] == pytest.approx(1 / 864)


def test_every_layer_is_hydrostatic(shared_data):
    with xr.open_dataset(next(shared_data("ncep_june").glob("*.nc")), decode_times=False) as ds:
        ds = ds[["T", "Z3"]].isel(time=0, drop=True).load()
    found = [
        float(residual_of(ds.isel(lev=[k, k + 1]), "hydrostatic_height", fields={"height": "Z3"})["relative_rms"])
        for k in range(16)
    ]
    assert min(found) == pytest.approx(0.0009, abs=6e-5) and max(found) == pytest.approx(0.0094, abs=1e-4)


def test_cavity_order_and_divergence(shared_data):
    """At strides 1, 2, 4 all residuals grow with the square; the divergence is small beside the gradient."""
    orders = []
    for path in sorted(shared_data("lid_cavity").glob("*.nc")):
        ds, errors = xr.load_dataset(path), []
        for stride in (4, 2, 1):
            thinned = ds.isel(y=slice(None, None, stride), x=slice(None, None, stride))
            r = residual_of(thinned, "navier_stokes_steady", nu=NU)["residual"][:, :: 4 // stride, :: 4 // stride]
            r = r.where((abs(r["x"] - 0.5) < 0.3) & (abs(r["y"] - 0.5) < 0.3))  # away from the lid
            square = (r**2).mean(("y", "x"))
            errors.append(np.sqrt([square[:2].sum(), square[2]]))
        orders.append(np.log2(np.divide(errors[:-1], errors[1:])))
        whole = residual_of(ds, "navier_stokes_steady", nu=NU)["residual"].sel(component="divergence")
        slopes = [np.gradient(ds[n], ds[d], axis=i) for n in ("u", "v") for i, d in enumerate(("y", "x"))]
        size = np.sqrt(sum((g[CAVITY, CAVITY] ** 2).mean() for g in slopes))
        assert 0.0010 < np.sqrt((whole[CAVITY, CAVITY] ** 2).mean()) / size < 0.0014
    assert np.min(orders) > 1.74 and np.max(orders) < 2.21


class HarmonicDarcy(Darcy):
    """-div(K grad(p)) = f, with the harmonic mean of K on faces."""

    def residual(self):
        return -div(self.K * grad(self.p, mean="harmonic")) - self.f


def test_jumps_of_permeability_are_not_resolved(shared_data):
    """Whatever the mean on the faces: a reward over all cells would punish the truth."""
    (case,) = SETS["darcy"](shared_data("darcy"))
    cells = one_phase(case.ds["K"].values)
    for equation, low, high in ((HarmonicDarcy, 1.1, 1.6), (Darcy, 5.0, 5.2)):
        r = residual_of(case.ds, equation)["residual"].values
        assert np.median(abs(r[cells])) == pytest.approx(0.0226, abs=1e-4)
        assert low < np.sqrt(np.nanmean(r**2)) < high
