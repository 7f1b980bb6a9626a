"""The kriging step against the conditional Gaussian in closed form."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_prior import PRIORS
from test_sampler import SIGMA_MIN, power_law, spectral

from sciguide.errors import InputError
from sciguide.kriging import Kriging
from sciguide.likelihood import observation_scales
from sciguide.observations import Observations, locate, read_observations
from sciguide.sampler import karras_sigmas, sample

N, ERROR = 16, 0.3
LAYOUT = SimpleNamespace(
    mask=np.ones((1, N, N), bool), y=np.arange(N, dtype=float), x=np.arange(N, dtype=float), y_name="lat", x_name="lon",
    names=["u"],
)  # fmt: skip
NORMALISER = SimpleNamespace(mean=np.zeros(1), std=np.ones(1), log=np.zeros(1, bool))


class Problem:
    """`m` points of a Gaussian field with power-law spectrum, and its exact posterior."""

    def __init__(self, m: int = 40, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        S = power_law(N, 1.5)
        self.prior = spectral(S / S.mean())
        d = N * N
        self.C = self.prior.scale_modes(torch.eye(d).double().reshape(d, 1, N, N), self.prior.variances).reshape(d, d)
        self.truth = self.prior.sample(torch.from_numpy(rng.standard_normal((1, 1, N, N))))
        y, x = rng.uniform(0, N - 1, (2, m))
        rows = locate(LAYOUT, NORMALISER, np.zeros(m, int), y, x, np.zeros(m), np.full(m, ERROR))
        value = ERROR * rows.predict(self.truth)[0] + ERROR * torch.from_numpy(rng.standard_normal(m))
        self.observations = locate(LAYOUT, NORMALISER, np.zeros(m, int), y, x, value.numpy(), np.full(m, ERROR))
        self.A = ERROR * rows.predict(torch.eye(d).double().reshape(d, 1, N, N)).T

    def posterior(self, A: torch.Tensor, y: torch.Tensor, R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (d,) and covariance (d, d) given y = A x + error with variances R."""
        gain = self.C @ A.T @ torch.linalg.inv(A @ self.C @ A.T + torch.diag(R))
        return gain @ y, self.C - gain @ A @ self.C


@pytest.mark.parametrize("sigma", [0.03, 0.7, 20.0])
def test_one_step_is_the_conditional_mean(sigma):
    problem = Problem()
    m, d = len(problem.observations), N * N
    x = problem.truth + sigma * torch.from_numpy(np.random.default_rng(1).standard_normal((1, 1, N, N)))
    both = torch.cat([problem.A, torch.eye(d).double()])
    R = torch.tensor([ERROR**2] * m + [sigma**2] * d, dtype=torch.float64)
    mean, _ = problem.posterior(both, torch.cat([problem.observations.value, x.flatten()]), R)
    step = Kriging(problem.prior, problem.observations, "told").correct(problem.prior.filter(x, sigma), sigma)
    torch.testing.assert_close(step.flatten(), mean, atol=1e-10, rtol=0)


