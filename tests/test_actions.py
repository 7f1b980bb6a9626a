"""What an action's numbers do: their layout, a metric by octave, iterations of each member's own, and ending early."""

from types import SimpleNamespace

import pytest
import torch
from test_equation_step import Problem as Poisson
from test_equation_step import dense, rows
from test_kriging import Problem as Points
from test_sampler import PRIORS, SHAPE, finish

from benchmarks.policy_fields import TwoFields
from sciguide.actions import STOPS, Actions, Levers
from sciguide.guidance import Guidance
from sciguide.kriging import Kriging
from sciguide.policy import Choice
from sciguide.rollout import draw_noise, roll_out
from sciguide.solver import conjugate_gradients

EQUATION = SimpleNamespace(name="poisson", bands=4, octaves=4, iterative=True)
STATIONS = SimpleNamespace(name="observations", bands=4, octaves=1, iterative=False)


def test_every_number_has_one_meaning():
    few = Actions([EQUATION, STATIONS], ["f", "phi"], Levers(1, 1, False))
    assert few.names == ("log s2 poisson", "log s2 observations", "metric f", "metric phi")
    every = Actions([EQUATION, STATIONS], ["f", "phi"], Levers(4, 4, True))
    assert len(every.names) == 4 + 4 + 8 + 1 + 1 == len(set(every.names)) and every.names[-1] == "stop"
    action = torch.arange(18.0).repeat(2, 1)
    first, second = every.bends(action)
    assert first.log_s2[0].tolist() == [0, 1, 2, 3] and second.log_s2[0].tolist() == [4, 5, 6, 7]
    assert torch.equal(first.tilt[0], torch.tensor([[-2.0] * 4, [2.0] * 4])), "only differences between channels matter"
    assert second.tilt[0].tolist() == [-2, 2] and first.effort.tolist() == [16, 16] and second.effort is None
    assert every.stops(action).tolist() == [True, True] and every.stops(action - 17 + STOPS).tolist() == [False] * 2
    alone = Actions([STATIONS], ["u"], Levers(4, 4, False))
    assert alone.names == tuple(f"log s2 observations band {b}" for b in range(4)), "one channel has no metric"
    assert alone.bends(torch.zeros(1, 4))[0].tilt is None and alone.stops(torch.zeros(1, 4)) is None


def test_a_metric_by_octave_is_the_dense_one():
    problem = Poisson(1e-3)
    step, x0 = problem.step(tolerance=1e-11, iterations=2000), problem.estimate(0.5)
    J, V = dense(problem, step, 0.5)
    tilt = torch.randn(len(x0), 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, r = step.correct(x0, 0.5, None, tilt), rows(problem, problem.equation.residual(x0))
    eye = torch.eye(problem.count, dtype=torch.float64).reshape(-1, *problem.model.shape)
    for member in range(len(x0)):
        scale = torch.stack([tilt[member, c[0]] for c in step.channels]).exp()  # fields in the equation's own order
        E = step.metric._filtered(eye, scale.expand(len(eye), -1, -1)).flatten(1)
        assert (E - E.T).abs().max() < 1e-12 and torch.linalg.eigvalsh(E).min() > 0
        bent = E @ V @ E
        weights = torch.linalg.solve(J @ bent @ J.T + 1e-3 * torch.eye(len(J), dtype=J.dtype), r[member])
        expected = x0[member].flatten() - bent @ J.T @ weights
        torch.testing.assert_close(found[member].flatten(), expected, atol=1e-8, rtol=0)
    alike = tilt[..., :1].expand(-1, -1, 4)
    torch.testing.assert_close(step.correct(x0, 0.5, None, alike), step.correct(x0, 0.5, None, tilt[..., 0]))


def test_effort_multiplies_the_iterations_of_a_step():
    problem = Poisson(1e-3)
    step, x0 = problem.step(iterations=8), problem.estimate(0.5)
    step.system.factor = None
    whole = step.correct(x0, 0.5, effort=torch.zeros(3).double())
    assert step.taken.tolist() == [8, 8, 8] and torch.equal(whole, step.correct(x0, 0.5))
    step.correct(x0, 0.5, effort=torch.tensor([-6.0, -0.7, 0.4]).double())
    assert step.taken.tolist() == [1, 4, 12]


def test_quarters_of_the_observations_are_trusted_apart():
    problem = Points(m=41)
    kriging = Kriging(problem.prior, problem.observations, "told")
    x0 = problem.prior.filter(problem.truth + 0.5, 0.5).expand(2, -1, -1, -1)
    log_s2 = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.0] * 4]).double()
    system, r = kriging.system(0.5), kriging.observations.innovation(x0)
    sizes = [11, 10, 10, 10]
    noise = log_s2.exp().repeat_interleave(torch.tensor(sizes), 1)
    Q = system.vectors
    for tilt in (None, torch.full((2, 1), 1e-9).double()):
        found = kriging.correct(x0, 0.5, log_s2, tilt)
        for member in range(2):
            told = Q @ torch.diag(noise[member]) @ Q.T
            weights = torch.linalg.solve(system.matrix + told, r[member])
            step = kriging.covariance(kriging.observations.scatter(weights[None], (1, *x0.shape[2:])), 0.5)[0]
            torch.testing.assert_close(found[member], x0[member] - step, atol=1e-8, rtol=0)
    torch.testing.assert_close(kriging.correct(x0, 0.5, log_s2[1:, :1].expand(2, 1)), kriging.correct(x0, 0.5))


