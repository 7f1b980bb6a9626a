"""`sciguide evaluate` on a tiny model made here: known values of the trivial rows, flags on cheats, one-line errors."""

import json
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
import yaml
from scipy.ndimage import gaussian_filter

from sciguide import metrics, scores
from sciguide.baselines import kriged, low_passed
from sciguide.cli import main
from sciguide.constraints import record_equations
from sciguide.covariance import fit_prior
from sciguide.datasets.normaliser import Normaliser
from sciguide.datasets.prepare import prepare
from sciguide.denoiser import Denoiser
from sciguide.errors import InputError
from sciguide.evaluate import ENSEMBLE, evaluate, gains
from sciguide.generate import Options, load, write_ensemble
from sciguide.grid import grid_of
from sciguide.judge import DATA, Record, rmse
from sciguide.model import Model, NetworkError, build_network
from sciguide.observations import read_observations
from sciguide.residuals import residual_of

Y, X = 10, 12
TRAIN, TEST = 90, 40
quick = partial(evaluate, resamples=12)


def fields(n, seed):
    """n independent smooth fields of u and v, (n, 2, Y, X), with a mean."""
    noise = np.random.default_rng(seed).normal(size=(n, 2, Y, X))
    smooth = gaussian_filter(noise, 1.0, axes=(-2, -1))
    return (smooth / smooth.std() * 0.3 + np.sin(np.arange(X) / 3) * 0.2).astype(np.float32)


def dataset(values, start="2002-01-01", dim="time", units="m s-1"):
    values = np.where(LAND, np.nan, values)
    coords = {"lat": ("lat", np.linspace(-40, -35, Y), {"units": "degrees_north"})}
    coords["lon"] = ("lon", np.linspace(10, 16, X), {"units": "degrees_east"})
    if dim == "time":
        coords["time"] = np.datetime64(start, "ns") + np.arange(len(values)) * np.timedelta64(1, "D")
    names = {"u": "eastward_sea_water_velocity", "v": "northward_sea_water_velocity"}
    return xr.Dataset(
        {
            k: ((dim, "lat", "lon"), values[:, i], {"units": units, "standard_name": s})
            for i, (k, s) in enumerate(names.items())
        },
        coords,
    )


LAND = np.zeros((Y, X), bool)
LAND[:2, :3] = True


