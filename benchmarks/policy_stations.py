"""Observations of fields whose denoiser is known: their errors are not as told, or an equation beside them is wrong.

`Stations`: a Gaussian field on a torus, or one of six equally likely ones, seen at some random points, with a told
error; the true one is a factor larger. Number of points, told error and factor vary from problem to problem, the points
from one group of problems to the next.

`Approximate`: u at some points, and an equation f = lap(u) - k2 u that holds but for a field of the spectrum of f,
whose size varies from problem to problem, as the errors' factor does: two constraints that cannot both be met.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from benchmarks.oracle_fields import SIGMA_MIN, Mixture, gaussian, power_law, widest
from benchmarks.oracle_points import at_points
from benchmarks.policy_fields import NAMES, N, Told, filtered, joint, on_model, relation, stand_in
from sciguide.actions import Levers
from sciguide.device import CPU
from sciguide.equation_step import EquationStep
from sciguide.kriging import Kriging
from sciguide.learner import JUDGED
from sciguide.model import NetworkError
from sciguide.policy import Policy
from sciguide.rollout import Chain, Members, Problems
from sciguide.sampler import karras_sigmas

GROUPS, NEIGHBOURS = 16, 8  # of problems that share their points, and how many in a row


def group_of(number: int) -> tuple[bool, int]:
    """Whether a problem is for judging, and its group there."""
    return number >= JUDGED, number // NEIGHBOURS % GROUPS


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """Log-uniform."""
    return float(low * (high / low) ** rng.uniform())


def batches(numbers: Sequence[int]) -> list[tuple[tuple[bool, int], list[int]]]:
    """The numbers by group."""
    found: dict[tuple[bool, int], list[int]] = {}
    for n in numbers:
        found.setdefault(group_of(n), []).append(n)
    return list(found.items())


class Stations:
    """`points`, `error`: ranges of their number and of the told error; `factor`: at most, of the true error over it;
    `mixture`: whether the field is one of six; `device`: that all of it is on."""

    channels, shape = ("u",), (1, N, N)

    def __init__(
        self,
        points: tuple[int, int] = (10, 100),
        error: tuple[float, float] = (0.03, 0.3),
        factor: float = 10.0,
        scales: str = "ml",
        steps: int = 10,
        mixture: bool = False,
        device: torch.device = CPU,
    ) -> None:
        self.points, self.error, self.factor, self.scales = points, error, factor, scales
        self.mixture = Mixture(n=N).to(device) if mixture else None
        self.prior = (self.mixture.prior(4096) if self.mixture else gaussian(power_law(N, 3.0))).to(device)
        self.sigmas = karras_sigmas(steps, SIGMA_MIN, widest(self.prior))
        self.kriging = lru_cache(maxsize=2 * GROUPS)(self._kriging)
        self.constraints = [self.kriging(False, 0)]

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The exact one; a field whose sigma is 0 is clean."""
        level = sigma.max()
        found = self.mixture.denoise(x, level[None]) if self.mixture else self.prior.filter(x, float(level))
        return torch.where((sigma > 0)[:, None, None, None], found, x)

    def _kriging(self, judged: bool, group: int) -> Kriging:
        rng = np.random.default_rng([int(judged), group, 9])
        m, error = round(between(rng, *self.points)), between(rng, *self.error)
        index = torch.from_numpy(rng.choice(N**2, m, replace=False))
        return Kriging(self.prior, at_points(index, torch.zeros(m).double(), error), self.scales)

    def truth(self, number: int) -> Tensor:
        """(1, N, N)"""
        if self.mixture:
            modes = self.mixture.draw(1, 10 + number).reshape(1, N, N)
            return self.prior.from_modes(modes)[0]
        noise = np.random.default_rng([number, 8]).standard_normal((1, 1, N, N))
        return self.prior.sample(torch.from_numpy(noise).to(self.prior.mean))[0]

    def draw(self, number: int) -> tuple[Tensor, Tensor, float]:
        """The truth, the observed values (m,), and the factor."""
        rng, rows = np.random.default_rng([number, 10]), self.kriging(*group_of(number)).observations
        factor, truth = between(rng, 1 / self.factor, self.factor), self.truth(number)
        values = truth.flatten()[rows.index[:, 0]]
        noise = torch.from_numpy(rng.standard_normal(len(values))).to(values)
        return truth, values + factor * rows.error * noise, factor

    def problems(self, numbers: Sequence[int]) -> list[Problems]:
        return [self._batch(self.kriging(*group), members) for group, members in batches(numbers)]

    def _batch(self, kriging: Kriging, numbers: list[int]) -> Problems:
        drawn = [self.draw(n) for n in numbers]
        values = torch.stack([d[1] for d in drawn])

        def members(repeats: int) -> Members:
            known = copy(kriging)  # shares the factorised covariance, which values do not enter
            known.observations = replace(known.observations, value=values.repeat_interleave(repeats, 0))
            chain = Chain(self.denoise, self.prior, self.sigmas)
            return Members(chain, [known], lambda x: known.observations.innovation(x).square().mean(1)[:, None])

        return Problems(torch.stack([d[0][None] for d in drawn]), torch.ones(1).double(), numbers, members)

    def knowing(self, numbers: Sequence[int], noises: int) -> tuple[Policy, Levers]:
        """The formula told each problem's factor, for a world of `scales` told."""
        factors = torch.tensor([self.draw(n)[2] for n in numbers]).double().repeat_interleave(noises)
        return Told(2 * factors.log()[:, None].to(self.prior.mean)), Levers(1, 1)


