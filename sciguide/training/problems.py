"""Tuning problems of a run: truths from its validation samples, and what is known of them.

Problem `number` is a function of its number: a truth, stations at random grid points, their values, and what else its
`variety` lets vary. With no stations a problem is to draw members that look like the held truths and obey the
equations. The later part of the truths is for judging alone.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from sciguide.actions import USUAL, Actions, Levers
from sciguide.constraints import EquationRecord
from sciguide.errors import InputError
from sciguide.guidance import Constraint, Direction, Errors, Guidance, constraints_for
from sciguide.learner import JUDGED, Task
from sciguide.model import Model
from sciguide.observations import Observations
from sciguide.rollout import Chain, Members, Problems
from sciguide.training.variety import Group, Own, Variety

NETWORKS, GROUPS, NEIGHBOURS = 4, 16, 8  # of stations, on each side, or groups that vary; problems in a row that share
TRUTHS = 64  # at most so many draws stand for the distribution where nothing is observed
QUANTILE = 0.9


class Terms(NamedTuple):
    """What else is to come down to what the data have of it: `energies(x)` of normalised fields (B, C, Y, X), (B, K),
    at least 0 and finite, and K `floors`. It is rewarded as an equation's is, and guides nothing."""

    energies: Callable[[Tensor], Tensor]
    floors: Sequence[float]


class Shared(NamedTuple):
    """What the problems of a group share."""

    group: Group
    chain: Chain
    constraints: list[Constraint]


