"""Rewards telescope, stop at the data's floor, and the energy score counts what it should."""

import numpy as np
import pytest
import torch

from sciguide import reward, scores

WEIGHTS = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]).double()
FIELDS = reward.Pointwise(WEIGHTS)


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def test_rewards_sum_to_the_difference_of_potentials():
    R = draws(6, 5, 2).exp()
    phi = reward.potential(R, torch.tensor([0.1, 0.5]), torch.tensor([0.3, 0.7]), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(reward.rewards(phi).sum(0), phi[-1] - phi[0])
    terminal = draws(5)
    returns = reward.returns_to_go(reward.rewards(phi), terminal)
    torch.testing.assert_close(returns, phi[-1] - phi[:-1] + terminal)


def test_nothing_is_won_below_the_floor():
    floors, one = torch.tensor([1e-3]), torch.ones(1)
    at, below, above = (float(reward.potential(torch.tensor([R]), floors, one, one)) for R in (1e-3, 1e-9, 1e-2))
    assert at == below == 0 and above == pytest.approx(-np.log(10), rel=1e-5)


def test_advantages_have_no_mean_in_any_group_at_any_step():
    advantage = reward.advantages(draws(4, 12), replicas=3)
    assert advantage.unflatten(1, (4, 3)).mean(2).abs().max() < 1e-12


def test_pairs_are_taken_across_noises_only_and_in_full():
    """Against sums written out; the contribution is what the score loses when the member is left out."""
    K, A = 3, 2
    x, truth = draws(K, A, 1, 2, 2), draws(4, 1, 2, 2, seed=1)
    share = WEIGHTS / WEIGHTS.sum()

    def d(a, b):
        return float((share * (a - b).square()).sum().sqrt())

    found = reward.contributions(x, truth, FIELDS)
    for i in range(K):
        for j in range(A):
            to_truth = np.mean([d(x[i, j], y) for y in truth])
            pairs = np.mean([d(x[i, j], x[k, a]) for k in range(K) if k != i for a in range(A)])
            assert float(found[i, j]) == pytest.approx(pairs - to_truth)
    moved = x.clone()
    moved[0, 0] += 1e-5
    gain = reward.contributions(moved, truth, FIELDS)[0, 0] - found[0, 0]
    change = reward.energy_score(moved, truth, FIELDS) - reward.energy_score(x, truth, FIELDS)
    assert float(gain) == pytest.approx(-K * A * float(change), rel=1e-4)
    with pytest.raises(ValueError, match="two noises"):
        reward.contributions(x[:1], truth, FIELDS)


def test_the_point_by_point_norm_is_the_fair_crps():
    x, y = draws(6, 1, 1, 2, 2), draws(1, 1, 2, 2, seed=1)
    points = scores.crps_points(x[:, 0].numpy(), y[0].numpy())
    expected = (points * WEIGHTS.numpy()).sum() / WEIGHTS.sum()
    assert float(reward.energy_score(x, y, reward.Pointwise(WEIGHTS, "crps"))) == pytest.approx(float(expected))


def test_members_from_the_truth_score_best():
    truth = draws(200, 1, 2, 2)
    x = draws(200, 1, 1, 2, 2, seed=1)
    best = reward.energy_score(x, truth, FIELDS)
    for wrong in (0.5 * x, 1.5 * x, x + 0.5):
        assert reward.energy_score(wrong, truth, FIELDS) > best
