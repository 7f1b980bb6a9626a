"""Tuning problems of a run: truths from its validation samples, and what is known of them.

Problem `number` is a function of its number: a truth, stations at random grid points, and their values, with errors
that may be larger or smaller than what is told. With no stations a problem is to draw members that look like the held
truths and obey the equations. The later part of the truths is for judging alone.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from sciguide.errors import InputError
from sciguide.guidance import Constraint, Direction, Guidance, constraints_for
from sciguide.learner import JUDGED, Task
from sciguide.model import Model
from sciguide.observations import Observations
from sciguide.rollout import Chain, Members, Problems

NETWORKS, NEIGHBOURS = 4, 8  # of stations, on each side, and problems in a row that share one
TRUTHS = 64  # at most so many draws stand for the distribution where nothing is observed
QUANTILE = 0.9


@dataclass(frozen=True)
class Stations:
    """`points` of the `channels`; `error`: the told standard deviation, in those of the fields; the true one is that
    times a factor from [1 / misreport, misreport], log-uniform, another one for every problem."""

    points: int
    channels: tuple[int, ...]
    error: float = 0.1
    misreport: float = 1.0


class RunProblems:
    """The problems of a model. `truths`: normalised fields (N, C, Y, X) float64 in the order of the record, of which
    the last third is for judging; `stations`: None where nothing is observed; `equations`: whether those of the model
    guide; `direction`: of the linear ones. Raises InputError where there are too few truths, or nothing to guide by."""

    def __init__(
        self,
        model: Model,
        truths: Tensor,
        stations: Stations | None,
        scales: Literal["told", "ml"] = "ml",
        steps: int = 20,
        equations: bool = True,
        direction: Direction = "kriging",
    ) -> None:
        if len(truths) < 6:
            raise InputError(f"{len(truths)} validation samples: tuning needs 6 at least, to learn and to judge by")
        if stations is None and not (equations and model.equations):
            raise InputError("nothing to guide by: give --points N to tune for observations")
        cut = len(truths) - len(truths) // 3
        self.model, self.truths, self.stations, self.scales = model, (truths[:cut], truths[cut:]), stations, scales
        self.direction = direction
        self.chain = Chain(model.denoise, model.prior, model.sigmas(steps))
        self.equations = model.constraints() if equations else []
        self.constraints = lru_cache(maxsize=2 * NETWORKS)(self._constraints)

    def task(self, seed: int) -> Task:
        """The task of policies for these problems."""
        constraints, names = self.constraints(False, 0), self.model.layout.names
        seen, done = Guidance.observation_names(constraints), Guidance.action_names(constraints, names)
        return Task(self, self.model.shape, self.chain.sigmas, seen, done, seed)

    def __call__(self, numbers: Sequence[int]) -> list[Problems]:
        """The problems `numbers`, batched by network of stations, which neighbouring numbers share."""
        groups: dict[tuple[bool, int], list[int]] = {}
        for n in numbers:
            groups.setdefault((n >= JUDGED, n // NEIGHBOURS % NETWORKS if self.stations else 0), []).append(n)
        batch = self._observed if self.stations else self._unobserved
        return [batch(judged, network, group) for (judged, network), group in groups.items()]

    def _unobserved(self, judged: bool, network: int, numbers: list[int]) -> Problems:
        truths = self.truths[judged]
        truths = truths[:: -(-len(truths) // TRUTHS)]
        every = truths[None].expand(len(numbers), *truths.shape)
        members = Members(self.chain, self.constraints(judged, network), self._energies)
        return Problems(every, self._floors(), numbers, lambda repeats: members)

    def _observed(self, judged: bool, network: int, numbers: list[int]) -> Problems:
        *equations, kriging = self.constraints(judged, network)
        rows, truths = kriging.observations, self.truths[judged]
        truth = torch.stack([truths[n % len(truths)] for n in numbers])
        values = truth.flatten(1)[:, rows.index[:, 0]]
        spread = np.log(self.stations.misreport)
        for value, number in zip(values, numbers, strict=True):
            rng = np.random.default_rng([number, 1])
            factor = float(np.exp(rng.uniform(-spread, spread)))
            value += factor * rows.error * torch.from_numpy(rng.standard_normal(len(rows)))

        def members(repeats: int) -> Members:
            known = copy(kriging)  # shares the factorised covariance, which values do not enter
            known.observations = replace(rows, value=values.repeat_interleave(repeats, 0))

            def energies(x: Tensor) -> Tensor:
                misfit = known.observations.innovation(x).square().mean(1, keepdim=True)
                return torch.cat([self._energies(x), misfit], 1)

            return Members(self.chain, [*equations, known], energies)

        return Problems(truth[:, None], self._floors(), numbers, members)

    def _energies(self, x: Tensor) -> Tensor:
        return torch.stack([e.energy(x) for e in self.equations], 1) if self.equations else x.new_zeros(len(x), 0)

    def _constraints(self, judged: bool, network: int) -> list[Constraint]:
        """The constraints of one network of stations, the observations last, their values still to come."""
        observations = None
        if (stations := self.stations) is not None:
            rng = np.random.default_rng([int(judged), network, 2])
            mask, shape = self.model.layout.mask, self.model.shape
            valid = np.flatnonzero(mask & np.isin(np.arange(shape[0]), stations.channels)[:, None, None])
            if len(valid) < stations.points:
                raise InputError(f"{stations.points} stations: there are {len(valid)} valid points")
            chosen = torch.from_numpy(np.sort(rng.choice(valid, stations.points, replace=False)))
            weight = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64).expand(len(chosen), 4)
            error = torch.full((len(chosen),), stations.error, dtype=torch.float64)
            index = chosen[:, None].expand(-1, 4).contiguous()
            channel = chosen // (shape[1] * shape[2])
            observations = Observations(index, weight, torch.zeros_like(error), error, channel)
        return constraints_for(self.model, observations, self.scales, bool(self.equations), self.direction)

    def _floors(self) -> Tensor:
        floors = [e.record.floor for e in self.equations]
        if self.stations is not None:
            floors.append(float(chi2.ppf(QUANTILE, self.stations.points)) / self.stations.points)
        return torch.tensor(floors, dtype=torch.float64)
