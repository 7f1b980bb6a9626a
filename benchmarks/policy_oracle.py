"""Two fields u, f with f = lap(u) - k2 u, and a generator that errs on both: where a learned policy can win.

The truth of a problem is a Gaussian field u on a torus with its f. What generates members knows both fields with white
errors of standard deviations du and df, and not that they belong together: its denoiser is exact for N(truth + error,
diag(du^2, df^2)), a slightly wrong Gaussian. Conditioning that on the equation, the best that can be done, is the
project's step V J^T (J V J^T)^-1 r with V = diag(du^2, df^2): which field moves is all that matters. The formula is
told the averages of du^2 and df^2. Where every sample has them there is nothing to gain; where du and df vary from
sample to sample they show in the residual's octaves, so a policy that looks can turn the metric, and a schedule cannot.
With `scales: ml` the formula estimates just that by itself, and nothing is claimed.

    python benchmarks/policy_oracle.py [--small] [--date 2026-01-31]

writes benchmarks/results/policy_oracle.csv (--small: policy_oracle_small.csv): the energy score of every rival (small
is good) on problems that none was tuned on, for each seed and for all of them together, and what it differs by from the
formula and from the best schedule, negative where it is better, with paired bootstrap intervals over problems. `oracle`
is the formula that knows each sample's du and df, the best there is where the step acts at the end only; there a
schedule has one row that matters, and is the best constant.
"""

import argparse
import csv
import os
import platform
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciguide.actions import Actions, Levers
from sciguide.bootstrap import bootstrap, paired_bootstrap
from sciguide.constraints import EquationOnModel, EquationRecord
from sciguide.datasets.normaliser import Normaliser
from sciguide.equation_step import EquationStep
from sciguide.equations import Constant, Equation, Field, lap
from sciguide.grid import Grid
from sciguide.guidance import Guidance
from sciguide.learner import JUDGED, Task
from sciguide.model import NetworkError
from sciguide.policy import Choice, Fixed, Policy, certain
from sciguide.prior import Spectral
from sciguide.rollout import Chain, Members, Problems, stages_apart
from sciguide.sampler import karras_sigmas
from sciguide.search import CMA
from sciguide.training.tune import Budget, tune_learned, tune_linear, tune_scheduled

RESULTS = Path(__file__).parent / "results"
N, K2, SIGMA_MIN, STEPS = 16, 0.5, 0.01, 5
ERROR = 0.1  # median of du and df, in standard deviations of the fields
SPREAD = {"alike": 0.0, "varies": 1.5}  # half the range of their logarithms
KINDS = [("alike", "end"), ("varies", "end"), ("varies", "always")]
CASES = [(setting, scales, when) for scales in ("told", "ml") for setting, when in KINDS]
SEEDS = (0, 1, 2)
COLUMNS = ("model error", "scales", "step", "seed", "rival", "trajectories", "problems", "energy score", "low", "high")
AGAINST = ("minus formula", "minus schedule")


class Elliptic(Equation):
    """lap(u) - k2 u = f."""

    u = Field()
    f = Field()
    k2 = Constant(K2)
    moves = ("u", "f")
    scale = "source"

    def residual(self) -> Any:
        return lap(self.u) - self.k2 * self.u - self.f

    def source(self) -> Any:
        return 1 * self.f


