"""Residuals of systems, over two times, over levels, over time and place; gaps field by field; half precision."""

import cftime
import numpy as np
import pytest
import torch
import xarray as xr

from sciguide.equations import get
from sciguide.errors import InputError
from sciguide.gaps import Gaps
from sciguide.grid import Grid
from sciguide.kernels.reference import Reference
from sciguide.residuals import residual_of

DAY = 86400.0
TRACER = {"c": "1", "u": "m s-1", "v": "m s-1"}


def plane(units: dict[str, str], times=4, n=(10, 12), seed=0, spacing=1000.0) -> xr.Dataset:
    """Random fields (time, y, x), a day apart."""
    rng = np.random.default_rng(seed)
    fields = {k: (("time", "y", "x"), rng.standard_normal((times, *n)), {"units": u}) for k, u in units.items()}
    coords = {d: (d, np.arange(size) * spacing, {"units": "m"}) for d, size in zip(("y", "x"), n, strict=True)}
    start = np.datetime64("2001-01-01", "ns")
    return xr.Dataset(fields, coords).assign_coords(time=start + np.arange(times) * np.timedelta64(1, "D"))


def pairs(ds: xr.Dataset, names: tuple[str, ...]) -> torch.Tensor:
    """(T - 1, 2 F, Y, X): now, and a time later."""
    values = np.stack([ds[n].values for n in names], 1)
    return torch.from_numpy(np.concatenate([values[:-1], values[1:]], 1))


def columns() -> xr.Dataset:
    """(time, level, lat, lon), in hydrostatic balance exactly: temperature is linear in ln p."""
    ln_p = np.log(np.array([1000.0, 700.0, 300.0, 100.0]) * 100)[:, None, None]
    warm = np.random.default_rng(0).uniform(250, 300, (2, 1, 7, 8))
    T = warm + 10 * ln_p
    phi = 2e5 - 287.04 * (warm * ln_p + 5 * ln_p**2)
    coords = {
        "level": ("level", [1000.0, 700.0, 300.0, 100.0], {"units": "hPa"}),
        "lat": ("lat", np.linspace(50, 20, 7), {"units": "degrees_north"}),
        "lon": ("lon", np.linspace(0, 70, 8), {"units": "degrees_east"}),
    }
    dims = ("time", "level", "lat", "lon")
    about = {"standard_name": "geopotential", "units": "m2 s-2"}
    return xr.Dataset({"phi": (dims, phi, about), "T": (dims, T, {"units": "K"})}, coords)


def test_components_have_names_and_vectors_one_scale():
    ds = plane({"u": "m s-1", "v": "m s-1", "phi": "m2 s-2"})
    out = residual_of(ds.transpose("x", "time", "y"), "geostrophic", f=2e-4)
    assert out["residual"].dims == ("component", "x", "time", "y") and list(out["component"]) == ["u", "v"]
    assert out["rms"].dims == ("component", "time")
    grid = Grid(ds["y"].values, ds["x"].values)
    operator = get("geostrophic")(f=2e-4).on(grid)
    u = torch.from_numpy(np.stack([ds[n].values for n in ("u", "v", "phi")], 1))
    r = operator.residual(u).swapaxes(0, 1)
    found = out["residual"].transpose("component", "time", "y", "x").values
    assert np.allclose(found[..., operator.valid], r[..., operator.valid], rtol=1e-12)
    assert np.isnan(found[..., ~operator.valid.numpy()]).all()
    scale = operator.scale_square(u).mean(0).sqrt()
    assert scale[0] == scale[1] and np.allclose(out.attrs["scale"], scale)
    assert np.allclose(out["relative_rms"], operator.mean_square(r.swapaxes(0, 1)).sqrt().T / scale[:, None])


