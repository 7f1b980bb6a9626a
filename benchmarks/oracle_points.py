"""Point observations of a Gaussian field: how far each form of guidance ends from the exact posterior.

Every form moves the exact clean estimate by x0 <- x0 - G (A x0 - y), so a chain is an affine map and the mean and
covariance of its members are exact. `bias` is the rms over points of the mean's distance to the exact one in posterior
standard deviations, averaged over truths, and `spread` the rms of the members' standard deviations over the exact ones.
Forms, with s^2 the variance of the errors and r^2 = sigma^2 / (1 + sigma^2):

- kriging step   G = M A^T (A M A^T + s^2)^-1, M the covariance of the estimate's error: nothing tuned;
- pixel errors   G = r^2 A^T (r^2 A A^T + s^2)^-1, as if the errors of neighbours were independent;
- PiGDM          G = M A^T (r^2 A A^T + s^2)^-1 (Song et al., ICLR 2023), where M = sigma^2 dD / dx is what
                 back-propagation through the exact denoiser gives;
- SDA            the same with r^2 = gamma sigma^2, gamma = .01 (Rozet and Louppe, NeurIPS 2023), and the best gamma.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.oracle_fields import SIGMA_MIN, gaussian, power_law, widest
from benchmarks.oracle_rows import Row, Sheet
from benchmarks.oracle_samplers import along_prior
from sciguide.device import CPU
from sciguide.kriging import Kriging
from sciguide.observations import Observations
from sciguide.prior import Prior
from sciguide.sampler import karras_sigmas, sample

EXPONENT, ERROR = 3.0, 0.1
GAMMAS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)

Correct = Callable[[Tensor, float], Tensor]


def at_points(index: Tensor, value: Tensor, error: float) -> Observations:
    """Of one channel at grid points `index` (m,), all with one error; `value`: (m,), or (B, m) for each member."""
    m = len(index)
    weight = torch.tensor([1.0, 0, 0, 0]).double().expand(m, 4)
    errors, channel = torch.full((m,), error).double(), torch.zeros(m, dtype=torch.long)
    return Observations(index[:, None].expand(-1, 4).contiguous(), weight, value, errors, channel)


class Points:
    """`m` random grid points of a field, n x n, with errors of standard deviation `error`; `truths` of them, one for
    each of the first rows of a batch; `device`: that all of it is on."""

    def __init__(
        self, m: int, n: int = 32, error: float = ERROR, truths: int = 16, seed: int = 0, device: torch.device = CPU
    ) -> None:
        rng, d = np.random.default_rng([seed, m]), n * n
        self.prior, self.error, self.truths = gaussian(power_law(n, EXPONENT)).to(device), error, truths
        truth = self.prior.sample(torch.from_numpy(rng.standard_normal((truths, 1, n, n))).to(device))
        self.index = torch.from_numpy(np.sort(rng.choice(d, m, replace=False))).to(device)
        y = truth.flatten(1)[:, self.index] + error * torch.from_numpy(rng.standard_normal((truths, m))).to(device)
        # after the truths, one column of noise for every point, about the first truth's mean
        self.y = torch.cat([y, y[:1].expand(d, -1)])
        unit = torch.eye(d, dtype=y.dtype, device=device)
        self.noise = torch.cat([unit.new_zeros(truths, d), unit]).reshape(-1, 1, n, n)
        self.rows = at_points(self.index, self.y, error).to(device)
        C = self.prior.scale_modes(unit.reshape(d, 1, n, n), self.prior.variances).reshape(d, d)
        gain = torch.linalg.solve(C[self.index][:, self.index] + error**2 * unit[:m, :m], C[self.index]).T
        self.jacobian = lru_cache(self._jacobian)
        self.mean = y @ gain.T
        self.std = (C - gain @ C[self.index]).diagonal().sqrt()

    def __len__(self) -> int:
        return len(self.index)

    def kriging(self, prior: Prior | None = None) -> Kriging:
        """The project's step, with the truth's prior or another."""
        observations = replace(self.rows, value=self.y[0])
        found = Kriging(prior or self.prior, observations, "told")
        found.observations = self.rows
        return found

    def _jacobian(self, sigma: float) -> Tensor:
        """M A^T, (d, m)."""
        unit = self.prior.mean.new_zeros(len(self), self.prior.mask.numel())
        unit[range(len(self)), self.index] = 1
        return self.prior.apply_M(unit.reshape(-1, *self.prior.mask.shape), sigma).flatten(1).T

    def pixel(self, x0: Tensor, sigma: float) -> Tensor:
        r2 = sigma**2 / (1 + sigma**2)
        moved = x0.flatten(1).clone()
        moved[:, self.index] -= r2 / (r2 + self.error**2) * (moved[:, self.index] - self.y)
        return moved.reshape(x0.shape)

    def likelihood(self, x0: Tensor, sigma: float, r2: Callable[[float], float]) -> Tensor:
        """PiGDM and SDA: the score of N(y; A x0, s^2 + r^2)."""
        innovation = x0.flatten(1)[:, self.index] - self.y
        step = innovation @ self.jacobian(sigma).T / (r2(sigma) + self.error**2)
        return x0 - step.reshape(x0.shape)


class Distance(NamedTuple):
    """`bias` of each truth's mean and the `spread` of members, in posterior standard deviations."""

    bias: np.ndarray
    spread: float


