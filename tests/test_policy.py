"""Every policy begins as the formula, harms no field whatever it says, and comes back from its file."""

from types import SimpleNamespace

import pytest
import torch
from two_fields import make_task

from sciguide.actions import Levers
from sciguide.errors import InputError
from sciguide.guidance import Guidance
from sciguide.policy import Choice, Fixed, Learned, Linear, Scheduled, Standard, bounded, load_policy, save_policy
from sciguide.rollout import draw_noise, roll_out

SEEN, DONE = ("poisson: a", "poisson: b", "log sigma"), ("c", "d")
LEVERS = Levers(4, 4, True)
STANDARD = Standard(torch.tensor([0.5, -1.0, 0.0]).double(), torch.tensor([1.0, 2.0, 3.0]).double())


def done(levers: Levers) -> tuple[str, ...]:
    assert levers == LEVERS
    return DONE


def observation(rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def some_policies() -> dict:
    torch.manual_seed(0)
    table, weights = torch.randn(3, 2).double(), torch.randn(2, 4).double()
    schedule = Scheduled([10.0, 1.0, 0.1], table)
    learned = Learned(STANDARD, 2, schedule=schedule)
    torch.nn.init.normal_(learned.network[-1].weight)
    return {
        "scheduled": schedule,
        "linear": Linear(STANDARD, weights),
        "learned": learned.requires_grad_(False),
    }


def test_zero_is_the_formula_bit_for_bit():
    _, task = make_task("varies", "ml", "always", 0)
    problems, (K, A) = task.problems([0, 1])[0], (len(task.observations), len(task.actions))
    noise = draw_noise("tune", 0, [0, 1], 2, task.shape)
    formula = roll_out(problems, Fixed(A), noise)
    standard = Standard(torch.zeros(K).double(), torch.ones(K).double())
    others = [
        Scheduled(task.sigmas, torch.zeros(len(task.sigmas), A)),
        Linear(standard, torch.zeros(A, K + 1)),
        Learned(standard, A),
    ]
    for policy in others:
        assert torch.equal(roll_out(problems, policy, noise).finished, formula.finished)


def test_a_schedule_is_found_by_the_noise_level():
    table = torch.arange(6.0).reshape(3, 2)
    seen = torch.zeros(4, 3).double()
    seen[:, -1] = torch.tensor([10.0, 1.2, 0.1, 0.001]).log()
    assert Scheduled([10.0, 1.0, 0.1], table)(seen).action[:, 0].tolist() == [0, 2, 4, 4]


def test_what_is_learned_stands_on_a_schedule():
    policies = some_policies()
    seen, alone = observation(), Learned(STANDARD, 2)
    alone.load_state_dict(policies["learned"].state_dict())
    expected = alone(seen).action + policies["scheduled"](seen).action
    assert expected.abs().max() < 6 and (policies["scheduled"](seen).action != 0).all()
    torch.testing.assert_close(policies["learned"](seen).action, expected)


def test_log_probability_is_the_same_when_scored_again():
    policy = Learned(STANDARD, 2, std=2.5)
    policy.generator = torch.Generator().manual_seed(0)
    drawn = policy(observation(200))
    assert (drawn.action.abs() == 6).any()
    torch.testing.assert_close(policy(observation(200), drawn.action).log_prob, drawn.log_prob)
    expected = torch.distributions.Normal(0.0, policy.log_std.exp()).log_prob(drawn.action).sum(1)
    difference = expected - drawn.log_prob
    torch.testing.assert_close(difference, difference[:1].expand(200))


@pytest.mark.parametrize("value", [float("nan"), 1e30, -float("inf")])
def test_whatever_a_policy_says_fields_stay_finite(value):
    _, task = make_task("varies", "told", "always", 0)
    policy = SimpleNamespace(action=torch.full((2, len(task.actions)), value).double())
    policy.action[:, -1] = 0

    def mad(seen, action=None):
        return Choice(policy.action, seen[:, 0], seen[:, 0])

    found = roll_out(task.problems([0])[0], mad, draw_noise("tune", 0, [0], 2, task.shape))
    assert torch.isfinite(found.finished).all()
    assert torch.equal(found.action[0], bounded(policy.action)) and found.action.abs().max() <= 6
    weights = torch.full((len(task.actions), len(task.observations) + 1), value)
    linear = Linear(Standard(torch.zeros(len(task.observations)), torch.ones(len(task.observations))), weights)
    found = roll_out(task.problems([0])[0], linear, draw_noise("tune", 0, [0], 2, task.shape))
    assert torch.isfinite(found.finished).all() and torch.isfinite(found.action).all()


def test_a_correction_that_fails_leaves_that_member_unguided():
    class Broken:
        name, bands, octaves, iterative, feature_names = "broken", 1, 1, False, ("x",)

        def acts(self, index, last):
            return True

        def features(self, x0, sigma):
            return x0[:, :, 0, 0]

        def correct(self, x0, sigma, log_s2, tilt):
            out = x0 + 1
            out[0], out[2] = float("nan"), 1e4
            return out

    x0 = torch.zeros(3, 1, 2, 2).double()
    guided, decision = Guidance([Broken()], None, ["x"], 3)(0, x0, 1.0)
    assert guided[:, 0, 0, 0].tolist() == [0, 1, 0], "what is not a number, and what no field of the data comes near"
    assert decision.observation.shape == (3, 4) and (decision.observation[:, 2] == 0.5).all()


@pytest.mark.parametrize("name", ["scheduled", "linear", "learned"])
def test_saved_and_loaded_it_acts_the_same_and_its_bytes_repeat(name, tmp_path):
    policy = some_policies()[name]
    for file in ("a.pt", "b.pt"):
        save_policy(tmp_path / file, policy, SEEN, DONE, LEVERS)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    loaded = load_policy(tmp_path / "a.pt", SEEN, done)[0]
    assert policy(observation()).action.abs().max() > 0.1
    assert torch.equal(loaded(observation()).action, policy(observation()).action)


def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path):
    path = tmp_path / "linear.pt"
    with pytest.raises(InputError, match="no such policy; `sciguide tune RUN` makes it"):
        load_policy(path, SEEN, done)
    save_policy(path, some_policies()["linear"], SEEN, DONE, LEVERS)
    with pytest.raises(InputError, match="guidance by poisson, not by observations"):
        load_policy(path, ("observations: x", "log sigma"), done)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged or not a sciguide policy"):
        load_policy(path, SEEN, done)