def test_consecutive_times_are_paired():
    ds = plane(TRACER)
    out = residual_of(ds, "advection_diffusion", kappa=3.0)
    assert out["residual"].dims == ("time", "y", "x") and out["time"].equals(ds["time"][:-1])
    operator = get("advection_diffusion")(kappa=3.0, dt=DAY).on(Grid(ds["y"].values, ds["x"].values))
    u = pairs(ds, ("c", "u", "v"))
    assert np.allclose(out["residual"].values[..., operator.valid], operator.residual(u)[:, 0, operator.valid])
    assert np.allclose(out["rms"], operator.mean_square(operator.residual(u))[:, 0].sqrt())
    several = residual_of(plane({"u": "m s-1", "v": "m s-1", "h": "m"}).transpose("y", "time", "x"), "shallow_water")
    assert several["residual"].dims == ("component", "y", "time", "x") and several.sizes["time"] == 3
    assert list(several["component"]) == ["momentum_x", "momentum_y", "mass"]


@pytest.mark.parametrize(
    "time",
    [
        ("time", np.arange(4.0) + 700, {"units": "days since 1950-01-01"}),
        ("time", np.arange(4.0).astype(np.float32) * 24, {"units": "hours"}),
        ("time", np.arange(4) * np.timedelta64(1, "D").astype("timedelta64[ns]")),
        (
            "time",
            [cftime.DatetimeNoLeap(2001, 2, 26 + k) if k < 3 else cftime.DatetimeNoLeap(2001, 3, 1) for k in range(4)],
        ),
    ],
    ids=["since", "float32 hours", "timedelta", "no leap year"],
)
def test_the_step_is_that_of_the_coordinate(time):
    ds = plane(TRACER)
    expected = residual_of(ds, "advection_diffusion")["residual"].values
    found = residual_of(ds.assign_coords(time=time).chunk(time=1), "advection_diffusion")["residual"].values
    assert np.allclose(found, expected, rtol=1e-12, equal_nan=True)


def test_a_step_that_is_given_counts():
    ds = plane(TRACER)
    expected = residual_of(ds, "advection_diffusion")["residual"]
    gone = ds.drop_vars("time").rename(time="step")
    found = residual_of(gone, "advection_diffusion", axes={"time": "step"}, dt=DAY)["residual"]
    assert np.allclose(found, expected, equal_nan=True)
    later = ds.isel(time=slice(1, None)).rename({k: f"{k}_next" for k in ds.data_vars}).drop_vars("time")
    both = xr.merge([ds.isel(time=slice(None, -1)).drop_vars("time"), later], join="exact")
    assert np.allclose(residual_of(both, "advection_diffusion", dt=DAY)["residual"], expected, equal_nan=True)
    steady = residual_of(ds, "advection_diffusion", fields={"u_next": "u", "v_next": "v"})["residual"]
    assert steady.shape == expected.shape and not np.allclose(steady, expected, equal_nan=True)
    instance = get("advection_diffusion")(dt=DAY)
    assert np.array_equal(residual_of(ds, instance)["residual"], expected, equal_nan=True)


@pytest.mark.parametrize(
    "change, arguments, says",
    [
        (lambda ds: ds.isel(time=[0, 1, 3]), {}, "'time' has steps from 86400 to 172800 s"),
        (lambda ds: ds.isel(time=slice(None, None, -1)), {}, "need even, positive ones"),
        (lambda ds: ds.isel(time=[0]), {}, "compares two times, 'time' has one"),
        (lambda ds: ds.isel(time=0), {}, "none of the dimensions y, x looks like time"),
        (lambda ds: ds.drop_vars("time"), {}, "'time' has no coordinate"),
        (lambda ds: ds.assign_coords(time=np.arange(4)), {}, "'time' has no units"),
        (lambda ds: ds.assign_coords(time=("time", np.arange(4), {"units": "m"})), {}, "which is no time"),
        (lambda ds: ds.assign_coords(time=list("abcd")), {}, "neither times nor numbers"),
        (lambda ds: ds.assign({f"{k}_next": ds[k] for k in TRACER}), {}, "give dt"),
        (lambda ds: ds, {"boundary": ("open", "open", "open")}, r"is over \(y, x\)"),
        (lambda ds: ds, {"axes": {"time": "T"}}, "looks like time"),
    ],
)
def test_mistakes_with_times_are_named(change, arguments, says):
    with pytest.raises(InputError, match=says):
        residual_of(change(plane(TRACER)), "advection_diffusion", **arguments)


