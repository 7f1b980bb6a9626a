"""One policy for every preference: the front it traces, beside schedules tuned for each; and where it holds elsewhere.

    python -m benchmarks.policy_front [--small] [--date 2026-01-31]

writes benchmarks/results/policy_front.csv (--small: policy_front_small.csv). The world is that of two fields whose
errors differ from sample to sample (`policy_fields.py`), with an equation that is told to be looser than it is, so that
physics and distribution do not agree: s^2 is 100 times too large. The learned policy is tuned once, for preferences
drawn from 0 (the distribution alone) to 1 (physics alone); a schedule is tuned anew for each of five, with a fifth of
the budget each. `front`: energy score and excess of the residual, geometric mean of max(R / floor, 1)^(1/2), both small
is good. `elsewhere`: the even preference at other numbers of evaluations, and with another spectrum, where neither was
tuned.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only its own folder is on the path

import numpy as np
import torch

from benchmarks.policy_fields import TwoFields
from benchmarks.policy_rivals import MEASURED, NOISES, numbers_of, task_of
from benchmarks.tables import RESULTS, write_table
from sciguide.bootstrap import bootstrap, paired_bootstrap
from sciguide.generate import one_thread
from sciguide.guidance import EVEN
from sciguide.learner import Task, Worth
from sciguide.policy import Fixed, Policy
from sciguide.reward import excess
from sciguide.search import CMA
from sciguide.training.tune import Budget, tune_learned, tune_scheduled

SPREAD, LOOSE = 1.5, 1e-3  # of s^2, in the scale of f: as large as what the errors make of the residual
PREFERENCES = (0.0, 0.25, 0.5, 0.75, 1.0)
ELSEWHERE = {"5 evaluations": {}, "10 evaluations": {"steps": 10}, "20 evaluations": {"steps": 20},
             "spectrum k^-2": {"exponent": 2.0}, "spectrum k^-4": {"exponent": 4.0}}  # fmt: skip
SEEDS = (0, 1, 2)


def world(**options: float) -> TwoFields:
    """The world of the front."""
    return TwoFields(SPREAD, scales="told", when="always", s2=LOOSE, **options)


def measured(task: Task) -> tuple[Worth, object]:
    return task.measure(torch.ones(task.shape).double(), range(8), 2)


def found(task: Task, worth: Worth, policy: Policy, numbers: Sequence[int], preference: float) -> dict[str, np.ndarray]:
    """Per problem: the score at this preference, the energy score, and the log of the excess."""
    played = task.play(policy, numbers, "judge", worth, NOISES, preference=preference)
    floors = [b.floors for b in task.problems(numbers)]
    logs = [excess(p.rollout.energies[-1], f).mean(1) / 2 for p, f in zip(played, floors, strict=True)]
    over = torch.cat([v.reshape(-1, NOISES).mean(1) for v in logs])
    return {
        "score": torch.cat([p.score for p in played]).numpy(),
        "energy score": torch.cat([p.energy for p in played]).numpy(),
        "log excess": over.numpy(),
    }


def policies(seed: int, trajectories: int) -> tuple[Policy, dict[float, Policy]]:
    """The learned policy of all preferences, and a schedule for each of a few."""
    task = task_of(world(), seed)
    worth, standard = measured(task)
    learned = tune_learned(task, worth, standard, trajectories - MEASURED, preference=None)
    budget = Budget((trajectories - MEASURED) // len(PREFERENCES))
    each = {p: tune_scheduled(task, worth, budget, CMA, preference=p) for p in PREFERENCES}
    return learned, each


def rows_of(seed: int, trajectories: int, judged: int) -> list[dict]:
    """Both parts of the table, for one seed."""
    numbers = numbers_of(seed, judged)
    learned, schedules = policies(seed, trajectories)
    out = []
    task = task_of(world(), seed)
    worth = measured(task)[0]
    for preference in PREFERENCES:
        rivals = {"formula": Fixed(len(task.actions)), "schedule, CMA-ES": schedules[preference], "learned": learned}
        out += table("front", f"preference {preference:g}", seed, task, worth, rivals, numbers, preference)
    for name, options in ELSEWHERE.items():
        task = task_of(world(**options), seed)
        worth = measured(task)[0]
        rivals = {"formula": Fixed(len(task.actions)), "schedule, CMA-ES": schedules[EVEN], "learned": learned}
        out += table("elsewhere", name, seed, task, worth, rivals, numbers, EVEN)
    return out


def table(
    part: str, case: str, seed: int, task: Task, worth: Worth, rivals: dict, numbers: Sequence[int], preference: float
) -> list[dict]:
    """A row for every rival."""
    each = {name: found(task, worth, policy, numbers, preference) for name, policy in rivals.items()}
    out = []
    for name, values in each.items():
        row: dict = {"part": part, "case": case, "seed": seed, "rival": name, "problems": len(numbers)}
        row |= dict(zip(("score", "low", "high"), map(float, bootstrap(values["score"], np.mean)), strict=True))
        for rival in ("formula", "schedule, CMA-ES"):
            ends = map(float, paired_bootstrap(values["score"], each[rival]["score"]))
            column = f"gain on {rival.partition(',')[0]}"
            row |= dict(zip((column, f"{column} low", f"{column} high"), ends, strict=True))
        row |= {"energy score": float(values["energy score"].mean())}
        row |= {"excess of residual": float(np.exp(values["log excess"].mean()))}
        out.append(row)
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="the front of residual against distribution")
    parser.add_argument("--small", action="store_true", help="one seed, 512 trajectories, 16 problems")
    parser.add_argument("--date", default=date.today().isoformat(), help="written beside the results")
    given = parser.parse_args(argv)
    trajectories, judged, seeds = (512, 16, SEEDS[:1]) if given.small else (16_000, 128, SEEDS)
    with one_thread():
        rows = [row for seed in seeds for row in rows_of(seed, trajectories, judged)]
    path = RESULTS / f"policy_front{'_small' if given.small else ''}.csv"
    write_table(path, rows, f"one policy for every preference; {given.date}; 1 thread")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
