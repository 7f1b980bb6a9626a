"""Flows in two snapshots: how well members obey momentum, mass and divergence, and whether they are flows as the data.

    python -m benchmarks.flows [--only kolmogorov|shallow_water] [--data FILE] [--runs runs/flows] [--small]
                               [--seeds N ...] [--date D]

writes benchmarks/results/flows.csv (--small: flows_small.csv), where --only leaves the rows of the other set as they
are: one number a row, with its 95 % interval; `data` beside it is the same of held-out flows, or what two disjoint
halves of them have of each other. A model is trained by the command line on each set, unless it is there. The three
tuned policies get one budget of trajectories, at the least number of evaluations, and all methods the same noise: their
differences, `learned minus ...`, are bootstrapped member by member. What is measured stands in `flows_scores.py`, what
tuning rewards in `flows_reward.py`, rows without learning in `flows_rivals.py`.

Kolmogorov flows are trained, tuned and first compared at Reynolds numbers of 100 to 500. Cases:

- `unconditional`: members against the held-out flows inside that range; `Re a to b`: those of them whose own viscosity
  says so, beside the held-out flows alike; `unconditional, seed n`: policies tuned and members drawn again
  with each of the --seeds;
- `nu given, inside` and `outside`: one member for each held-out flow, as many of them as there are members, with that
  flow's viscosity observed at a few points; outside, up to Re = 1000, network and policies have seen nothing alike.

--data: a file of `sciguide data make`, for the set that --only names; made if left out.
"""

import argparse
import csv
import re
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only its own folder is on the path

import numpy as np
import torch

from benchmarks import flows_members, flows_rivals
from benchmarks.flows_data import FLOWS, SMALL, Cuts, Flow, cut_file, read
from benchmarks.flows_members import FORMULAS, POLICIES
from benchmarks.flows_reward import resolved
from benchmarks.flows_scores import Yardstick
from benchmarks.flows_table import Setting, Sheet, Size, by_reynolds
from benchmarks.tables import RESULTS, add_device, kept_in, trained_on, write_table
from sciguide.cli import main as sciguide
from sciguide.device import CPU
from sciguide.model import Model

FULL_MADE, SMALL_MADE = {"kolmogorov": 64, "shallow_water": 32}, {"kolmogorov": 32, "shallow_water": 16}
FULL_SAMPLES, SMALL_SAMPLES = {"kolmogorov": 1200, "shallow_water": 1000}, {"kolmogorov": 88, "shallow_water": 56}
FULL_TUNED, SMALL_TUNED = {"kolmogorov": 512, "shallow_water": 256}, {"kolmogorov": 64, "shallow_water": 64}
FULL_SIZE = Size(FLOWS, FULL_MADE, 32, FULL_SAMPLES, FULL_TUNED, 32, 64, (10, 20), (), 100, ())
QUICK = "--trainer.max_epochs 2 --data.steps_per_epoch 20 --model.width 8 --model.multipliers [1,2]".split()
SMALL_SIZE = Size(SMALL, SMALL_MADE, 16, SMALL_SAMPLES, SMALL_TUNED, 4, 8, (5,), (), 10, tuple(QUICK))


def fit(flow: Flow, size: Size, run: Path, data: Path, cuts: Cuts, device: torch.device) -> Path:
    """Train the model of the run, on a device, unless it is there."""
    words = ["fit", "-c", flow.config, "--run", str(run), "--data.source", str(data)]
    for name in ("train", "validation", "test"):
        words += [f"--data.{name}", str(list(getattr(cuts, name)))]
    begun = time.perf_counter()
    if not (run / "model.pt").is_file() and sciguide([*words, *size.fit, *trained_on(device)]):
        raise SystemExit(f"{run} could not be trained")
    print(f"{flow.name}: model after {time.perf_counter() - begun:.0f} s", flush=True)
    return run / "model.pt"


def prepare(name: str, size: Size, run: Path, data: str | None, device: torch.device = CPU) -> Setting:
    """Data and model of a set."""
    flow = size.flows[name]
    path, cuts = cut_file(flow, run, data, size.made[name], size.samples[name], size.points)
    model = Model.load(fit(flow, size, run, path, cuts, device), device)
    yardstick = Yardstick(flow, model, read(path, flow.variables, cuts.train))
    return Setting(flow, size, run, model, path, cuts, yardstick)


def drawn(
    setting: Setting, case: str, steps: int, tuned: Path, given: np.ndarray | None, count: int, seed: int = 0
) -> Iterator:
    """Method, fields and seconds of all policies that were tuned, and of formulas where not repeated with another
    `seed`; from files of the run where they are there."""
    beside = [f for f in FORMULAS if not seed and (given is None or not FORMULAS[f][1])]
    files = {method: flows_members.policy_file(tuned, method) for method in POLICIES}
    for method in (*(m for m, file in files.items() if file is None or file.is_file()), *beside):
        path = setting.run / "members" / re.sub("[^a-z0-9]+", "_", f"{case} {method}".lower()) / f"{steps}.npz"
        make = lambda m=method: flows_members.draw(setting.model, m, steps, tuned, range(count), given, seed)  # noqa: E731
        found = flows_members.kept(path, setting.run / "model.pt", tuned, method, make)
        print(f"{setting.flow.name}: {case}, {method}, {steps}: {found.seconds:.2f} s a member", flush=True)
        yield method, found.fields, found.seconds


