"""Generating from a small untrained model: reproducible member by member, resumable, CF files, one-line errors."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import sciguide
from sciguide.cli import main
from sciguide.constraints import record_equations
from sciguide.covariance import fit_prior
from sciguide.datasets.layout import Layout
from sciguide.datasets.normaliser import Normaliser
from sciguide.datasets.store import open_fields
from sciguide.denoiser import Denoiser
from sciguide.errors import InputError
from sciguide.generate import Options, load, write_ensemble
from sciguide.grid import grid_of
from sciguide.model import Model, NetworkError, build_network
from sciguide.writer import open_ensemble

NETWORK = {"boundary": ["open", "open"], "width": 4, "multipliers": [1, 2], "blocks": 1, "dropout": 0.0}


@pytest.fixture
def run(tmp_path, make_fields) -> Path:
    """A run's folder with a model of currents with land, its weights random."""
    ds, axes = open_fields(make_fields(steps=24))
    layout = Layout.from_dataset(ds, axes)
    fields = layout.to_tensor(ds)
    layout = Layout.from_dataset(ds, axes, np.isfinite(fields).all(0))
    mean, std = np.nanmean(fields, (0, 2, 3)), np.nanstd(fields, (0, 2, 3))
    normaliser = Normaliser(mean.astype(float), std.astype(float), np.zeros(2, bool), tuple(layout.names))
    grid = grid_of(layout.y, layout.x, "degrees_north", "degrees_east", layout.mask.all(0))
    prior = fit_prior("eof", normaliser.encode(torch.tensor(fields)).double(), torch.from_numpy(layout.mask))
    torch.manual_seed(0)
    network = build_network(2, NETWORK)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model = Model(
        denoiser=Denoiser(prior, network), network=NETWORK, normaliser=normaliser, layout=layout, grid=grid,
        sigma_min=0.01, sigma_max=5.0, error=NetworkError([0.01, 5.0], [[1e-4, 1e-4], [0.5, 0.5]]), effective=24.0,
        fingerprint="made up", equations=record_equations("nondivergence", {}, layout, grid, fields),
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    model.save(tmp_path / "run" / "model.pt")
    return tmp_path / "run"


@pytest.fixture
def observations(run) -> Path:
    """Four observations of u and v, away from land."""
    path = run / "obs.csv"
    rows = [
        f"{v},{lat},{lon},{value},0.05" for v, value in (("u", 0.4), ("v", -0.3)) for lat, lon in ((-32, 30), (-33, 26))
    ]
    path.write_text("variable,lat,lon,value,error\n" + "\n".join(rows) + "\n")
    return path


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("member_*.nc"))}


def test_a_model_is_what_was_saved(run):
    one, two = (Model.load(run / "model.pt") for _ in range(2))
    x = torch.randn(2, *one.shape, dtype=torch.float64)
    assert torch.equal(one.denoise(x, torch.ones(2).double()), two.denoise(x, torch.ones(2).double()))
    assert one.equations == two.equations and one.error == two.error
    assert one.constraints()[0].operator.formula == "div(u, v) = 0"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "pickle"])
def test_a_damaged_model_is_refused(run, damage):
    path = run / "model.pt"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    contents = {
        "truncated": bytes(data[:middle]), "empty": b"", "pickle": b"cos\nsystem\n(S'true'\ntR.",
        "flipped": bytes(data[: middle - 2000] + bytes(b ^ 255 for b in data[middle - 2000 : middle]) + data[middle:]),
    }  # fmt: skip
    path.write_bytes(contents[damage])
    with pytest.raises(InputError, match=str(path)):
        Model.load(path)


def test_an_ensemble_has_the_source_s_coordinates_units_and_land(run, make_fields):
    ds, source = load(run).generate(members=3, seed=5, steps=3), make_fields()
    assert dict(ds.sizes) == {"realization": 3, "lat": 6, "lon": 8}
    for name in ("lat", "lon"):
        np.testing.assert_array_equal(ds[name], source[name])
    assert ds.u.attrs["units"] == "m s-1" and (np.isnan(ds.u) == np.isnan(source.u[0].values)).all()
    again = sciguide.load(run).generate(members=3, seed=5, steps=3)
    assert ds.identical(again)
    other = load(run).generate(members=1, seed=6, steps=3)
    assert not np.allclose(ds.u[0], other.u[0], equal_nan=True)
    # the residual that is written is that of the fields that are written
    found = sciguide.residual(ds, "nondivergence")
    scale = Model.load(run / "model.pt").constraints()[0].operator.scale
    np.testing.assert_allclose(found.rms / scale, ds.pde_residual_nondivergence, rtol=1e-5)


