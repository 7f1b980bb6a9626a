"""A contest of policies on one run: every rival tuned with one budget, saved, and judged on problems of its own.

Everything is keyed by the options and kept in the run's folder `policies`, so the same contest again resumes.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
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
from sciguide.learner import ITERATION, JUDGED, own_numbers
from sciguide.model import Model
from sciguide.policy import save_policy
from sciguide.receipts import sha256, write_json
from sciguide.reward import Distance, Norm, Pointwise
from sciguide.rollout import stages_apart
from sciguide.search import CMA
from sciguide.spectra import Spectra
from sciguide.training.problems import RunProblems, Terms
from sciguide.training.tune import (
    KNOTS,
    Budget,
    silent,
    tune_learned,
    tune_linear,
    tune_scheduled,
)
from sciguide.training.variety import Variety
from sciguide.training.verdict import Traded, Verdict, judge, trade_off

FOLDER, OPTIONS, SCORES = "policies", "tune.json", "scores.json"
Reporter = Callable[[str], Callable[[int, float], None]]  # of a rival: trajectories so far, score of the last ones


@dataclass(frozen=True)
class Rules:
    """What decides the outcome besides model and data: what `variety` the problems have, how the formula is built, what
    a policy may bend, how returns are counted, with `terms` of one's own beside, and the budget. `front`: the learned
    policy is tuned for every preference; `price` of all evaluations of a chain, `iteration` the cost of one in
    evaluations."""

    variety: Variety = field(default_factory=Variety)
    equations: bool = True
    direction: Direction = "kriging"
    scales: Literal["ml", "told"] = "ml"
    iterations: int = 200
    variance: Errors = "learned"
    levers: Levers = Levers()
    norm: Norm = "energy"
    terms: Terms | None = None
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
    told = {name: value for name, value in vars(rules).items() if value is not None}
    told |= {"model": sha256(model)} | ({} if device == CPU else {"device": model_of(device)})
    state = json.loads(json.dumps(told, default=_plain))
    saved = folder / OPTIONS
    if saved.is_file() and json.loads(saved.read_text()) != state:
        raise InputError(f"{folder} holds policies of other options or another model ({saved}): remove that folder")
    folder.mkdir(exist_ok=True)
    write_json(saved, state)
    return folder


def _plain(value: Any) -> Any:
    """What varies as its options; a function, or what can be called, by name."""
    if is_dataclass(value):
        return asdict(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


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


def make_problems(model: Model, truths: Tensor, rules: Rules) -> RunProblems:
    """Which the rivals are tuned and judged on."""
    told = {k: getattr(rules, k) for k in ("scales", "equations", "direction", "iterations", "variance", "terms")}
    return RunProblems(model, truths, rules.variety, **told)


def distance_of(model: Model, truths: Tensor, norm: Norm) -> Distance:
    """Between fields, as `norm` says: "spectra" is the sum of "energy" and of their distance by octaves, whose scales
    are those of `truths` (N, C, Y, X). Energy scores of both are proper, and so is that of the sum."""
    area = torch.where(torch.from_numpy(model.layout.mask), torch.from_numpy(model.grid.weights()), 0)
    if norm != "spectra":
        return Pointwise(area, norm)
    points, spectra = Pointwise(area), Spectra(truths, model.grid.boundary)
    return lambda a, b: points(a, b) + spectra(a, b)


def compete(
    model: Model, truths: Tensor, folder: Path, rules: Rules, report: Reporter = lambda name: silent
) -> Outcome:
    """Tune every rival with the same budget, save them and their scores in `folder`, and judge all of them."""
    problems = make_problems(model, truths, rules)
    task, distance = problems.task(rules.seed, rules.levers), distance_of(model, problems.truths[0], rules.norm)
    numbers = [JUDGED + i for i in range(rules.judged)]
    stages_apart(rules.seed, own_numbers(rules.seed, 0, rules.trajectories), numbers)
    worth, standard = task.measure(distance, range(8), 2, price=rules.price, iteration=rules.iteration)
    budget, preference = Budget(rules.trajectories), None if rules.front else EVEN
    common = task, worth

    def kept(name: str) -> dict[str, Any]:
        return {"state": folder / f"{name}.json", "report": report(name)}

    policies: dict[str, Any] = {
        "scheduled": tune_scheduled(*common, budget, CMA, KNOTS, **kept("scheduled")),
        "linear": tune_linear(*common, standard, budget, **kept("linear")),
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
            "energies": v.energies.tolist(),
        }
        for name, v in outcome.verdicts.items()
    }
    if outcome.front:
        rows["front"] = [r._asdict() for r in outcome.front]
    write_json(folder / SCORES, rows)
