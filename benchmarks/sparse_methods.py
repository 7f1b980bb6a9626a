"""The methods of the sparse table: each makes an ensemble of both fields from one field's values at points.

All that guide go the same chain from the same noise: with the network, or with the Wiener filter of a prior alone,
whose chain shows what the formula and the number of steps cost. PiGDM, SDA and pixel errors are those of
`oracle_points.py`, with the model's M in the place of the Jacobian of its denoiser; DPS goes through the network.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.oracle_points import Points, pigdm, sda
from benchmarks.sparse_factor import factorised
from benchmarks.sparse_problems import DRAWING, THRESHOLD, Problem
from sciguide.baselines import physical
from sciguide.guidance import Guidance, constraints_for
from sciguide.kriging import Kriging
from sciguide.model import Model, NetworkError
from sciguide.observations import Observations
from sciguide.prior import EOF, Prior
from sciguide.sampler import sample
from sciguide.simulate import get
from sciguide.simulate.darcy_twophase import HIGH, LOW
from sciguide.simulate.gaussian_field import cosine_field

MEMBERS = 16
LEVELS = 24  # noise levels at which a filter's error is told
TINIEST = 1e-15  # of the largest variance: what is below it is rounding

Ensemble = NDArray[np.float64]


class Filter(nn.Module):
    """A prior's Wiener filter as a denoiser."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.prior.filter(x, sigma)


def without_network(model: Model, prior: Prior | None = None) -> Model:
    """The model with the filter of its prior, or of another one, for its network."""
    prior = prior or model.prior
    sigma_max = 3 * prior.largest**0.5
    sigmas = np.geomspace(model.sigma_min, sigma_max, LEVELS)
    mse = [(prior.error_std(float(s)).flatten() ** 2).tolist() for s in sigmas]
    return replace(model, denoiser=Filter(prior), sigma_max=sigma_max, error=NetworkError(sigmas.tolist(), mse))


def exact_prior(name: str, model: Model) -> Prior:
    """The prior that the pairs of a linear set are drawn from, in the units of the model: both fields are linear in the
    same n^2 normals."""
    of, n, mean, std = get(name), model.shape[-1], *(np.asarray(getattr(model.normaliser, k)) for k in ("mean", "std"))
    unit = np.eye(n * n).reshape(-1, n, n)
    f = cosine_field(unit, of.ALPHA, of.TAU)
    root = torch.from_numpy(np.stack([f / std[0], of.solve(f) / std[1]], 1).reshape(n * n, -1))
    variances, vectors = torch.linalg.eigh(root @ root.T)
    kept = (variances > TINIEST * variances.max()).nonzero()[:, 0].flip(0)
    variances = variances[kept]
    fields = root.T @ vectors[:, kept] / variances.sqrt()
    centre = torch.from_numpy(np.broadcast_to((-mean / std)[:, None, None], model.shape).copy())
    mask = torch.ones(model.shape, dtype=torch.bool)
    found = EOF(centre, mask, fields.contiguous(), variances, torch.zeros((), dtype=torch.float64))
    return found.to(model.device)


def white(model: Model, problem: Problem, members: int) -> Tensor:
    """The noise of a problem's members, the same for every method."""
    seed = 10**6 * DRAWING + problem.number
    return model.white(seed, range(members))


def unguided(model: Model, problem: Problem, steps: int = 0, members: int = MEMBERS) -> Ensemble:
    """Members that know nothing of the values; without `steps` draws of N(mu, C)."""
    noise = white(model, problem, members)
    return chain(model, noise, steps) if steps else physical(model, model.prior.sample(noise))


def guided(
    model: Model,
    problem: Problem,
    steps: int,
    scales: str = "told",
    equations: bool = True,
    members: int = MEMBERS,
    variance: str = "prior",
) -> Ensemble:
    """By the formula, as `sciguide generate --policy fixed --obs FILE` does it."""
    observations = problem.observations(model.layout, model.normaliser)
    found = constraints_for(model, observations, scales, equations, variance=variance)
    constraints = factorised(model, found, steps)
    guide = Guidance(constraints, None, model.layout.names, steps)
    return chain(model, white(model, problem, members), steps, guide, partial(guide.start, prior=model.prior))