def test_members_do_not_depend_on_what_else_is_drawn(run, tmp_path):
    options = Options(steps=3, batch=2)
    assert list(write_ensemble(run, tmp_path / "all", 5, 7, options)) == [0, 1, 2, 3, 4]
    for shard in (1, 0):
        list(write_ensemble(run, tmp_path / "parts", 5, 7, options, (shard, 2)))
    list(write_ensemble(run, tmp_path / "few", 2, 7, options))
    assert list(write_ensemble(run, tmp_path / "few", 5, 7, options)) == [2, 3, 4]
    assert digests(tmp_path / "all") == digests(tmp_path / "parts") == digests(tmp_path / "few")
    (tmp_path / "all" / "member_00003.nc").unlink()
    assert list(write_ensemble(run, tmp_path / "all", 5, 7, options)) == [3], "only what is missing is made again"
    assert digests(tmp_path / "all") == digests(tmp_path / "parts")
    with pytest.raises(InputError, match="another run"):
        list(write_ensemble(run, tmp_path / "all", 5, 8, options))


def test_killed_half_way_and_run_again(run, tmp_path):
    words = ["generate", str(run), "--members", "8", "--batch", "2", "--steps", "12", "--seed", "3", "--out"]
    main([*words, str(tmp_path / "whole")])
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "sciguide", *words, str(out)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not list(out.glob("member_*.nc")) and child.poll() is None:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(digests(out)) < 8, "it was killed half-way"
    assert main([*words, str(out)]) == 0
    assert digests(out) == digests(tmp_path / "whole")
    assert not list(out.rglob("*.part"))


def test_guided_members_carry_trace_and_residuals(run, observations, tmp_path, capsys):
    out = tmp_path / "guided"
    words = ["generate", str(run), "--members", "3", "--steps", "4", "--policy", "fixed", "--obs", str(observations)]
    assert main([*words, "--out", str(out)]) == 0
    assert "3 members drawn, 3 of 3 finished" in capsys.readouterr().out
    ds = open_ensemble(out)
    assert ds.policy_action.sizes["step"] == 5 and (ds.policy_action == 0).all(), "the formula"
    assert "log s2 observations" in ds.action.attrs["comment"]
    assert json.loads(ds.attrs["sciguide_config"])["policy"] == "fixed"
    assert (ds.pde_residual_floor_nondivergence > 0).all()
    near = ds.sel(lat=-32, lon=30, method="nearest")
    free = load(run).generate(members=3, steps=4).sel(lat=-32, lon=30, method="nearest")
    assert abs(near.u - 0.4).mean() < abs(free.u - 0.4).mean()


def test_hard_projection_and_preconditioned_gradient(run):
    plain, hard, gradient = (
        load(run).generate(members=2, steps=3, policy=policy, **options).pde_residual_nondivergence
        for policy, options in (("none", {}), ("fixed", {"hard": True}), ("fixed", {"iterations": 0, "scales": "told"}))
    )
    assert (hard < 2e-6 * plain).all()
    assert (gradient < plain).all() and (gradient > 100 * hard).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--members", "0"], "--members 0: at least 1"),
        (["--shard", "2/2"], "--shard 2/2"),
        (["--steps", "0"], "steps 0: at least 1"),
        (["--obs", "some.csv"], "--obs some.csv: the policy none does not look at it; add --policy fixed"),
        (["--policy", "fixed", "--obs", "nowhere.csv"], "nowhere.csv: no such file of observations"),
        (["--membres", "3"], "--membres"),
    ],
)
def test_mistakes_are_one_line(run, words, message, capsys):
    assert main(["generate", str(run), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_run_without_a_model(tmp_path, capsys):
    assert main(["generate", str(tmp_path)]) == 2
    assert "model.pt: no such model" in capsys.readouterr().err
