"""The kriging step for an equation against dense linear algebra, also beside observations."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sciguide.constraints import EquationOnModel, EquationRecord, on_levels
from sciguide.covariance import fit_prior
from sciguide.datasets.normaliser import Normaliser
from sciguide.equation_step import EquationStep
from sciguide.equations import Field, get
from sciguide.equations.operator import Operator
from sciguide.grid import Grid
from sciguide.kriging import Kriging
from sciguide.likelihood import equation_scales
from sciguide.model import NetworkError
from sciguide.observations import Observations
from sciguide.prior import Prior
from sciguide.simulate import poisson, samples
from sciguide.solver import conjugate_gradients

N, SAMPLES = 10, 40
SHAPE = (2, N, N)
D = 2 * N * N


@cache
def few_samples() -> tuple[np.ndarray, Normaliser, Prior]:
    """Physical pairs, their normaliser, and the prior fitted to them."""
    pairs = samples("poisson", N, 0, SAMPLES)
    fields = np.stack([pairs["f"], pairs["phi"]], 1)
    normaliser = Normaliser(fields.mean((0, 2, 3)), fields.std((0, 2, 3)), np.zeros(2, bool), ("f", "phi"))
    return fields, normaliser, fit_prior("eof", normaliser.encode(torch.tensor(fields)), torch.ones(SHAPE).bool())


class Problem:
    """Poisson pairs (f, phi) on N x N points: a stand-in for the model, with a prior from few samples."""

    def __init__(self, s2: float = 0.0) -> None:
        fields, self.normaliser, prior = few_samples()
        self.x = self.normaliser.encode(torch.tensor(fields))
        operator = poisson.operator(N)
        scale = float(operator.scale_square(torch.tensor(fields[:, [1, 0]])).mean().sqrt())
        record = EquationRecord(operator.scaled(scale).to_dict(), [1, 0], s2, 1e-6)
        self.equation = EquationOnModel(record, self.normaliser, operator.grid)
        self.model = SimpleNamespace(
            prior=prior, normaliser=self.normaliser, grid=operator.grid, shape=SHAPE, sigma_max=30.0,
            layout=SimpleNamespace(names=["f", "phi"]), error=NetworkError([0.01, 30.0], [[1e-4, 2e-4], [0.5, 0.9]]),
        )  # fmt: skip

    @property
    def count(self) -> int:
        return int(np.prod(self.model.shape))

    def step(self, **kwargs) -> EquationStep:
        return EquationStep(self.model, self.equation, **{"scales": "told", **kwargs})

    def estimate(self, sigma: float, count: int = 3) -> torch.Tensor:
        noise = torch.from_numpy(np.random.default_rng(1).standard_normal((count, *self.model.shape)))
        return self.model.prior.filter(self.x[:count] + sigma * noise, sigma)


class Wind(Problem):
    """Winds that are nearly geostrophic on a plane: two residuals, three fields, each residual with its own s^2."""

    def __init__(self, s2: float | list[float] = 0.0) -> None:
        fields, self.normaliser, prior, operator = winds()
        self.x = self.normaliser.encode(torch.tensor(fields))
        record = EquationRecord(operator.to_dict(), [2, 0, 1], s2, 1e-6)
        self.equation = EquationOnModel(record, self.normaliser, operator.grid)
        self.model = SimpleNamespace(
            prior=prior, normaliser=self.normaliser, grid=operator.grid, shape=(3, 8, 7), sigma_max=30.0,
            layout=SimpleNamespace(names=["v", "phi", "u"]),
            error=NetworkError([0.01, 30.0], [[1e-4, 2e-4, 4e-4], [0.5, 0.9, 0.7]]),
        )  # fmt: skip


class Layers(Problem):
    """Temperature and geopotential on four levels, nearly hydrostatic: each level of a field is a channel of its own,
    and between them lie three levels of the residual."""

    def __init__(self, s2: float | list[float] = 0.0) -> None:
        rng, grid = np.random.default_rng(6), Grid.uniform((5, 4), (1.0, 1.0), ("open", "periodic"))
        z = np.array([0.0, 0.7, 1.5, 2.0])
        T = 1 + 0.3 * rng.standard_normal((SAMPLES, 4, 1, 1)) + 0.05 * rng.standard_normal((SAMPLES, 4, 5, 4))
        steps = (T[:, 1:] + T[:, :-1]) / 2 * np.diff(z)[:, None, None]
        base = rng.standard_normal((SAMPLES, 1, 5, 4))
        phi = np.concatenate([base, base - np.cumsum(steps, 1)], 1) + 0.02 * rng.standard_normal(T.shape)
        fields, names = np.concatenate([T, phi], 1), tuple("abcdefgh")
        self.normaliser = Normaliser(fields.mean((0, 2, 3)), fields.std((0, 2, 3)), np.zeros(8, bool), names)
        self.x = self.normaliser.encode(torch.tensor(fields))
        equation = get("hydrostatic")(R=1.0)
        channels = {"T": [0, 1, 2, 3], "phi": [4, 5, 6, 7]}
        channels = [channels[f] for f in equation.members(Field)]
        operator = equation.on(on_levels(grid, z), 0.5)
        record = EquationRecord(operator.to_dict(), channels, s2, 1e-6, z.tolist())
        self.equation = EquationOnModel(record, self.normaliser, grid)
        mse = np.linspace(0.1, 0.4, 8)
        self.model = SimpleNamespace(
            prior=fit_prior("eof", self.x, torch.ones(8, 5, 4).bool()), normaliser=self.normaliser, grid=grid,
            shape=(8, 5, 4), sigma_max=30.0, layout=SimpleNamespace(names=names),
            error=NetworkError([0.01, 30.0], [mse.tolist(), mse.tolist()]),
        )  # fmt: skip


@cache
def winds() -> tuple[np.ndarray, Normaliser, Prior, Operator]:
    """Winds (v, phi, u), their normaliser, the prior fitted to them, the operator with its scale."""
    rng, grid = np.random.default_rng(5), Grid.uniform((8, 7), (1.0, 1.5), ("open", "periodic"))
    y, x = np.meshgrid(grid.y, 2 * np.pi * np.arange(7) / 7, indexing="ij")
    a, b, c = rng.standard_normal((3, SAMPLES, 1, 1))
    phi = a * np.cos(x) * np.sin(y / 3) + b * np.sin(2 * x + y / 2) + c * np.cos(y / 2)
    u = -np.gradient(phi, 1.0, axis=1) + 0.1 * rng.standard_normal(phi.shape)
    v = (np.roll(phi, -1, 2) - np.roll(phi, 1, 2)) / 3 + 0.1 * rng.standard_normal(phi.shape)
    fields = np.stack([v, phi, u], 1)
    normaliser = Normaliser(fields.mean((0, 2, 3)), fields.std((0, 2, 3)), np.zeros(3, bool), ("v", "phi", "u"))
    operator = get("geostrophic")(f=1.0).on(grid)
    scale = operator.scale_square(torch.tensor(fields[:, [2, 0, 1]])).mean(0).sqrt().tolist()
    prior = fit_prior("eof", normaliser.encode(torch.tensor(fields)), torch.ones(3, 8, 7).bool())
    return fields, normaliser, prior, operator.scaled(scale)


def matrix(function, columns: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The matrix of a linear map of (B, *shape)."""
    return function(torch.eye(columns, dtype=torch.float64).reshape(columns, *shape)).flatten(1).T


