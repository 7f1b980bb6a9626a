"""Roll-outs are the sampler's own steps, stacked; noise of tuning and judging never meets."""

import pytest
import torch
from two_fields import make_task

from sciguide.guidance import Guidance
from sciguide.policy import Fixed, Learned, Standard
from sciguide.rollout import STAGES, draw_noise, noise_seed, roll_out, stages_apart
from sciguide.sampler import sample


@pytest.fixture(scope="module")
def task():
    return make_task("varies", "told", "end", 0)[1]


def test_a_roll_out_is_the_list_of_steps(task):
    problems, noise = task.problems([3, 4])[0], draw_noise("tune", 0, [3, 4], 2, task.shape)
    found = roll_out(problems, Fixed(len(task.actions)), noise)
    chain, constraints, energies = problems.members(2)
    guidance = Guidance(constraints, None, "uf", len(chain.sigmas))
    rows = noise.flatten(0, 1)
    steps = list(sample(chain.denoise, chain.prior, rows, chain.sigmas, guidance, chain.start(rows, chain.sigmas[0])))
    T = len(task.sigmas) + 1
    assert len(steps) == T and found.action.shape == (T, 4, len(task.actions))
    assert torch.equal(found.finished, steps[-1].guided)
    assert torch.equal(found.observation, torch.stack([s.decision.observation for s in steps]))
    # potentials live on unguided estimates, and last on the finished guided field
    expected = [*(energies(s.x0) for s in steps), energies(steps[-1].guided)]
    assert torch.equal(found.energies, torch.stack(expected))
    assert found.acted[:, 0].tolist() == [False] * (T - 1) + [True]
    assert found.energies[-1].max() < 1e-12 < found.energies[-2].min()


def test_replicas_share_their_noise_and_differ_in_actions(task):
    policy = Learned(Standard(torch.zeros(11).double(), torch.ones(11).double()), len(task.actions))
    policy.generator = torch.Generator().manual_seed(0)
    found = roll_out(task.problems([0])[0], policy, draw_noise("tune", 0, [0], 2, task.shape), replicas=3)
    unguided = found.energies[0].unflatten(0, (2, 3))
    assert torch.equal(unguided, unguided[:, :1].expand_as(unguided))
    assert unguided[0, 0] != unguided[1, 0]
    finished = found.finished.unflatten(0, (2, 3))
    assert not torch.equal(finished[0, 0], finished[0, 1])


def test_without_a_policy_nothing_guides(task):
    problems, noise = task.problems([0])[0], draw_noise("tune", 0, [0], 2, task.shape)
    plain = roll_out(problems, None, noise)
    assert torch.equal(plain.energies[-1], plain.energies[-2]) and not plain.acted.any()


def test_no_two_stages_share_a_seed(task):
    seeds = {noise_seed(s, seed, n) for s in STAGES for seed in (0, 1, 2**28 - 1) for n in (0, 1, 2**31, 2**32 - 1)}
    assert len(seeds) == len(STAGES) * 12 and min(seeds) >= 2**60
    for seed, number in ((2**28, 0), (0, 2**32), (-1, 0)):
        with pytest.raises(ValueError, match="must be below"):
            noise_seed("tune", seed, number)
    stages_apart(0, range(10), range(2**31, 2**31 + 10))
    with pytest.raises(ValueError, match="must be apart"):
        stages_apart(0, range(10), range(9, 12))
    for numbers, stage in (([0], "judge"), ([2**31], "tune")):
        with pytest.raises(ValueError, match="another stage"):
            task.play(None, numbers, stage, None, 2)