def test_an_instance_of_another_step_is_refused():
    with pytest.raises(InputError, match="made with dt = 1; the times are 86400 apart"):
        residual_of(plane(TRACER), get("advection_diffusion")())


def test_time_as_an_axis():
    """An exact solution of Burgers' equation, (sample, t, x): second order, in any order and unit of time."""
    errors = []
    for n in (33, 65):
        t, x, nu = np.linspace(0, 1, n), np.linspace(-2, 3, 2 * n), 0.2
        jump = np.tanh((x - t[:, None] / 2) / (4 * nu)) / 2
        u = np.stack([0.5 - jump, 0.5 - jump])
        ds = xr.Dataset({"u": (("sample", "t", "x"), u, {"units": "1"})}, {"t": t, "x": x})
        out = residual_of(ds, "burgers", nu=nu)
        assert out["residual"].dims == ds["u"].dims and out["rms"].dims == ("sample",)
        errors.append(float(out["relative_rms"][0]))
    assert np.log2(errors[0] / errors[1]) > 1.9
    minutes = ds.assign_coords(t=("t", t / 60, {"units": "min"})).isel(t=slice(None, None, -1)).transpose("x", "t", ...)
    again = residual_of(minutes, "burgers", nu=nu)["residual"].transpose(*out["residual"].dims)
    assert np.allclose(again[:, ::-1], out["residual"], rtol=1e-6, atol=1e-9, equal_nan=True)


def test_levels_as_an_axis():
    ds = columns()
    out = residual_of(ds, "hydrostatic")
    assert out["residual"].dims == ds["phi"].dims and out["rms"].dims == ("time",)
    assert float(out["relative_rms"].max()) < 1e-12
    # a layer's residual stands at the level above it, so the lowest level, the first of this file, has none
    assert (
        np.isnan(out["residual"].isel(level=0)).all() and np.isfinite(out["residual"].isel(level=slice(1, None))).all()
    )
    warmer = ds["T"] + np.random.default_rng(1).standard_normal(ds["T"].shape)
    noisy = ds.assign(T=warmer.assign_attrs(units="K"))
    expected = residual_of(noisy, "hydrostatic")["residual"]
    changed = noisy.assign_coords(level=("level", ds["level"].values * 100, {"units": "Pa"})).isel(level=[3, 2, 1, 0])
    found = residual_of(changed.transpose("lon", "level", ...), "hydrostatic")["residual"]
    assert found.dims[:2] == ("lon", "level")
    assert np.allclose(found.transpose(*expected.dims)[:, ::-1], expected, equal_nan=True)


def test_heights_count_upwards():
    n = (6, 7, 8)
    z, y, x = (np.linspace(0, 1, k) for k in n)
    phi = z[:, None, None] ** 2 * 3 + y[:, None] ** 2 + x * y[:, None]
    fields = {"phi": (("depth", "y", "x"), phi), "f": (("depth", "y", "x"), np.full(n, 8.0))}
    coords = {d: (d, c, {"units": "m"}) for d, c in (("depth", z), ("y", y), ("x", x))}
    ds = xr.Dataset({k: (d, v, {"units": "1"}) for k, (d, v) in fields.items()}, coords)
    out = residual_of(ds, "poisson3")
    assert float(out["rms"]) < 1e-11 and np.isfinite(out["residual"]).sum() == 4 * 5 * 6
    ds["depth"].attrs["positive"] = "down"
    assert np.allclose(residual_of(ds, "poisson3")["residual"], out["residual"], atol=1e-11, equal_nan=True)
    edges = ("neumann", "periodic", "open")
    assert np.isfinite(residual_of(ds, "poisson3", boundary=edges)["residual"]).sum() == 6 * 7 * 6