def test_every_member_has_its_own_iterations():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    A, r = root @ root.T + torch.eye(12), torch.randn(4, 12, generator=generator, dtype=torch.float64)

    def solve(r: torch.Tensor, iterations: int | torch.Tensor):
        return conjugate_gradients(lambda w: (w @ A, 2 * w), lambda w: w, r, iterations, 1e-12)

    together = solve(r, torch.tensor([1, 3, 5, 40]))
    assert together.iterations[:3].tolist() == [1, 3, 5] and 6 < together.iterations[3] <= 14
    for i, count in enumerate((1, 3, 5, 40)):
        alone = solve(r[i : i + 1], count)
        torch.testing.assert_close(together.weights[i], alone.weights[0])
        torch.testing.assert_close(together.image[i], 2 * together.weights[i])
    torch.testing.assert_close(together.weights[3] @ A, r[3])


@pytest.mark.parametrize("name", ["spectral periodic/periodic", "eof"])
def test_on_gaussian_data_a_chain_may_end_anywhere(name):
    """There the last step is exact from any noise level, and the network is not asked again."""
    prior, asked = PRIORS[name], []
    noise = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def denoise(x, sigma):
        asked.append((sigma > 0).tolist())
        return (
            prior.filter(x, float(sigma.max()))
            if sigma.all()
            else torch.where((sigma > 0)[:, None, None, None], prior.filter(x, float(sigma.max())), x)
        )

    def guide(index, x0, sigma):
        return x0, SimpleNamespace(stop=torch.tensor([index == 0, index == 2, False]))

    found = finish(denoise, prior, noise, 5, guide=guide)
    torch.testing.assert_close(found, finish(prior.filter, prior, noise, 5), atol=1e-9, rtol=0)
    assert [sum(rows) for rows in zip(*asked, strict=True)] == [1, 3, 5]


def test_a_roll_out_counts_what_it_costs():
    """Ending at once takes one evaluation; a decision after the end has no effect and no cost."""
    fields, levers = TwoFields(0.0, when="always"), Levers(1, 1, True)
    names = Actions(fields.constraints, fields.channels, levers).names
    assert names[-2:] == ("log iterations Elliptic", "stop")

    def policy(observation, action=None):
        action = observation.new_zeros(len(observation), len(names))
        action[0, -1], action[:, -2] = 3.0, torch.tensor([0.0, -6.0])
        zero = action.new_zeros(len(action))
        return Choice(action, zero, zero)

    found = roll_out(fields.problems([0])[0], policy, draw_noise("tune", 0, [0], 2, fields.shape), levers=levers)
    T = len(fields.sigmas)
    assert found.evaluations.sum(0).tolist() == [1, T]
    assert found.acted[:, 0].tolist() == [True] + [False] * (T - 1) + [True] and found.acted[:, 1].all()
    assert (found.iterations[:, 1] == 1).all() and (found.iterations[1:-1, 0] == 0).all()
    assert found.iterations[0, 0] >= 1 and found.iterations[-1, 0] >= 1
    torch.testing.assert_close(found.energies[1:-1, 0], found.energies[1:2, 0].expand(T, -1), rtol=1e-9, atol=0)
    formula = roll_out(fields.problems([0])[0], None, draw_noise("tune", 0, [0], 2, fields.shape), levers=levers)
    assert formula.evaluations.sum() == 2 * T and formula.iterations.sum() == 0


def test_what_a_policy_sees_says_how_much_of_the_chain_is_left():
    guidance = Guidance([STATIONS_SEEN], None, ["u"], 4)
    seen = [float(guidance(i, torch.zeros(1, 1, 2, 2).double(), 1.0)[1].observation[0, -3]) for i in range(5)]
    assert seen == [1, 0.75, 0.5, 0.25, 0] and Guidance.observation_names([])[-3] == "share of the evaluations left"


class _Seen:
    name, bands, octaves, iterative, feature_names = "seen", 1, 1, False, ()

    def acts(self, index, last):
        return False

    def features(self, x0, sigma):
        return x0[:, :0, 0, 0]


STATIONS_SEEN = _Seen()
