"""How many trajectories learning takes, with the same noise within a group of actions and without.

Two tasks on which the best is known. `errors`: that of `policy_fields.py`, model errors that vary from sample
to sample, the step at every noise level; the best is the formula told each sample's errors. `points`: observations of
a Gaussian field whose errors are larger or smaller than told by a factor from [.1, 10], another one for each problem;
the best is the formula told the factor, which is the posterior. The reward is the energy distance to the truth alone,
as the told misfit misleads there.

A group shares a baseline: 4 actions on one noise, so that its members differ in their actions alone; or 8 members of
one problem on as many noises; or all of an update. Everything else is the same, 64 trajectories an update. The share of
what the best gains on the formula is judged on other problems.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.oracle_fields import SIGMA_MIN, gaussian, power_law, widest
from benchmarks.oracle_points import at_points
from benchmarks.oracle_rows import Row, Sheet
from benchmarks.policy_fields import Told, TwoFields
from benchmarks.policy_rivals import task_of
from sciguide.actions import Actions, Levers
from sciguide.bootstrap import bootstrap
from sciguide.device import CPU
from sciguide.guidance import Guidance
from sciguide.kriging import Kriging
from sciguide.learner import JUDGED, Task, Worth, clipped_loss
from sciguide.octaves import BANDS
from sciguide.policy import Fixed, Learned, Policy
from sciguide.reward import Pointwise, advantages, returns_to_go
from sciguide.rollout import Chain, Members, Problems, Rollout
from sciguide.sampler import karras_sigmas

PROBLEMS, GROUP, PASSES, CLIP, RATE = 8, 8, 3, 0.2, 1e-2
ONE = Levers(bands=1)
GROUPS = {  # noises and replicas of a problem, and how many members share a baseline
    "the same noise in a group": (2, 4, 4),
    "the same problem, other noise": (8, 1, 8),
    "other problems": (8, 1, 64),
}


class Misreported:
    """Problems of `POINTS` observations of a field, 16 x 16, whose errors are `factor` times as large as told, on
    a device."""

    N, POINTS, ERROR, STEPS = 16, 40, 0.1, 10

    def __init__(self, device: torch.device = CPU) -> None:
        rng = np.random.default_rng(9)
        self.prior = gaussian(power_law(self.N, 3.0)).to(device)
        self.chain = Chain(self.prior.filter, self.prior, karras_sigmas(self.STEPS, SIGMA_MIN, widest(self.prior)))
        index = torch.from_numpy(rng.choice(self.N**2, self.POINTS, replace=False))
        rows = at_points(index, torch.zeros(self.POINTS).double(), self.ERROR).to(device)
        index = index.to(device)
        self.index, self.kriging = index, Kriging(self.prior, rows, "told")

    def draw(self, number: int) -> tuple[Tensor, Tensor, float]:
        """The truth (1, n, n), the observed values (m,), and the factor."""
        rng = np.random.default_rng([number, 8])
        factor = float(np.exp(rng.uniform(-1, 1) * np.log(10)))
        white = torch.from_numpy(rng.standard_normal((1, 1, self.N, self.N))).to(self.index.device)
        truth = self.prior.sample(white)[0]
        noise = torch.from_numpy(rng.standard_normal(self.POINTS)).to(truth)
        return truth, truth.flatten()[self.index] + factor * self.ERROR * noise, factor

    def problems(self, numbers: Sequence[int]) -> list[Problems]:
        drawn = [self.draw(n) for n in numbers]
        values = torch.stack([d[1] for d in drawn])

        def members(repeats: int) -> Members:
            known = copy(self.kriging)  # shares the factorised covariance, which values do not enter
            known.observations = replace(known.observations, value=values.repeat_interleave(repeats, 0))
            return Members(self.chain, [known], lambda x: known.observations.innovation(x).square().mean(1)[:, None])

        return [Problems(torch.stack([d[0][None] for d in drawn]), torch.ones(1).double(), list(numbers), members)]

    def task(self, seed: int) -> Task:
        names = Guidance.observation_names([self.kriging]), Actions([self.kriging], ["u"], ONE).names
        return Task(self.problems, (1, self.N, self.N), self.chain.sigmas, *names, seed, ONE)


class Setting(NamedTuple):
    """A task, and the best policy for members of the problems `numbers`, `noises` of each."""

    task: Task
    best: Callable[[Sequence[int], int], Policy]


def setting(name: str, seed: int, device: torch.device = CPU) -> Setting:
    """`errors` or `points`."""
    if name == "errors":
        fields = TwoFields(1.5, when="always", device=device)

        def told(numbers: Sequence[int], noises: int) -> Policy:
            variance = torch.stack([fields.draw(n)[2][:, 0].square() for n in numbers]).repeat_interleave(noises, 0)
            turn = (variance / variance.new_tensor(fields.error.mse[0])).log()
            return Told(torch.cat([turn.new_zeros(len(turn), BANDS), turn], 1))

        return Setting(task_of(fields, seed), told)
    points = Misreported(device)

    def known(numbers: Sequence[int], noises: int) -> Policy:
        factors = points.prior.mean.new_tensor([points.draw(n)[2] for n in numbers]).repeat_interleave(noises, 0)
        return Told(2 * factors.log()[:, None])

    return Setting(points.task(seed), known)


class Curve(NamedTuple):
    """`share` of the best's gain after so many `trajectories`, both (k,)."""

    trajectories: np.ndarray
    share: np.ndarray

    def needed(self, share: float) -> float:
        """Trajectories to the first of two judgements in a row of at least `share`; nan if never."""
        enough = self.share >= share
        both = np.flatnonzero(enough[:-1] & enough[1:])
        return float(self.trajectories[both[0]]) if len(both) else float("nan")