class Approximate:
    """`size`: range of the equation's own error, in standard deviations of f; `points` of u with told `error`, true
    ones by up to `factor` larger or smaller; `device`: that all of it is on."""

    channels, shape = NAMES, (2, N, N)

    def __init__(
        self,
        size: tuple[float, float] = (0.01, 1.0),
        points: int = 24,
        error: float = 0.1,
        factor: float = 5.0,
        scales: str = "ml",
        steps: int = 5,
        device: torch.device = CPU,
    ) -> None:
        self.size, self.m, self.told, self.factor, self.scales = size, points, error, factor, scales
        self.relation = relation().to(device)
        low, high = size
        s2 = (high**2 - low**2) / (2 * np.log(high / low)) if high > low else low**2  # the mean square
        S, symbol, _ = self.relation
        self.S_f = symbol**2 * S
        self.prior = joint(torch.diag_embed(torch.stack([S, (1 + s2) * self.S_f], -1)))
        sigmas = np.geomspace(SIGMA_MIN, 3 * self.prior.largest**0.5, 12).tolist()
        mse = [(self.prior.error_std(s).flatten() ** 2).tolist() for s in sigmas]
        self.equation = on_model(self.relation, s2, s2)
        self.model = stand_in(self.prior, self.equation, NetworkError(sigmas, mse))
        self.sigmas = karras_sigmas(steps, SIGMA_MIN, self.model.sigma_max)
        self.step = EquationStep(self.model, self.equation, scales="told", when="always")
        self.kriging = lru_cache(maxsize=2 * GROUPS)(self._kriging)
        self.constraints = [self.step, self.kriging(False, 0)]

    def _kriging(self, judged: bool, group: int) -> Kriging:
        index = np.random.default_rng([int(judged), group, 11]).choice(N**2, self.m, replace=False)
        rows = at_points(torch.from_numpy(index), torch.zeros(self.m).double(), self.told)
        return Kriging(self.prior, rows, self.scales, self.step.conditional)

    def draw(self, number: int) -> tuple[Tensor, Tensor]:
        """The truth (2, N, N) and the observed values (m,)."""
        rng, (S, symbol, _) = np.random.default_rng([number, 12]), self.relation
        size, factor = between(rng, *self.size), between(rng, 1 / self.factor, self.factor)
        white = torch.from_numpy(rng.standard_normal((2, N, N))).to(S)
        u = filtered(white[0], S.sqrt())
        truth = torch.stack([u, filtered(u, symbol) + size * filtered(white[1], self.S_f.sqrt())])
        rows = self.kriging(*group_of(number)).observations
        values = u.flatten()[rows.index[:, 0]]
        return truth, values + factor * rows.error * torch.from_numpy(rng.standard_normal(self.m)).to(S)

    def problems(self, numbers: Sequence[int]) -> list[Problems]:
        return [self._batch(self.kriging(*group), members) for group, members in batches(numbers)]

    def _batch(self, kriging: Kriging, numbers: list[int]) -> Problems:
        truth, values = (torch.stack(column) for column in zip(*map(self.draw, numbers), strict=True))
        chain = Chain(self._denoise, self.prior, self.sigmas)

        def members(repeats: int) -> Members:
            known = copy(kriging)
            known.observations = replace(known.observations, value=values.repeat_interleave(repeats, 0))

            def energies(x: Tensor) -> Tensor:
                misfit = known.observations.innovation(x).square().mean(1)
                return torch.stack([self.equation.energy(x), misfit], 1)

            return Members(chain, [self.step, known], energies)

        floors = torch.tensor([self.equation.record.floor, 1.0], dtype=torch.float64)
        return Problems(truth[:, None], floors, numbers, members)

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.where((sigma > 0)[:, None, None, None], self.prior.filter(x, float(sigma.max())), x)
