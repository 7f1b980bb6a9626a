"""Generators: their spectra, an independent solver, the exact posterior, the file that `data make` writes."""

import hashlib
import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import scipy.sparse as sparse
import torch
import xarray as xr
from findiff import Diff
from scipy.sparse.linalg import splu

from sciguide.cli import data_make
from sciguide.cli.data_make import make
from sciguide.errors import InputError
from sciguide.residuals import residual_of
from sciguide.simulate import gaussian_field, poisson


def stacked(sample) -> torch.Tensor:
    """Channels as the operator has them."""
    return torch.from_numpy(np.stack([sample["phi"], sample["f"]]))[None]


@pytest.mark.parametrize("n", [4, 9, 33, 64])
def test_solver_against_sparse_lu(n):
    """The five-point matrix, built from scratch."""
    f = poisson.draw(n, 0, 1)["f"]
    second = sparse.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(n - 2, n - 2)) * (n - 1) ** 2
    one = sparse.identity(n - 2)
    matrix = sparse.kron(second, one) + sparse.kron(one, second)
    inside = splu(matrix.tocsc()).solve(f[1:-1, 1:-1].ravel()).reshape(n - 2, n - 2)
    phi = poisson.solve(f)
    assert np.allclose(phi[1:-1, 1:-1], inside, rtol=0, atol=1e-11 * np.abs(inside).max())
    assert not phi[[0, -1]].any() and not phi[:, [0, -1]].any()


def test_solver_and_residual_share_one_stencil():
    sample = poisson.draw(64, 3, 0)
    op, u = poisson.operator(64), stacked(sample)
    scale = op.scale_square(u).sqrt()
    assert op.energy(u).sqrt() / scale < 1e-12
    h = 1 / 63
    by_findiff = (Diff(0, h, acc=2) ** 2 + Diff(1, h, acc=2) ** 2)(sample["phi"])
    assert np.allclose(by_findiff[1:-1, 1:-1], sample["f"][1:-1, 1:-1], atol=1e-10)
    rounded = op.mean_square(op.residual(u.float().double())).sqrt() / scale
    assert 1e-6 < rounded < 2e-5, "what float32 leaves of an exact solution"
    wrong = torch.cat([u[:, :1], stacked(poisson.draw(64, 3, 1))[:, 1:]], 1)
    assert op.mean_square(op.residual(wrong)).sqrt() / scale > 0.5


def test_solution_converges_to_the_continuous_one():
    errors = []
    for n in (17, 33, 65):
        x = poisson.coordinates(n)
        exact = np.sin(np.pi * x)[:, None] * np.sin(2 * np.pi * x)
        errors.append(np.abs(poisson.solve(-5 * np.pi**2 * exact) - exact).max())
    assert np.allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.1)


def test_solution_operator_is_symmetric_and_root_has_its_transpose():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 9, 9))
    assert np.allclose((poisson.solve(a) * b).sum(), (a * poisson.solve(b)).sum())
    root, transpose = poisson.square_root()
    assert np.allclose((root(a) * b).sum(), (a * transpose(b)).sum())


def test_cosine_field_has_its_covariance():
    """C = A A^T is diagonal in cosines; the formula of the coefficients, one by one."""
    n, alpha, tau = 6, 2.0, 3.0
    eye = np.eye(n * n).reshape(-1, n, n)
    root = gaussian_field.cosine_field(eye, alpha, tau).reshape(n * n, n * n)
    j = (np.arange(n) + 0.5) / n
    expected = np.zeros((n * n, n * n))
    for k in range(n):
        for m in range(n):
            if k or m:
                e = (
                    np.cos(np.pi * k * j)[:, None]
                    * np.cos(np.pi * m * j)
                    * np.sqrt((2 if k else 1) * (2 if m else 1))
                    / n
                )
                size = n * tau ** (alpha - 1) * (np.pi**2 * (k**2 + m**2) + tau**2) ** (-alpha / 2)
                expected += size**2 * np.outer(e, e)
    assert np.allclose(root.T @ root, expected, atol=1e-12)