def play(policy: Learned, task: Task, worth: Worth, number: int, kind: str) -> tuple[Rollout, Tensor]:
    """The roll-outs of update `number` and their advantages (T, B)."""
    noises, replicas, size = GROUPS[kind]
    policy.generator = torch.Generator().manual_seed(number)
    numbers = range(number * PROBLEMS, (number + 1) * PROBLEMS)
    (played,) = task.play(policy, numbers, "tune", worth, noises, replicas)
    policy.generator = None
    return played.rollout, advantages(returns_to_go(played.reward, played.terminal), size)


def update(policy: Learned, optimizer: torch.optim.Optimizer, rollout: Rollout, advantage: Tensor) -> None:
    """Passes over one batch of roll-outs, as `sciguide.training.policy` makes them."""
    fields = rollout.observation, rollout.action, rollout.log_prob, advantage
    observation, action, old, advantage = (f[rollout.acted] for f in fields)
    advantage = advantage / advantage.std().clamp(min=1e-12)
    for _ in range(PASSES):
        optimizer.zero_grad()
        clipped_loss(policy(observation, action).log_prob, old, advantage, CLIP).backward()
        optimizer.step()


class Start(NamedTuple):
    """What learning starts from."""

    setting: Setting
    worth: Worth
    policy: Learned


def start(name: str, seed: int, device: torch.device = CPU) -> Start:
    task, _ = found = setting(name, seed, device)
    worth, standard = task.measure(Pointwise(torch.ones(task.shape).double()), range(8), 2)
    if name == "points":
        worth = replace(worth, weights=torch.zeros_like(worth.weights))
    return Start(found, worth, Learned(standard, len(task.actions), seed=seed))


def scatter(name: str, kind: str, seed: int, device: torch.device = CPU) -> float:
    """The rms advantage of the first policy: what its actions do, and what else differs within a group."""
    (task, _), worth, policy = start(name, seed, device)
    return float(play(policy, task, worth, 0, kind)[1][0].square().mean().sqrt())


def learn(
    name: str, kind: str, seed: int, trajectories: int, every: int, judged: int, device: torch.device = CPU
) -> Curve:
    """Learn from nothing, judged before and after every `every` updates."""
    (task, best), worth, policy = start(name, seed, device)
    numbers, noises = [JUDGED + i for i in range(judged)], 4

    def energy(policy: Policy) -> float:
        return float(torch.cat([p.energy for p in task.play(policy, numbers, "judge", worth, noises)]).mean())

    optimizer = torch.optim.Adam(policy.parameters(), RATE)
    formula, least = energy(Fixed(len(task.actions))), energy(best(numbers, noises))
    spent, shares = [0], [0.0]
    for number in range(trajectories // (PROBLEMS * GROUP)):
        update(policy, optimizer, *play(policy, task, worth, number, kind))
        if (number + 1) % every == 0:
            spent.append((number + 1) * PROBLEMS * GROUP)
            shares.append((formula - energy(policy)) / (formula - least))
    return Curve(np.array(spent), np.array(shares))


def learner_rows(
    seeds: int = 5,
    trajectories: int = 8192,
    longest: int = 32_768,
    judged: int = 64,
    names: Sequence[str] = ("errors", "points"),
    device: torch.device = CPU,
) -> list[Row]:
    """The share reached at some budgets, and the trajectories to some shares of the best, over seeds. On `points`
    groups of other noise get the `longest` budget."""
    sheet = Sheet("A4 trajectories that learning takes")
    for name, kind in product(names, GROUPS):
        most = longest if name == "points" and not kind.startswith("the same noise") else trajectories
        wide = np.array([scatter(name, kind, seed, device) for seed in range(seeds)])
        sheet.mean(name, kind, "", "", **{"rms advantage of the first policy": wide})
        curves = [learn(name, kind, seed, most, max(1, most // 4096), judged, device) for seed in range(seeds)]
        for budget in (512, 2048, 8192, 32_768):
            if budget <= most:
                found = np.array([c.share[c.trajectories <= budget][-1] for c in curves])
                sheet.mean(name, kind, "", "", **{f"share of the best at {budget}": found})
        for share in (0.5, 0.8):
            found = np.array([c.needed(share) for c in curves])
            capped = np.where(np.isnan(found), most, found)  # one that never arrives took the whole budget
            metric, middle = f"trajectories to {share:g} of the best, at most {most}", bootstrap(capped, np.median, 500)
            sheet.estimate(name, kind, "", "", metric, middle, seeds)
    return sheet.rows
