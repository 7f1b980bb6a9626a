"""Samplers without guidance, where the denoiser is exact: what each makes of a Gaussian, and of a mixture of six.

`gaussian_rows`: on a Gaussian every sampler here is a linear map, diagonal in modes, so its std ratio and its W2
distance to the data (over their standard deviation) are exact numbers. `mixture_rows`: std ratio, W1 of the 32 leading
modes and sliced W2 of whitened fields, beside what two sets of data reach.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.oracle_fields import SIGMA_MIN, Mixture, gaussian, hartley, power_law, widest
from benchmarks.oracle_rows import Row, Sheet
from benchmarks.oracle_samplers import along_prior, errors_of_gains, euler, gains, tune_two_step, two_step
from benchmarks.rivals import heun
from sciguide.bootstrap import Interval
from sciguide.covariance import fit_prior
from sciguide.device import CPU
from sciguide.prior import Prior
from sciguide.sampler import Denoise, karras_sigmas, sample

OURS, BUDGETS = "prior integrator", (5, 10, 20)
LEADING, DIRECTIONS = 32, 128

Sampler = Callable[[Tensor], Tensor]  # white noise to the finished field


def finished(denoise: Denoise, prior: Prior, noise: Tensor, steps: int) -> Tensor:
    """By the project's sampler."""
    for step in sample(denoise, prior, noise, karras_sigmas(steps, SIGMA_MIN, widest(prior))):
        last = step.x
    return last


def gaussian_samplers(prior: Prior, steps: int) -> dict[tuple[str, str], Sampler]:
    """Samplers of a Gaussian by start and name, with `steps` evaluations."""
    D, top = prior.filter, widest(prior)
    usual, edm = karras_sigmas(steps, SIGMA_MIN, top), karras_sigmas(steps, SIGMA_MIN, 80.0)
    tuned, ours, theirs = tune_two_step(prior, steps), "start N(mu, C + sigma_0^2)", "start 80 x white"
    return {
        (ours, OURS): lambda z: finished(D, prior, z, steps),
        (ours, "Euler"): lambda z: euler(D, prior.sample(z, top), usual),
        (ours, "Heun"): lambda z: heun(D, prior.sample(z, top), steps, SIGMA_MIN, top),
        (ours, "2M"): lambda z: two_step(D, prior.sample(z, top), usual),
        (ours, "2M, tuned on this Gaussian"): lambda z: tuned.sample(D, prior, z, steps),
        (theirs, "Euler"): lambda z: euler(D, 80 * z, edm),
        (theirs, "Heun"): lambda z: heun(D, 80 * z, steps, SIGMA_MIN, 80.0),
        (theirs, "2M"): lambda z: two_step(D, 80 * z, edm),
    }


def gaussian_rows(n: int = 32, budgets: tuple[int, ...] = BUDGETS, device: torch.device = CPU) -> list[Row]:
    """A field with variances (1 + k^2)^-1.5: exact std ratios and W2 of every sampler."""
    sheet, prior = Sheet("A1 a Gaussian"), gaussian(power_law(n, 3.0)).to(device)
    for steps in budgets:
        for (case, name), sampler in gaussian_samplers(prior, steps).items():
            ratio, distance = errors_of_gains(gains(sampler, prior), prior.variances)
            sheet.exact(case, name, steps, "", std_ratio=ratio, W2=distance)
    return sheet.rows


def wasserstein(a: NDArray, b: NDArray, power: int) -> NDArray:
    """Of columns of two samples of one size, (columns,)."""
    return (np.abs(np.sort(a, 0) - np.sort(b, 0)) ** power).mean(0)


