"""Learning a policy of guidance: what a policy is scored by, and the loss of its gradient.

The gradient is group-relative (GRPO, Shao et al. 2024, arXiv 2402.03300) with common noise: replicas of a member share
its noise and differ in their actions alone, so their mean return at step t is a baseline that needs no critic.
Log-probabilities are scored again from stored observations and actions: learning never runs the denoiser. The rivals,
tables and affine feedback, are searched in `search.py` by the same score.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciguide.actions import Levers
from sciguide.guidance import EVEN
from sciguide.policy import Fixed, Policy, Standard
from sciguide.reward import Distance, contributions, energy_score, excess, potential, rewards
from sciguide.rollout import Problems, Rollout, draw_noise, roll_out

ITERATION = 0.04  # of conjugate gradients over an evaluation of a network of 2 M weights on 64 x 64 points
SEEDS, APART = 4096, 8 * 32749  # seeds whose problems are apart, by so many; a prime, as truths and groups come again
HELD = 2**30  # numbers of problems from here on decide between what was tuned
JUDGED = 2**31  # numbers of problems from here on are for judging


@dataclass(frozen=True)
class Worth:
    """How returns are counted. `distance`: between fields, whose energy score is the terminal term; `weights` and
    `scales` (K,) of the potential; `distribution`: weight of the terminal term; `unguided`: its energy score without
    guidance; `price`: of all evaluations of a chain, `iteration`: what an iteration of a correction costs, in
    evaluations."""

    distance: Distance
    weights: Tensor
    scales: Tensor
    unguided: float
    distribution: float = 1.0
    price: float = 0.0
    iteration: float = ITERATION


class Played(NamedTuple):
    """A roll-out and its worth: potentials `phi` (T + 1, B), `reward` of every decision (T, B), `terminal` reward (B,),
    and per problem (P,) the `score`, its mean return, and the `energy` score."""

    rollout: Rollout
    phi: Tensor
    reward: Tensor
    terminal: Tensor
    score: Tensor
    energy: Tensor


@dataclass(frozen=True)
class Task:
    """What policies are tuned on. `problems(numbers)` makes the problems of these numbers, in few batches; those from
    `JUDGED` on must share no truth with the others. `shape`: (C, Y, X); `sigmas`: the chain's noise levels;
    `observations`, `actions`: names of what a policy sees and does, with these `levers`; `seed`: of the noise."""

    problems: Callable[[Sequence[int]], list[Problems]]
    shape: tuple[int, int, int]
    sigmas: list[float]
    observations: tuple[str, ...]
    actions: tuple[str, ...]
    seed: int = 0
    levers: Levers = Levers()

    def play(
        self,
        policy: Policy | None,
        numbers: Sequence[int],
        stage: str,
        worth: Worth,
        noises: int,
        replicas: int = 1,
        preference: float | None = EVEN,
    ) -> list[Played]:
        """Roll `policy` out on the problems `numbers`, None for no guidance, and weigh what came of it: with
        `preference` from 0 (the distribution alone) to 1 (physics alone), another one for each problem if None."""
        if stage != "scale" and any((n >= JUDGED) != (stage == "judge") for n in numbers):
            raise ValueError(f"problems of another stage than `{stage}`: those to be judged by begin at {JUDGED}")
        played = []
        for batch in self.problems(numbers):
            noise = draw_noise(stage, self.seed, batch.numbers, noises, self.shape)
            prefer = (
                preferences(batch.numbers) if preference is None else torch.full((len(noise),), preference).double()
            )
            rollout = roll_out(batch, policy, noise, replicas, prefer, self.levers)
            each = prefer.repeat_interleave(noises * replicas)
            phi = 2 * each * potential(rollout.energies, batch.floors, worth.weights, worth.scales)
            members = rollout.finished.reshape(len(batch.numbers), noises, replicas, *self.shape)
            pairs = list(zip(members, batch.truth, strict=True))
            gain = torch.cat([contributions(x, y, worth.distance).flatten() for x, y in pairs]).cpu()
            energy = torch.stack([energy_score(x, y, worth.distance) for x, y in pairs]).cpu()
            share = 2 * worth.distribution / worth.unguided
            spent = rollout.evaluations + worth.iteration * rollout.iterations
            reward = rewards(phi) - worth.price * spent / (len(phi) - 2)
            score = reward.sum(0).reshape(len(energy), -1).mean(1) - share * (1 - prefer) * energy
            played.append(Played(rollout, phi, reward, share * (1 - each) * gain, score, energy))
        return played

    def score(
        self,
        policy: Policy,
        numbers: Sequence[int],
        stage: str,
        worth: Worth,
        noises: int,
        preference: float = EVEN,
    ) -> Tensor:
        """The score of each problem, (P,)."""
        return torch.cat([p.score for p in self.play(policy, numbers, stage, worth, noises, preference=preference)])

    def measure(
        self,
        distance: Distance,
        numbers: Sequence[int],
        noises: int,
        weights: Tensor | None = None,
        **costs: float,
    ) -> tuple[Worth, Standard]:
        """The scales of the returns, from unguided members of the problems `numbers`, and of the observations, from
        guided ones. `weights`: of the constraints (K,), equal where not given; `costs`: `price` and `iteration` of
        `Worth`."""
        exceeded, energies, seen = [], [], []
        formula = Fixed(len(self.actions), looks=True)
        for batch in self.problems(numbers):
            noise = draw_noise("scale", self.seed, batch.numbers, noises, self.shape)
            plain = roll_out(batch, None, noise)
            exceeded.append(excess(plain.energies[-1], batch.floors))
            members = plain.finished.reshape(len(batch.numbers), noises, 1, *self.shape)
            energies += [energy_score(x, y, distance) for x, y in zip(members, batch.truth, strict=True)]
            seen.append(roll_out(batch, formula, noise, levers=self.levers).observation.flatten(0, 1))
        scales = torch.cat(exceeded).mean(0).clamp(min=1)
        weights = torch.ones_like(scales) if weights is None else weights.to(scales)
        worth = Worth(distance, weights / weights.sum(), scales, float(torch.stack(energies).mean()), **costs)
        observation = torch.cat(seen).double()
        standard = Standard(observation.mean(0), observation.std(0).clamp(min=1e-3))
        standard.std[self.observations.index("preference")] = 12**-0.5  # of what is uniform from 0 to 1
        return worth, standard


def own_numbers(seed: int, start: int, count: int) -> range:
    """The numbers of `count` problems of a seed's own, from `start` on: to tune on from 0, to choose by from `HELD`."""
    first = seed % SEEDS * APART + start
    return range(first, first + count)


def preferences(numbers: Sequence[int]) -> Tensor:
    """What tuning asks for in the problems `numbers`, (P,): uniform from 0 to 1, a function of the number."""
    return torch.tensor([np.random.default_rng([n, 3]).uniform() for n in numbers], dtype=torch.float64)


def clipped_loss(log_prob: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The clipped surrogate of PPO (Schulman et al. 2017, eq. 7), negative, mean over decisions, all of one shape."""
    ratio = (log_prob - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()
