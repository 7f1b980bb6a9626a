"""The gradient step against autograd, and what it promises: no higher, no further than the data, each member alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sciguide.constraints import EquationOnModel, EquationRecord
from sciguide.datasets.normaliser import Normaliser
from sciguide.equations import get
from sciguide.gradient_step import MOST, GradientStep
from sciguide.grid import Grid
from sciguide.guidance import constraints_for
from sciguide.kernels.backends import calls, reset_calls
from sciguide.model import NetworkError

N = 16
MSE = [1e-3, 4e-3, 2e-3]


class Flow:
    """Darcy flow through a random log-normal medium with land; normalised pairs that obey it, and worse ones."""

    def __init__(self, floor: float = 1e-3, moves: tuple[str, ...] = ("p", "K")) -> None:
        rng, mask = np.random.default_rng(0), np.ones((N, N), bool)
        mask[:3, :4] = False
        grid = Grid.uniform((N, N), (1.0, 1.0), ("open", "periodic"), mask)
        operator = get("darcy")().on(grid)
        channels = [("p", "K", "f").index(name) for name in operator.fields]
        y, x = np.meshgrid(*[2 * np.pi * np.arange(N) / N] * 2, indexing="ij")
        a, b = rng.standard_normal((2, 4, 1, 1))
        p, K = np.sin(y + a) * np.cos(x + b), np.exp(0.5 * np.cos(x - y + a))
        u = torch.from_numpy(np.stack([p, K, np.zeros_like(p)], 1))
        u[:, 2:] = operator.residual(u[:, channels])  # the source that makes it a solution
        scale = operator.scale_square(u[:, channels]).mean(0).sqrt().tolist()
        state = {**operator.scaled(scale).to_dict(), "moves": list(moves)}
        log, values = np.array([False, True, False]), u.clone()
        values[:, 1].log_()
        mean, std = values.mean((0, 2, 3)).numpy(), values.std((0, 2, 3)).numpy()
        self.normaliser = Normaliser(mean, std, log, ("p", "K", "f"))
        self.equation = EquationOnModel(EquationRecord(state, channels, floor / 2, floor), self.normaliser, grid)
        self.model = SimpleNamespace(
            normaliser=self.normaliser, grid=grid, shape=(3, N, N), error=NetworkError([0.01, 1.0], [MSE, MSE]),
            layout=SimpleNamespace(names=["p", "K", "f"]), constraints=lambda: [self.equation], steps={}, variance=None,
        )  # fmt: skip
        self.good = self.normaliser.encode(u)
        self.bad = self.good + 0.1 * torch.from_numpy(rng.standard_normal(u.shape))

    def step(self, **options) -> GradientStep:
        return GradientStep(self.model, self.equation, **options)

    def polyak(self, x: torch.Tensor) -> torch.Tensor:
        """One step by autograd through the plain reference."""
        x = x.clone().requires_grad_()
        R = self.equation.operator.kernels.reference.energy(self.equation.physical(x))
        (g,) = torch.autograd.grad(R.sum(), x)
        g = torch.where(torch.from_numpy(self.model.grid.mask), g, 0)
        m = torch.tensor([MSE[0], MSE[1], 0.0], dtype=x.dtype)[:, None, None]
        length = (R - self.equation.record.floor).clamp(min=0) / (m * g * g).sum((1, 2, 3))
        return (x - length[:, None, None, None] * m * g).detach()


def test_one_iteration_is_polyak_s_step():
    flow = Flow()
    after = flow.step(iterations=1).correct(flow.bad, 0.1)
    expected = flow.polyak(flow.bad)
    lower = flow.equation.energy(expected) < flow.equation.energy(flow.bad)
    assert lower.all()
    torch.testing.assert_close(after, expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(after[:, 2], flow.bad[:, 2]), "the source may not move"


def test_it_falls_to_the_data_s_residual_and_stops_there():
    flow = Flow(floor=0.05)
    before, after = flow.equation.energy(flow.bad), flow.equation.energy(flow.step().correct(flow.bad, 0.1))
    assert (before > 1).all()
    assert (after < 1.02 * 0.05).all() and (after > 0.5 * 0.05).all()
    assert torch.equal(flow.step().correct(flow.good, 0.1), flow.good)
    harder = flow.equation.energy(flow.step(hard=True).correct(flow.bad, 0.1))
    assert (harder < after).all()


@pytest.mark.parametrize("log_s2", [-6.0, -1.0, 0.0, 3.0, 6.0])
def test_whatever_the_policy_says_no_residual_grows(log_s2):
    flow = Flow()
    tilt = torch.tensor([[3.0, -3.0, 0.0]], dtype=torch.float64).expand(4, 3)
    after = flow.step().correct(flow.bad, 0.1, torch.full((4, 1), log_s2).double(), tilt)
    assert (flow.equation.energy(after) <= flow.equation.energy(flow.bad)).all()


def test_an_action_multiplies_the_formula():
    flow, zero = Flow(), torch.zeros(4, 1, dtype=torch.float64)
    step = flow.step()
    plain = step.correct(flow.bad, 0.1)
    assert torch.equal(plain, step.correct(flow.bad, 0.1, zero, torch.zeros(4, 3).double()))
    weak = step.correct(flow.bad, 0.1, zero + 3)
    assert (flow.equation.energy(weak) > flow.equation.energy(plain)).all()
    one = flow.step(iterations=1)
    whole, half = (one.correct(flow.bad, 0.1, zero + a) - flow.bad for a in (0.0, np.log(2)))
    torch.testing.assert_close(half, whole / 2, rtol=1e-6, atol=1e-10)
    tilt = torch.tensor([[4.0, -4.0, 0.0]], dtype=torch.float64).expand(4, 3)
    pressed, eased = (one.correct(flow.bad, 0.1, zero, t) - flow.bad for t in (tilt, -tilt))
    assert pressed[:, 0].norm() > eased[:, 0].norm() and pressed[:, 1].norm() < eased[:, 1].norm()


def test_members_do_not_touch_each_other():
    flow = Flow()
    step = flow.step()
    together = step.correct(flow.bad, 0.1)
    alone = torch.cat([step.correct(x[None], 0.1) for x in flow.bad])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-11)
    broken = flow.bad.clone()
    broken[1, 0, 8, 8] = torch.nan
    found = step.correct(broken, 0.1)
    keep = [0, 2, 3]
    torch.testing.assert_close(found[keep], together[keep], rtol=1e-9, atol=1e-11)


def test_land_and_float32():
    flow = Flow()
    x = flow.bad.clone()
    x[..., 0, 0] = torch.nan
    after = flow.step().correct(x, 0.1)
    dry = torch.from_numpy(flow.model.grid.mask)
    torch.testing.assert_close(after[..., dry], flow.step().correct(flow.bad, 0.1)[..., dry], rtol=1e-9, atol=1e-11)
    single = flow.step().correct(flow.bad.float(), 0.1)
    assert single.dtype == torch.float32
    assert (flow.equation.energy(single) < 0.1 * flow.equation.energy(flow.bad)).all()


def test_one_launch_an_iteration():
    flow = Flow(floor=1e-9)
    step = flow.step(iterations=7)
    assert step.curvature > 0
    reset_calls()
    step.correct(flow.bad, 0.1)
    assert {operation: n for (_, operation), n in calls().items()} == {"update": 8}
    reset_calls()
    step.features(flow.bad, 0.1)
    assert {operation: n for (_, operation), n in calls().items()} == {"energy_and_gradient": 1}
    assert flow.step(iterations=500).iterations == MOST


def test_features_say_how_far_it_is():
    flow = Flow(floor=0.05)
    seen = flow.step().features(flow.bad, 0.1)
    assert seen.shape == (4, 2)
    torch.testing.assert_close(seen[:, 0], (flow.equation.energy(flow.bad) / 0.05).log(), rtol=1e-9, atol=0)
    moved = (flow.polyak(flow.bad) - flow.bad).square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(seen[:, 1], moved.log(), rtol=1e-9, atol=1e-9)
    assert torch.isfinite(flow.step().features(flow.good, 0.1)).all()


def test_the_gradient_direction_acts_late_in_the_chain():
    flow = Flow()
    (step,) = constraints_for(flow.model, None, direction="gradient", hard=False, iterations=200)
    assert isinstance(step, GradientStep) and step.bands == 1
    assert [step.acts(i, 8) for i in range(9)] == [False] * 6 + [True] * 3
    assert [flow.step(when="end").acts(i, 8) for i in range(9)] == [False] * 8 + [True]
