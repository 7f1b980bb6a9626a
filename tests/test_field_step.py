"""The step in the space of what moves against dense linear algebra, for walls and flow: more rows than points."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sciguide.constraints import EquationOnModel, EquationRecord
from sciguide.covariance import fit_prior
from sciguide.datasets.normaliser import Normaliser
from sciguide.equation_step import EquationStep
from sciguide.equations import get
from sciguide.grid import Grid
from sciguide.model import NetworkError
from sciguide.simulate import darcy_smooth

N, SAMPLES, SIGMA = 9, 40, 0.01
S2 = (2e-3, 3e-2, 5e-2)


@cache
def data() -> tuple[np.ndarray, Normaliser, torch.Tensor]:
    """Pairs (K, p) that the walls' equation leaves a compromise of, and their normaliser."""
    y, rng = np.linspace(0, 1, N), np.random.default_rng(0)
    waves = np.stack([np.outer(np.cos(np.pi * a * y), np.cos(np.pi * b * y)) for a in range(4) for b in range(4)])
    K = np.exp(0.4 * np.tensordot(rng.standard_normal((SAMPLES, len(waves))), waves, 1))
    pairs = np.stack([K, darcy_smooth.solve(K)], 1)
    logs = np.stack([np.log(pairs[:, 0]), pairs[:, 1]], 1)
    log = np.array([True, False])
    normaliser = Normaliser(logs.mean((0, 2, 3)), logs.std((0, 2, 3)), log, ("K", "p"))
    return pairs, normaliser, normaliser.encode(torch.from_numpy(pairs))


class Walls:
    """The set's own equation on a model without a network."""

    def __init__(self, s2: tuple[float, ...] = S2) -> None:
        pairs, self.normaliser, self.x = data()
        operator = darcy_smooth.operator(N)
        known = {name: values for name, (values, _) in darcy_smooth.static(N).items()}
        shared = np.broadcast_to(np.stack(list(known.values())), (SAMPLES, len(known), N, N))
        u = torch.from_numpy(np.concatenate([pairs, shared], 1))
        scale = operator.scale_square(u).mean(0).sqrt().tolist()
        record = EquationRecord(operator.scaled(scale).to_dict(), [0, 1], list(s2), 1e-6, static={k: k for k in known})
        static = {name: SimpleNamespace(values=values) for name, values in known.items()}
        grid = Grid(darcy_smooth.coordinates(N), darcy_smooth.coordinates(N), ("one-sided", "one-sided"))
        self.equation = EquationOnModel(record, self.normaliser, grid, static)
        self.model = SimpleNamespace(
            prior=fit_prior("eof", self.x, torch.ones(2, N, N).bool()), normaliser=self.normaliser, grid=grid,
            shape=(2, N, N), layout=SimpleNamespace(names=["K", "p"]), sigma_min=SIGMA, sigma_max=30.0,
            error=NetworkError([SIGMA, 30.0], [[1e-4, 1e-4], [0.5, 0.5]]),
        )  # fmt: skip

    def step(self, **options) -> EquationStep:
        exact = {"scales": "told", "iterations": 500, "tolerance": 1e-12}
        return EquationStep(self.model, self.equation, **{**exact, **options})

    def estimate(self) -> torch.Tensor:
        x = self.x[:3].clone()
        x[:, 1] += 0.2 * torch.from_numpy(np.random.default_rng(1).standard_normal((3, N, N)))
        return x


