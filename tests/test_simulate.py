"""Gaussian fields and what is linear in them: spectra, an independent solver, the exact posterior."""

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from findiff import Diff
from scipy.sparse.linalg import splu

from sciguide.errors import InputError
from sciguide.kernels.backends import using
from sciguide.simulate import NAMES, gaussian_field, get, helmholtz, poisson, samples

PAIRS = [(poisson, "phi", 0.0), (helmholtz, "psi", 1.0)]


@pytest.fixture(autouse=True)
def nothing_to_compile():
    with using("reference"):
        yield


def stacked(fields, operator) -> torch.Tensor:
    """Channels as the operator has them."""
    return torch.from_numpy(np.stack([fields[name] for name in operator.fields], 1))


@pytest.mark.parametrize("n", [4, 9, 33, 64])
@pytest.mark.parametrize("pair, solution, k2", PAIRS)
def test_solver_against_sparse_lu(pair, solution, k2, n):
    """The five-point matrix, built from scratch."""
    drawn = pair.draw(n, 0, 1)
    f, u = drawn["f"][0], drawn[solution][0]
    second = sparse.diags([1.0, -2.0, 1.0], [-1, 0, 1], shape=(n - 2, n - 2)) * (n - 1) ** 2
    one = sparse.identity(n - 2)
    matrix = sparse.kron(second, one) + sparse.kron(one, second) + k2 * sparse.kron(one, one)
    inside = splu(matrix.tocsc()).solve(f[1:-1, 1:-1].ravel()).reshape(n - 2, n - 2)
    assert np.allclose(u[1:-1, 1:-1], inside, rtol=0, atol=1e-11 * np.abs(inside).max())
    assert not u[[0, -1]].any() and not u[:, [0, -1]].any()


@pytest.mark.parametrize("pair, solution, k2", PAIRS)
def test_solver_and_residual_share_one_stencil(pair, solution, k2):
    sample, op, h = pair.draw(64, 3, 0), pair.operator(64), 1 / 63
    u = stacked(sample, op)
    scale = op.scale_square(u).sqrt()
    assert op.energy(u).sqrt() / scale < 1e-12
    by_findiff = (Diff(0, h, acc=2) ** 2 + Diff(1, h, acc=2) ** 2)(sample[solution][0]) + k2 * sample[solution][0]
    assert np.allclose(by_findiff[1:-1, 1:-1], sample["f"][0, 1:-1, 1:-1], atol=1e-10)
    rounded = op.mean_square(op.residual(u.float().double())).sqrt() / scale
    assert 1e-6 < rounded < 2e-5, "what float32 leaves of an exact solution"
    wrong = stacked(sample | {"f": pair.draw(64, 3, 1)["f"]}, op)
    assert op.mean_square(op.residual(wrong)).sqrt() / scale > 0.5


@pytest.mark.parametrize("pair, solution, k2", PAIRS)
def test_solution_converges_to_the_continuous_one(pair, solution, k2):
    errors = []
    for n in (17, 33, 65):
        x = pair.coordinates(n)
        exact = np.sin(np.pi * x)[:, None] * np.sin(2 * np.pi * x)
        errors.append(np.abs(pair.solve((k2 - 5 * np.pi**2) * exact) - exact).max())
    assert np.allclose(np.log2(np.divide(errors[:-1], errors[1:])), 2, atol=0.1)


@pytest.mark.parametrize("pair", [poisson, helmholtz])
def test_solution_operator_is_symmetric_and_root_has_its_transpose(pair):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 9, 9))
    assert np.allclose((pair.solve(a) * b).sum(), (a * pair.solve(b)).sum())
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


@pytest.mark.parametrize("name", NAMES)
def test_every_set_has_what_a_file_needs(name):
    """Nothing is drawn."""
    of, n = get(name), 16
    axes, static = of.axes(n), of.static(n)
    shape = tuple(len(values) for values, _ in axes.values())
    assert of.TITLE and of.GROUP >= 1 and all(np.all(np.diff(values) > 0) for values, _ in axes.values())
    assert all(values.shape == shape and {"long_name", "units"} <= set(attrs) for values, attrs in static.values())
    assert all({"long_name", "units"} <= set(attrs) for attrs in of.VARIABLES.values())
    operator = of.operator(n)
    assert operator is None or set(operator.fields) <= {*of.VARIABLES, *static} and operator.grid.shape == shape
    assert all(isinstance(value, str | int | float | list) for value in of.attributes().values())


def test_samples_are_the_groups_in_a_row():
    found = samples("helmholtz", 16, 5, 3, first=2)
    assert found["psi"].shape == (3, 16, 16)
    assert np.array_equal(found["psi"], np.concatenate([helmholtz.draw(16, 5, g)["psi"] for g in (2, 3, 4)]))


