"""Tuning the rivals of one task with one budget: a schedule, affine feedback, the learned policy.

Everything is keyed by the task's seed and kept in a folder, so that running again goes on where it stopped.
"""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from numpy.typing import NDArray

from sciguide.guidance import EVEN
from sciguide.learner import HELD, Task, Worth, own_numbers
from sciguide.policy import Learned, Linear, Policy, Scheduled, Standard
from sciguide.search import CMA, RandomSearch, Search, search
from sciguide.training.kept import CHECKS, Best, History
from sciguide.training.policy import PolicyModule

LEAST_CHECKED = 600  # trajectories from which some are spent on choosing what is best
HELD_SHARE, HELD_NOISES = 64, 2  # a problem held out for so many trajectories, with so many noises
KNOTS = 4  # of a schedule: a row a level is hundreds of numbers, more than any search finds in a usual budget
LEAST_SCHEDULED, SCHEDULED = 3000, 4  # trajectories from which a schedule is sought first, with a fourth of them
Report = Callable[[int, float], None]  # trajectories so far, mean score of the last ones


def silent(done: int, score: float) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class Budget:
    """`trajectories` for each rival; every candidate of a search is scored on `problems` x `noises` of them."""

    trajectories: int = 4000
    problems: int = 8
    noises: int = 2

    @property
    def evaluations(self) -> int:
        return max(1, self.trajectories // (self.problems * self.noises))


def acting_rows(task: Task) -> list[int]:
    """The rows of a schedule that matter: levels where a constraint acts; the finished field has the last one's."""
    constraints, last = task.problems([0])[0].members(1).constraints, len(task.sigmas)
    return sorted({min(t, last - 1) for t in range(last + 1) if any(c.acts(t, last) for c in constraints)})


def _search(
    task: Task,
    worth: Worth,
    budget: Budget,
    make: Callable[[int], Search],
    policy: Callable[[NDArray], Policy],
    state: Path | None,
    report: Report,
    preference: float = EVEN,
) -> Policy:
    """What the search finds, or with a budget of some size the formula, where that scores higher on the problems held
    out for that; these count as trajectories."""
    held = held_problems(task, budget.trajectories)
    each = budget.problems * budget.noises
    budget = replace(budget, trajectories=budget.trajectories - 2 * len(held) * HELD_NOISES)

    def score(candidate: NDArray, generation: int) -> float:
        numbers = own_numbers(task.seed, generation * budget.problems, budget.problems)
        return float(task.score(policy(candidate), numbers, "tune", worth, budget.noises, preference).mean())

    best = search(make, score, budget.evaluations, state, lambda done, mean: report(done * each, mean))
    found, formula = policy(best), policy(np.zeros_like(best))
    if held:
        scores = [task.score(p, held, "tune", worth, HELD_NOISES, preference).mean() for p in (found, formula)]
        return found if scores[0] > scores[1] else formula
    return found


def held_problems(task: Task, trajectories: int) -> range:
    """The problems that decide between states of a policy, more of them the larger the budget."""
    return own_numbers(task.seed, HELD, trajectories // HELD_SHARE if trajectories >= LEAST_CHECKED else 0)


def tune_scheduled(
    task: Task,
    worth: Worth,
    budget: Budget,
    method: type[RandomSearch] | type[CMA] = RandomSearch,
    knots: int | None = None,
    state: Path | None = None,
    report: Report = silent,
    preference: float = EVEN,
) -> Policy:
    """The best table over the levels where a constraint acts: a row for each of them, or rows between so many `knots`,
    linear in their logarithm; one knot is a constant."""
    rows, actions = acting_rows(task), len(task.actions)
    weights = between(np.log(task.sigmas)[rows], knots)

    def policy(numbers: NDArray) -> Scheduled:
        table = torch.zeros(len(task.sigmas), actions, dtype=torch.float64)
        table[rows] = torch.from_numpy(weights @ numbers.reshape(-1, actions))
        return Scheduled(task.sigmas, table)

    size = actions * weights.shape[1]
    return _search(task, worth, budget, lambda n: method(size, n, task.seed), policy, state, report, preference)


def between(levels: NDArray, knots: int | None) -> NDArray:
    """The weights (L, K) of K knots, evenly spaced over `levels` (L,), in the values at those; at most one a level."""
    if knots is None or knots >= len(levels):
        return np.eye(len(levels))
    if knots == 1:
        return np.ones((len(levels), 1))
    at = np.linspace(levels.min(), levels.max(), knots)
    return np.stack([np.interp(levels, at, hat) for hat in np.eye(knots)], 1)


def tune_linear(
    task: Task,
    worth: Worth,
    standard: Standard,
    budget: Budget,
    state: Path | None = None,
    report: Report = silent,
) -> Policy:
    """Affine feedback of the standardised observation by CMA-ES."""
    shape = len(task.actions), len(task.observations) + 1

    def policy(numbers: NDArray) -> Linear:
        return Linear(standard, torch.from_numpy(np.ascontiguousarray(numbers)).reshape(shape))

    radius = 1 / shape[1] ** 0.5  # actions of order one at first
    return _search(task, worth, budget, lambda n: CMA(shape[0] * shape[1], n, task.seed, radius), policy, state, report)


class Progress(Callback):
    """Tells `report` the trajectories so far, those `spent` before included, and the score of the last ones."""

    def __init__(self, report: Report, each: int, spent: int) -> None:
        self.report, self.each, self.spent = report, each, spent

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.report(self.spent + int(pl_module.update) * self.each, pl_module.last_score)


def tune_learned(
    task: Task,
    worth: Worth,
    standard: Standard,
    trajectories: int,
    folder: Path | None = None,
    report: Report = silent,
    **options: Any,
) -> Policy:
    """The learned policy; `folder` takes the checkpoints from which it goes on, and `history.csv`; `options`: of
    `PolicyModule`. With a budget of some size the state kept is the best on problems held out for that, the first
    included. With a larger one a policy that decides where chains end stands on a schedule that a search found first:
    few actions try that jump. All of this counts as trajectories."""
    held, schedule, spent = held_problems(task, trajectories), None, 0
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    if task.levers.compute and trajectories >= LEAST_SCHEDULED:
        spent = trajectories // SCHEDULED
        state = folder / "schedule.json" if folder else None
        found = tune_scheduled(task, worth, Budget(spent), CMA, KNOTS, state, report)
        schedule = found if found.table.any() else None
    policy = Learned(standard, len(task.actions), seed=task.seed, schedule=schedule)
    sizes = {k: v for k, v in options.items() if k in ("problems", "noises", "replicas")}
    trajectories -= spent
    updates = PolicyModule.updates_within(trajectories - CHECKS * len(held) * HELD_NOISES, **sizes)
    module = PolicyModule(policy, task, worth, updates, **options)
    h = module.hparams
    each = h.problems * h.noises * h.replicas
    callbacks: list[Callback] = [Progress(report, each, spent)]
    best = Best(task, worth, updates, held, HELD_NOISES) if held else None
    if best:
        callbacks.append(best)
    last = folder / "last.ckpt" if folder else None
    if folder:
        callbacks.append(History(folder / "history.csv", each, spent))
        callbacks.append(ModelCheckpoint(folder, filename="last", enable_version_counter=False))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        trainer = L.Trainer(
            max_epochs=updates,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=bool(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks,
        )
        resume = str(last) if last and last.is_file() else None
        trainer.fit(module, ckpt_path=resume, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if best:
        policy.load_state_dict(best.state)
    return policy.eval().requires_grad_(False)
