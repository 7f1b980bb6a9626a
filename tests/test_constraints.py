"""Equations on a model's channels: levels, several residuals, times, units, and the way back to the channels."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
import xarray as xr

from sciguide import constraints
from sciguide.constraints import LEAST_FLOOR, EquationOnModel, EquationRecord, record_equations
from sciguide.covariance import fit_prior
from sciguide.datasets.axes import find_axes
from sciguide.datasets.layout import Layout
from sciguide.datasets.normaliser import Normaliser
from sciguide.denoiser import Denoiser
from sciguide.equations import get
from sciguide.errors import InputError
from sciguide.generate import Generator
from sciguide.grid import Grid, grid_of
from sciguide.model import Model, NetworkError, build_network
from sciguide.residuals import residual_of

PRESSURES = [850.0, 500.0, 200.0]  # descending from the ground, as files have them
ABOUT = {
    "u": ("m s-1", "eastward_wind"),
    "v": ("m s-1", "northward_wind"),
    "phi": ("m2 s-2", "geopotential"),
    "T": ("K", "air_temperature"),
    "ps": ("Pa", "surface_air_pressure"),
}


def atmosphere(samples: int = 5, n=(9, 12), levels=PRESSURES) -> xr.Dataset:
    """Random fields (time, level, lat, lon) in northern latitudes; `ps` has no level."""
    rng = np.random.default_rng(0)
    coords = {
        "level": ("level", levels, {"units": "hPa", "positive": "down"}),
        "lat": ("lat", np.linspace(60, 30, n[0]), {"units": "degrees_north"}),
        "lon": ("lon", np.linspace(5, 50, n[1]), {"units": "degrees_east"}),
    }
    fields = {}
    for name, (units, standard_name) in ABOUT.items():
        dims = ("time", "lat", "lon") if name == "ps" else ("time", "level", "lat", "lon")
        size, mean = {"phi": (1e3, 0), "T": (5, 270)}.get(name, (10, 0))
        values = mean + size * rng.standard_normal((samples, *((len(levels),) if "level" in dims else ()), *n))
        fields[name] = (dims, values, {"units": units, "standard_name": standard_name})
    return xr.Dataset(fields, coords)


class Setting:
    def __init__(self, ds: xr.Dataset) -> None:
        self.ds = ds
        self.layout = Layout.from_dataset(ds, find_axes(ds, list(ds.data_vars)))
        self.grid = grid_of(self.layout.y, self.layout.x, self.layout.y_attrs["units"], self.layout.x_attrs["units"])
        self.samples = self.layout.to_tensor(ds)
        mean, std = self.samples.mean((0, 2, 3)), self.samples.std((0, 2, 3))
        log = np.zeros(len(mean), bool)
        self.normaliser = Normaliser(mean.astype(float), std.astype(float), log, tuple(self.layout.names))

    def record(self, name: str, **given) -> list[EquationRecord]:
        return record_equations(name, given, self.layout, self.grid, self.samples)

    def on_model(self, record: EquationRecord) -> EquationOnModel:
        return EquationOnModel(record, self.normaliser, self.grid)

    def normalised(self) -> torch.Tensor:
        return self.normaliser.encode(torch.tensor(self.samples, dtype=torch.float64))


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(atmosphere())


def test_one_record_for_each_level(setting):
    records = setting.record("geostrophic")
    assert [r.name for r in records] == ["geostrophic@850", "geostrophic@500", "geostrophic@200"]
    assert [r.channels for r in records] == [[k, 3 + k, 6 + k] for k in range(3)]
    for level, record in zip(PRESSURES, records, strict=True):
        out = residual_of(setting.ds.sel(level=level), "geostrophic")
        assert np.allclose(record.operator["scale"], out.attrs["scale"], rtol=1e-6)
        relative = out["relative_rms"].values ** 2
        assert np.allclose(record.s2, relative.mean(1), rtol=1e-5) and len(record.s2) == 2
        assert record.floor == pytest.approx(np.quantile(relative.mean(0), 0.9), rel=1e-5)
        energy = setting.on_model(record).energy(setting.normalised())
        assert np.allclose(energy, relative.mean(0), rtol=1e-5)


def test_levels_are_the_third_axis(setting):
    (record,) = setting.record("hydrostatic")
    assert record.name == "hydrostatic" and record.channels == [[8, 7, 6], [11, 10, 9]]
    assert np.allclose(record.z, np.log([2e4, 5e4, 8.5e4]))
    again = EquationRecord(**asdict(record))
    assert again == record
    equation, x = setting.on_model(again), setting.normalised()
    assert equation.channels.gather(x).shape == (5, 2, 3, 9, 12)
    out = residual_of(setting.ds[["phi", "T"]], "hydrostatic")
    r = equation.residual(x)
    assert r.shape == (5, 1, 3, 9, 12)
    expected = out["residual"].values[:, ::-1, ::-1] / out.attrs["scale"]
    valid = equation.operator.valid.numpy()
    assert np.array_equal(valid, np.isfinite(expected[0])) and not valid[-1].any()
    assert np.allclose(r[:, 0, valid], expected[:, valid], rtol=1e-4, atol=1e-5)
    assert np.allclose(equation.energy(x), out["relative_rms"] ** 2, rtol=1e-5)
    with pytest.raises(InputError, match="normalised one by one"):
        _ = equation.kernels


WAVES = {8: 3e3, 4: 1e3, 2: 5e2, 1: 4e3}  # mean squares of a source's waves along x, one in each octave of 16 points


def sources(waves: dict[int, float], dtype: type = np.float64) -> Setting:
    """Potentials on a periodic plane whose source is theirs but for so many waves, of another phase in each sample."""
    rng, n, count = np.random.default_rng(0), 16, 200
    axes = {d: (d, np.arange(n) / n, {"units": "1"}) for d in ("y", "x")}
    grid = Grid(axes["y"][1], axes["x"][1], boundary=("periodic", "periodic"))
    phi = rng.standard_normal((count, n, n)).astype(dtype)
    u = torch.from_numpy(np.stack([phi, 0 * phi], 1).astype(np.float64))
    f = get("poisson")().on(grid).residual(u)[:, 0].numpy()
    for k, size in waves.items():
        phase = rng.uniform(0, 2 * np.pi, (count, 1, 1)) if k < n // 2 else 0.25 * np.pi
        f = f + np.sqrt(2 * size) * np.cos(2 * np.pi * k * axes["x"][1] + phase)
    fields = {n: (("time", "y", "x"), v.astype(dtype), {"units": "1"}) for n, v in (("phi", phi), ("f", f))}
    setting = Setting(xr.Dataset(fields, axes))
    setting.grid, setting.samples = grid, np.stack([phi, f], 1).astype(dtype)
    return setting


def test_a_record_knows_the_spectrum_of_the_residual(monkeypatch):
    """By the wavenumbers in each octave, counted here; an octave has no less than rounding does. Of many samples every
    n-th is read."""
    one, other = sources(WAVES), sources({4: 1e3})
    (record,) = one.record("poisson")
    k = np.minimum(np.arange(16), 16 - np.arange(16))
    square = k[:, None] ** 2 + k**2
    ends = ((32, 128), (8, 32), (2, 8), (-1, 2))
    counts = np.array([((low < square) & (square <= high)).sum() for low, high in ends])
    np.testing.assert_allclose(record.octaves, [np.array(list(WAVES.values())) / sum(WAVES.values()) * 256 / counts])
    one.samples[1::2] = other.samples[1::2]
    monkeypatch.setattr(constraints, "MOST_VALUES", len(one.samples) * 128 + 1)
    assert one.record("poisson")[0].octaves == pytest.approx(np.array(record.octaves))
    (record,) = other.record("poisson")
    least = LEAST_FLOOR / record.s2[0]
    np.testing.assert_allclose(record.octaves, [[least, 256 / counts[1], least, least]])


def test_a_residual_of_rounding_is_white():
    (record,) = sources({}, np.float32).record("poisson")
    assert 0 < record.s2[0] < LEAST_FLOOR and record.octaves == []


@pytest.mark.parametrize("name", ["geostrophic", "hydrostatic"])
def test_scatter_is_the_transpose_of_gather(setting, name):
    equation, x = setting.on_model(setting.record(name)[0]), setting.normalised()
    u = torch.randn(equation.channels.gather(x).shape, dtype=torch.float64)
    back = equation.channels.scatter(u, x)
    assert back.shape == x.shape and torch.isclose((back * x).sum(), (u * equation.channels.gather(x)).sum())
    assert sorted(np.ravel(equation.channels.of)) == back.abs().sum((0, 2, 3)).nonzero().ravel().tolist()


def test_what_may_move(setting):
    assert setting.on_model(setting.record("nondivergence")[1]).moving == [1, 4]
    assert setting.on_model(setting.record("hydrostatic")[0]).moving == [8, 7, 6, 11, 10, 9]


def test_kernels_take_normalised_channels(setting):
    equation, x = setting.on_model(setting.record("geostrophic")[0]), setting.normalised()
    energy, gradient = equation.kernels.energy_and_gradient(equation.channels.gather(x))
    assert torch.allclose(energy, equation.energy(x))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(equation.energy(leaf).sum(), leaf)
    assert torch.allclose(equation.channels.scatter(gradient, x), expected, rtol=1e-9, atol=1e-12)


def test_kernels_of_levels_normalised_alike(setting):
    same = Normaliser(np.full(13, 3.0), np.full(13, 2.0), np.zeros(13, bool), setting.normaliser.names)
    equation = EquationOnModel(setting.record("hydrostatic")[0], same, setting.grid)
    x = torch.randn(2, 13, 9, 12, dtype=torch.float64)
    assert torch.allclose(equation.kernels.energy(equation.channels.gather(x)), equation.energy(x))


def test_a_model_keeps_its_levels(setting, tmp_path):
    x = setting.normalised()
    prior = fit_prior("eof", x, torch.from_numpy(setting.layout.mask))
    network = {"boundary": list(setting.grid.boundary), "width": 8, "multipliers": [1], "blocks": 1, "dropout": 0.0}
    Model(
        denoiser=Denoiser(prior, build_network(13, network)),
        network=network,
        normaliser=setting.normaliser,
        layout=setting.layout,
        grid=setting.grid,
        sigma_min=0.01,
        sigma_max=5.0,
        error=NetworkError([0.1, 1.0], [[0.1] * 13, [0.2] * 13]),
        effective=5.0,
        fingerprint="made up",
        equations=[*setting.record("geostrophic"), *setting.record("hydrostatic")],
    ).save(tmp_path / "model.pt")
    loaded = Model.load(tmp_path / "model.pt")
    assert loaded.equations == [*setting.record("geostrophic"), *setting.record("hydrostatic")]
    assert [np.shape(e.octaves) for e in loaded.equations] == [(2, 4)] * 3 + [(0,)], "over (y, x), and over levels"
    for equation, kept in zip(loaded.equations, loaded.constraints(), strict=True):
        assert torch.equal(kept.energy(x), setting.on_model(equation).energy(x))
    ds = Generator(loaded).generate(2, policy="none", steps=2, batch=2)
    names = [n for n in ds.data_vars if n.startswith("pde_residual")]
    assert names == [f"pde_residual_geostrophic_{p:g}" for p in PRESSURES] + ["pde_residual_hydrostatic"]
    assert all(np.isfinite(ds[n]).all() for n in names)


def test_pairs_in_variables_of_their_own():
    n = 12
    values = np.random.default_rng(0).standard_normal((4, 6, n, n))
    names = ("u", "v", "p", "u_later", "v_later", "p_later")
    fields = {k: (("sample", "y", "x"), values[:, i], {"units": "1"}) for i, k in enumerate(names)}
    coords = {d: (d, np.arange(n) / n, {"units": "1"}) for d in ("y", "x")}
    setting = Setting(xr.Dataset(fields, coords))
    later = {f"{k}_next": f"{k}_later" for k in "uvp"}
    (record,) = setting.record("navier_stokes", dt=0.5, nu=0.1, **later)
    assert record.channels == [0, 1, 2, 3, 4, 5] and len(record.s2) == 4 and min(record.s2) > 0
    scale = record.operator["scale"]
    assert scale[0] == scale[1] != scale[2]
    equation, x = setting.on_model(record), setting.normalised()
    squares = equation.operator.mean_square(equation.residual(x))
    assert np.allclose(squares.mean(0), record.s2, rtol=1e-6)
    assert np.allclose(equation.energy(x), squares.mean(1), rtol=1e-6)
    for given, says in (({"dt": 0.5}, "later time for p_next, u_next, v_next"), (later, "give dt")):
        with pytest.raises(InputError, match=says):
            setting.record("navier_stokes", **given)


@pytest.mark.parametrize(
    "name, change, given, says",
    [
        ("poisson", lambda ds: ds, {"phi": "ps", "f": "u"}, "different levels: ps on none, u on level"),
        ("poisson3", lambda ds: ds, {"phi": "u", "f": "v"}, "coordinate 'level' is in 'hPa'"),
        ("hydrostatic", lambda ds: ds.isel(level=0), {}, "over levels; phi, T have none"),
        ("nondivergence", lambda ds: ds.assign(u=ds["u"].assign_attrs(units="km h-1")), {}, "is in km h-1"),
        ("nondivergence", lambda ds: ds.assign(u=ds["u"].assign_attrs(units="K")), {}, "variable 'u'"),
        ("nondivergence", lambda ds: ds * 0, {}, "vanishes"),
        ("hydrostatic", lambda ds: ds.assign_coords(level=ds["level"].values), {}, "'level' is in '1'"),
    ],
)
def test_mistakes_are_named(name, change, given, says):
    with xr.set_options(keep_attrs=True):
        setting = Setting(change(atmosphere(2)))
    with pytest.raises(InputError, match=says):
        setting.record(name, **given)
