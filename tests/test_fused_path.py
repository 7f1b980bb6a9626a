"""Tuning, generating and evaluating take the generated kernels: residuals, rewards and updates, none by the reference.

A small untrained model of a plane flow with two equations, a nonlinear one and a linear one, through the commands as a
user gives them.
"""

import shutil
import warnings
from collections import Counter

import numpy as np
import pytest
import xarray as xr
import yaml

from sciguide.cli import main
from sciguide.kernels import backends
from sciguide.kernels.backends import calls, reset_calls, using

pytestmark = pytest.mark.skipif(bool(backends.missing("numba")), reason="no Numba: the reference computes on a CPU")
Y, X, TIMES = 8, 10, 34
EQUATIONS = {"navier_stokes_steady": {}, "nondivergence": {}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with a model and the config that tells its data."""
    from sciguide.datasets.module import GridData
    from sciguide.training.diffusion import DiffusionModule

    folder = tmp_path_factory.mktemp("run")
    source, config = folder / "flow.nc", folder / "config.yaml"
    flow().to_netcdf(source)
    told = {
        "source": str(source), "train": [0, 18], "validation": [18, 26], "test": [26, 34], "cache": str(folder / "c"),
    }  # fmt: skip
    data = GridData(**told)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = DiffusionModule(width=4, multipliers=[1, 2], equations=EQUATIONS)
        module.build(data)
    module.export(data).save(folder / "model.pt")
    config.write_text(yaml.safe_dump({"data": told}))
    return folder


def flow() -> xr.Dataset:
    """Rotational flow and the pressure that goes with it, roughly, with noise: both equations hold in part."""
    rng = np.random.default_rng(0)
    y, x = np.arange(Y)[:, None] * 1.0, np.arange(X) * 1.0
    a, b = rng.standard_normal((2, TIMES, 1, 1))
    u, v = -(1 + a / 4) * (y - 3.5 + b), (1 + a / 4) * (x - 4.5)
    p = (1 + a / 4) ** 2 * ((x - 4.5) ** 2 + (y - 3.5 + b) ** 2) / 2
    fields = [np.broadcast_to(f, (TIMES, Y, X)) + 0.01 * rng.standard_normal((TIMES, Y, X)) for f in (u, v, p)]
    units = {"u": "m s-1", "v": "m s-1", "p": "m2 s-2"}
    metres = {"units": "m"}
    coords = {
        "time": np.datetime64("2002-01-01", "ns") + np.arange(TIMES) * np.timedelta64(1, "D"),
        "y": ("y", y[:, 0], {**metres, "axis": "Y"}),
        "x": ("x", x, {**metres, "axis": "X"}),
    }
    named = zip(units, fields, strict=True)
    return xr.Dataset({n: (("time", "y", "x"), f.astype("f4"), {"units": units[n]}) for n, f in named}, coords)


def counted(*words: str) -> Counter:
    """The calls that a command made, by operation, all of them by Numba."""
    reset_calls()
    with using("auto"):
        assert main(list(words)) == 0
    found = calls()
    assert {name for name, _ in found} == {"numba"}, found
    return Counter({operation: n for (_, operation), n in found.items()})


def test_tune_takes_the_kernels(run, capsys):
    found = counted("tune", str(run), "--trajectories=64", "--judged=2", "--members=2", "--steps=2")
    assert "equations: computed by kernels generated for numba" in capsys.readouterr().out
    assert found["energy"] > 0, "the reward"
    assert found["residual"] > 0 and found["jvp"] > 0 and found["vjp"] > 0, "the kriging step and what it sees"
    assert found["update"] == found["gradient"] == 0


def test_tuning_down_the_gradient_takes_the_fused_update(run):
    other = run.with_name("down")
    shutil.copytree(run, other, ignore=shutil.ignore_patterns("policies"))
    words = ("--trajectories=64", "--judged=2", "--members=2", "--steps=2", "--direction=gradient")
    found = counted("tune", str(other), *words)
    assert found["energy"] > 0, "the reward"
    assert found["update"] > found["energy_and_gradient"] > 0, "the gradient step and what it sees"
    assert found["gradient"] == 0, "energy and gradient are one launch"


def test_generate_takes_the_kernels(run, tmp_path, capsys):
    words = ("generate", str(run), "--members=2", "--batch=2", "--steps=4")
    found = counted(*words, "--policy=fixed", f"--out={tmp_path / 'a'}")
    assert "equations: computed by kernels generated for numba" in capsys.readouterr().out
    # five decisions are looked at and each step solves: a J v and a J^T w for each of its iterations
    assert min(found["residual"], found["jvp"], found["vjp"]) > 10 and found["gradient"] == found["update"] == 0
    assert found["energy"] >= 2, "what is written of each equation, and of Newton's steps"
    found = counted(*words, "--policy=learned", f"--out={tmp_path / 'b'}")
    assert found["jvp"] > 0
    found = counted(*words, "--policy=none", f"--out={tmp_path / 'c'}")
    assert found == {"energy": 2}


def test_equations_go_down_the_gradient_on_request(run, tmp_path):
    words = ("generate", str(run), "--members=2", "--batch=2", "--steps=4", "--policy=fixed", "--direction=gradient")
    found = counted(*words, f"--out={tmp_path / 'a'}")
    assert found["jvp"] == found["vjp"] == found["energy_and_gradient"] == 0, "the formula does not look"
    # five decisions, of which each step acts at the last two, each of at most 21 launches
    assert 4 <= found["update"] <= 84 and found["energy"] == 2 and found["gradient"] == 0
    assert main([*words[:-1], "--direction=down"]) == 2


def test_guided_members_obey_better(run, tmp_path):
    from sciguide.generate import load

    free, guided, down = (
        load(run).generate(members=3, steps=4, **options)
        for options in ({}, {"policy": "fixed"}, {"policy": "fixed", "direction": "gradient"})
    )
    for name in EQUATIONS:
        for ds in (guided, down):
            assert (ds[f"pde_residual_{name}"] < 0.6 * free[f"pde_residual_{name}"]).all(), name


def test_evaluate_takes_the_kernels(run, tmp_path, capsys):
    out = tmp_path / "e"
    assert main(["generate", str(run), "--members=3", "--steps=2", f"--out={out}"]) == 0
    found = counted("evaluate", str(out), f"--run={run}", "--resamples=2")
    assert "equations: computed by kernels generated for numba" in capsys.readouterr().out
    assert found["energy"] > 2 and found["gradient"] == 0


def test_residuals_of_anyone_s_data_take_the_kernels():
    from sciguide import residual

    reset_calls()
    with using("auto"):
        residual(flow(), "navier_stokes_steady")
    assert {name for name, _ in calls()} == {"numba"} and calls()["numba", "residual"] > 0


def test_debug_counts_the_calls(run, tmp_path, capsys):
    words = ["generate", str(run), "--members=1", "--batch=1", "--steps=2", f"--out={tmp_path}", "--debug"]
    reset_calls()
    with using("reference"):
        assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == "kernel calls: reference energy 2"
    assert "equations: computed by the PyTorch reference" in captured.out
