"""What becomes of tuned policies: all of them judged on the same problems, and a front of preferences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sciguide.bootstrap import Interval, bootstrap, paired_bootstrap
from sciguide.learner import Task, Worth
from sciguide.policy import Fixed, Policy
from sciguide.reward import excess


class Traded(NamedTuple):
    """What a policy does with a preference: the `energy` score of its members, small is good, and by what factor the
    residuals of finished fields exceed the data's, the geometric mean of max(R / R_data, 1)^(1/2)."""

    preference: float
    excess: float
    energy: float


def trade_off(
    task: Task, worth: Worth, policy: Policy, numbers: Sequence[int], noises: int, steps: int = 5
) -> list[Traded]:
    """The front of a policy that was tuned for all preferences, on the problems to be judged by."""
    out = []
    for preference in np.linspace(0, 1, steps).tolist():
        played = task.play(policy, numbers, "judge", worth, noises, preference=preference)
        floors = [b.floors for b in task.problems(numbers)]
        logs = [excess(p.rollout.energies[-1], f).mean() for p, f in zip(played, floors, strict=True)]
        energy = float(torch.cat([p.energy for p in played]).mean())
        out.append(Traded(preference, float(torch.stack(logs).mean().div(2).exp()), energy))
    return out


@dataclass(frozen=True)
class Verdict:
    """Scores of a policy on the problems to be judged by (P,), and the energy scores that are part of them, in the
    distance that was tuned for, small is good; the mean score, and what it gains on the formula; network `evaluations`
    and `iterations` of corrections per member."""

    scores: Tensor
    energies: Tensor
    score: Interval
    gain: Interval
    evaluations: float
    iterations: float


def judge(
    task: Task, worth: Worth, policies: dict[str, Policy], numbers: Sequence[int], noises: int
) -> dict[str, Verdict]:
    """All policies on the same problems and noise; the formula comes first, under `fixed`. Bootstrap over problems."""
    policies = {"fixed": Fixed(len(task.actions)), **policies}
    verdicts, formula = {}, None
    for name, policy in policies.items():
        played = task.play(policy, numbers, "judge", worth, noises)
        scores, energies = (torch.cat([getattr(p, k) for p in played]) for k in ("score", "energy"))
        formula = scores.numpy() if formula is None else formula
        work = [torch.cat([getattr(p.rollout, k).sum(0) for p in played]) for k in ("evaluations", "iterations")]
        intervals = bootstrap(scores.numpy(), np.mean), paired_bootstrap(scores.numpy(), formula)
        verdicts[name] = Verdict(scores, energies, *intervals, *(float(w.mean()) for w in work))
    return verdicts
