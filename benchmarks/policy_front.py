"""One policy for every preference: the front it traces, beside schedules tuned for each; and where it holds elsewhere.

    python -m benchmarks.policy_front [--small] [--date 2026-01-31] [--device cuda]

writes benchmarks/results/policy_front.csv (--small: policy_front_small.csv). The world is that of two fields whose
errors differ from sample to sample (`policy_fields.py`), with an equation that is told to be far looser than it is, so
that the formula leaves a residual and trusting the equation more is a choice.

- `front`: the step acts on the finished field. The learned policy is tuned once, for preferences drawn from 0 (the
  distribution alone) to 1 (physics alone), a schedule anew for each of five, with a fifth of the budget each. Energy
  score and excess of the residual, geometric mean of max(R / floor, 1)^(1/2): small is good in both.
- `elsewhere`: the step acts at every noise level. Learned policy and schedule, with the same budget, are tuned for the
  even preference with 5 evaluations, and judged with more, and with other spectra.
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
from benchmarks.tables import RESULTS, add_device, write_table
from sciguide.bootstrap import bootstrap, paired_bootstrap
from sciguide.device import CPU
from sciguide.generate import one_thread
from sciguide.guidance import EVEN
from sciguide.learner import Task, Worth
from sciguide.policy import Fixed, Policy
from sciguide.reward import Pointwise, excess
from sciguide.search import CMA
from sciguide.training.tune import Budget, tune_learned, tune_scheduled

SPREAD, LOOSE = 1.5, 1e-3  # of s^2, in the scale of f: as large as what the errors make of the residual
PREFERENCES = (0.0, 0.25, 0.5, 0.75, 1.0)
ELSEWHERE = {"5 evaluations": {}, "10 evaluations": {"steps": 10}, "20 evaluations": {"steps": 20},
             "spectrum k^-2": {"exponent": 2.0}, "spectrum k^-4": {"exponent": 4.0}}  # fmt: skip
SEEDS = (0, 1, 2)


def world(when: str, device: torch.device, **options: float) -> TwoFields:
    """Guided at the `end` or `always`."""
    return TwoFields(SPREAD, scales="told", when=when, s2=LOOSE, device=device, **options)


def measured(task: Task) -> tuple[Worth, object]:
    return task.measure(Pointwise(torch.ones(task.shape).double()), range(8), 2)


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


def front(seed: int, trajectories: int, numbers: Sequence[int], device: torch.device = CPU) -> list[dict]:
    """One learned policy of all preferences, and a schedule for each of a few."""
    task = task_of(world("end", device), seed)
    worth, standard = measured(task)
    learned = tune_learned(task, worth, standard, trajectories - MEASURED, preference=None)
    budget = Budget((trajectories - MEASURED) // len(PREFERENCES))
    out = []
    for preference in PREFERENCES:
        schedule = tune_scheduled(task, worth, budget, CMA, preference=preference)
        rivals = {"formula": Fixed(len(task.actions)), "schedule, CMA-ES": schedule, "learned": learned}
        out += table("front", f"preference {preference:g}", seed, task, worth, rivals, numbers, preference)
    return out


def elsewhere(seed: int, trajectories: int, numbers: Sequence[int], device: torch.device = CPU) -> list[dict]:
    """What was tuned with 5 evaluations on one spectrum, with others."""
    task = task_of(world("always", device), seed)
    worth, standard = measured(task)
    learned = tune_learned(task, worth, standard, trajectories - MEASURED)
    schedule = tune_scheduled(task, worth, Budget(trajectories - MEASURED), CMA)
    out = []
    for name, options in ELSEWHERE.items():
        task = task_of(world("always", device, **options), seed)
        rivals = {"formula": Fixed(len(task.actions)), "schedule, CMA-ES": schedule, "learned": learned}
        out += table("elsewhere", name, seed, task, measured(task)[0], rivals, numbers, EVEN)
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
    add_device(parser)
    given = parser.parse_args(argv)
    (many, few), judged, seeds = ((512, 256), 16, SEEDS[:1]) if given.small else ((8000, 4000), 128, SEEDS)
    rows = []
    with one_thread():
        for seed in seeds:
            numbers = numbers_of(seed, judged)
            rows += front(seed, many, numbers, given.device) + elsewhere(seed, few, numbers, given.device)
    path = RESULTS / f"policy_front{'_small' if given.small else ''}.csv"
    write_table(path, rows, f"one policy for every preference; {given.date}; 1 thread", given.device)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
