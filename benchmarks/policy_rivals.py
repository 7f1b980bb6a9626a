"""The contest of one case: every rival tuned with the same budget, then judged on problems and noise of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sciguide.actions import USUAL, Actions, Levers
from sciguide.bootstrap import bootstrap, paired_bootstrap
from sciguide.device import CPU
from sciguide.guidance import Constraint, Guidance
from sciguide.learner import JUDGED, Played, Task, Worth, own_numbers
from sciguide.policy import Fixed, Policy
from sciguide.reward import Pointwise, excess
from sciguide.rollout import Problems, stages_apart
from sciguide.search import CMA
from sciguide.training.tune import KNOTS, Budget, tune_learned, tune_linear, tune_scheduled

FORMULA, LEARNED, LINEAR, KNOWING = "formula", "learned, GRPO", "linear, CMA-ES", "formula that knows"
SCHEDULES = (
    "constant, random search",
    "schedule, random search",
    "schedule, CMA-ES",
    f"schedule of {KNOTS} knots, CMA-ES",
)
NOISES = 8  # of a problem that is judged by
MEASURED = 32  # trajectories that the scales of returns and observations take


class World(Protocol):
    """Problems, and what they share. `knowing(numbers, noises)`, where a world has it: the formula that is told what is
    hidden, and its levers."""

    channels: tuple[str, ...]
    shape: tuple[int, int, int]
    sigmas: list[float]
    constraints: list[Constraint]

    def problems(self, numbers: Sequence[int]) -> list[Problems]: ...


@dataclass(frozen=True)
class Case:
    """A row of the claims. `make(scales, device)`: the world; `base`: of the formula that policies stand on; `levers`
    of all rivals, `others` that feedback is tuned with too; `physics`: whether residuals count in the score, which is
    the energy score alone where they mislead; `price` of a chain's evaluations; `knows`: whether to show who is told.
    """

    claim: str
    name: str
    make: Callable[..., World]
    base: str = "ml"
    levers: Levers = USUAL
    others: tuple[Levers, ...] = ()
    physics: bool = True
    price: float = 0.0
    knows: bool = True


class Judged(NamedTuple):
    """Per problem (P,): the `score`, large is good, and the `energy` score, small is good; and over all of them what
    residuals exceed their floors by, spread over error, and evaluations and iterations per member."""

    score: NDArray
    energy: NDArray
    excess: float
    spread: float
    evaluations: float
    iterations: float


@cache
def world_of(case: Case, scales: str, device: torch.device = CPU) -> World:
    """The world of a case, with scales of the formula told or estimated, made once."""
    return case.make(scales, device=device)


def task_of(world: World, seed: int, levers: Levers = USUAL) -> Task:
    """What the rivals are tuned and judged on."""
    names = Actions(world.constraints, world.channels, levers).names
    seen = Guidance.observation_names(world.constraints)
    return Task(world.problems, world.shape, world.sigmas, seen, names, seed, levers)


def measured(case: Case, task: Task) -> tuple[Worth, Any]:
    """How returns are counted, and the scales of what policies see."""
    worth, standard = task.measure(Pointwise(torch.ones(task.shape).double()), range(8), 2, price=case.price)
    weights = worth.weights if case.physics else torch.zeros_like(worth.weights)
    return Worth(**{**vars(worth), "weights": weights}), standard


def numbers_of(seed: int, judged: int) -> list[int]:
    """Of the problems that policies of this seed are judged by."""
    return [JUDGED + judged * seed + i for i in range(judged)]


def rivals(
    case: Case, seed: int, trajectories: int, device: torch.device = CPU
) -> dict[str, tuple[Levers, str, Callable[[], Policy | None]]]:
    """Levers, scales of the formula, and how to tune each rival of a case."""
    out: dict[str, tuple[Levers, str, Callable[[], Policy | None]]] = {
        "unguided": (case.levers, case.base, lambda: None)
    }
    for scales in ("told", "ml"):
        name = FORMULA if scales == case.base else f"{FORMULA}, scales {scales}"
        out[name] = USUAL, scales, lambda: Fixed(0)
    budget, world = Budget(trajectories - MEASURED), world_of(case, case.base, device)

    def tuned(levers: Levers, how: Callable[[Task, Worth, Any], Policy]) -> Callable[[], Policy]:
        def tune() -> Policy:
            task = task_of(world, seed, levers)
            return how(task, *measured(case, task))

        return tune

    searches: dict[str, Callable[[Task, Worth, Any], Policy]] = {
        SCHEDULES[0]: lambda t, w, s: tune_scheduled(t, w, budget, knots=1),
        SCHEDULES[1]: lambda t, w, s: tune_scheduled(t, w, budget),
        SCHEDULES[2]: lambda t, w, s: tune_scheduled(t, w, budget, CMA),
        SCHEDULES[3]: lambda t, w, s: tune_scheduled(t, w, budget, CMA, KNOTS),
    }
    feedback: dict[str, Callable[[Task, Worth, Any], Policy]] = {
        LINEAR: lambda t, w, s: tune_linear(t, w, s, budget),
        LEARNED: lambda t, w, s: tune_learned(t, w, s, budget.trajectories),
    }
    for name, how in (searches | feedback).items():
        out[name] = case.levers, case.base, tuned(case.levers, how)
    for levers in case.others:
        for name, how in feedback.items():
            out[f"{name}, {described(levers)}"] = levers, case.base, tuned(levers, how)
    return out


def described(levers: Levers) -> str:
    """As in the name of a rival."""
    bands, octaves, compute = levers
    words = f"{bands} band{'s' if bands > 1 else ''}" + (", metric by octave" if octaves > 1 else "")
    return words + (", iterations and end" if compute else "")


def compete(
    case: Case, seed: int, trajectories: int, judged: int, only: Sequence[str] = (), device: torch.device = CPU
) -> dict[str, tuple[Levers, Judged]]:
    """The rivals, all if not `only` some, on `judged` problems, after tuning each on `trajectories`."""
    numbers = numbers_of(seed, judged)
    stages_apart(seed, own_numbers(seed, 0, trajectories), numbers)
    found = {}
    for name, (levers, scales, tune) in rivals(case, seed, trajectories, device).items():
        if not only or name in only:
            task = task_of(world_of(case, scales, device), seed, levers)
            policy = tune()
            policy = Fixed(len(task.actions)) if isinstance(policy, Fixed) else policy
            worth = measured(case, task_of(world_of(case, case.base, device), seed, case.levers))[0]
            found[name] = levers, summary(task.play(policy, numbers, "judge", worth, NOISES), task, numbers)
    if case.knows and (not only or KNOWING in only):
        found[KNOWING] = told(case, seed, numbers, device)
    return found


def told(case: Case, seed: int, numbers: Sequence[int], device: torch.device = CPU) -> tuple[Levers, Judged]:
    """The formula that is told what is hidden."""
    world: Any = world_of(case, "told", device)
    worth = measured(case, task_of(world_of(case, case.base, device), seed, case.levers))[0]
    played, order = [], []
    for batch in world.problems(numbers):
        policy, levers = world.knowing(batch.numbers, NOISES)
        task = task_of(world, seed, levers)
        played += task.play(policy, batch.numbers, "judge", worth, NOISES)
        order += batch.numbers
    if order != list(numbers):
        raise ValueError("problems come in another order")
    return levers, summary(played, task, numbers)


def summary(played: Sequence[Played], task: Task, numbers: Sequence[int]) -> Judged:
    """Of the roll-outs of one policy."""
    logs, variance, error, work = [], [], [], []
    for batch, p in zip(task.problems(numbers), played, strict=True):
        logs.append(excess(p.rollout.energies[-1], batch.floors).mean(1))
        members = p.rollout.finished.reshape(len(batch.numbers), NOISES, -1)
        variance.append(members.var(1).mean(1) * (NOISES + 1) / NOISES)
        error.append((members.mean(1) - batch.truth[:, 0].flatten(1)).square().mean(1))
        work.append(torch.stack([p.rollout.evaluations.sum(0).mean(), p.rollout.iterations.sum(0).mean()]))
    spread = float((torch.cat(variance).mean() / torch.cat(error).mean()).sqrt())
    rows = (torch.cat([getattr(p, k) for p in played]).numpy() for k in ("score", "energy"))
    over = float(torch.cat(logs).mean().div(2).exp())
    return Judged(*rows, over, spread, *torch.stack(work).mean(0).tolist())


def rows(case: Case, seed: int | str, trajectories: int, found: dict[str, tuple[Levers, Judged]]) -> list[dict]:
    """One row per rival, compared with the formula and with the schedule that is best on the judged problems."""
    schedules = [n for n in found if n in SCHEDULES]
    best = max(schedules, key=lambda n: found[n][1].score.mean()) if schedules else FORMULA
    out = []
    for name, (levers, judged) in found.items():
        tuned = trajectories if "," in name and not name.startswith(FORMULA) else 0
        row: dict[str, Any] = {"claim": case.claim, "case": case.name, "seed": seed, "rival": name}
        row |= {"bands": levers.bands, "octaves": levers.octaves, "trajectories": tuned, "problems": len(judged.score)}
        row |= dict(zip(("score", "low", "high"), map(float, bootstrap(judged.score, np.mean)), strict=True))
        for column, rival in (("gain on formula", FORMULA), ("gain on schedule", best)):
            ends = map(float, paired_bootstrap(judged.score, found[rival][1].score))
            row |= dict(zip((column, f"{column} low", f"{column} high"), ends, strict=True))
        row |= {"energy score": float(judged.energy.mean()), "excess of residual": judged.excess}
        row |= {"spread over error": judged.spread, "evaluations": judged.evaluations, "iterations": judged.iterations}
        out.append(row)
    return out


def together(each: Sequence[dict[str, tuple[Levers, Judged]]]) -> dict[str, tuple[Levers, Judged]]:
    """The rivals of all seeds as one."""
    out = {}
    for name in each[0]:
        parts = [found[name][1] for found in each]
        arrays = [np.concatenate([getattr(p, k) for p in parts]) for k in ("score", "energy")]
        means = [float(np.mean([getattr(p, k) for p in parts])) for k in Judged._fields[2:]]
        out[name] = each[0][name][0], Judged(*arrays, *means)
    return out