def test_sample_depends_on_seed_and_number_only():
    a = poisson.draw(16, 5, 7)
    poisson.draw(16, 5, 6)
    assert all(np.array_equal(a[k], poisson.draw(16, 5, 7)[k]) for k in a)
    assert not np.array_equal(a["f"], poisson.draw(16, 5, 8)["f"])
    assert not np.array_equal(a["f"], poisson.draw(16, 7, 5)["f"])


@pytest.mark.parametrize("pair, solution, observed", [(p, s, v) for p, s, _ in PAIRS for v in ("f", s)])
@pytest.mark.parametrize("errors", [0.0, 0.05])
def test_exact_posterior_against_dense_algebra(pair, solution, observed, errors):
    n, m, variable = 8, 7, observed
    rng = np.random.default_rng(1)
    truth = {name: field[0] for name, field in pair.draw(n, 0, 0).items()}
    points = np.stack(np.unravel_index(rng.choice(n * n, m, replace=False), (n, n)), 1)
    points[0] = 3, 4
    size = np.std(truth[variable])
    s = errors * size
    values = truth[variable][tuple(points.T)] + s * rng.standard_normal(m)
    posterior = pair.exact_posterior(n, variable, points, values, s)

    eye = np.eye(n * n).reshape(-1, n, n)
    A = gaussian_field.cosine_field(eye, 2.0, 3.0).reshape(n * n, n * n).T
    G = pair.solve(eye).reshape(n * n, n * n).T
    joint = np.concatenate([A, G @ A])
    C = joint @ joint.T
    rows = np.ravel_multi_index(points.T, (n, n)) + (n * n if variable == solution else 0)
    S = C[np.ix_(rows, rows)]
    S = S + (s**2 + 1e-12 * S.trace() / m) * np.eye(m)
    gain = C[:, rows] @ np.linalg.inv(S)
    mean = gain @ values
    covariance = C - gain @ C[rows]
    found = np.concatenate([posterior.mean["f"].ravel(), posterior.mean[solution].ravel()])
    for part in (slice(0, n * n), slice(n * n, None)):
        assert np.allclose(found[part], mean[part], rtol=0, atol=1e-6 * np.abs(mean[part]).max())

    count = 4000
    draws = posterior.draw(rng, count)
    x = np.concatenate([draws["f"].reshape(count, -1), draws[solution].reshape(count, -1)], 1) - found
    sd = np.sqrt(np.diag(covariance).clip(0)) + 1e-6 * np.sqrt(np.diag(C).max())
    assert np.abs(x.mean(0) / sd).max() < 5 / np.sqrt(count) + 0.01
    inside = np.diag(covariance) > 1e-6 * np.diag(C).max()
    assert np.allclose(x.std(0)[inside], sd[inside], rtol=0.1)
    if errors == 0:
        both = (draws[variable][0], posterior.mean[variable])
        assert all(np.allclose(o[tuple(points.T)], values, atol=1e-4 * size) for o in both)


def test_posterior_mistakes_are_named():
    with pytest.raises(InputError, match="observe one of f, phi"):
        poisson.exact_posterior(8, "psi", [[0, 0]], [0.0])
    with pytest.raises(InputError, match="within the 8 x 8 grid"):
        poisson.exact_posterior(8, "f", [[0, 8]], [0.0])


@pytest.mark.slow
@pytest.mark.parametrize("pair, solution, best", [(poisson, "phi", (1.44, 5.2)), (helmholtz, "psi", (1.73, 5.7))])
def test_published_floor_of_sparse_reconstruction(pair, solution, best):
    """128 x 128, 500 noise-free points: the errors in percent, forward and inverse, and calibrated draws. Twenty draws
    take a minute."""
    rng = np.random.default_rng(0)
    forward, inverse, ratio = [], [], []
    for i in range(20):
        sample = {name: field[0] for name, field in pair.draw(128, 1, i).items()}
        points = np.stack(np.unravel_index(rng.choice(128 * 128, 500, replace=False), (128, 128)), 1)
        for variable, other, errors in (("f", solution, forward), (solution, "f", inverse)):
            posterior = pair.exact_posterior(128, variable, points, sample[variable][tuple(points.T)])
            wrong = posterior.mean[other] - sample[other]
            errors.append(100 * np.linalg.norm(wrong) / np.linalg.norm(sample[other]))
            spread = np.sqrt(posterior.draw(rng, 16)[other].var(0, ddof=1).mean() * 17 / 16)
            ratio.append(spread / np.sqrt((wrong**2).mean()))
    print(f"forward {np.mean(forward):.2f} %, inverse {np.mean(inverse):.2f} %, spread over error {np.mean(ratio):.2f}")
    assert (np.mean(forward), np.mean(inverse)) == pytest.approx(best, rel=0.2)
    assert np.exp(np.mean(np.log(ratio))) == pytest.approx(1, abs=0.1)