class TwoFields:
    """What `EquationStep` asks of a model, and the problems. `spread`: half the range of log du and log df."""

    def __init__(self, spread: float) -> None:
        self.spread, self.shape = spread, (2, N, N)
        self.grid = Grid.uniform((N, N), boundary=("periodic", "periodic"))
        k = torch.fft.fftfreq(N, 1 / N, dtype=torch.float64)
        theta = 2 * torch.pi * k / N
        symbol = -(4 * (theta[:, None] / 2).sin() ** 2 + 4 * (theta / 2).sin() ** 2 + K2)
        S = (1 + k[:, None] ** 2 + k**2) ** -1.5
        self.S = S / S.mean()
        std = [1.0, float((symbol**2 * self.S).mean().sqrt())]
        self.symbol = symbol / std[1]  # of u to f, both normalised
        self.normaliser = Normaliser(np.zeros(2), np.array(std), np.zeros(2, bool), ("u", "f"))
        self.layout = SimpleNamespace(names=["u", "f"])
        # the mean of exp(2 t) for t uniform in [-spread, spread]
        factor = np.sinh(2 * spread) / (2 * spread) if spread else 1.0
        self.error = NetworkError([SIGMA_MIN, 10.0], [[ERROR**2 * factor] * 2] * 2)
        relation = torch.stack([torch.ones_like(symbol), self.symbol])
        C = self.S * relation[:, None] * relation + ERROR**2 * factor * torch.eye(2)[..., None, None]
        values, vectors = torch.linalg.eigh(C.permute(2, 3, 0, 1))
        vectors = vectors.permute(2, 3, 0, 1).to(torch.complex128)
        self.prior = Spectral(torch.zeros(self.shape).double(), values.permute(2, 0, 1), vectors, ("fft", "fft"))
        self.sigma_max = 3 * self.prior.largest**0.5
        self.sigmas = karras_sigmas(STEPS, SIGMA_MIN, self.sigma_max)
        operator = Elliptic().on(self.grid, scale=std[1])
        record = EquationRecord(operator.to_dict(), [0, 1], 1e-12, 1e-6)
        self.equation = EquationOnModel(record, self.normaliser, self.grid)

    def truth(self, rng: np.random.Generator) -> Tensor:
        white = torch.fft.fft2(torch.from_numpy(rng.standard_normal((N, N))), norm="ortho") * self.S.sqrt()
        return torch.fft.ifft2(torch.stack([white, self.symbol * white]), norm="ortho").real

    def draw(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Truth and the generator's mean (2, N, N), and its errors' standard deviations (2,)."""
        rng = np.random.default_rng([number, 7])
        truth = self.truth(rng)
        std = torch.from_numpy(ERROR * np.exp(rng.uniform(-self.spread, self.spread, 2)))
        return truth, truth + std[:, None, None] * torch.from_numpy(rng.standard_normal(self.shape)), std

    def problems(self, step: EquationStep, numbers: Sequence[int]) -> list[Problems]:
        """One batch, as all share the constraint `step`."""
        truth, means, std = (torch.stack(column) for column in zip(*map(self.draw, numbers), strict=True))

        def chain(repeats: int) -> Chain:
            m = means.repeat_interleave(repeats, 0)
            v = std.square()[..., None, None].repeat_interleave(repeats, 0)

            def denoise(x: Tensor, sigma: Tensor) -> Tensor:
                return m + v / (v + sigma[:, None, None, None] ** 2) * (x - m)

            return Chain(denoise, self.prior, self.sigmas, lambda noise, sigma: m + (v + sigma**2).sqrt() * noise)

        def energies(x: Tensor) -> Tensor:
            return self.equation.energy(x)[:, None]

        floors = torch.tensor([self.equation.record.floor], dtype=torch.float64)
        return [
            Problems(truth[:, None], floors, list(numbers), lambda repeats: Members(chain(repeats), [step], energies))
        ]


def make_task(setting: str, scales: str, when: str, seed: int) -> tuple[TwoFields, Task]:
    """The task of one row of CASES."""
    fields = TwoFields(SPREAD[setting])
    step = EquationStep(fields, fields.equation, scales=scales, when=when)
    names = Guidance.observation_names([step]), Actions([step], ["u", "f"], Levers()).names
    return fields, Task(lambda numbers: fields.problems(step, numbers), fields.shape, fields.sigmas, *names, seed)


class Told:
    """The formula that is told each member's own errors: it turns the metric by their ratio. `std`: (B, 2)."""

    def __init__(self, fields: TwoFields, std: Tensor, actions: int) -> None:
        variance = std.square() / torch.tensor(fields.error.mse[0])
        turn = (variance[:, :1] / variance[:, 1:]).log() / 2
        self.action = torch.cat([turn.new_zeros(len(turn), actions - 2), turn, -turn], 1)

    def __call__(self, observation: Tensor, action: Tensor | None = None) -> Choice:
        return certain(self.action)


def compete(
    setting: str, scales: str, when: str, seed: int, trajectories: int, judged: int, only: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """The energy scores of the rivals, all if not `only` some, on `judged` problems, (judged,), after tuning each on
    `trajectories`."""
    fields, task = make_task(setting, scales, when, seed)
    # measuring the scales of rewards and observations takes 32 of the trajectories
    worth, standard = task.measure(torch.ones(fields.shape).double(), range(8), 2)
    budget = Budget(trajectories - 32)
    noises, numbers = 8, [JUDGED + judged * seed + i for i in range(judged)]
    stages_apart(seed, range(trajectories), numbers)
    std = torch.stack([fields.draw(n)[2] for n in numbers]).repeat_interleave(noises, 0)
    rivals: dict[str, Callable[[], Policy | None]] = {
        "unguided": lambda: None,
        "formula": lambda: Fixed(len(task.actions)),
        "constant, random search": lambda: tune_scheduled(task, worth, budget, constant=True),
        "schedule, random search": lambda: tune_scheduled(task, worth, budget),
        "schedule, CMA-ES": lambda: tune_scheduled(task, worth, budget, CMA),
        "linear, CMA-ES": lambda: tune_linear(task, worth, standard, budget),
        "learned, GRPO": lambda: tune_learned(task, worth, standard, budget.trajectories),
        "oracle": lambda: Told(fields, std, len(task.actions)),
    }
    pointless = {"oracle"} if scales == "ml" else set()
    pointless |= {"constant, random search"} if when == "end" else set()
    chosen = [n for n in rivals if (n in only if only else n not in pointless)]
    played = {name: task.play(rivals[name](), numbers, "judge", worth, noises) for name in chosen}
    return {name: p[0].energy.numpy() for name, p in played.items()}


def rows(case: tuple[str, str, str], seed: int | str, trajectories: int, found: dict[str, np.ndarray]) -> list[dict]:
    """One row per rival, compared with the formula and with the schedule that is best on the judged problems."""
    best = min((n for n in found if n.startswith(("constant", "schedule"))), key=lambda n: found[n].mean())
    out = []
    for name, scores in found.items():
        tuned = 0 if name in ("unguided", "formula", "oracle") else trajectories
        row = dict(zip(COLUMNS, [*case, seed, name, tuned, len(scores), *bootstrap(scores, np.mean)], strict=True))
        for column, rival in zip(AGAINST, ("formula", best), strict=True):
            value, low, high = paired_bootstrap(scores, found[rival])
            row |= {column: value, f"{column} low": low, f"{column} high": high}
        out.append({k: f"{v:.6f}" if isinstance(v, float | np.ndarray) else v for k, v in row.items()})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="learned guidance against its rivals, where the best is known")
    parser.add_argument("--small", action="store_true", help="one seed, 1,000 trajectories, 64 problems")
    parser.add_argument("--date", default=date.today().isoformat(), help="written beside the results")
    given = parser.parse_args()
    trajectories, judged, seeds = (1000, 64, SEEDS[:1]) if given.small else (4000, 256, SEEDS)
    table = []
    for case in CASES:
        each = [compete(*case, seed, trajectories, judged) for seed in seeds]
        for seed, found in zip(seeds, each, strict=True):
            table += rows(case, seed, trajectories, found)
        table += rows(case, "all", trajectories, {name: np.concatenate([e[name] for e in each]) for name in each[0]})
        for row in table[-len(each[0]) :]:
            difference = " ".join(
                f"{column} {row[column]} [{row[column + ' low']}, {row[column + ' high']}]" for column in AGAINST
            )
            print(*case, f"{row['rival']:<24}", row["energy score"], difference, sep="  ", flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"policy_oracle{'_small' if given.small else ''}.csv"
    with open(path, "w", newline="") as file:
        small = " --small" if given.small else ""
        print(
            f"# python benchmarks/policy_oracle.py{small}; {given.date}; {platform.machine()}, {os.cpu_count()} cores, "
            f"python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}",
            file=file,
        )
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    print(path)


if __name__ == "__main__":
    main()