def rows(problem, r: torch.Tensor) -> torch.Tensor:
    """The valid rows of residuals (B, K, [Z,] Y, X), (B, rows)."""
    return r[:, :, problem.equation.operator.valid].flatten(1)


def dense(problem: Problem, step: EquationStep, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """J (rows, D) on the valid rows and V (D, D)."""
    size = problem.count, problem.model.shape
    return matrix(lambda v: step.J.forward(v)[:, step.J.valid], *size), matrix(lambda v: step.metric(v, sigma), *size)


@pytest.mark.parametrize("sigma", [0.02, 0.5, 20.0])
@pytest.mark.parametrize("s2", [1e-3, 1.0])
def test_step_is_the_dense_one(sigma, s2):
    problem = Problem(s2)
    step, x0 = problem.step(tolerance=1e-11, iterations=500), problem.estimate(sigma)
    J, V = dense(problem, step, sigma)
    assert (V - V.T).abs().max() < 1e-12 * V.abs().max()
    assert (V[: N * N, N * N :] == 0).all(), "no covariance between the fields"
    r = rows(problem, problem.equation.residual(x0))
    weights = torch.linalg.solve(J @ V @ J.T + s2 * torch.eye(len(J), dtype=J.dtype), r.T)
    expected = x0.flatten(1) - (V @ J.T @ weights).T
    torch.testing.assert_close(step.correct(x0, sigma).flatten(1), expected, atol=1e-8, rtol=0)
    assert float(step.solved.left.max()) <= 2e-11


@pytest.mark.parametrize("sigma", [0.05, 2.0])
def test_variances_of_each_member_replace_those_of_the_metric(sigma):
    """E V E, E diagonal and each member's own, has the told variances, and the step is the dense one with it."""
    problem = Problem(1e-2)
    x0, prior = problem.estimate(sigma), problem.model.prior
    ratio = torch.from_numpy(np.random.default_rng(4).lognormal(0, 1, x0.shape))
    step = problem.step(tolerance=1e-12, iterations=2000, ratio=lambda x, s: ratio)
    J, V = dense(problem, step, sigma)
    r, found = rows(problem, problem.equation.residual(x0)), step.correct(x0, sigma)
    told = (ratio * prior.diagonal(prior.error_variances(sigma))).flatten(1)
    for m, e in enumerate(step.metric.roots(ratio, sigma).flatten(1)):
        EVE = e[:, None] * V * e
        torch.testing.assert_close(EVE.diagonal(), told[m], rtol=1e-9, atol=0)
        weights = torch.linalg.solve(J @ EVE @ J.T + 1e-2 * torch.eye(len(J), dtype=J.dtype), r[m])
        expected = x0[m].flatten() - EVE @ J.T @ weights
        torch.testing.assert_close(found[m].flatten(), expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("sigma", [0.05, 2.0])
@pytest.mark.parametrize("factored", [True, False])
def test_two_residuals_are_solved_together(sigma, factored):
    """Geostrophic wind, each residual with an s^2 of its own, against dense algebra."""
    problem = Wind([1e-2, 0.3])
    step, x0 = problem.step(tolerance=1e-11, iterations=2000), problem.estimate(sigma)
    step.system.factor = step.system.factor if factored else None
    J, V = dense(problem, step, sigma)
    r = rows(problem, problem.equation.residual(x0))
    assert len(J) == r.shape[1] == 2 * int(problem.equation.operator.valid.sum())
    s2 = torch.tensor([1e-2, 0.3], dtype=torch.float64).repeat_interleave(len(J) // 2)
    weights = torch.linalg.solve(J @ V @ J.T + torch.diag(s2), r.T)
    expected = x0.flatten(1) - (V @ J.T @ weights).T
    torch.testing.assert_close(step.correct(x0, sigma).flatten(1), expected, atol=1e-8, rtol=0)
    rng = np.random.default_rng(2)
    v, w = (torch.from_numpy(rng.standard_normal((2, c, 8, 7))) for c in (3, 2))
    w = torch.where(problem.equation.operator.valid, w, 0)
    torch.testing.assert_close((step.J.forward(v) * w).sum(), (v * step.J.transpose(w)).sum(), rtol=1e-12, atol=0)
    assert step.features(x0, sigma).shape == (3, len(step.feature_names))


@pytest.mark.parametrize("factored", [True, False])
def test_an_equation_over_levels(factored):
    """Hydrostatic balance: levels normalised one by one, a residual between them, against dense algebra."""
    problem, sigma = Layers(1e-2), 0.3
    step, x0 = problem.step(tolerance=1e-11, iterations=2000), problem.estimate(sigma)
    step.system.factor = step.system.factor if factored else None
    assert step.J.valid.shape == (3, 5, 4) and len(step.s2) == 3
    J, V = dense(problem, step, sigma)
    assert (V - V.T).abs().max() < 1e-12 * V.abs().max()
    r = rows(problem, problem.equation.residual(x0))
    change = rows(problem, problem.equation.residual(x0 + 1e-3) - problem.equation.residual(x0))
    torch.testing.assert_close(change, (1e-3 * J.sum(1)).expand_as(change), rtol=1e-9, atol=1e-12)
    weights = torch.linalg.solve(J @ V @ J.T + 1e-2 * torch.eye(len(J), dtype=J.dtype), r.T)
    expected = x0.flatten(1) - (V @ J.T @ weights).T
    torch.testing.assert_close(step.correct(x0, sigma).flatten(1), expected, atol=1e-8, rtol=0)
    tilt = torch.linspace(-1, 1, 8).double().expand(3, 8)
    assert torch.isfinite(step.correct(x0, sigma, torch.zeros(3, 4).double(), tilt)).all()
    likely = problem.step(scales="ml").correct(x0, sigma)
    assert (problem.equation.energy(likely) < problem.equation.energy(x0)).all()
    assert step.features(x0, sigma).shape == (3, 8)


def test_likely_scales_of_two_residuals_still_reduce_them():
    problem = Wind([1e-2, 1e-2])
    x0 = problem.estimate(0.3)
    after = problem.step(scales="ml").correct(x0, 0.3)
    assert (problem.equation.energy(after) < 0.5 * problem.equation.energy(x0)).all()
    hard = problem.step(hard=True, tolerance=1e-8, iterations=2000).correct(x0, 0.3)
    assert (problem.equation.energy(hard) < 1e-14 * problem.equation.energy(x0)).all()


def test_spectra_are_the_diagonals_of_the_transformed_matrices():
    problem, sigma = Wind([1e-2, 1e-2]), 0.5
    step = problem.step()
    found = step.system.spectrum(sigma).fields.sum(0)
    w = torch.eye(found[0].numel(), dtype=torch.float64).reshape(-1, *found[0].shape)
    for k in range(2):
        probe = w.new_zeros(len(w), 2, *w.shape[1:])
        probe[:, k] = w
        probe = step.waves.inverse(probe, w.new_zeros(len(w), 2, 8, 7))
        moved = step.J.forward(step.metric(step.J.transpose(probe), sigma))[:, k]
        exact = (w * step.waves.transform(moved)).sum(0)
        torch.testing.assert_close(step.waves.means(found[k]), step.waves.means(exact), rtol=0.3, atol=0)


def test_metric_weighs_fields_by_the_network_s_error():
    problem, sigma = Problem(), 0.01
    V = dense(problem, problem.step(), sigma)[1].diagonal().reshape(SHAPE).mean((1, 2))
    assert V.tolist() == pytest.approx([1e-4, 2e-4], rel=1e-9)


@pytest.mark.parametrize("tolerance", [1e-6, 1e-10])
def test_hard_projection_holds_to_the_solver_s_tolerance(tolerance):
    problem = Problem()
    step = problem.step(hard=True, tolerance=tolerance, iterations=500)
    x0 = problem.estimate(0.02)
    before, after = (problem.equation.residual(x).square().sum((1, 2, 3)).sqrt() for x in (x0, step.correct(x0, 0.02)))
    assert (after <= 2 * tolerance * before).all()


@pytest.mark.parametrize("sigma", [0.01, 0.3, 10.0])
def test_one_iteration_is_the_preconditioned_gradient_of_the_best_length(sigma, monkeypatch):
    monkeypatch.setattr("sciguide.equation_system.MOST_FACTORED", 0)
    problem = Problem(1e-3)
    step, x0 = problem.step(iterations=1), problem.estimate(sigma)
    moved = step.correct(x0, sigma) - x0
    gradient = step.J.transpose(problem.equation.residual(x0))
    assert float((moved * gradient).sum()) < 0, "it goes down the energy"
    assert (problem.equation.energy(x0 + moved) < problem.equation.energy(x0)).all()
    assert step.solved.iterations.tolist() == [1] * len(x0) and step.system.factor is None


def test_transposes_and_transforms():
    problem = Problem()
    step, rng = problem.step(), np.random.default_rng(2)
    v = torch.from_numpy(rng.standard_normal((2, *SHAPE)))
    w = torch.where(problem.equation.operator.valid, torch.from_numpy(rng.standard_normal((2, 1, N, N))), 0)
    torch.testing.assert_close((step.J.forward(v) * w).sum(), (v * step.J.transpose(w)).sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(step.waves.inverse(step.waves.transform(w), w), w, atol=1e-13, rtol=0)
    x = problem.estimate(0.3)
    change = problem.equation.residual(x + v[:1]) - problem.equation.residual(x)
    torch.testing.assert_close(change, step.J.forward(v[:1]).expand_as(change), atol=1e-10, rtol=1e-10)


def test_action_multiplies_the_formula():
    problem = Problem(1e-2)
    step, x0 = problem.step(), problem.estimate(0.3)
    plain = step.correct(x0, 0.3)
    zeros = step.correct(x0, 0.3, torch.zeros(3, 4).double(), torch.zeros(3, 2).double())
    assert torch.equal(plain, zeros)
    distrust = step.correct(x0, 0.3, torch.full((3, 4), 6.0).double())
    assert (problem.equation.energy(distrust) > problem.equation.energy(plain)).all()
    f_moves = step.correct(x0, 0.3, None, torch.tensor([[4.0, -4.0]]).double().expand(3, 2)) - x0
    phi_moves = step.correct(x0, 0.3, None, torch.tensor([[-4.0, 4.0]]).double().expand(3, 2)) - x0
    assert f_moves[:, 0].norm() > phi_moves[:, 0].norm() and f_moves[:, 1].norm() < phi_moves[:, 1].norm()


def test_observations_beside_an_equation_are_the_joint_gaussian():
    """The equation's step, then kriging with the conditioned metric, is conditioning N(x0, V) on both at once."""
    problem, sigma, s2 = Problem(1e-2), 0.5, 1e-2
    step = problem.step(tolerance=1e-12, iterations=500, beside=True)
    assert step.coupled and not step.metric.joint
    rng, m = np.random.default_rng(3), 15
    index = torch.from_numpy(N * N + rng.choice(N * N, m, replace=False))
    weight = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(m, 4)
    value = problem.x[0].flatten()[index] + 0.1 * torch.from_numpy(rng.standard_normal(m))
    error = torch.full((m,), 0.1, dtype=torch.float64)
    observations = Observations(index[:, None].expand(m, 4), weight, value, error, torch.ones(m, dtype=torch.long))
    kriging = Kriging(problem.model.prior, observations, "told", step.conditional)
    x0 = problem.estimate(sigma, 1)
    both = kriging.correct(step.correct(x0, sigma), sigma)
    J, V = dense(problem, step, sigma)
    A = torch.eye(D, dtype=torch.float64)[index]
    H = torch.cat([J, A])
    noise = torch.diag(torch.cat([torch.full((len(J),), s2), torch.full((m,), 0.01)]).double())
    r = torch.cat([rows(problem, problem.equation.residual(x0)).flatten(), x0.flatten()[index] - value])
    expected = x0.flatten() - V @ H.T @ torch.linalg.solve(H @ V @ H.T + noise, r)
    torch.testing.assert_close(both.flatten(), expected, atol=1e-7, rtol=0)


def test_a_prior_that_knows_the_equation_is_left_alone():
    assert not Problem(1e6).step().couples()


def test_likelihood_finds_which_field_errs():
    rng = np.random.default_rng(0)
    spectra = torch.from_numpy(rng.uniform(0.1, 10, (2, 20, 20)) * np.array([1, 3])[:, None, None])
    truth = torch.tensor([9.0, 0.2])
    variance = torch.einsum("f,fyx->yx", truth.double(), spectra) + 1e-3
    energy = variance * torch.from_numpy(rng.standard_normal((50, 20, 20)) ** 2)
    fields, _ = equation_scales(spectra, energy, 1e-3)
    assert fields.log().mean(0).exp().tolist() == pytest.approx(truth.tolist(), rel=0.5)


def test_conjugate_gradients_solve_each_member_by_itself():
    rng = np.random.default_rng(0)
    a = torch.from_numpy(rng.standard_normal((12, 12)))
    A = a @ a.T + torch.eye(12)
    r = torch.from_numpy(rng.standard_normal((3, 3, 4))) * torch.tensor([1.0, 1e-6, 1e3])[:, None, None]

    def system(w):
        return (w.flatten(1) @ A).reshape(w.shape), 2 * w

    solved = conjugate_gradients(system, lambda w: w, r, 200, 1e-10)
    assert float(solved.left.max()) < 2e-10
    torch.testing.assert_close(solved.image, 2 * solved.weights)
    relative = (system(solved.weights)[0] - r).flatten(1).norm(dim=1) / r.flatten(1).norm(dim=1)
    assert float(relative.max()) < 2e-10


def test_only_fields_that_the_equation_lets_move_move():
    problem = Problem()
    state = {**problem.equation.record.operator, "moves": ["phi"]}
    record = replace(problem.equation.record, operator=state)
    problem.equation = EquationOnModel(record, problem.normaliser, problem.model.grid)
    step, x0 = problem.step(hard=True, tolerance=1e-8, iterations=500), problem.estimate(0.02)
    after = step.correct(x0, 0.02)
    assert torch.equal(after[:, 0], x0[:, 0]) and not torch.equal(after[:, 1], x0[:, 1])
    assert (problem.equation.energy(after) < 1e-12 * problem.equation.energy(x0)).all()
    beside = problem.step(hard=True, beside=True)
    assert beside.coupled and torch.equal(beside.correct(x0, 0.02)[:, 0], x0[:, 0])
    M = problem.model.prior.apply_M(x0 * torch.tensor([1.0, 0])[:, None, None], 0.02)
    torch.testing.assert_close(beside.conditional(x0, 0.02)[:, 0], M[:, 0], atol=1e-12, rtol=0)


def test_octaves_are_those_of_fields_modelled_as_they_are():
    """With a logarithm among the fields the residual is balanced from place to place, and s^2 is white."""
    problem, octaves = Problem(0.1), [[4.0, 1.0, 0.5, 0.1]]
    record = replace(problem.equation.record, octaves=octaves)
    for log, expected in ((False, octaves), (True, [[1.0] * 4])):
        normaliser = replace(problem.normaliser, log=np.array([log, False]))
        problem.equation = EquationOnModel(record, normaliser, problem.model.grid)
        problem.model.normaliser = normaliser
        assert problem.step().shares.tolist() == expected
