"""Fitting the variance network (`sciguide/variance.py`) to the errors of a frozen denoiser.

    loss = mean of log v + (x - D(x_sigma, sigma))^2 / v,

the negative log-likelihood of a Gaussian, or the deviance of a gamma distribution: its minimum is v = E[(x - D)^2],
whatever the distribution of the error. On samples that the denoiser was not trained on: on its own training samples
it errs less. Some of them judge: a network that does no better there than M, by more than chance, is not kept.
"""

import math
from typing import NamedTuple

import torch
from rich.progress import track
from torch import Tensor

from sciguide.model import Model
from sciguide.variance import Variance

STEPS, BATCH, LEARNING_RATE = 400, 16, 2e-3
WIDTH, DILATIONS = 32, (1, 2, 4, 1)
JUDGING = 4  # one in so many samples judges
PASSES = 4  # noise levels at which each of them does
CHANCE = 2.0  # standard errors


class Judged(NamedTuple):
    """Mean deviance on held-out samples, and its standard error: of the network less that of M (negative: better)."""

    gain: float
    error: float


def fit_variance(model: Model, x: Tensor, area: Tensor, steps: int = STEPS, seed: int = 0) -> tuple[Variance, Judged]:
    """The network for a model, fitted to normalised samples `x` (N, C, Y, X) that its denoiser has not seen; `area`
    (C, Y, X): weights of the points."""
    generator = torch.Generator().manual_seed(seed)
    arguments = {"boundary": list(model.grid.boundary), "width": WIDTH, "dilations": list(DILATIONS)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        variance = Variance(model.prior, arguments)
    judging = torch.arange(len(x)) % JUDGING == JUDGING - 1
    fitted = x[~judging]
    optimizer = torch.optim.AdamW(variance.parameters(), LEARNING_RATE, weight_decay=1e-2, betas=(0.9, 0.99))
    for step in track(range(steps), "variance network", transient=True):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        rows = torch.randint(len(fitted), (BATCH,), generator=generator)
        u = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH
        loss = deviance(variance, model, fitted[rows], u, area, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(variance.parameters(), 1.0)
        optimizer.step()
    variance.eval().requires_grad_(False)
    return variance, judge(variance, model, x[judging], area, generator)


def deviance(
    variance: Variance, model: Model, x: Tensor, u: Tensor, area: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean of log v + e^2 / v, v and e^2 over diag M, less that of v = diag M, of each sample noised to the quantile
    `u` (B,) of the noise levels, (B,)."""
    low, high = math.log(model.sigma_min), math.log(model.sigma_max)
    sigma = torch.exp(low + u.to(x) * (high - low))
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    x0 = model.denoise(torch.where(model.prior.mask, x + sigma[:, None, None, None] * noise, x), sigma).clone()
    wiener, there = variance.wiener(sigma)
    square = torch.where(there, (x - x0).square() / wiener.clamp(min=1e-300), 1)
    log = torch.where(there, variance(x0, sigma), 0)
    each = log + square * torch.expm1(-log)
    return (area * each).sum((1, 2, 3)) / area.sum()


@torch.no_grad()
def judge(variance: Variance, model: Model, x: Tensor, area: Tensor, generator: torch.Generator) -> Judged:
    """On samples of which none was fitted to, each at some noise levels."""
    found = []
    for i in range(PASSES):
        u = (torch.arange(len(x)) * 0.6180339887 + i / PASSES) % 1
        parts = zip(x.split(BATCH), u.split(BATCH), strict=True)
        found.append(torch.cat([deviance(variance, model, a, b, area, generator) for a, b in parts]))
    each = torch.stack(found).mean(0)
    return Judged(float(each.mean()), float(each.std() / max(1, len(each)) ** 0.5))
