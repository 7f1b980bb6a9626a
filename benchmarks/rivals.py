"""Samplers that the project's own is measured against, after Karras et al. 2022 (arXiv 2206.00364) and Lu et al. 2022
(arXiv 2211.01095). Each calls `denoise(x, sigma)` at most `evaluations` times and returns the finished field."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sciguide.sampler import karras_sigmas

Denoise = Callable[[Tensor, Tensor], Tensor]


def _call(denoise: Denoise, x: Tensor, sigma: float) -> Tensor:
    return denoise(x, x.new_full((len(x),), sigma))


def heun(denoise: Denoise, start: Tensor, evaluations: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Algorithm 1 of Karras et al. without churn: two evaluations a step, one for the last, so an odd number of them;
    with an even `evaluations` one is left unused. `start`: the state at sigma_max."""
    x, sigmas = start, [*karras_sigmas((evaluations + 1) // 2, sigma_min, sigma_max), 0.0]
    for sigma, after in zip(sigmas, sigmas[1:], strict=False):
        slope = (x - _call(denoise, x, sigma)) / sigma
        euler = x + (after - sigma) * slope
        if after > 0:
            slope = (slope + (euler - _call(denoise, euler, after)) / after) / 2
        x = x + (after - sigma) * slope
    return x


def dpm_solver_2m(denoise: Denoise, start: Tensor, evaluations: int, sigma_min: float, sigma_max: float) -> Tensor:
    """DPM-Solver++(2M) in the variance-exploding form: multistep in lambda = -log sigma, first order for the first and
    the last step. `start`: the state at sigma_max."""
    x, before, h_before = start, None, None
    sigmas = [*karras_sigmas(evaluations, sigma_min, sigma_max), 0.0]
    for sigma, after in zip(sigmas, sigmas[1:], strict=False):
        x0 = _call(denoise, x, sigma)
        h = math.log(sigma / after) if after > 0 else math.inf
        target = x0
        if before is not None and after > 0:
            target = x0 + (x0 - before) * h / (2 * h_before)
        x = (after / sigma) * x + (1 - after / sigma) * target
        before, h_before = x0, h
    return x


def white_start(noise: Tensor, sigma_max: float) -> Tensor:
    """EDM's own start: white noise and no mean."""
    return sigma_max * torch.as_tensor(noise)