def chain(
    model: Model, noise: Tensor, steps: int, guide: Callable | None = None, start: Callable | None = None
) -> Ensemble:
    sigmas = model.sigmas(steps)
    begin = start(noise, sigmas[0]) if start else None
    *_, last = sample(model.denoise, model.prior, noise, sigmas, guide, begin)
    return physical(model, last.guided)


class ModelPoints(Points):
    """The published forms of guidance, for one problem and about a model's prior."""

    def __init__(self, model: Model, observations: Observations) -> None:
        self.prior, self.index, self.rows = model.prior, observations.index[:, 0], observations
        self.y, self.error = observations.value[None], float(observations.error[0])
        self.jacobian = lru_cache(1)(self._jacobian)


def sda_form(gamma: float) -> Callable:
    return partial(Points.likelihood, r2=sda(gamma))


FORMS: dict[str, Callable[[Points, Tensor, float], Tensor]] = {
    "pixel errors": Points.pixel,
    "PiGDM": partial(Points.likelihood, r2=pigdm),
    **{f"SDA, gamma {gamma:g}": sda_form(gamma) for gamma in (1e-3, 1e-2, 1e-1, 1.0)},
}


def rival(model: Model, problem: Problem, form: str, steps: int, members: int = MEMBERS) -> Ensemble:
    """By one of FORMS at every noise level, from the start of the kriging step."""
    observations = problem.observations(model.layout, model.normaliser).to(model.device)
    points = ModelPoints(model, observations)

    def guide(index: int, x0: Tensor, sigma: float) -> tuple[Tensor, None]:
        return (FORMS[form](points, x0, sigma) if index < steps else x0), None

    start = Kriging(model.prior, observations, "told").start
    return chain(model, white(model, problem, members), steps, guide, start)


def through_network(model: Model, problem: Problem, strength: float, steps: int, members: int = MEMBERS) -> Ensemble:
    """The estimate moved down the gradient of the misfit |A D(x) - y|^2 by x, taken through the network (DPS, Chung et
    al. 2023, arXiv 2209.14687), by `strength` times Polyak's length, from the start of the kriging step."""
    observations = problem.observations(model.layout, model.normaliser).to(model.device)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            x0 = model.denoiser(x, sigma)
            misfit = (observations.interpolate(x0) - observations.value).square().mean(1)
            (gradient,) = torch.autograd.grad(misfit.sum(), x)
        length = strength * misfit.detach() / gradient.square().sum((1, 2, 3)).clamp(min=1e-300)
        return x0.detach() - length[:, None, None, None] * gradient

    noise, sigmas = white(model, problem, members), model.sigmas(steps)
    start = Kriging(model.prior, observations, "told").start(noise, sigmas[0])
    *_, last = sample(denoise, model.prior, noise, sigmas, None, start)
    return physical(model, last.guided)


def resolved(problem: Problem, ensemble: Ensemble) -> Ensemble:
    """Every member's input, of its two values where it has two, with the solution that belongs to it."""
    inputs = ensemble[:, 0]
    if problem.of.two_valued:
        inputs = np.where(inputs >= THRESHOLD, HIGH, LOW)
    return np.stack([inputs, get(problem.of.name).solve(inputs)], 1)


def exact_mean(problem: Problem) -> Ensemble:
    """Of the posterior, (1, 2, n, n)."""
    mean = problem.posterior().mean
    return np.stack([mean[name] for name in problem.of.variables])[None]


def exact_draws(problem: Problem, members: int = MEMBERS) -> Ensemble:
    """Of the posterior."""
    drawn = problem.posterior().draw(np.random.default_rng([DRAWING, problem.number]), members)
    return np.stack([drawn[name] for name in problem.of.variables], 1)
