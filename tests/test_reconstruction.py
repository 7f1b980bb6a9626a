"""The rival of the ocean table: optimal interpolation's draws against the conditional Gaussian."""

import numpy as np
import torch
from test_generate import observations, run  # noqa: F401 (fixtures)

from benchmarks.reconstruction import interpolate
from sciguide.kriging import Kriging
from sciguide.model import Model
from sciguide.noise import normals
from sciguide.observations import read_observations


def test_interpolation_draws_from_the_conditional_gaussian(run, observations):  # noqa: F811
    model = Model.load(run / "model.pt")
    rows = read_observations(observations, model.layout, model.normaliser)
    prior, draws = model.prior, 4000
    noise = torch.from_numpy(normals(3, range(draws), 0, model.shape, np.float64))
    made = interpolate(model, rows, noise, (1.0, 1.0), 3)
    d = prior.mask.numel()
    C = prior.scale_modes(torch.eye(d, dtype=torch.float64).reshape(d, *model.shape), prior.variances).reshape(d, d)
    A = rows.predict(torch.eye(d, dtype=torch.float64).reshape(d, *model.shape)).T
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T + torch.eye(len(rows), dtype=torch.float64))
    mean = prior.mean.flatten() - gain @ rows.innovation(prior.mean[None])[0]
    variance = (C - gain @ A @ C).diagonal().clamp(min=1e-12)
    valid = prior.mask.flatten()
    score = (made.flatten(1).mean(0) - mean) / (variance / draws).sqrt()
    assert score[valid].abs().max() < 5
    ratio = made.flatten(1).var(0) / variance
    assert (ratio[valid] - 1).abs().max() < 6 * (2 / draws) ** 0.5
    # the formula's start has the same conditional mean
    kriging = Kriging(prior, rows, "told")
    shift = kriging.correct(prior.mean[None], 1e6 * model.sigma_max).flatten()
    torch.testing.assert_close(shift[valid], mean[valid], atol=1e-6, rtol=0)