def samples(path, values):
    dataset(values, dim="realization").to_netcdf(path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with config and model of random weights, its training data, and an ensemble of 12 members."""
    folder = tmp_path_factory.mktemp("run")
    ds = dataset(np.concatenate([fields(TRAIN, 1), fields(TEST, 2)]))
    ds.to_netcdf(folder / "data.nc")
    section = {"source": str(folder / "data.nc"), "variables": ["u", "v"], "cache": str(folder / "cache")}
    section |= {"train": [0, TRAIN], "test": [TRAIN, TRAIN + TEST]}
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": section}))
    prepared = prepare(**section)
    layout, normaliser = prepared.layout, Normaliser.fit(prepared)
    grid = grid_of(layout.y, layout.x, "degrees_north", "degrees_east", layout.mask.all(0))
    x = normaliser.encode(torch.tensor(np.asarray(prepared.rows("train")), dtype=torch.float64))
    prior = fit_prior("eof", x, torch.tensor(layout.mask), effective=TRAIN)
    network = {"boundary": list(grid.boundary), "width": 8, "multipliers": [1], "blocks": 1, "dropout": 0.0}
    torch.manual_seed(0)
    Model(
        denoiser=Denoiser(prior, build_network(2, network)),
        network=network,
        normaliser=normaliser,
        layout=layout,
        grid=grid,
        sigma_min=0.02,
        sigma_max=10.0,
        error=NetworkError([0.1, 1.0], [[0.1, 0.1], [0.2, 0.2]]),
        effective=prepared.effective,
        fingerprint=prepared.fingerprint,
        equations=record_equations("nondivergence", {}, layout, grid, prepared.rows("train")),
    ).save(folder / "model.pt")
    list(write_ensemble(folder, folder / "ensemble", 12, 3, Options(steps=3, batch=4)))
    weights = np.cos(np.deg2rad(layout.y))[:, None] * layout.mask
    held = np.asarray(prepared.rows("test"))
    return SimpleNamespace(folder=folder, prepared=prepared, weights=weights, held=held, layout=layout)


@pytest.fixture(scope="module")
def result(run):
    return quick(run.folder / "ensemble")


def value(found, method, metric, variable="all"):
    return next(r for r in found.records if (r.method, r.variable, r.metric) == (method, variable, metric))


def test_known_values(run, result):
    drawn = load(run.folder).generate(12, 3, steps=3, batch=4)
    members = run.layout.to_tensor(drawn)
    ratio, error = (f(members, run.held, run.weights) for f in (metrics.std_ratio, metrics.mean_error))
    training = np.asarray(run.prepared.rows("train"))
    for c, name in enumerate("uv"):
        assert value(result, ENSEMBLE, "std_ratio", name).value == pytest.approx(ratio[c], rel=1e-5)
        assert value(result, ENSEMBLE, "mean_error", name).value == pytest.approx(error[c], rel=1e-5)
        for method in ("zero field", "data mean"):
            assert value(result, method, "std_ratio", name).value == 0
            assert value(result, method, "kurtosis_ratio", name).value == 0
        assert value(result, "mismatched pairs", "std_ratio", name).value == pytest.approx(1)
        mean = np.repeat(training.mean(0, dtype=np.float64)[None], 12, 0)
        expected = metrics.mean_error(mean, run.held, run.weights)[c]
        assert value(result, "data mean", "mean_error", name).value == pytest.approx(expected, rel=1e-5)
        assert value(result, DATA, "std_ratio", name).low < 1 < value(result, DATA, "std_ratio", name).high
        assert 0 < value(result, "low-passed", "std_ratio", name).value < ratio[c]
    assert value(result, "zero field", "residual", "nondivergence").value == 0
    assert (
        value(result, "training, random", "novelty").value == value(result, "training, nearest", "novelty").value == 0
    )
    assert value(result, DATA, "novelty").value == pytest.approx(1, abs=0.2)
    assert value(result, ENSEMBLE, "novelty").value == pytest.approx(
        metrics.novelty(members, training, run.held, run.weights)
    )
    assert {r.method for r in result.records} == {
        *(ENSEMBLE, DATA, "zero field", "data mean", "mismatched pairs", "low-passed", "training, random"),
        *("training, nearest", "N(mu, C)"),
    }


def test_residuals_agree_with_the_public_function(run, result):
    model = load(run.folder).model
    scale = model.equations[0].operator["scale"]
    for method, ds in ((DATA, dataset(run.held)), (ENSEMBLE, load(run.folder).generate(12, 3, steps=3, batch=4))):
        rms = residual_of(ds[["u", "v"]], "nondivergence")["rms"].values
        found = value(result, method, "residual", "nondivergence")
        assert found.value == pytest.approx(np.sqrt((rms**2).mean()) / scale, rel=1e-6)
        assert found.low < found.value < found.high and found.n == len(rms)
    assert value(result, "mismatched pairs", "residual", "nondivergence").value > 0


def test_cheats_are_flagged_and_truth_is_not(run, tmp_path):
    fresh, mean = fields(40, 7), run.held.mean(0)
    training = np.asarray(run.prepared.rows("train"))
    cheats = {
        "too little variability": mean + 0.02 * (fresh - mean),
        "extremes too weak": mean + 0.5 * (fresh - mean),
        "copies of the training data": training[:40] + 0.02 * (fresh - mean),
        "mean field is off": fresh + 0.3,
        "disobeys the equation": fresh + 0.2 * np.random.default_rng(0).normal(size=fresh.shape),
    }
    for words, cheat in cheats.items():
        found = quick(samples(tmp_path / "s.nc", cheat), run=run.folder)
        assert any(line.startswith(words) for line in found.flags), (words, found.flags)
    assert quick(samples(tmp_path / "s.nc", fresh), run=run.folder, resamples=40).flags == []


def test_the_command(run, tmp_path, capsys):
    out = tmp_path / "out.json"
    words = ["evaluate", str(run.folder), "--resamples", "8", "--json", str(out)]
    assert main(words) == 0
    text = capsys.readouterr().out
    for word in ("N(mu, C)", "gain of network", "residual of", "test samples of the run's config", "novelty"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 120
    held = json.loads(out.read_text())
    assert set(held["header"]) == {"machine", "versions", "date", "command"}
    assert held["header"]["command"] == "sciguide " + " ".join(words)
    keys = {"method", "variable", "metric", "value", "low", "high", "n"}
    assert all(set(r) == keys for r in held["records"]) and len(held["records"]) > 150
    assert all(r["low"] is None or r["low"] <= r["value"] <= r["high"] for r in held["records"])
    assert (ENSEMBLE, "gain_w1") in {(r["method"], r["metric"]) for r in held["records"]}
    assert not [m for m in held["flags"] if "novelty" in m] and held["units"] == {"u": "m s-1", "v": "m s-1"}


def test_given_observations(run, tmp_path, capsys):
    truth = fields(1, 9)
    dataset(truth).isel(time=0, drop=True).to_netcdf(tmp_path / "truth.nc")
    obs, generator = tmp_path / "obs.csv", np.random.default_rng(0)
    lines = ["variable,y,x,value,error"]
    for j, i in zip(generator.integers(3, Y - 1, 25), generator.integers(0, X - 1, 25), strict=True):
        for c, name in enumerate("uv"):
            lines.append(f"{name},{run.layout.y[j]},{run.layout.x[i]},{truth[0, c, j, i]},0.02")
    obs.write_text("\n".join(lines) + "\n")
    options = Options(steps=3, batch=4, policy="fixed", observations=str(obs))
    list(write_ensemble(run.folder, run.folder / "given", 6, 3, options))
    found = quick(run.folder / "given", truth=tmp_path / "truth.nc", obs=obs)
    members = run.layout.to_tensor(load(run.folder).generate(6, 3, **{"steps": 3, "batch": 4, "policy": "fixed",
                                                                     "observations": str(obs)}))  # fmt: skip
    expected = {"crps": scores.crps, "rmse": rmse, "spread_error": scores.spread_error}
    for metric, function in expected.items():
        by_hand = function(members, np.where(run.layout.mask, truth[0], np.nan), run.weights)
        assert [value(found, ENSEMBLE, metric, v).value for v in "uv"] == pytest.approx(by_hand, rel=1e-4)
    plain = load(run.folder).generate(6, 3, steps=3, batch=4)
    ratio = metrics.std_ratio(run.layout.to_tensor(plain), run.held, run.weights)
    assert value(found, "network, unguided", "std_ratio", "u").value == pytest.approx(ratio[0], rel=1e-5)
    rms = {m: value(found, m, "rmse", "u").value for m in ("kriging mean", "N(mu, C) | obs", "N(mu, C)", "data mean")}
    assert rms["kriging mean"] < min(rms["N(mu, C)"], rms["data mean"])
    assert rms["kriging mean"] == pytest.approx(rms["N(mu, C) | obs"], rel=0.3)
    assert any("not flagged" in n for n in found.notes) and any("6 members is rough" in n for n in found.notes)
    assert not any("std_ratio" in line for line in found.flags)
    assert main(["evaluate", str(run.folder / "given"), "--truth", str(run.folder / "data.nc")]) == 2
    assert f"{TRAIN + TEST} samples, --truth takes one field" in capsys.readouterr().err
    (tmp_path / "others.csv").write_text("\n".join(lines[:9]) + "\n")
    notes = quick(run.folder / "given", obs=tmp_path / "others.csv").notes
    assert any("other observations" in n for n in notes)


def test_conditioned_draws_have_the_exact_mean_and_covariance(run, tmp_path):
    model = load(run.folder).model
    y, x = run.layout.y, run.layout.x
    lines = [f"u,{y[4]},{x[5]},0.5,0.1", f"v,{y[4]},{x[6]},-0.3,0.2", f"u,{y[7]},{(x[2] + x[3]) / 2},0.1,0.05"]
    (tmp_path / "o.csv").write_text("\n".join(["variable,y,x,value,error", *lines]))
    points = read_observations(tmp_path / "o.csv", model.layout, model.normaliser)
    prior, d = model.prior, int(np.prod(model.shape))
    eye = torch.eye(d, dtype=torch.float64).reshape(d, *model.shape)
    C = prior.scale_modes(eye, prior.variances).reshape(d, d).numpy()
    A = (points.predict(eye) * points.error).T.numpy()
    R, mu = np.diag(points.error.numpy() ** 2), prior.mean.flatten().numpy()
    gain = C @ A.T @ np.linalg.inv(A @ C @ A.T + R)
    mean = mu + gain @ (points.value.numpy() - A @ mu)
    draws, kriging = kriged(model, points, 3000, 0, told=True)
    sea = model.layout.mask.flatten()
    z = model.normaliser.encode(torch.tensor(draws.fields)).flatten(1).numpy()[:, sea]
    z_mean = model.normaliser.encode(torch.tensor(kriging.fields)).flatten().numpy()[sea]
    assert z_mean == pytest.approx(mean[sea], abs=1e-6)
    variance = np.diag(C - gain @ A @ C)[sea]
    assert np.abs(z.mean(0) - mean[sea]).max() < 6 * np.sqrt(variance.max() / 3000)
    assert z.var(0) == pytest.approx(variance, rel=0.2, abs=1e-3)
    scaled = kriged(model, points, 3, 0, told=False)[1].fields
    assert np.isfinite(scaled[:, model.layout.mask]).all() and not np.allclose(scaled, kriging.fields, equal_nan=True)


def test_references(run, tmp_path):
    reference = tmp_path / "other.nc"
    # Another product: its own times, latitude descending, in cm s-1.
    other = dataset(100 * fields(20, 5), "2010-01-01", units="cm s-1").isel(lat=slice(None, None, -1))
    other.to_netcdf(reference)
    found = quick(run.folder / "ensemble", reference=[reference])
    members = run.layout.to_tensor(load(run.folder).generate(12, 3, steps=3, batch=4))
    expected = metrics.std_ratio(members, np.where(run.layout.mask, fields(20, 5), np.nan), run.weights)
    assert [value(found, ENSEMBLE, "std_ratio", v).value for v in "uv"] == pytest.approx(expected, rel=1e-4)
    assert any("other.nc, 20 samples" in n for n in found.notes)
    assert not any("training samples" in n for n in found.notes)
    # The same days, and the same fields on other days, are both no held-out data.
    dataset(fields(20, 5), "2002-03-25").to_netcdf(reference)
    again = quick(run.folder / "ensemble", reference=[reference])
    assert any("7 of 20 samples" in n and "are training samples" in n for n in again.notes)
    mixed = np.concatenate([fields(20, 5), np.asarray(run.prepared.rows("train"))[:3]])
    dataset(mixed, "2010-01-01").to_netcdf(tmp_path / "mixed.nc")
    again = quick(run.folder / "ensemble", reference=[tmp_path / "mixed.nc"])
    assert any("3 of 23 samples" in n for n in again.notes)


def test_without_a_model(tmp_path):
    samples(tmp_path / "s.nc", 0.5 * fields(30, 1))
    dataset(fields(30, 2)).to_netcdf(tmp_path / "r.nc")
    found = quick(tmp_path / "s.nc", reference=[tmp_path / "r.nc"])
    assert any(line.startswith("too little variability") for line in found.flags)
    assert {r.method for r in found.records} == {
        ENSEMBLE,
        DATA,
        "zero field",
        "data mean",
        "mismatched pairs",
        "low-passed",
    }
    assert any("no model.pt" in n for n in found.notes) and not any(r.metric == "residual" for r in found.records)
    with pytest.raises(InputError, match="no equation to measure by"):
        quick(tmp_path / "s.nc")
    with pytest.raises(InputError, match="without a model there is no prior"):
        quick(tmp_path / "s.nc", reference=[tmp_path / "r.nc"], obs="x.csv")


def test_too_few_and_moved_data(run, tmp_path):
    dataset(fields(5, 5), "2010-01-01").to_netcdf(tmp_path / "few.nc")
    found = quick(run.folder / "ensemble", reference=[tmp_path / "few.nc"])
    assert {r.metric for r in found.records} == {"residual", "gain_residual"}
    assert any("residuals only: 12 members and 5 held-out samples" in n for n in found.notes)
    (tmp_path / "model.pt").write_bytes((run.folder / "model.pt").read_bytes())
    for config, reason in (("", "no config.yaml"), ("data: {source: gone.nc}", "cannot be opened")):
        (tmp_path / "config.yaml").write_text(config)
        alone = quick(run.folder / "ensemble", run=tmp_path)
        assert any("no novelty" in n and reason in n for n in alone.notes)
        assert {r.metric for r in alone.records} == {"residual"}


def test_mistakes_are_one_line_and_exit_2(run, tmp_path, capsys):
    ensemble = str(run.folder / "ensemble")
    dataset(fields(9, 1)).isel(lat=slice(1, None)).to_netcdf(tmp_path / "grid.nc")
    dataset(fields(9, 1)).rename(u="w").to_netcdf(tmp_path / "names.nc")
    broken = fields(5, 1)
    broken[2, 0, 5, 5] = np.nan
    samples(tmp_path / "broken.nc", broken)
    list(write_ensemble(run.folder, tmp_path / "cut", 2, 0, Options(steps=1, batch=2)))
    (tmp_path / "cut" / "member_00001.nc").unlink()
    wrong = {
        "no such file or folder": [str(tmp_path / "nothing")],
        "missing": [str(tmp_path / "cut"), "--run", str(run.folder)],
        "is not this grid's": [ensemble, "--reference", str(tmp_path / "grid.nc")],
        "no variable `u`": [ensemble, "--reference", str(tmp_path / "names.nc")],
        "no NetCDF file": [ensemble, "--reference", str(tmp_path / "a.nc"), str(tmp_path / "b.nc")],
        "1 of 5 samples, first number 2": [str(tmp_path / "broken.nc"), "--run", str(run.folder)],
        "no such model": [ensemble, "--run", str(tmp_path)],
        "at least 2": [ensemble, "--resamples", "1"],
        "no such option: --refrence; did you mean --reference?": [ensemble, "--refrence", "x"],
    }
    for message, words in wrong.items():
        assert main(["evaluate", *words]) == 2, message
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 2, (message, err)


def test_low_pass_ignores_land_and_keeps_constants():
    mask = ~np.broadcast_to(LAND, (2, Y, X))
    constant = np.where(mask, 3.0, 1e9)
    assert low_passed(constant[None], mask, ("open", "periodic"))[0][mask] == pytest.approx(3.0)
    x = fields(3, 1)
    rolled = low_passed(np.roll(x, 4, -1), np.ones_like(mask), ("open", "periodic"))
    assert rolled == pytest.approx(np.roll(low_passed(x, np.ones_like(mask), ("open", "periodic")), 4, -1), abs=1e-6)


def test_gains_by_hand():
    rows = [("N(mu, C)", 0.4, 0.3, 0.5), (ENSEMBLE, 0.1, 0.05, 0.15)]
    table = [Record(m, "u", "w1", *numbers, 9) for m, *numbers in rows]
    table += [Record(m, "u", "std_ratio", v, v - 0.1, v + 0.1, 9) for m, v in (("N(mu, C)", 0.5), (ENSEMBLE, 2.0))]
    found = {r.metric: r for r in gains(table)}
    assert found["gain_w1"][3:6] == pytest.approx((0.75, 1 - 0.15 / 0.3, 1 - 0.05 / 0.5))
    assert found["gain_std_ratio"].value == pytest.approx(0) and found["gain_std_ratio"].low < 0
    network = [Record("network, unguided", "u", "w1", 0.2, 0.2, 0.2, 9)]
    assert [r.method for r in gains([*table, *network]) if r.metric == "gain_w1"] == ["network, unguided"]


def test_it_needs_no_lightning():
    code = "import sciguide.evaluate, sciguide.cli.evaluate, sys; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
