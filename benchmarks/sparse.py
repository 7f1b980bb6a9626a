"""Sparse reconstruction: how near to the exact posterior, with how few network evaluations, and how sure of itself.

    python -m benchmarks.sparse [--only poisson|helmholtz|darcy_twophase|navier_stokes_pair] [--size 32|64|128]
                                [--runs runs/sparse] [--main] [--small] [--date 2026-01-31]

writes benchmarks/results/sparse.csv (--small: sparse_small.csv). The input of an equation is given at random points and
its solution wanted (forward), or the other way round (inverse), noise-free as published and with 1 % of noise:
`sparse_problems.py`. Ensembles have 16 members; however well they are drawn, the error of their mean is 3 % larger than
the exact mean's, by sqrt(1 + 1/16).

- error_percent: relative L2 error of the ensemble's mean in the wanted field; wrong_percent: points on the wrong side
  of the middle of a field that has two values; crps_percent: fair CRPS over the field's rms; all means over draws;
- ratio_to_exact: of the error to that of the exact posterior's mean, draw by draw, geometric mean;
- crps_by_variance_percent: the CRPS with the learned variance minus that of the same row without, paired;
  crps_over_kriging_percent: minus that of the fitted prior's draws given the same values: what the network gains;
- spread_over_error: 1 is calibrated; residual: root mean square of r over its scale, over members and draws;
- seconds: of one ensemble, without what all problems share.

Rows: the exact posterior, where the set is Gaussian; the exact prior's chain, which shows what steps cost; of the
prior that was fitted to the training set its draws, kriging (no chain), and its chain, which is the formula without a
network; the same with the network; each by observations and equation or by observations alone, with scales as told or
by maximum likelihood, and for what is not Gaussian with the variance that a network tells; other forms of guidance;
and, forward, the solution computed anew from each member's input. A model is trained by the command line unless it is
there. What was scored is kept in --runs and not computed again, and the table is made of all of it: sizes can be run
one by one.
"""

import argparse
import json
import sys
import time
from datetime import date
from math import ceil
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only its own folder is on the path

import numpy as np
import torch

from benchmarks.sparse_problems import SETS, TASKS, Problem, Set, points_of, problems
from benchmarks.sparse_rows import EXACT, Plan, Row, models_of, rows_of
from benchmarks.sparse_table import Score, rows, score
from benchmarks.tables import RESULTS, add_device, kept_in, trained_on, write_table
from sciguide.cli import main as sciguide
from sciguide.generate import one_thread
from sciguide.model import Model

CONFIG = "configs/sparse_poisson.yaml"
PLANS = {
    32: Plan(4000, 256, 40, 12, (10, 20, 50), (10, 20)),
    64: Plan(4000, 256, 12, 12, (10, 20), (10,), 0.6),
    128: Plan(2000, 64, 16, 4, (20,), (), 0.2),
}
QUICK = ("--data.steps_per_epoch=20", "--trainer.max_epochs=1", "--model.width=8", "--model.multipliers=[1,2]")
SMALL = {16: Plan(512, 32, 8, 4, (10,), (10,), fit=QUICK)}


def fit(of: Set, size: int, plan: Plan, runs: Path, device: torch.device | str = "cpu") -> Model:
    """The model of a set on a device, trained there unless it is there."""
    data, run = runs / f"{of.name}_{size}.nc", runs / f"{of.name}_{size}"
    total = plan.training + plan.validation
    if not (run / "model.pt").is_file():
        runs.mkdir(parents=True, exist_ok=True)
        words = ["data", "make", of.name, "--out", str(data), "--size", str(size), "--samples", str(total)]
        if sciguide(words):
            raise SystemExit(f"{data} could not be made")
        own = {
            "data.variables": of.variables,
            "data.train": [0, plan.training],
            "data.validation": [plan.training, total],
            "model.equations": of.equation,
            "trainer.max_epochs": ceil(plan.share * of.epochs),
            "model.variance": not of.gaussian,
        }
        words = [f"--run={run}", f"--data.source={data}", *(f"--{k}={json.dumps(v)}" for k, v in own.items())]
        if sciguide(["fit", "-c", CONFIG, *words, *of.fit, *plan.fit, *trained_on(device)]):
            raise SystemExit(f"{run} could not be trained")
    return Model.load(run / "model.pt", device)