def tuned_for(setting: Setting, points: int, seed: int = 0) -> Path:
    """The folder of the tuned policies."""
    size, begun = setting.size, time.perf_counter()
    trajectories = size.trajectories[setting.flow.name]
    training = setting.yardstick.training[: setting.flow.counts[0]]  # without images
    terms = resolved(setting.model, setting.yardstick, training) if setting.flow.viscous else None
    found = flows_members.tune(
        setting.run, setting.model, size.steps[0], points, trajectories, size.judged, terms, seed
    )
    print(f"{setting.flow.name}: policies after {time.perf_counter() - begun:.0f} s", flush=True)
    return found


def unconditional(setting: Setting) -> list[dict[str, Any]]:
    """Members like the held-out flows inside the training range, by all policies, beside the trivial rows."""
    flow, held, training = setting.flow, setting.fields(setting.cuts.test), setting.yardstick.training
    sheet, binned = Sheet(setting, "unconditional", setting.yardstick.features(held)), []
    for name, fields in flows_rivals.before_drawing(flow, setting.model, held, training, flows_members.SEED):
        sheet.score(name, 0, fields)
    tuned = tuned_for(setting, 0)
    sheet.rewards(setting.size.steps[0], tuned)
    for steps in setting.size.steps:
        for method, fields, seconds in drawn(
            setting, "unconditional", steps, tuned, None, min(setting.size.members, len(held))
        ):
            features = sheet.score(method, steps, fields, seconds)
            if flow.viscous:
                binned += by_reynolds(setting, method, steps, features, sheet.data)
            if method == "none":
                for name, made in flows_rivals.after_drawing(flow, setting.model, fields, training):
                    sheet.score(name, steps, made)
        sheet.pair(steps)
    return sheet.rows + binned


def conditional(setting: Setting, case: str, cut: tuple[int, int]) -> list[dict[str, Any]]:
    """A member for each held-out flow, its viscosity observed, at the least number of evaluations."""
    held, steps = setting.fields(cut)[: setting.size.members], setting.size.steps[0]
    given = held[:, setting.flow.variables.index("nu")].mean((1, 2), dtype=np.float64)
    sheet = Sheet(setting, case, setting.yardstick.features(held))
    tuned = tuned_for(setting, flows_members.POINTS)
    if case.endswith("inside"):
        sheet.rewards(steps, tuned)
    for method, fields, seconds in drawn(setting, case, steps, tuned, given, len(held)):
        sheet.score(method, steps, fields, seconds)
    sheet.pair(steps)
    return sheet.rows


def repeated(setting: Setting, seed: int) -> list[dict[str, Any]]:
    """The policies tuned and drawn again with another seed, at the least number of evaluations."""
    steps, case, held = setting.size.steps[0], f"unconditional, seed {seed}", setting.fields(setting.cuts.test)
    sheet, tuned = Sheet(setting, case, setting.yardstick.features(held)), tuned_for(setting, 0, seed)
    sheet.rewards(steps, tuned)
    count = min(setting.size.members, len(held))
    for method, fields, seconds in drawn(setting, case, steps, tuned, None, count, seed):
        sheet.score(method, steps, fields, seconds)
    sheet.pair(steps)
    return sheet.rows


def table_of(setting: Setting) -> list[dict[str, Any]]:
    """All rows of a set."""
    cuts = setting.cuts
    ranges = [r for r in cuts if r[0] < r[1]]
    assert all(a[1] <= b[0] for a, b in zip(ranges, ranges[1:], strict=False)), "samples of two purposes overlap"
    rows = unconditional(setting)
    if setting.flow.viscous:
        rows += conditional(setting, "nu given, inside", cuts.test)
        rows += conditional(setting, "nu given, outside", cuts.outside)
        for seed in setting.size.seeds:
            rows += repeated(setting, seed)
    return rows


def others(path: Path, name: str | None) -> list[dict[str, Any]]:
    """The rows that the table holds of sets other than `name`; none without one."""
    if name is None or not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return [row for row in rows if row["set"] != name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(FLOWS), help="one of the sets")
    parser.add_argument("--data", help="its file, as `sciguide data make` writes it; made if left out")
    parser.add_argument("--runs", type=Path, default=Path("runs/flows"), help="folder of models, policies and members")
    parser.add_argument("--small", action="store_true", help="16 x 16 points, few of everything: a few minutes")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="to tune and to draw with again")
    parser.add_argument("--date", default=date.today().isoformat(), help="written beside the results")
    add_device(parser)
    given = parser.parse_args()
    if given.data and not given.only:
        parser.error("--data is the file of one set: name that with --only")
    size, runs = (SMALL_SIZE, given.runs / "small") if given.small else (FULL_SIZE, given.runs)
    size, runs = size._replace(seeds=tuple(given.seeds)), kept_in(runs, given.device)
    torch.set_num_threads(1)
    rows = []
    for name in [given.only] if given.only else FLOWS:
        rows += table_of(prepare(name, size, runs / name, given.data, given.device))
    budgets = ", ".join(f"{size.trajectories[name]} ({name})" for name in FLOWS)
    budget = f"trajectories for each policy: {budgets}; {size.points} x {size.points} points"
    about = f"flows in two snapshots; {given.date}; {budget}, one thread"
    path = RESULTS / f"flows{'_small' if given.small else ''}.csv"
    write_table(path, others(path, given.only) + rows, about, given.device)


if __name__ == "__main__":
    main()
