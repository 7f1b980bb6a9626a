"""Constants given as names: fields of the equation, from sample to sample and in space."""

import numpy as np
import pytest
import torch
import xarray as xr

from sciguide.equations import get
from sciguide.errors import InputError
from sciguide.grid import Grid
from sciguide.residuals import residual_of

N, DT = 12, 0.05


def fields(rng: np.random.Generator, samples: int) -> xr.Dataset:
    x = 2 * np.pi * np.arange(N) / N
    names = ("u", "v", "p", "u_next", "v_next", "p_next")
    values = {n: (("sample", "y", "x"), rng.standard_normal((samples, N, N)), {"units": "1"}) for n in names}
    coords = {k: (k, x, {"units": "1"}) for k in ("y", "x")}
    return xr.Dataset(values, coords)


def test_a_named_constant_is_a_field_that_no_guide_moves():
    x = 2 * np.pi * np.arange(N) / N
    grid = Grid(x, x, ("periodic", "periodic"))
    rng = np.random.default_rng(0)
    plain, named = get("navier_stokes")(nu=0.3, force_x=0.7, dt=DT), get("navier_stokes")(nu="nu", force_x="F", dt=DT)
    assert list(named.fields)[-2:] == ["nu", "force_x"] and "nu" not in named.constants
    assert named.fields["nu"].units == "m2 s-1"
    operator = named.on(grid)
    assert operator.fields[-2:] == ["nu", "force_x"] and not {"nu", "force_x"} & set(operator.moves)
    u = torch.from_numpy(rng.standard_normal((2, 6, N, N)))
    filled = torch.cat([u, torch.full_like(u[:, :1], 0.3), torch.full_like(u[:, :1], 0.7)], 1)
    assert torch.allclose(operator.residual(filled), plain.on(grid).residual(u), atol=1e-12)
    restored = type(operator).from_dict(operator.to_dict(), grid)
    assert torch.equal(restored.residual(filled), operator.residual(filled))


def test_residual_of_data_whose_viscosity_varies_by_sample_and_force_in_space():
    rng = np.random.default_rng(1)
    ds = fields(rng, 3)
    force = rng.standard_normal((N, N))
    nu = np.array([0.1, 0.2, 0.4])
    ds["nu"] = ("sample", nu, {"units": "1"})
    ds["F"] = (("y", "x"), force, {"units": "1"})
    edges = ("periodic", "periodic")
    found = residual_of(ds, "navier_stokes", boundary=edges, nu="nu", force_x="F", dt=DT)["residual"]
    for s in range(3):
        alone = residual_of(
            ds.isel(sample=[s])[list(ds.data_vars)[:6]], "navier_stokes", boundary=edges, nu=nu[s], dt=DT
        )
        expected = alone["residual"].isel(sample=0).values
        expected[0] -= force
        assert np.allclose(found.isel(sample=s), expected, atol=1e-12)


def test_a_name_that_is_no_variable_and_a_step_by_name_are_refused():
    ds = fields(np.random.default_rng(2), 1)
    with pytest.raises(InputError, match="no variable 'viscosity'"):
        residual_of(ds, "navier_stokes", nu="viscosity", dt=DT)
    with pytest.raises(InputError, match="constant dt is 'step'"):
        get("navier_stokes")(dt="step")
