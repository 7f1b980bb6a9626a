"""Integrators of the probability-flow equation that the project's own is measured against, and its own with other rules
for the ratio of successive steps. Each maps the state at sigmas[0] to the finished field; evaluations are counted by
the caller. Re-implemented from the equations of Karras et al. 2022 (arXiv 2206.00364), Lu et al. 2022 (2211.01095)."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from benchmarks.oracle_fields import SIGMA_MIN, widest
from sciguide.prior import NEGLIGIBLE, Prior
from sciguide.sampler import karras_sigmas

Denoise = Callable[[Tensor, Tensor], Tensor]


def _call(denoise: Denoise, x: Tensor, sigma: float) -> Tensor:
    return denoise(x, x.new_full((len(x),), sigma))


def euler(denoise: Denoise, start: Tensor, sigmas: list[float]) -> Tensor:
    """dx / dsigma = (x - D) / sigma at first order."""
    x = start
    for sigma, after in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        x = x + (after - sigma) * (x - _call(denoise, x, sigma)) / sigma
    return x


def two_step(denoise: Denoise, start: Tensor, sigmas: list[float], coefficient: float = 1.0) -> Tensor:
    """DPM-Solver++(2M): `coefficient` multiplies its second-order term; 1 is as published."""
    x, before, h_before = start, None, math.inf
    for sigma, after in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        x0 = target = _call(denoise, x, sigma)
        h = math.log(sigma / after) if after else math.inf
        if before is not None and after:
            target = x0 + coefficient * h / (2 * h_before) * (x0 - before)
        x = (after / sigma) * x + (1 - after / sigma) * target
        before, h_before = x0, h
    return x


def along_prior(denoise: Denoise, prior: Prior, start: Tensor, sigmas: list[float], most: float = 1.0) -> Tensor:
    """`sciguide.sampler.sample` with the ratio of successive steps clipped at `most`: 0 is first order, infinity not
    clipped, 1 the project's rule."""
    S, x = prior.variances, start
    carries, root = S >= NEGLIGIBLE * S.max(), S.sqrt()
    h_before = step_before = None
    for sigma, after in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        deviation = prior.to_modes(x - prior.mean)
        error = prior.to_modes(_call(denoise, x, sigma) - prior.filter(x, sigma))
        h = torch.where(carries, error / prior.error_variances(sigma)[0].sqrt(), 0)
        step = torch.atan2(torch.full_like(root, sigma), root) - torch.atan2(torch.full_like(root, after), root)
        slope = h
        if h_before is not None:
            slope = h + (step / step_before).clamp(max=most) / 2 * (h - h_before)
        y = deviation / (S + sigma**2).sqrt() + step * slope
        x = prior.mean + prior.from_modes(y * (S + after**2).sqrt())
        h_before, step_before = h, step
    return x


def unit_field(prior: Prior) -> Tensor:
    """The field whose modes are all 1: a map that is diagonal in modes shows its gains on it."""
    return prior.from_modes(torch.ones_like(prior.variances, dtype=prior.to_modes(prior.mean[None]).dtype)[None])


def gains(sampler: Callable[[Tensor], Tensor], prior: Prior) -> Tensor:
    """What a linear `sampler` (white noise -> field) multiplies each mode by, like the prior's variances."""
    return prior.to_modes(sampler(unit_field(prior)) - prior.mean)[0].real


def errors_of_gains(found: Tensor, S: Tensor) -> tuple[float, float]:
    """The std ratio, and W2 over the standard deviation, of N(0, gains^2) against N(0, S)."""
    ratio, distance = found.square().sum() / S.sum(), (found.abs() - S.sqrt()).square().sum() / S.sum()
    return float(ratio.sqrt()), float(distance.sqrt())


class Tuned(NamedTuple):
    """Settings of 2M with the least W2 on the Gaussian N(mu, C) of the data."""

    rho: float
    sigma_max: float
    sigma_min: float
    coefficient: float

    def sample(self, denoise: Denoise, prior: Prior, noise: Tensor, steps: int) -> Tensor:
        """From a draw of the prior at sigma_max."""
        sigmas = karras_sigmas(steps, self.sigma_min, self.sigma_max, self.rho)
        return two_step(denoise, prior.sample(noise, self.sigma_max), sigmas, self.coefficient)


def tune_two_step(prior: Prior, steps: int) -> Tuned:
    """By the simplex of Nelder and Mead from the usual settings, on the gains: no network, no samples, on the host.
    sigma_max is not to fall below the usual one: from a start at 0, a draw of the prior, nothing is left to do on a
    Gaussian."""
    prior = deepcopy(prior).cpu()
    least = widest(prior)
    first = np.log([7.0, least, SIGMA_MIN, 1.0])

    def loss(logs: np.ndarray) -> float:
        settings = Tuned(*np.exp(logs))
        if not least * 0.999 <= settings.sigma_max <= 1e3 * least or not 1 <= settings.rho <= 100:
            return math.inf
        found = gains(lambda noise: settings.sample(prior.filter, prior, noise, steps), prior)
        return errors_of_gains(found, prior.variances)[1]

    simplex = np.stack([first, *(first + 0.5 * np.eye(4))])
    found = minimize(loss, first, method="Nelder-Mead", options={"maxfev": 400, "initial_simplex": simplex})
    return Tuned(*np.exp(found.x).tolist())