def test_periodic_field_has_its_variance():
    noise = np.random.default_rng(0).standard_normal((400, 2, 32, 32)) / np.sqrt(2)
    w = gaussian_field.periodic_field(np.sqrt(2) * noise, 2.5, 7.0)
    variance = (gaussian_field.periodic_amplitudes(32, 2.5, 7.0) ** 2).sum()
    assert w.std() ** 2 == pytest.approx(variance, rel=0.05)
    assert np.abs(w.mean((1, 2))).max() < 1e-14
    assert np.allclose(w.var((0, 2)), variance, rtol=0.3), "the same at every point"


def test_sample_depends_on_seed_and_number_only():
    a = poisson.draw(16, 5, 7)
    poisson.draw(16, 5, 6)
    assert all(np.array_equal(a[k], poisson.draw(16, 5, 7)[k]) for k in a)
    assert not np.array_equal(a["f"], poisson.draw(16, 5, 8)["f"])
    assert not np.array_equal(a["f"], poisson.draw(16, 7, 5)["f"])


@pytest.mark.parametrize("variable", ["f", "phi"])
@pytest.mark.parametrize("errors", [0.0, 0.05])
def test_exact_posterior_against_dense_algebra(variable, errors):
    n, m = 8, 7
    rng = np.random.default_rng(1)
    truth = poisson.draw(n, 0, 0)
    points = np.stack(np.unravel_index(rng.choice(n * n, m, replace=False), (n, n)), 1)
    points[0] = 3, 4
    size = np.std(truth[variable])
    s = errors * size
    values = truth[variable][tuple(points.T)] + s * rng.standard_normal(m)
    posterior = poisson.exact_posterior(n, variable, points, values, s)

    eye = np.eye(n * n).reshape(-1, n, n)
    A = gaussian_field.cosine_field(eye, 2.0, 3.0).reshape(n * n, n * n).T
    G = poisson.solve(eye).reshape(n * n, n * n).T
    joint = np.concatenate([A, G @ A])
    C = joint @ joint.T
    rows = np.ravel_multi_index(points.T, (n, n)) + (n * n if variable == "phi" else 0)
    S = C[np.ix_(rows, rows)]
    S = S + (s**2 + 1e-12 * S.trace() / m) * np.eye(m)
    gain = C[:, rows] @ np.linalg.inv(S)
    mean = gain @ values
    covariance = C - gain @ C[rows]
    found = np.concatenate([posterior.mean["f"].ravel(), posterior.mean["phi"].ravel()])
    for part in (slice(0, n * n), slice(n * n, None)):
        assert np.allclose(found[part], mean[part], rtol=0, atol=1e-6 * np.abs(mean[part]).max())

    count = 4000
    draws = posterior.draw(rng, count)
    x = np.concatenate([draws["f"].reshape(count, -1), draws["phi"].reshape(count, -1)], 1) - found
    sd = np.sqrt(np.diag(covariance).clip(0)) + 1e-6 * np.sqrt(np.diag(C).max())
    assert np.abs(x.mean(0) / sd).max() < 5 / np.sqrt(count) + 0.01
    inside = np.diag(covariance) > 1e-6 * np.diag(C).max()
    assert np.allclose(x.std(0)[inside], sd[inside], rtol=0.1)
    if errors == 0:
        observed = (draws[variable][0], posterior.mean[variable])
        assert all(np.allclose(o[tuple(points.T)], values, atol=1e-4 * size) for o in observed)


def test_posterior_mistakes_are_named():
    with pytest.raises(InputError, match="observe one of f, phi"):
        poisson.exact_posterior(8, "psi", [[0, 0]], [0.0])
    with pytest.raises(InputError, match="within the 8 x 8 grid"):
        poisson.exact_posterior(8, "f", [[0, 8]], [0.0])


