"""Rows of the table that other methods make with the same network: guidance by least squares or gradients, another
sampler."""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.darcy_methods import BATCH, GUIDED, PLAIN, STEPS, Made, chains, noises, physical, with_p
from benchmarks.rivals import dpm_solver_2m
from sciguide.constraints import EquationOnModel
from sciguide.gradient_step import LATE
from sciguide.guidance import equation_steps
from sciguide.model import Model
from sciguide.prior import dct_matrix
from sciguide.simulate import darcy_smooth

STRENGTHS = (0.1, 0.3, 1.0)  # of DPS, on the last quarter of the steps or on all
TUNED_ON = 8  # members
PHASES = (
    ((1, 10),),
    ((1, 20),),
    ((1, 40),),
    ((1, 20), (0, 20)),
)  # of least squares; the data's own weights are power 0


def fitted(pairs: NDArray, phases: Sequence[tuple[float, int]]) -> NDArray[np.float64]:
    """p of the pairs (N, 2, Y, X) moved towards least squares of the set's own rows, each over K^power, by so many
    iterations of conjugate gradients for every (power, iterations). Preconditioned by the inverse of the squared
    Laplacian with insulated edges, which leaves the constant alone."""
    n = pairs.shape[-1]
    operator, cosines = darcy_smooth.operator(n), dct_matrix(n)
    waves = (2 - 2 * torch.cos(torch.pi * torch.arange(n, dtype=torch.float64) / n)) * (n - 1) ** 2
    inverse = (waves[:, None] + waves).square()
    inverse = torch.where(inverse > 0, 1 / inverse, 0)
    u = torch.zeros(len(pairs), len(operator.fields), n, n, dtype=torch.float64)
    u[:, :2] = torch.from_numpy(pairs)
    u[:, 2:] = torch.from_numpy(np.stack([values for values, _ in darcy_smooth.static(n).values()]))

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).sum(1)[:, None, None]

    for power, iterations in phases:
        weight = u[:, :1] ** -power
        v, r = torch.zeros_like(u), -weight * operator.residual(u)
        p, direction, before = u[:, 1], torch.zeros_like(u[:, 1]), torch.ones(len(u), 1, 1, dtype=torch.float64)
        for _ in range(iterations):
            slope = operator.vjp(u, weight * r)[:, 1]
            z = cosines.T @ (inverse * (cosines @ slope @ cosines.T)) @ cosines
            now = dot(slope, z)
            direction, before = z + now / before.clamp(min=1e-300) * direction, now
            v[:, 1] = direction
            moved = weight * operator.jvp(u, v)
            length = now / dot(moved, moved).clamp(min=1e-300)
            p, r = p + length * direction, r - length[..., None] * moved
        u[:, 1] = p
    return u[:, 1].numpy()


def least_squares(plain: Made) -> Iterator[Made]:
    """Unguided members (or draws) whose p is fitted at the end: a step for this equation alone, with its own
    preconditioner."""
    for phases in PHASES:
        begun = time.process_time()
        p = np.concatenate(
            [fitted(part, phases) for part in np.split(plain.pairs, range(BATCH, len(plain.pairs), BATCH))]
        )
        spent = (time.process_time() - begun) / len(p)
        counts = " + ".join(f"{iterations}" for _, iterations in phases)
        seconds = plain.seconds + spent
        name = f"{plain.name.removesuffix(', unguided')}, least squares at the end, {counts} iterations"
        correction = f"least squares {counts}"
        yield Made(name, with_p(plain.pairs, p), plain.evaluations, seconds, spent / seconds, correction, plain.key)


def rivals(model: Model, tuning: int, seed: int, members: int) -> Iterator[Made]:
    """Other ways to guide, and another sampler, at the same number of evaluations; DPS for half of the members."""
    down = chains(model, [seed], members, constraints=equation_steps(model, "told", "gradient"))
    share = down.guidance / down.seconds
    yield Made("network, gradient steps", physical(model, down.x), STEPS, down.seconds, share, GUIDED, "gradient")
    strength, late, cost = tune(model, tuning)
    through = chains(model, [seed], -(-members // 2), denoise=dps(model, strength, late))
    about = f"network, DPS, strength {strength:g}, {'last quarter' if late else 'all steps'}"
    share = 1 - cost / through.seconds
    yield Made(about, physical(model, through.x), STEPS, through.seconds, share, GUIDED, "DPS")


def sampler_2m(model: Model, seeds: Sequence[int], members: int) -> Made:
    """DPM-Solver++(2M) from the Gaussian start."""
    begun, found = time.process_time(), []
    for noise in noises(model, seeds, members):
        start = model.prior.sample(noise, model.sigma_max)
        found.append(dpm_solver_2m(model.denoise, start, STEPS, model.sigma_min, model.sigma_max))
    seconds = (time.process_time() - begun) / (len(seeds) * members)
    return Made("network, unguided, 2M", physical(model, torch.cat(found)), STEPS, seconds, 0.0, PLAIN, "2M")


def dps(model: Model, strength: float, late: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """The estimate moved down the gradient of R(D(x)) by x, taken through the network (Chung et al. 2023, arXiv
    2209.14687), by `strength` times Polyak's length; on the last quarter of the steps where `late`."""
    (equation,) = model.constraints()
    sigmas = model.sigmas(STEPS)
    first = sigmas[int(np.ceil(LATE * STEPS))] if late else sigmas[0]

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        if float(sigma[0]) > first:
            return model.denoise(x, sigma)
        x0, R, gradient = through_network(model, equation, x, sigma)
        excess = (R - equation.record.floor).clamp(min=0)
        length = strength * excess / gradient.square().sum((1, 2, 3)).clamp(min=1e-300)
        return x0 - length[:, None, None, None] * gradient

    return denoise


def through_network(model: Model, equation: EquationOnModel, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """D(x), its R (B,) and the gradient of that by x."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        x0 = model.denoiser(x, sigma)
        R = equation.energy(x0)
        (gradient,) = torch.autograd.grad(R.sum(), x)
    return x0.detach(), R.detach(), gradient


def tune(model: Model, seed: int) -> tuple[float, bool, float]:
    """The strength of the least R_MAE, and where it acts, among those that leave both fields within a tenth of the
    standard deviation of unguided members; and the seconds of one of these."""
    plain = chains(model, [seed], TUNED_ON)
    found = {}
    for late in (True, False):
        for strength in STRENGTHS:
            x = chains(model, [seed], TUNED_ON, denoise=dps(model, strength, late)).x
            ratio = x.std(0).square().mean((1, 2)).sqrt() / plain.x.std(0).square().mean((1, 2)).sqrt()
            pairs = physical(model, x)
            error = float(darcy_smooth.r_mae(pairs[:, 0], pairs[:, 1]).mean())
            fair = bool((ratio.log().abs() < np.log(1.1)).all())
            print(f"tuning DPS: {strength:g}, {'late' if late else 'all'}: R_MAE {error:.3g}, kept {fair}", flush=True)
            found[strength, late] = error if fair and np.isfinite(error) else np.inf
    strength, late = min(found, key=found.get)
    return strength, late, plain.seconds