@pytest.mark.parametrize(
    "change, arguments, says",
    [
        (lambda ds: ds.isel(level=0), {}, "none of the dimensions time looks like them"),
        (lambda ds: ds.assign_coords(level=np.arange(4)), {}, "'level' is in '1', the equation's third axis in 'ln"),
        (lambda ds: ds.drop_vars("level"), {}, "'level' has no coordinate"),
        (lambda ds: ds.assign_coords(level=("level", [0.0, 1, 2, 3], {"units": "Pa"})), {}, "'level' holds values"),
        (lambda ds: ds, {"axes": {"level": "lev"}}, "lev"),
    ],
)
def test_mistakes_with_levels_are_named(change, arguments, says):
    with pytest.raises(InputError, match=says):
        residual_of(change(columns()), "hydrostatic", **arguments)


@pytest.mark.parametrize("boundary", ["open", "periodic", "neumann", "dirichlet", "one-sided"])
@pytest.mark.parametrize("name", ["geostrophic", "poisson", "darcy"])
def test_gaps_cost_what_reads_them(name, boundary):
    """As NaN would spread through the reference, and where a field itself is missing."""
    rng = np.random.default_rng(0)
    grid = Grid(np.arange(9.0), np.arange(11.0), (boundary, boundary))
    operator = get(name)().on(grid)
    gaps = Gaps(operator)
    u = torch.from_numpy(rng.uniform(1, 2, (6, len(operator.fields), 9, 11)))
    u[torch.from_numpy(rng.random(u.shape) < 0.04)] = torch.nan
    r, square, _ = gaps.measure(u)
    spread = Reference(gaps.sites[0]).residual(u)
    lost = ~operator.valid | spread.isnan().any(1) | u.isnan().any(1)
    assert torch.equal(r.isnan(), lost[:, None].expand_as(r)) and 0 < lost.double().mean() < 1
    assert torch.allclose(r[~r.isnan()], spread.where(~lost[:, None], torch.nan)[~r.isnan()])
    assert torch.allclose(square, r.square().nanmean((2, 3)))


def test_wind_is_read_where_it_stands():
    ds = plane({"u": "m s-1", "v": "m s-1", "phi": "m2 s-2"}, times=2)
    full = residual_of(ds, "geostrophic")["residual"].isnull()
    ds["u"].values[0, 4, 5] = np.nan
    ds["phi"].values[1, 4, 5] = np.nan
    lost = residual_of(ds, "geostrophic")["residual"].isnull() & ~full
    assert np.argwhere(lost.values[0, 0]).tolist() == [[4, 5]]
    assert np.argwhere(lost.values[0, 1]).tolist() == [[3, 5], [4, 4], [4, 5], [4, 6], [5, 5]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name, constants", [("navier_stokes_steady", {"nu": 0.01}), ("darcy", {}), ("geostrophic", {})]
)
def test_half_precision_is_computed_in_more(name, constants, dtype):
    """What the type holds is all that is lost: float16 and bfloat16 agree with float64 of the same values."""
    operator = get(name)(**constants).on(Grid.uniform((20, 24), (0.05, 0.05)))
    u = torch.from_numpy(np.random.default_rng(0).uniform(1, 2, (2, len(operator.fields), 20, 24))).to(dtype)
    exact, size = operator.residual(u.double()), operator.magnitude(u.double())
    assert ((operator.residual(u).double() - exact).abs() <= 1e-5 * size).all()
    assert torch.allclose(operator.energy(u).double(), operator.energy(u.double()), rtol=1e-5)


def test_float16_of_a_dataset():
    ds = plane({"u": "m s-1", "v": "m s-1"})
    half = ds.astype(np.float16)
    found = residual_of(half, "nondivergence")
    assert found.identical(residual_of(half.astype(np.float64), "nondivergence"))
    with np.errstate(over="ignore"):
        over, under = (ds * 1e6).astype(np.float16), (ds * 1e-7).astype(np.float16)
    for wrong, says in (
        (over, "'u' is infinite in places: it overflowed float16"),
        (under, "below the range of float16"),
    ):
        with pytest.raises(InputError, match=says):
            residual_of(wrong.map(lambda a: a.assign_attrs(units="m s-1")), "nondivergence")