class RunProblems:
    """The problems of a model. `truths`: normalised fields (N, C, Y, X) float64 in the order of the record, of which
    the last third is for judging; `variety`: what is known of them, and what varies; `equations`: whether those of the
    model guide; `direction`: of the linear ones; `variance`: of estimates; `terms`: what else is rewarded. Raises
    InputError where there are too few truths, nothing to guide by, or a constant that no equation has."""

    def __init__(
        self,
        model: Model,
        truths: Tensor,
        variety: Variety,
        scales: Literal["told", "ml"] = "ml",
        equations: bool = True,
        direction: Direction = "kriging",
        iterations: int = 200,
        variance: Errors = "learned",
        terms: Terms | None = None,
    ) -> None:
        if len(truths) < 6:
            raise InputError(f"{len(truths)} validation samples: tuning needs 6 at least, to learn and to judge by")
        self.terms, self.observed = terms, variety.points[1] > 0
        if not self.observed and not (equations and model.equations):
            raise InputError("nothing to guide by: give --points N to tune for observations")
        known = {name for e in model.equations for name in e.operator["constants"]}
        for name in variety.constants:
            if name not in known:
                raise InputError(f"no equation of the model has a constant {name}, but {', '.join(sorted(known))}")
        cut, truths = len(truths) - len(truths) // 3, truths.to(model.prior.mean.device)
        self.model, self.truths, self.variety = model, (truths[:cut], truths[cut:]), variety
        self.options = {"scales": scales, "direction": direction, "iterations": iterations, "variance": variance}
        self.equations = model.constraints() if equations else []
        self.groups = GROUPS if variety.grouped else NETWORKS if self.observed else 1
        self.shared = lru_cache(maxsize=2 * self.groups)(self._shared)

    def task(self, seed: int, levers: Levers = USUAL) -> Task:
        """The task of policies for these problems; the noise levels of its schedules are those of the longest chain."""
        constraints, names = self.shared(False, 0).constraints, self.model.layout.names
        seen, done = Guidance.observation_names(constraints), Actions(constraints, names, levers).names
        sigmas = self.model.sigmas(round(self.variety.steps[1]))
        return Task(self, self.model.shape, sigmas, seen, done, seed, levers)

    def __call__(self, numbers: Sequence[int]) -> list[Problems]:
        """The problems `numbers`, batched by group, which neighbouring numbers share."""
        groups: dict[tuple[bool, int], list[int]] = {}
        for n in numbers:
            groups.setdefault((n >= JUDGED, n // NEIGHBOURS % self.groups), []).append(n)
        batch = self._observed if self.observed else self._unobserved
        return [batch(self.shared(*group), group[0], members) for group, members in groups.items()]

    def _unobserved(self, shared: Shared, judged: bool, numbers: list[int]) -> Problems:
        truths = self.truths[judged]
        truths = truths[:: -(-len(truths) // TRUTHS)]
        every = truths[None].expand(len(numbers), *truths.shape)
        own = [self.variety.own(n, len(truths[0])) for n in numbers]

        def members(repeats: int) -> Members:
            return Members(self._chain(shared, numbers, own, repeats), shared.constraints, self._energies)

        return Problems(every, self._floors(shared), numbers, members)

    def _observed(self, shared: Shared, judged: bool, numbers: list[int]) -> Problems:
        *equations, kriging = shared.constraints
        rows, truths = kriging.observations, self.truths[judged]
        truth = torch.stack([truths[n % len(truths)] for n in numbers])
        values = truth.flatten(1)[:, rows.index[:, 0]]
        own = [self.variety.own(n, truth.shape[1]) for n in numbers]
        factors = values.new_tensor([mine.factor for mine in own])
        noise = [torch.from_numpy(np.random.default_rng([n, 1]).standard_normal(len(rows))) for n in numbers]
        values = values + factors[:, None] * rows.error * torch.stack(noise).to(values)

        def members(repeats: int) -> Members:
            known = copy(kriging)  # shares the factorised covariance, which values do not enter
            known.observations = replace(rows, value=values.repeat_interleave(repeats, 0))
            true = factors.repeat_interleave(repeats)[:, None]

            def energies(x: Tensor) -> Tensor:
                misfit = (known.observations.innovation(x) / true).square().mean(1, keepdim=True)
                return torch.cat([self._energies(x), misfit], 1)

            return Members(self._chain(shared, numbers, own, repeats), [*equations, known], energies)

        return Problems(truth[:, None], self._floors(shared), numbers, members)

    def _chain(self, shared: Shared, numbers: Sequence[int], own: Sequence[Own], repeats: int) -> Chain:
        """The group's chain, with estimates that are off by a field of each problem's own where these vary: the
        prior's error M^(1/2) z, times the bias of each channel."""
        if not self.variety.bias:
            return shared.chain
        z = torch.stack(
            [torch.from_numpy(np.random.default_rng([n, 5]).standard_normal(self.model.shape)) for n in numbers]
        )
        bias = torch.stack([torch.from_numpy(mine.bias) for mine in own])[..., None, None]
        z, bias = z.to(self.truths[0]), bias.to(self.truths[0])

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            level = float(sigma.max())
            off = (bias * self.model.prior.sqrt_M(z, level)).repeat_interleave(repeats, 0)
            return self.model.denoise(x, sigma) + (sigma > 0)[:, None, None, None] * off

        return shared.chain._replace(denoise=denoise)

    def _energies(self, x: Tensor) -> Tensor:
        found = [e.energy(x)[:, None] for e in self.equations]
        return torch.cat([x.new_zeros(len(x), 0), *found, *([self.terms.energies(x)] if self.terms else [])], 1)

    def _shared(self, judged: bool, number: int) -> Shared:
        """The draw of a group, its stations, their values still to come, and equations with its constants."""
        group = self.variety.group(judged, number)
        model = self.model if not group.constants else replace(self.model, equations=self._off(group.constants))
        stations = self._stations(judged, number, group) if self.observed else None
        constraints = constraints_for(model, stations, equations=bool(self.equations), **self.options)
        chain = Chain(self.model.denoise, self.model.prior, self.model.sigmas(group.steps))
        return Shared(group, chain, constraints)

    def _off(self, factors: Mapping[str, float]) -> list[EquationRecord]:
        """The model's equations with some constants multiplied."""

        def changed(record: EquationRecord) -> EquationRecord:
            constants = {k: v * factors.get(k, 1.0) for k, v in record.operator["constants"].items()}
            return replace(record, operator={**record.operator, "constants": constants})

        return [changed(record) for record in self.model.equations]

    def _stations(self, judged: bool, number: int, group: Group) -> Observations:
        rng = np.random.default_rng([int(judged), number, 2])
        mask, shape = self.model.layout.mask, self.model.shape
        valid = np.flatnonzero(mask & np.isin(np.arange(shape[0]), self.variety.channels)[:, None, None])
        if len(valid) < group.points:
            raise InputError(f"{group.points} stations: there are {len(valid)} valid points")
        chosen = torch.from_numpy(np.sort(rng.choice(valid, group.points, replace=False)))
        weight = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(len(chosen), 4)
        error = torch.full((len(chosen),), group.error, dtype=torch.float64)
        index = chosen[:, None].expand(-1, 4).contiguous()
        return Observations(index, weight, torch.zeros_like(error), error, chosen // (shape[1] * shape[2]))

    def _floors(self, shared: Shared) -> Tensor:
        floors = [e.record.floor for e in self.equations] + list(self.terms.floors if self.terms else ())
        if self.observed:
            floors.append(float(chi2.ppf(QUANTILE, shared.group.points)) / shared.group.points)
        return torch.tensor(floors, dtype=torch.float64)
