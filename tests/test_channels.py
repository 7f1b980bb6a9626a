"""Equations whose data hold a field that is the same in all samples, from the file to the step."""

import numpy as np
import torch
import xarray as xr

from sciguide.channels import Channels
from sciguide.constraints import EquationOnModel, record_equations
from sciguide.datasets.layout import Layout
from sciguide.datasets.normaliser import Normaliser
from sciguide.datasets.prepare import prepare
from sciguide.grid import Grid
from sciguide.simulate import darcy_twophase, samples

N, SAMPLES = 12, 6


def darcy_file(tmp_path, descending=False):
    drawn = samples("darcy_twophase", N, 0, SAMPLES)
    x = np.linspace(0, 1, N)
    source = np.ones((N, N)) + 0.1 * np.arange(N)[:, None]
    fields = {k: (("sample", "y", "x"), v.astype(np.float32), {"units": "1"}) for k, v in drawn.items()}
    fields["f"] = (("y", "x"), source, {"units": "1"})
    ds = xr.Dataset(fields, {"y": ("y", x, {"units": "1"}), "x": ("x", x, {"units": "1"})})
    ds.isel(y=slice(None, None, -1) if descending else slice(None)).to_netcdf(tmp_path / "d.nc")
    return tmp_path / "d.nc", drawn, source


def test_a_field_without_samples_is_known_to_the_layout_and_to_the_equation(tmp_path):
    path, drawn, source = darcy_file(tmp_path, descending=True)
    prepared = prepare(str(path), cache=tmp_path / "cache")
    layout = Layout.from_dict(prepared.layout.to_dict())
    assert layout.names == ["K", "p"] and np.array_equal(layout.static["f"].values, source)
    grid = Grid(layout.y, layout.x)
    (record,) = record_equations("darcy", {}, layout, grid, prepared.rows("train"))
    assert record.static == {"f": "f"} and record.channels == [0, 1]
    normaliser = Normaliser(np.array([0.1, 0.2]), np.array([2.0, 3.0]), np.array([True, False]), ("K", "p"))
    equation = EquationOnModel(record, normaliser, grid, layout.static)
    x = normaliser.encode(torch.tensor(np.stack([drawn["K"], drawn["p"]], 1)))
    fields = torch.tensor(np.stack([drawn["K"], drawn["p"], np.broadcast_to(source, (SAMPLES, N, N))], 1))
    assert torch.allclose(equation.physical(x), fields)
    expected = darcy_twophase.operator(N).residual(fields) / record.operator["scale"][0]
    assert torch.allclose(equation.residual(x), expected, atol=1e-9)
    energy, gradient = equation.kernels.energy_and_gradient(equation.channels.fields(x))
    assert torch.allclose(energy, equation.energy(x))
    moved = x.clone().requires_grad_()
    equation.energy(moved).sum().backward()
    found = equation.channels.scatter(gradient, x)
    assert (found - moved.grad).abs().max() < 1e-10 * moved.grad.abs().max()


def test_channels_and_their_transpose():
    static = {"b": np.full((3, 4), 7.0)}
    where = Channels(["a", "b", "c"], [2, 0], static)
    x, u = torch.randn(5, 3, 3, 4), torch.randn(5, 3, 3, 4)
    fields = where.fields(x)
    assert torch.equal(fields[:, 0], x[:, 2]) and torch.equal(fields[:, 2], x[:, 0]) and (fields[:, 1] == 7).all()
    assert torch.isclose((where.gather(x) * u).sum(), (x * where.scatter(u, x)).sum(), rtol=1e-5)
    assert torch.equal(where.fields(where.replace(x, u))[:, [0, 2]], u[:, [0, 2]])
    assert where.each(np.array([1.0, 2.0, 3.0]), 9.0).tolist() == [3.0, 9.0, 1.0] and where.of == [[2], [], [0]]