def residuals(model: Model, ensemble: np.ndarray) -> np.ndarray:
    """R of every member, (M,); nan where there is no equation."""
    if not model.equations:
        return np.full(len(ensemble), np.nan)
    (equation,) = model.constraints()
    x = model.normaliser.encode(torch.from_numpy(np.asarray(ensemble, np.float64)).to(model.device))
    return equation.energy(x).cpu().numpy()


class Part:
    """The scores of one set and size, kept in a file: those of each row's draws, by task and row."""

    def __init__(self, of: Set, size: int, plan: Plan, runs: Path, device: torch.device | str = "cpu") -> None:
        self.of, self.size, self.plan, self.runs, self.device = of, size, plan, runs, device
        self.path = runs / f"{of.name}_{size}.json"
        self.kept = json.loads(self.path.read_text()) if self.path.is_file() else {}

    def run(self, main: bool = False) -> None:
        """Score what is not there yet, or of that the `main` rows, which are of all draws."""
        models = models_of(self.of, fit(self.of, self.size, self.plan, self.runs, self.device))
        for task in TASKS:
            draws = problems(self.of, task, self.size, self.plan.draws)
            for row in rows_of(self.of, self.plan, models, task):
                key = "|".join(map(str, (*task, row.method, row.evaluations)))
                if key not in self.kept and not (main and row.dear):
                    self.kept[key] = self.score(models.trained, row, draws[: self.plan.few if row.dear else None])
                    self.path.write_text(json.dumps(self.kept))

    def score(self, model: Model, row: Row, draws: list[Problem]) -> list[Score]:
        found = []
        for problem in draws:
            begin = time.perf_counter()
            ensemble = row.make(problem)
            seconds = time.perf_counter() - begin
            found.append(score(problem, ensemble, residuals(model, ensemble), seconds))
        error, took = (np.mean([getattr(s, k) for s in found]) for k in ("error", "seconds"))
        name = f"{self.of.name} {self.size}, {problem.task.name} {problem.task.noise}"
        print(f"{name}, {row.method}, {row.evaluations}: error {100 * error:.3g} %, {took:.2g} s", flush=True)
        return found

    def table(self) -> list[dict]:
        """The rows of all that was scored."""
        out = []
        for task in TASKS:
            found = {}
            for key, scores in self.kept.items():
                name, noise, method, evaluations = key.split("|")
                if (name, float(noise)) == task:
                    found[method, int(evaluations)] = [Score(*s) for s in scores]
            about = {"set": self.of.name, "size": self.size, "points": points_of(self.size)}
            about |= {"task": task.name, "noise": task.noise}
            pixels = self.of.two_valued and task.name == "inverse"
            out += rows(about, found, (EXACT, 0) if self.of.gaussian else None, pixels) if found else []
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/sparse"))
    parser.add_argument("--only", choices=tuple(SETS))
    parser.add_argument("--size", type=int, choices=tuple(PLANS))
    parser.add_argument("--main", action="store_true", help="only rows of all draws: the others take most of the time")
    parser.add_argument("--small", action="store_true", help="16 x 16, few draws, hardly trained: minutes")
    parser.add_argument("--date", default=date.today().isoformat(), help="written beside the results")
    add_device(parser)
    given = parser.parse_args()
    plans, runs = (SMALL, given.runs / "small") if given.small else (PLANS, given.runs)
    runs = kept_in(runs, given.device)
    parts = [Part(SETS[name], size, plan, runs, given.device) for name in SETS for size, plan in plans.items()]
    with one_thread():
        for part in parts:
            if given.only in (None, part.of.name) and (given.size in (None, part.size) or given.small):
                part.run(given.main)
    table = [row for part in parts for row in part.table()]
    about = f"reconstruction from sparse points; {given.date}; one thread"
    write_table(RESULTS / f"sparse{'_small' if given.small else ''}.csv", table, about, given.device)


if __name__ == "__main__":
    main()