def dense(problem: Walls, step: EquationStep, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """J (all 3 N^2 rows, N^2 points of p) of a member by autograd through the reference, and V of p."""

    def rows(p: torch.Tensor) -> torch.Tensor:
        u = problem.equation.physical(torch.stack([x[0], p])[None])
        return problem.equation.operator.relative(problem.equation.operator.kernels.reference.residual(u)).flatten()

    J = torch.autograd.functional.jacobian(rows, x[1]).reshape(-1, N * N)
    eye = torch.zeros(N * N, 2, N, N, dtype=torch.float64)
    eye[:, 1] = torch.eye(N * N, dtype=torch.float64).reshape(-1, N, N)
    return J, step.metric(eye, SIGMA)[:, 1].flatten(1).T


def test_sparse_rows_are_those_of_autograd():
    problem = Walls()
    step, x0 = problem.step(), problem.estimate()
    for member in range(3):
        J, _ = dense(problem, step, x0[member])
        found = torch.from_numpy(step.system.field_step.matrix.at(step.J.at(x0), member).toarray())
        torch.testing.assert_close(found, J, rtol=1e-12, atol=1e-12 * float(J.abs().max()))


@pytest.mark.parametrize("octaves", [False, True])
def test_the_step_is_the_dense_regularised_least_squares(octaves):
    """And the kriging step of rows, V J^T (J V J^T + S)^-1 r, also where s^2 differs by octave."""
    problem = Walls()
    step, x0 = problem.step(), problem.estimate()
    log_s2 = torch.tensor([[1.5, -1.0, 0.5, 0.0]]).double().expand(3, 4) if octaves else None
    found = x0 - step.correct(x0, SIGMA, log_s2)
    for member in range(3):
        J, V = dense(problem, step, x0[member])
        T = step.waves.transform(torch.eye(N * N, dtype=torch.float64).reshape(-1, N, N)).flatten(1).T
        noise = torch.ones(N * N).double() if log_s2 is None else log_s2[member].exp()[step.waves.band].flatten()
        S = torch.block_diag(*[T.T @ torch.diag(s2 * noise) @ T for s2 in S2])
        r = step.J.rows(x0)[member].flatten()
        least = torch.linalg.solve(J.T @ torch.linalg.solve(S, J) + torch.linalg.inv(V), J.T @ torch.linalg.solve(S, r))
        rows = V @ J.T @ torch.linalg.solve(J @ V @ J.T + S, r)
        for expected in (least, rows):
            assert (found[member, 1].flatten() - expected).abs().max() < 1e-8 * expected.abs().max()
        weights = torch.linalg.solve(J @ V @ J.T + S, r)
        assert (step.solved.weights[member].flatten() - weights).abs().max() < 1e-6 * weights.abs().max()
    assert (found[:, 0] == 0).all() and float(step.solved.left.max()) <= 2e-12


def test_rows_and_fields_agree_where_both_converge():
    problem = Walls()
    step, rows, x0 = problem.step(), problem.step(iterations=4000), problem.estimate()
    rows.system.field_step = None
    torch.testing.assert_close(step.correct(x0, SIGMA), rows.correct(x0, SIGMA), rtol=0, atol=1e-7)


class Periodic(Walls):
    """Conservative flow on a torus, as many rows as points: a constant is the only thing that J does not see."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        grid = Grid.uniform((N, N), (1.0, 1.0), ("periodic", "periodic"))
        operator = get("darcy")().on(grid)
        self.normaliser = Normaliser(np.zeros(3), np.ones(3), np.array([True, False, False]), ("K", "p", "f"))
        self.x = torch.from_numpy(rng.standard_normal((SAMPLES, 3, N, N)))
        order = [("K", "p", "f").index(name) for name in operator.fields]
        self.equation = EquationOnModel(EquationRecord(operator.to_dict(), order, [0.3], 1e-6), self.normaliser, grid)
        self.model = SimpleNamespace(
            prior=fit_prior("eof", self.x, torch.ones(3, N, N).bool()), normaliser=self.normaliser, grid=grid,
            shape=(3, N, N), layout=SimpleNamespace(names=["K", "p", "f"]), sigma_min=SIGMA, sigma_max=30.0,
            error=NetworkError([SIGMA, 30.0], [[1e-4] * 3, [0.5] * 3]),
        )  # fmt: skip


def test_as_many_rows_as_points():
    problem = Periodic()
    step, x0 = problem.step(), problem.x[:2]
    assert problem.equation.operator.moves == ("p",) and step.J.determines
    rows = step.correct(x0, SIGMA)
    moved = (x0 - rows)[:, 1]
    assert (rows[:, [0, 2]] == x0[:, [0, 2]]).all() and moved.mean((1, 2)).abs().max() < 1e-12
    at, r = step.J.at(x0), step.J.rows(x0)
    eye = torch.zeros(N * N, 3, N, N, dtype=torch.float64)
    eye[:, 1] = torch.eye(N * N, dtype=torch.float64).reshape(-1, N, N)
    V = step.metric(eye, SIGMA)[:, 1].flatten(1).T
    for member in range(2):
        J = torch.from_numpy(step.system.field_step.matrix.at(at, member).toarray())
        expected = V @ J.T @ torch.linalg.solve(J @ V @ J.T + 0.3 * torch.eye(len(J)).double(), r[member].flatten())
        assert (moved[member].flatten() - expected).abs().max() < 1e-8 * expected.abs().max()


@pytest.mark.parametrize("told", [S2, (0.0, 0.0, 0.0)])
def test_a_hard_projection_of_too_many_rows_is_their_least_squares(told):
    """Each over its s^2, where that is known; the constant, which no row sees, stays."""
    problem = Walls(told)
    step, x0 = problem.step(hard=True), problem.estimate()
    after = step.correct(x0, SIGMA)
    for member in range(3):
        J, _ = dense(problem, step, x0[member])
        weight = torch.tensor([1 / s2**0.5 if s2 else 1.0 for s2 in told]).double().repeat_interleave(N * N)
        r = step.J.rows(x0)[member].flatten()
        expected = torch.linalg.lstsq(weight[:, None] * J, weight * r, driver="gelsd").solution
        moved = (x0 - after)[member, 1].flatten()
        assert (moved - expected).abs().max() < 1e-5 * expected.abs().max()
    torch.testing.assert_close(after[:, 1].mean((1, 2)), x0[:, 1].mean((1, 2)), rtol=0, atol=1e-8)


def test_few_iterations_are_enough():
    """K differs by a factor of 70 in these members; the first iteration leaves the least squares within a tenth."""
    problem = Walls()
    x0 = problem.estimate()
    K = problem.equation.physical(x0)[:, 0]
    assert float((K.amax((1, 2)) / K.amin((1, 2))).max()) > 30
    best = problem.step().correct(x0, SIGMA)
    for iterations, tolerance in ((1, 0.3), (10, 0.05)):
        found = problem.step(iterations=iterations).correct(x0, SIGMA)
        assert (found - best).norm() < tolerance * (x0 - best).norm()


@pytest.mark.parametrize("scales", ["told", "ml"])
def test_from_p_of_another_member_the_step_ends_at_the_solution_for_its_own_K(scales):
    """But for the constant. With the data's own weights, equal in physical units; told and likely scales both, V being
    of the size of such errors."""
    scale = np.array(Walls().equation.operator.scale)
    problem = Walls(tuple(1e-6 / scale**2))
    x0 = problem.x[:8].clone()
    x0[:, 1] = problem.x[8:16, 1]
    after = problem.step(scales=scales).correct(x0, SIGMA)
    error = [(x - problem.x[:8])[:, 1] for x in (x0, after)]
    wrong, left = (float((e - e.mean((1, 2), keepdim=True)).norm()) for e in error)
    assert left < 0.01 * wrong


def test_actions_bend_the_step():
    problem = Walls()
    step, x0 = problem.step(), problem.estimate()
    plain = step.correct(x0, SIGMA)
    zeros = step.correct(x0, SIGMA, torch.zeros(3, 4).double(), torch.zeros(3, 2).double())
    assert torch.equal(plain, zeros)

    def misfit(x: torch.Tensor) -> torch.Tensor:
        return (step.J.rows(x).square() / step.s2[:, None, None]).sum((1, 2, 3))

    distrust = step.correct(x0, SIGMA, torch.full((3, 4), 6.0).double())
    stay = step.correct(x0, SIGMA, None, torch.tensor([[0.0, -6.0]]).double().expand(3, 2))
    for other in (distrust, stay):
        assert (misfit(plain) < misfit(other)).all() and (misfit(other) < misfit(x0)).all()


def test_the_metric_has_the_prior_s_variances():
    problem = Walls()
    step = problem.step()
    _, V = dense(problem, step, problem.x[0])
    prior = problem.model.prior.sqrt_M(torch.eye(2 * N * N).double().reshape(-1, 2, N, N), 30.0)[:, 1].flatten(1)
    assert float(V.trace()) == pytest.approx(float(prior.square().sum()), rel=0.3)
    v = torch.randn(2, 1, N, N, dtype=torch.float64)
    there = torch.zeros(2, 2, N, N, dtype=torch.float64)
    scale = torch.tensor([[1.0, 2.0, 1.0, 1.0, 1.0], [1.0, 0.1, 1.0, 1.0, 1.0]]).double()
    there[:, 1:] = step.metric.inverse(v, SIGMA, scale)
    torch.testing.assert_close(step.metric(there, SIGMA, scale)[:, 1:], v, rtol=1e-8, atol=1e-8)
