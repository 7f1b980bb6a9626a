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
from sciguide.training.tune import Budget, judge, tune_scheduled
from sciguide.training.variety import Variety

FILES = {"constant": "constant.pt", "learned, its mean": "mean.pt"}
SCORES = "schedules.json"
AVERAGED = 4  # problems to tune on, of 8 noises, that the mean is taken over


def contest(model: Model, truths: Tensor, folder: Path, rules: Rules, constant: bool) -> None:
    """Tune, save and judge them in the folder of a contest of these rules, on its problems, unless that is done."""
    if (folder / SCORES).is_file():
        return
    problems = make_problems(model, truths, rules)
    task, distance = problems.task(rules.seed, rules.levers), distance_of(model, problems.truths[0], rules.norm)
    worth, _ = task.measure(distance, range(8), 2, price=rules.price, iteration=rules.iteration)
    found = {"learned, its mean": mean_of(task, worth, folder / "learned.pt")}
    if constant:
        found["constant"] = tune_scheduled(task, worth, Budget(rules.trajectories), constant=True)
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
    """The mean action of a policy at each noise level, over members of problems to tune on."""
    policy, _ = load_policy(path, task.observations, lambda levers: task.actions)
    played = task.play(policy, range(AVERAGED), "tune", worth, 8)
    action = torch.cat([p.rollout.action for p in played], 1).mean(1)
    table = torch.cat([action[: len(task.sigmas) - 1], action[-1:]])  # the last level has the finished field's
    return Scheduled(task.sigmas, table)