def chain(problem: Problem, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of the guided chain's members: it is affine in its noise."""
    prior, kriging = problem.prior, Kriging(problem.prior, problem.observations, "told")
    sigmas = karras_sigmas(steps, SIGMA_MIN, 3 * math.sqrt(prior.largest))
    d = N * N
    columns = torch.cat([torch.zeros(1, d), torch.eye(d)]).double().reshape(-1, 1, N, N)

    def guide(i, x0, sigma):
        return (kriging.correct(x0, sigma) if i < steps else x0), None

    *_, last = sample(prior.filter, prior, columns, sigmas, guide, kriging.start(columns, sigmas[0]))
    mean = last.guided[0].flatten()
    T = (last.guided[1:].flatten(1) - mean).T
    return mean, T @ T.T


def test_whole_chain_approaches_the_posterior():
    problem = Problem()
    variance = torch.tensor([ERROR**2] * len(problem.observations), dtype=torch.float64)
    mean, covariance = problem.posterior(problem.A, problem.observations.value, variance)
    std, bias = covariance.diagonal().sqrt(), {}
    for steps in (20, 40):
        chain_mean, chain_covariance = chain(problem, steps)
        bias[steps] = float((((chain_mean - mean) / std) ** 2).mean().sqrt())
        spread = float((chain_covariance.diagonal() / std**2).mean().sqrt())
        assert 0.97 < spread < 1.06
    assert bias[20] < 0.12
    assert bias[40] < bias[20]


def test_transpose_and_interpolation():
    problem = Problem()
    rng = np.random.default_rng(2)
    v, w = torch.from_numpy(rng.standard_normal((3, 1, N, N))), torch.from_numpy(rng.standard_normal((3, 40)))
    left = (problem.observations.predict(v) * w).sum(1)
    right = (problem.observations.scatter(w, (1, N, N)) * v).flatten(1).sum(1)
    torch.testing.assert_close(left, right, atol=1e-12, rtol=1e-12)
    plane = torch.arange(N).double()[:, None] + 2 * torch.arange(N).double()
    rows = locate(
        LAYOUT, NORMALISER, np.zeros(2, int), np.array([3.25, 15.0]), np.array([7.5, 15.0]), np.zeros(2), np.ones(2)
    )
    assert rows.predict(plane[None, None])[0].tolist() == pytest.approx([3.25 + 15, 45])


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_likelihood_finds_the_scale_of_the_errors(factor):
    rng = np.random.default_rng(0)
    eigenvalues = torch.logspace(-2, 2, 300).double()
    spread = (eigenvalues + factor**2).sqrt()
    rho = spread * torch.from_numpy(rng.standard_normal((64, 300)))
    a, b = observation_scales(eigenvalues, rho)
    assert float(b.log().mean().exp()) == pytest.approx(factor**2, rel=0.15)
    assert float(a.log().mean().exp()) == pytest.approx(1, rel=0.15)


def test_scales_and_metric_multiply_the_formula():
    problem = Problem()
    kriging = Kriging(problem.prior, problem.observations, "told")
    x0 = problem.prior.filter(problem.truth + 0.5, 0.5).expand(3, -1, -1, -1)
    plain = kriging.correct(x0, 0.5)
    zero = kriging.correct(x0, 0.5, torch.zeros(3, 1).double(), torch.zeros(3, 1).double())
    assert torch.equal(plain, zero)
    trust = kriging.correct(x0, 0.5, torch.tensor([[-6.0], [0.0], [6.0]]).double())
    distance = problem.observations.innovation(trust).square().mean(1)
    assert distance[0] < distance[1] < distance[2]
    # a metric scaled by exp(c) everywhere is the formula with s^2 divided by exp(c)
    tilted = kriging.correct(x0, 0.5, None, torch.full((3, 1), 0.8).double())
    told = kriging.correct(x0, 0.5, torch.full((3, 1), -0.8).double())
    torch.testing.assert_close(tilted, told, atol=1e-10, rtol=0)
    x0 = x0.clone()
    x0[1] = torch.inf
    failed = kriging.correct(x0, 0.5, None, torch.full((3, 1), 0.8).double())
    assert not failed[1].isfinite().any() and torch.equal(failed[::2], tilted[::2]), (
        "the others' matrices are their own"
    )


def test_above_1024_rows_the_common_factor_gives_the_same_step():
    problem = Problem(m=1100)
    kriging = Kriging(problem.prior, problem.observations, "told")
    x0 = problem.prior.filter(problem.truth + 0.5, 0.5)
    assert kriging.system(0.5).every == 2
    M = problem.prior.scale_modes(
        torch.eye(N * N).double().reshape(-1, 1, N, N), problem.prior.error_variances(0.5)
    ).reshape(N * N, N * N)
    A = problem.A / ERROR
    weights = torch.linalg.solve(A @ M @ A.T + torch.eye(1100).double(), problem.observations.innovation(x0)[0])
    told = kriging.correct(x0, 0.5)
    torch.testing.assert_close(told.flatten(), x0.flatten() - M @ A.T @ weights, atol=1e-8, rtol=0)
    # innovations as they should be leave the scales near those told
    noise = torch.from_numpy(np.random.default_rng(5).standard_normal((3, 1, N, N)))
    x0 = problem.prior.filter(problem.truth + 0.5 * noise, 0.5)
    by_likelihood = Kriging(problem.prior, problem.observations, "ml").correct(x0, 0.5)
    moved = kriging.correct(x0, 0.5) - x0
    assert (by_likelihood - x0 - moved).square().mean().sqrt() < 0.2 * moved.square().mean().sqrt()


def test_file_of_observations(tmp_path):
    path = tmp_path / "obs.csv"
    path.write_text("variable,lat,lon,value,error\nu,3.5,2,0.7,0.1\n")
    observations = read_observations(path, LAYOUT, NORMALISER)
    assert len(observations) == 1 and float(observations.value) == 0.7
    cases = {
        "variable,lat,lon,value\nu,3,2,0.7\n": "no column or no row of error",
        "variable,lat,lon,value,error\nw,3,2,0.7,0.1\n": "line 2: no variable `w`; there are u",
        "variable,lat,lon,value,error\nu,3,99,0.7,0.1\n": "lon = 99 is outside 0 to 15",
        "variable,lat,lon,value,error\nu,3,x,0.7,0.1\n": "line 2",
        "variable,lat,lon,value,error\nu,3,2,0.7,0\n": "errors positive",
    }
    for text, message in cases.items():
        path.write_text(text)
        with pytest.raises(InputError, match=message) as caught:
            read_observations(path, LAYOUT, NORMALISER)
        assert str(path) in str(caught.value)
    land = SimpleNamespace(**{**vars(LAYOUT), "mask": np.zeros((1, N, N), bool)})
    with pytest.raises(InputError, match="beside land"):
        locate(land, NORMALISER, np.zeros(1, int), np.ones(1), np.ones(1), np.ones(1), np.ones(1))


@pytest.mark.parametrize("name", PRIORS)
def test_rows_modes_give_the_same_matrix_as_columns(name):
    prior = PRIORS[name]
    index = prior.mask.flatten().nonzero()[::5]
    m = len(index)
    weight = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(m, 4)
    value, error = torch.zeros(m).double(), torch.linspace(0.1, 1, m).double()
    observations = Observations(index.expand(m, 4), weight, value, error, torch.zeros(m, dtype=torch.long))
    direct = Kriging(prior, observations, covariance=prior.apply_M)
    torch.testing.assert_close(
        Kriging(prior, observations).system(0.3).matrix, direct.system(0.3).matrix, atol=1e-12, rtol=0
    )