@pytest.mark.slow
def test_published_floor_of_sparse_reconstruction():
    """128 x 128, 500 noise-free points: 1.44 % forward, 5.2 % inverse, calibrated draws. Twenty draws take a minute."""
    rng = np.random.default_rng(0)
    forward, inverse, ratio = [], [], []
    for i in range(20):
        sample = poisson.draw(128, 1, i)
        points = np.stack(np.unravel_index(rng.choice(128 * 128, 500, replace=False), (128, 128)), 1)
        for variable, other, errors in (("f", "phi", forward), ("phi", "f", inverse)):
            posterior = poisson.exact_posterior(128, variable, points, sample[variable][tuple(points.T)])
            wrong = posterior.mean[other] - sample[other]
            errors.append(100 * np.linalg.norm(wrong) / np.linalg.norm(sample[other]))
            spread = np.sqrt(posterior.draw(rng, 16)[other].var(0, ddof=1).mean() * 17 / 16)
            ratio.append(spread / np.sqrt((wrong**2).mean()))
    print(f"forward {np.mean(forward):.2f} %, inverse {np.mean(inverse):.2f} %, spread over error {np.mean(ratio):.2f}")
    assert np.mean(forward) == pytest.approx(1.44, rel=0.2) and np.mean(inverse) == pytest.approx(5.2, rel=0.2)
    assert np.exp(np.mean(np.log(ratio))) == pytest.approx(1, abs=0.1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "poisson.nc"
    make("poisson", str(path), size=24, samples=40, seed=3)
    return path


def test_file_holds_the_samples(made):
    with xr.open_dataset(made) as ds:
        assert dict(ds.sizes) == {"sample": 40, "y": 24, "x": 24}
        assert ds["f"].dtype == ds["phi"].dtype == np.float32 and ds["x"].attrs["units"] == "1"
        for i in (0, 31, 32, 39):
            for name, field in poisson.draw(24, 3, i).items():
                assert np.array_equal(ds[name][i], field.astype(np.float32))
        out = residual_of(ds, "poisson")
    R = out["relative_rms"].values ** 2
    assert ds.attrs["R_data"] == max(np.quantile(R, 0.9), 1e-6)
    assert ds.attrs["R_rms"] == pytest.approx(np.sqrt(R.mean()), rel=1e-6)
    assert ds.attrs["seed"] == 3 and ds.attrs["Conventions"] == "CF-1.11"
    with netCDF4.Dataset(made) as file:
        assert file["f"].chunking() == [1, 24, 24] and file["phi"].filters()["complevel"] == 1
        assert file["f"].filters()["shuffle"] and file["f"].filters()["fletcher32"]


def test_file_repeats_to_the_byte_and_a_larger_set_begins_with_a_smaller_one(made, tmp_path):
    again, larger = tmp_path / "again.nc", tmp_path / "larger.nc"
    make("poisson", str(again), size=24, samples=40, seed=3)
    make("poisson", str(larger), size=24, samples=50, seed=3)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(made.read_bytes()).digest()
    with xr.open_dataset(made) as a, xr.open_dataset(larger) as b:
        assert np.array_equal(a["f"], b["f"][:40])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.nc", "larger.nc"]


def test_file_obeys_cf(made):
    command = [str(Path(sys.executable).with_name("compliance-checker")), "-t", "cf:1.11", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "All tests passed!" in done.stdout, done.stdout + done.stderr


def test_interrupted_make_leaves_nothing(tmp_path, monkeypatch):
    out = tmp_path / "a.nc"
    make("poisson", str(out), size=8, samples=2)
    before = out.read_bytes()

    def broken(n, seed, index):
        raise KeyboardInterrupt

    monkeypatch.setattr(poisson, "draw", broken)
    with pytest.raises(KeyboardInterrupt):
        make("poisson", str(out), size=8, samples=4)
    assert out.read_bytes() == before and list(tmp_path.iterdir()) == [out]


def test_progress_bar_appears_late(monkeypatch, capsys):
    steps = [(i,) for i in range(5)]
    assert list(data_make.with_progress(iter(steps), 5, "quick")) == steps
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(data_make, "PATIENCE", -1.0)
    assert list(data_make.with_progress(iter(steps), 5, "slow")) == steps


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"name": "poison"}, "did you mean 'poisson'"),
        ({"size": 3}, "at least 4"),
        ({"samples": 0}, "at least 4, 1"),
        ({"out": "no/such/folder/a.nc"}, "folder that exists"),
    ],
)
def test_make_mistakes_are_named(arguments, says, tmp_path):
    with pytest.raises(InputError, match=says):
        make(**{"name": "poisson", "out": str(tmp_path / "a.nc"), "size": 8, "samples": 2} | arguments)


def test_help_needs_no_torch():
    heavy = ("torch", "xarray", "sympy", "numpy")
    code = f"import sys, sciguide.cli.data_make; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