def distance(
    points: Points, correct: Correct, steps: int, start: Tensor | None = None, prior: Prior | None = None
) -> Distance:
    """Of a chain along `prior` to the exact posterior; `start` as of the kriging step where not given."""
    prior = prior or points.prior
    sigmas = karras_sigmas(steps, SIGMA_MIN, widest(prior))
    start = points.kriging(prior).start(points.noise, sigmas[0]) if start is None else start

    def guide(index: int, x0: Tensor, sigma: float) -> tuple[Tensor, None]:
        return (correct(x0, sigma) if index < steps else x0), None

    for step in sample(points.prior.filter, prior, points.noise, sigmas, guide, start):
        last = step.x
    return judged(points, last)


def first_order(points: Points, steps: int) -> Distance:
    """Of the kriging step's chain integrated at first order."""
    sigmas, kriging = karras_sigmas(steps, SIGMA_MIN, widest(points.prior)), points.kriging()
    start = kriging.start(points.noise, sigmas[0])

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return kriging.correct(points.prior.filter(x, sigma), float(sigma[0]))

    return judged(points, along_prior(denoise, points.prior, start, sigmas, most=0.0))


def judged(points: Points, finished: Tensor) -> Distance:
    """From what a chain makes of the columns of noise."""
    means, unit = finished.flatten(1).split([points.truths, len(points.noise) - points.truths])
    bias = ((means - points.mean) / points.std).square().mean(1).sqrt()
    variance = (unit - means[0]).square().sum(0)
    return Distance(bias.cpu().numpy(), float((variance / points.std**2).mean().sqrt()))


def pigdm(sigma: float) -> float:
    return sigma**2 / (1 + sigma**2)


def sda(gamma: float) -> Callable[[float], float]:
    return lambda sigma: gamma * sigma**2


def point_rows(
    n: int = 32,
    numbers: Sequence[int] = (20, 100, 400),
    budgets: Sequence[int] = (10, 20),
    device: torch.device = CPU,
) -> list[Row]:
    """Every form, for so many points and noise levels."""
    sheet = Sheet("A2 observations")
    for m, steps in ((m, steps) for m in numbers for steps in budgets):
        points, case = Points(m, n, device=device), f"{m} points of {n * n}"
        prior = points.prior
        unmoved = prior.sample(points.noise, widest(prior))
        found = {
            "kriging step": distance(points, points.kriging().correct, steps),
            "kriging step, first order": first_order(points, steps),
            "kriging step, start not moved": distance(points, points.kriging().correct, steps, unmoved),
            "pixel errors": distance(points, points.pixel, steps),
            "PiGDM": distance(points, partial(points.likelihood, r2=pigdm), steps),
            "SDA": distance(points, partial(points.likelihood, r2=sda(0.01)), steps),
        }
        tuned = [distance(points, partial(points.likelihood, r2=sda(g)), steps) for g in GAMMAS]
        found["SDA, best gamma"] = min(tuned, key=lambda d: float(np.nan_to_num(d.bias.mean(), nan=np.inf)))
        for off in (-0.5, 0.5):
            wrong, name = gaussian(power_law(n, EXPONENT + off)).to(device), f"exponent {off:+} wrong"
            found[f"kriging step, M: {name}"] = distance(points, points.kriging(wrong).correct, steps)
            start = points.kriging(wrong).start(points.noise, widest(wrong))
            whole = distance(points, points.kriging(wrong).correct, steps, start, wrong)
            found[f"kriging step, whole prior: {name}"] = whole
        for name, d in found.items():
            sheet.mean(case, name, steps, "", bias=d.bias)
            sheet.exact(case, name, steps, "", spread=d.spread)
    return sheet.rows
