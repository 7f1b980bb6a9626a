"""Equations whose J is not constant: each member's own dense step, Newton's steps at the end, strength before it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sciguide.antithetic import mean_residual
from sciguide.constraints import EquationOnModel, EquationRecord
from sciguide.covariance import fit_prior
from sciguide.datasets.normaliser import Normaliser
from sciguide.equation_step import EquationStep
from sciguide.equations import get
from sciguide.grid import Grid
from sciguide.model import NetworkError
from sciguide.rings import Rings
from sciguide.strength import calibrate, divided

N, SAMPLES, SIGMA_MIN = 10, 24, 0.01
EDGES = ("open", "periodic")


class Flow:
    """Darcy flow with its source, log K modelled, samples that obey it; `moves` p alone, or what is told."""

    def __init__(self, moves: tuple[str, ...] = ("p",), s2: float = 1e-3) -> None:
        rng, grid = np.random.default_rng(0), Grid.uniform((N, N), (1.0, 1.0), EDGES)
        operator = get("darcy")().on(grid)
        y, x = np.meshgrid(*[2 * np.pi * np.arange(N) / N] * 2, indexing="ij")
        a, b, c = rng.standard_normal((3, SAMPLES, 1, 1))
        p, logK = np.sin(y + a) * np.cos(x + b) + 0.3 * c * np.sin(2 * y), 0.8 * np.cos(x - y + a) + 0.3 * b
        u = torch.from_numpy(np.stack([np.exp(logK), p, np.zeros_like(p)], 1))
        u[:, 2] = operator.residual(u)[:, 0]
        scale = operator.scale_square(u).mean(0).sqrt().tolist()
        state = {**operator.scaled(scale).to_dict(), "moves": list(moves)}
        values = u.clone()
        values[:, 0].log_()
        mean, std = values.mean((0, 2, 3)).numpy(), values.std((0, 2, 3)).numpy()
        normaliser = Normaliser(mean, std, np.array([True, False, False]), ("K", "p", "f"))
        self.x = normaliser.encode(u)
        mask = torch.ones(3, N, N).bool()
        record = EquationRecord(state, [0, 1, 2], [s2], 1e-6)
        self.model = SimpleNamespace(
            prior=fit_prior("eof", self.x, mask), normaliser=normaliser, grid=grid, shape=(3, N, N),
            layout=SimpleNamespace(names=["K", "p", "f"]), sigma_min=SIGMA_MIN, sigma_max=10.0, equations=[record],
            error=NetworkError([SIGMA_MIN, 10.0], [[1e-3] * 3, [0.5] * 3]),
        )  # fmt: skip
        self.model.constraints = lambda: [EquationOnModel(r, normaliser, grid) for r in self.model.equations]
        self.model.sigmas = lambda steps: np.geomspace(10.0, SIGMA_MIN, steps).tolist()
        self.model.denoise = lambda x, sigma: self.model.prior.filter(x, sigma)

    @property
    def equation(self) -> EquationOnModel:
        return self.model.constraints()[0]

    def step(self, **options) -> EquationStep:
        return EquationStep(self.model, self.equation, **{"scales": "told", **options})

    def estimate(self, size: float) -> torch.Tensor:
        return self.x[:3] + size * torch.from_numpy(np.random.default_rng(1).standard_normal((3, 3, N, N)))


def dense(problem: Flow, step: EquationStep, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """J (rows, D) at one member by autograd through the reference, of what moves, and V (D, D) at sigma_min."""
    valid, D = step.J.valid, 3 * N * N

    def rows(v):
        equation = problem.equation
        r = equation.operator.kernels.reference.residual(equation.physical(v))
        return equation.operator.relative(r)[:, 0][:, valid[0]]

    J = torch.autograd.functional.jacobian(rows, x[None])[0].reshape(-1, D)
    moves = torch.zeros(3, N, N, dtype=x.dtype)
    moves[problem.equation.moving] = 1
    eye = torch.eye(D, dtype=x.dtype).reshape(D, 3, N, N)
    return J * moves.flatten(), step.metric(eye, SIGMA_MIN).flatten(1).T


@pytest.mark.parametrize("moves", [("p",), ("p", "K"), ("p", "f")])
def test_a_step_is_the_dense_one_with_the_member_s_own_jacobian(moves):
    problem = Flow(moves)
    step, x0 = problem.step(iterations=2000, tolerance=1e-11), problem.estimate(0.3)
    assert step.linear == ("K" not in moves) and not step.J.constant
    r = step.J.rows(x0)
    found = step.step(x0, SIGMA_MIN, r)
    for member in range(3):
        J, V = dense(problem, step, x0[member])
        assert (V - V.T).abs().max() < 1e-12 * V.abs().max()
        (least,) = set(step.system.least(SIGMA_MIN).flatten().tolist())  # one residual, white
        weights = torch.linalg.solve(J @ V @ J.T + least * torch.eye(len(J), dtype=J.dtype), r[member][step.J.valid])
        expected = V @ J.T @ weights
        assert (found[member].flatten() - expected).abs().max() < 1e-6 * expected.abs().max()
        assert (found[member, 0] == 0).all() or "K" in moves


def test_preconditioner_makes_few_iterations_enough():
    """K varies by a factor of 25: fifteen iterations leave less than a thousandth of the residual."""
    problem = Flow(s2=0.0)
    step, x0 = problem.step(hard=True, iterations=15, tolerance=0), problem.estimate(0.3)
    after = step.correct(x0, SIGMA_MIN)
    assert (problem.equation.energy(after) < 1e-6 * problem.equation.energy(x0)).all()


def test_newton_s_steps_end_on_the_equation():
    problem = Flow(("p", "K"), s2=0.0)
    step, x0 = problem.step(hard=True, iterations=200), problem.estimate(0.1)
    after = step.correct(x0, SIGMA_MIN * (1 + 1e-12))
    assert (problem.equation.energy(after) < 1e-4 * problem.equation.energy(x0)).all()
    alone = torch.cat([step.correct(x0[i : i + 1], SIGMA_MIN) for i in range(3)])
    assert torch.allclose(alone, after, atol=1e-6)


def test_before_the_end_the_expected_residual_counts_and_the_strength_multiplies():
    problem = Flow(("p", "K"))
    step, x0 = problem.step(), problem.estimate(0.3)
    assert [step.acts(i, 5) for i in range(6)] == [True] * 4 + [False, True] and not step.linear
    found = mean_residual(step.J.rows, x0, step.draws(0.5))
    full = step.step(x0, 0.5, found.mean, spread=found.spread)
    assert torch.allclose(step.correct(x0, 0.5), x0 - full)
    record = replace(problem.model.equations[0], strength=[[0.1, 0.8], [1.0, 0.1]])
    problem.model.equations = [record]
    assert [problem.step().acts(i, 5) for i in range(6)] == [s < 0.72 for s in problem.model.sigmas(5)[:4]] + [
        False,
        True,
    ]
    assert record.strength_at(0.1) == 0.8 and record.strength_at(10.0) == pytest.approx(0.1)
    assert torch.allclose(problem.step().correct(x0, 0.1), x0 - 0.8 * step.expected(x0, 0.1))
    assert torch.equal(problem.step().correct(x0, 1.0), x0)


def test_strength_is_what_regression_on_held_out_samples_gives():
    problem = Flow(("p", "K"))
    calibrate(problem.model, problem.x[:8])
    strength = problem.model.equations[0].strength
    assert len(strength) == 8 and all(0 <= s <= 1 for _, s in strength)
    assert strength[0][1] > strength[-1][1], "the step points at the truth where there is little noise"
    noisy = problem.model.sigmas(8)[0]
    assert strength[-1] == [noisy, 0.0], "at the most noise it explains less than a hundredth"
    assert [len(s) for s in problem.model.equations[0].shares] == [4] * 8
    linear = Flow()
    calibrate(linear.model, linear.x[:8])
    assert linear.model.equations[0].strength == []


def test_the_field_that_errs_is_found():
    """With errors in p alone or in K alone V is taken from the other; what is recorded multiplies V."""
    problem = Flow(("p", "K"))
    noise = torch.from_numpy(np.random.default_rng(2).standard_normal((SAMPLES, 3, N, N)))
    for sizes, low, high in (((0.01, 1.0, 0.0), 0, 1), ((1.0, 0.01, 0.0), 1, 0)):
        error = problem.model.prior.sqrt_M(noise, 0.05) * torch.tensor(sizes)[:, None, None]
        found = divided(problem.step(), problem.x - error, error, 0.05)
        assert found.tilt[high] > found.tilt[low] + 2 and 0.2 < found.explained <= 1
    record = problem.model.equations[0]
    plain = problem.step().metric(noise, 0.1)
    problem.model.equations = [replace(record, shares=[[0.01, 0.5, 4.0, 1.0], [1.0, 0.5, 16.0, 1.0]])]
    ratio = torch.tensor([0.5, 8.0, 0.0], dtype=torch.float64)[:, None, None]
    assert torch.allclose(problem.step().metric(noise, 0.1), ratio * plain)


def test_linearised_systems_are_solved_no_better_than_they_are_linear():
    """A tenth of the residual may be left, a millionth where the system is exact or has to hold; J is taken once for
    what is seen of fields and then corrected."""
    problem = Flow(("p", "K"))
    assert [s.tolerance for s in (problem.step(), problem.step(hard=True), Flow().step())] == [0.1, 1e-6, 1e-6]
    step, x0 = problem.step(), problem.estimate(0.3)
    step.correct(x0, SIGMA_MIN)
    assert (step.solved.iterations < 10).all() and (step.solved.left < 0.1).all()
    assert step.J.at(x0) is step.J.at(x0) is not step.J.at(x0.clone())


@pytest.mark.parametrize("boundary", [("periodic", "periodic"), ("open", "periodic"), ("open", "open")])
def test_rings_measure_a_known_response(boundary):
    """Of a diagonal operator whose factors are a power of the wavenumber."""
    rings = Rings((24, 20), boundary)
    factors = (1 + rings.position) ** 2
    like = torch.zeros((), dtype=torch.float64)
    found = rings.response(lambda v: rings.scale(v, factors), like)
    there = rings.position > 2
    assert (found[there] / factors[there] ** 2).log().abs().max() < 0.1
    v = torch.randn(2, 24, 20, dtype=torch.float64)
    assert torch.allclose(rings.scale(v, torch.ones(24, 20).double()), v, atol=1e-12)
    w = torch.randn(2, 24, 20, dtype=torch.float64)
    assert torch.isclose((rings.scale(v, factors) * w).sum(), (v * rings.scale(w, factors)).sum())
