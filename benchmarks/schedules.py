"""Schedules beside the rivals of `sciguide tune`: is what was learned more than a schedule?

- `constant`: one action for the whole chain, by random search with the budget of the others, where that is asked for;
- `learned, its mean`: what the learned policy does on average at each level, without looking at the member.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from sciguide.actions import Levers
from sciguide.learner import JUDGED, Task, Worth
from sciguide.model import Model
from sciguide.policy import Scheduled, load_policy, save_policy
from sciguide.receipts import write_json
from sciguide.training.contest import OPTIONS, Rules, distance_of, make_problems
from sciguide.training.problems import GROUPS, NEIGHBOURS
from sciguide.training.tune import Budget, tune_scheduled
from sciguide.training.variety import Variety
from sciguide.training.verdict import judge

FILES = {"constant": "constant.pt", "learned, its mean": "mean.pt"}
SCORES = "schedules.json"
EVERY = 4  # how many of the problems to tune on, of all groups, one is taken of, for the mean


def contest(model: Model, truths: Tensor, folder: Path, rules: Rules, constant: bool) -> None:
    """Tune, save and judge them in the folder of a contest of these rules, on its problems, unless that is done."""
    if (folder / SCORES).is_file():
        return
    problems = make_problems(model, truths, rules)
    task, distance = problems.task(rules.seed, rules.levers), distance_of(model, problems.truths[0], rules.norm)
    worth, _ = task.measure(distance, range(8), 2, price=rules.price, iteration=rules.iteration)
    found = {"learned, its mean": mean_of(task, worth, folder / "learned.pt")}
    if constant:
        found["constant"] = tune_scheduled(task, worth, Budget(rules.trajectories), knots=1)
    for name, policy in found.items():
        save_policy(folder / FILES[name], policy, task.observations, task.actions, task.levers)
    verdicts = judge(task, worth, found, [JUDGED + i for i in range(rules.judged)], rules.members)
    kept = {name: {"scores": v.scores.tolist(), "energies": v.energies.tolist()} for name, v in verdicts.items()}
    write_json(folder / SCORES, {name: kept[name] | {"evaluations": verdicts[name].evaluations} for name in found})


def rules_of(folder: Path) -> Rules:
    """What the contest of a folder was held by, as `sciguide tune` left it there."""
    told = json.loads((folder / OPTIONS).read_text())
    plain = {name: value for name, value in told.items() if name not in ("model", "device", "variety", "levers")}
    return Rules(variety=Variety(**told["variety"]), levers=Levers(*told["levers"]), **plain)


def mean_of(task: Task, worth: Worth, path: Path) -> Scheduled:
    """The mean action of a policy at each noise level, over what it does to members of problems to tune on, where that
    has an effect, if it has any; levels that no chain comes near have those of the nearest that one does."""
    policy, _ = load_policy(path, task.observations, lambda levers: task.actions)
    rollouts = [p.rollout for p in task.play(policy, range(0, NEIGHBOURS * GROUPS, EVERY), "tune", worth, 2)]
    level, action, acted = (
        torch.cat([getattr(r, name).flatten(0, 1) for r in rollouts]) for name in ("observation", "action", "acted")
    )
    levels = torch.tensor(task.sigmas, dtype=level.dtype, device=level.device).log()
    nearest = (level[:, -1:] - levels).abs().argmin(1)
    there, means = nearest.unique(), []
    for row in there:
        own = nearest == row
        means.append(action[own & acted if bool((own & acted).any()) else own].mean(0))
    return Scheduled(task.sigmas, torch.stack(means)[(levels[:, None] - levels[there]).abs().argmin(1)])
