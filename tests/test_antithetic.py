"""Antithetic draws against the moments of a quadratic in closed form."""

import numpy as np
import pytest
import torch
from test_prior import PRIORS, SHAPE, dense

from sciguide.antithetic import FIRST_STEP, error_draws, mean_residual
from sciguide.noise import normal

SIGMA = 0.7


def quadratic(rows: int = 5, seed: int = 0):
    """x^T Q x + b x + c of each row: the residual, and Q (rows, d, d), symmetric; H = 2 Q."""
    rng = np.random.default_rng(seed)
    d = int(np.prod(SHAPE))
    Q = torch.from_numpy(rng.standard_normal((rows, d, d))) / d
    Q, b, c = (Q + Q.mT) / 2, *(torch.from_numpy(rng.standard_normal((rows, n))) for n in (d, 1))

    def residual(x):
        flat = x.flatten(1)
        return torch.einsum("bi,rij,bj->br", flat, Q, flat) + flat @ b.T + c[:, 0]

    return residual, Q


@pytest.mark.parametrize("name", PRIORS)
def test_the_mean_of_a_quadratic_is_unbiased_and_its_variance_is_known(name):
    """Mean r + tr(H M) / 2, variance between pairs tr(H M H M) / 2, over 2000 members of the same estimate."""
    prior, members = PRIORS[name], 2000
    residual, Q = quadratic()
    M = dense(prior, prior.error_variances(SIGMA))
    x0 = torch.from_numpy(np.random.default_rng(1).standard_normal((1, *SHAPE))) * prior.mask
    expected = residual(x0) + torch.einsum("rij,ji->r", Q, M)
    found = mean_residual(residual, x0.expand(members, *SHAPE), error_draws(prior, SIGMA, 3, range(members), 5))
    variance = 2 * torch.einsum("rij,jk,rkl,li->r", Q, M, Q, M)
    score = (found.mean.mean(0) - expected[0]) / (variance / 8 / members).sqrt()
    assert score.abs().max() < 4
    # one pair has the kurtosis of a quadratic form, so the mean of the variances scatters by a few per cent
    torch.testing.assert_close(found.spread.mean(0), variance, rtol=0.1, atol=0)
    torch.testing.assert_close(found.variance * 8, found.spread)
    torch.testing.assert_close(found.mean.var(0), variance / 8, rtol=0.15, atol=0)


def test_odd_terms_cancel_within_each_pair():
    prior = PRIORS["spectral periodic/periodic"]
    x0 = torch.from_numpy(np.random.default_rng(1).standard_normal((3, *SHAPE)))
    draws = error_draws(prior, SIGMA, 0, range(3), 0)
    linear = mean_residual(lambda x: 2 * x + 1, x0, draws)
    torch.testing.assert_close(linear.mean, 2 * x0 + 1, atol=1e-12, rtol=0)
    assert linear.variance.max() < 1e-28
    cubic = mean_residual(lambda x: (x - x0) ** 3, x0, draws)
    assert cubic.mean.abs().max() < 1e-12


def test_draws_are_keyed_by_seed_member_and_step_alone():
    prior = PRIORS["eof"]
    whole = error_draws(prior, SIGMA, 7, range(5), 3)
    alone = error_draws(prior, SIGMA, 7, [4], 3)
    assert whole.shape == (8, 5, *SHAPE) and torch.equal(whole[:, 4:], alone)
    z = torch.from_numpy(normal(7, 4, FIRST_STEP + 3, (8, *SHAPE), np.float64))
    torch.testing.assert_close(alone[:, 0], prior.sqrt_M(z, SIGMA))
    for other in (error_draws(prior, SIGMA, 8, [4], 3), error_draws(prior, SIGMA, 7, [4], 2)):
        assert (other - alone).abs().max() > 0.1
    M = dense(prior, prior.error_variances(SIGMA))
    many = error_draws(prior, SIGMA, 1, range(1000), 0).flatten(0, 1).flatten(1)
    scale = M.diagonal().max()
    assert ((many.T @ many) / len(many) - M).abs().max() < 6 * scale / len(many) ** 0.5


def test_one_pair_is_refused():
    with pytest.raises(ValueError, match="1 pair of draws"):
        mean_residual(lambda x: x, torch.zeros(1, *SHAPE), torch.zeros(1, 1, *SHAPE))