class Judge:
    """Compares modes (N, D) with those of data, whose variances are `variance` (D,), on the host."""

    def __init__(self, variance: Tensor) -> None:
        self.std = variance.cpu().sqrt()
        self.leading = self.std.argsort(descending=True)[:LEADING]
        directions = torch.from_numpy(np.random.default_rng(0).standard_normal((len(self.std), DIRECTIONS)))
        self.directions = directions / directions.norm(dim=0)

    def leading_modes(self, modes: Tensor) -> NDArray:
        return (modes.cpu() / self.std)[:, self.leading].numpy()

    def whitened(self, modes: Tensor) -> NDArray:
        """Projections of the whitened fields, (N, directions)."""
        return ((modes.cpu() / self.std) @ self.directions).numpy()

    @staticmethod
    def w1(a: NDArray, b: NDArray) -> float:
        return float(wasserstein(a, b, 1).mean())

    @staticmethod
    def sliced_w2(a: NDArray, b: NDArray) -> float:
        return float(wasserstein(a, b, 2).mean() ** 0.5)

    def std_ratio(self, modes: NDArray) -> float:
        """Over the exact one."""
        return float((modes.var(0).sum() / self.std.square().sum()) ** 0.5)


def mixture_samplers(mixture: Mixture, draws: int) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """(noise, evaluations) -> field, by name; all from a draw of the prior at the first noise level;
    priors are estimated from so many `draws` of the data."""
    prior, D = mixture.prior(draws), mixture.denoise
    fields = hartley(mixture.draw(draws // 4, 1).reshape(-1, 1, mixture.n, mixture.n)).cpu()
    fitted = fit_prior("spectral", fields, torch.ones(fields.shape[1:], dtype=torch.bool), boundary=("periodic",) * 2)
    fitted = fitted.to(mixture.means.device)
    top = widest(prior)

    def start(z: Tensor) -> Tensor:
        return prior.sample(z, top)

    def along(most: float) -> Callable[[Tensor, int], Tensor]:
        return lambda z, steps: along_prior(D, prior, start(z), karras_sigmas(steps, SIGMA_MIN, top), most)

    return {
        OURS: lambda z, steps: finished(D, prior, z, steps),
        f"{OURS}, spectral prior": lambda z, steps: finished(D, fitted, z, steps),
        f"{OURS}, first order": along(0.0),
        f"{OURS}, not clipped": along(float("inf")),
        "2M": lambda z, steps: two_step(D, start(z), karras_sigmas(steps, SIGMA_MIN, top)),
        "2M, tuned on N(mu, C)": lambda z, steps: tune_two_step(prior, steps).sample(D, prior, z, steps),
        "Heun": lambda z, steps: heun(D, start(z), steps, SIGMA_MIN, top),
        "Euler": lambda z, steps: euler(D, start(z), karras_sigmas(steps, SIGMA_MIN, top)),
    }


def mixture_rows(
    seed: int = 0,
    samples: int = 2048,
    budgets: tuple[int, ...] = BUDGETS,
    n: int = 100,
    draws: int = 20_000,
    pairs: int = 20,
    device: torch.device = CPU,
) -> list[Row]:
    """One mixture; `n`: of the bootstrap; `draws` of the data for the prior; `pairs` of sets of data for the floors."""
    sheet, mixture = Sheet("A0 a mixture of six Gaussians"), Mixture(seed).to(device)
    judge = Judge(mixture.variance)
    data = mixture.draw(samples, 2)
    leading, whitened = judge.leading_modes(data), judge.whitened(data)
    floors = [(mixture.draw(samples, 10 + 2 * i), mixture.draw(samples, 11 + 2 * i)) for i in range(pairs)]
    for metric, project, distance in (
        ("W1", judge.leading_modes, judge.w1),
        ("sliced W2", judge.whitened, judge.sliced_w2),
    ):
        low, middle, high = np.percentile([distance(project(a), project(b)) for a, b in floors], (2.5, 50, 97.5))
        sheet.estimate("", "data against data", "", seed, metric, Interval(middle, low, high), samples)
    white = np.random.default_rng([seed, 3]).standard_normal((samples, 1, mixture.n, mixture.n))
    noise = torch.from_numpy(white).to(device)
    for name, sampler in mixture_samplers(mixture, draws).items():
        for steps in budgets:
            modes = mixture.modes(sampler(noise, steps))
            sheet.statistic("", name, steps, seed, "std_ratio", modes.cpu().numpy(), judge.std_ratio, n)
            pair = judge.leading_modes(modes), leading
            sheet.statistic("", name, steps, seed, "W1", pair, judge.w1, n)
            pair = judge.whitened(modes), whitened
            sheet.statistic("", name, steps, seed, "sliced W2", pair, judge.sliced_w2, n)
    return sheet.rows
