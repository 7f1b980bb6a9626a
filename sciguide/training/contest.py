"""A contest of policies on one run: every rival tuned with one budget, saved, and judged on problems of its own.

Everything is keyed by the options and kept in the run's folder `policies`, so the same contest again resumes.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from sciguide.actions import Levers
from sciguide.datasets.module import GridData
from sciguide.device import CPU, model_of
from sciguide.errors import InputError
from sciguide.guidance import EVEN, Direction, Errors
from sciguide.learner import ITERATION, JUDGED, Task
from sciguide.model import Model
from sciguide.policy import save_policy
from sciguide.receipts import sha256, write_json
from sciguide.reward import Norm
from sciguide.rollout import stages_apart
from sciguide.training.problems import RunProblems
from sciguide.training.tune import (
    Budget,
    Traded,
    Verdict,
    judge,
    silent,
    trade_off,
    tune_learned,
    tune_linear,
    tune_scheduled,
)
from sciguide.training.variety import Variety

FOLDER, OPTIONS, SCORES = "policies", "tune.json", "scores.json"
Reporter = Callable[[str], Callable[[int, float], None]]  # of a rival: trajectories so far, score of the last ones


@dataclass(frozen=True)
class Rules:
    """What decides the outcome besides model and data: what `variety` the problems have, how the formula is built, what
    a policy may bend, how returns are counted, and the budget. `front`: the learned policy is tuned for every
    preference; `price` of all evaluations of a chain, `iteration` the cost of one in evaluations."""

    variety: Variety = field(default_factory=Variety)
    equations: bool = True
    direction: Direction = "kriging"
    scales: Literal["ml", "told"] = "ml"
    iterations: int = 200
    variance: Errors = "learned"
    levers: Levers = Levers()
    norm: Norm = "energy"
    front: bool = False
    price: float = 0.0
    iteration: float = ITERATION
    trajectories: int = 2000
    judged: int = 32
    members: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """`verdicts` by policy, the formula among them, and the learned policy's `front` where it was asked for."""

    verdicts: Mapping[str, Verdict]
    front: list[Traded]


def take_up(run: Path, model: Path, rules: Rules, device: torch.device = CPU) -> Path:
    """The folder of a run's policies, made or taken up. Raises InputError where it holds those of other rules, or tuned
    on another kind of device."""
    folder = run / FOLDER
    where = {} if device == CPU else {"device": model_of(device)}
    state = json.loads(json.dumps({**asdict(rules), "model": sha256(model), **where}))
    saved = folder / OPTIONS
    if saved.is_file() and json.loads(saved.read_text()) != state:
        raise InputError(f"{folder} holds policies of other options or another model ({saved}): remove that folder")
    folder.mkdir(exist_ok=True)
    write_json(saved, state)
    return folder


def truths(run: Path, model: Model) -> Tensor:
    """The validation samples of the run's own data, normalised, (N, C, Y, X) float64."""
    config = run / "config.yaml"
    if not config.is_file():
        raise InputError(f"{config}: not there; tuning needs the data that the run was fitted to")
    data = GridData(**yaml.safe_load(config.read_text())["data"])
    data.setup()
    if data.prepared.fingerprint != model.fingerprint:
        raise InputError(f"{config}: its data are not those that the model was fitted to; fit it again")
    return model.normaliser.encode(torch.tensor(data.split("validation"), dtype=torch.float64))


def make_task(model: Model, truths: Tensor, rules: Rules) -> Task:
    """What the rivals are tuned and judged on."""
    told = {k: getattr(rules, k) for k in ("scales", "equations", "direction", "iterations", "variance")}
    return RunProblems(model, truths, rules.variety, **told).task(rules.seed, rules.levers)


def compete(
    model: Model, truths: Tensor, folder: Path, rules: Rules, report: Reporter = lambda name: silent
) -> Outcome:
    """Tune every rival with the same budget, save them and their scores in `folder`, and judge all of them."""
    task = make_task(model, truths, rules)
    area = torch.where(torch.from_numpy(model.layout.mask), torch.from_numpy(model.grid.weights()), 0)
    numbers = [JUDGED + i for i in range(rules.judged)]
    stages_apart(rules.seed, range(rules.trajectories), numbers)
    worth, standard = task.measure(area, range(8), 2, norm=rules.norm, price=rules.price, iteration=rules.iteration)
    budget, preference = Budget(rules.trajectories), None if rules.front else EVEN
    common = task, worth
    policies: dict[str, Any] = {
        "scheduled": tune_scheduled(*common, budget, state=folder / "scheduled.json", report=report("scheduled")),
        "linear": tune_linear(*common, standard, budget, state=folder / "linear.json", report=report("linear")),
        "learned": tune_learned(
            *common, standard, budget.trajectories, folder / "learned", report("learned"), preference=preference
        ),
    }
    for name, policy in policies.items():
        save_policy(folder / f"{name}.pt", policy, task.observations, task.actions, task.levers)
    told = report("judging")
    verdicts = judge(task, worth, policies, numbers, rules.members)
    told(rules.judged, float(verdicts["learned"].score.value))
    front = trade_off(task, worth, policies["learned"], numbers, rules.members) if rules.front else []
    outcome = Outcome(verdicts, front)
    _keep(folder, outcome)
    return outcome


def _keep(folder: Path, outcome: Outcome) -> None:
    """Write the scores as JSON."""
    rows: dict[str, Any] = {
        name: {
            "score": [float(x) for x in v.score],
            "gain on the formula": [float(x) for x in v.gain],
            "evaluations": v.evaluations,
            "iterations": v.iterations,
            "scores": v.scores.tolist(),
        }
        for name, v in outcome.verdicts.items()
    }
    if outcome.front:
        rows["front"] = [r._asdict() for r in outcome.front]
    write_json(folder / SCORES, rows)
