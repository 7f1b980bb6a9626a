"""The world of `benchmarks/policy_fields.py` as the tests use it."""

from benchmarks.policy_fields import TwoFields
from benchmarks.policy_rivals import task_of
from sciguide.actions import USUAL, Levers
from sciguide.learner import Task

SPREAD = {"alike": 0.0, "varies": 1.5}


def make_task(setting: str, scales: str, when: str, seed: int, levers: Levers = USUAL) -> tuple[TwoFields, Task]:
    world = TwoFields(SPREAD[setting], scales=scales, when=when)
    return world, task_of(world, seed, levers)
