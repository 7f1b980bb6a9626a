"""What guidance costs: the same chain unguided, guided by each direction, and guided through the network.

The model is made up in memory: Poisson pairs, a prior from a few dozen of them, a network of 2.1 million random
weights, whose values do not matter for the time. Checked first: the fused and the reference backend correct the same
fields alike, and the directions that promise it lower the residual. Chains take turns, so that what else the machine
does falls on all of them; those of the reference backend run once. `inside` is the ratio within one and the same chain,
1 + guidance / (chain - guidance), which such disturbances hardly touch.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciguide.bench.results import header, write_csv, write_json
from sciguide.constraints import EquationOnModel, EquationRecord
from sciguide.covariance import fit_prior
from sciguide.datasets.normaliser import Normaliser
from sciguide.denoiser import Denoiser
from sciguide.equation_step import EquationStep
from sciguide.gradient_step import GradientStep
from sciguide.guidance import Constraint, Guidance
from sciguide.kernels.backends import using
from sciguide.model import Model, NetworkError, build_network
from sciguide.noise import normals
from sciguide.sampler import sample
from sciguide.simulate import poisson, samples

SAMPLES = 32  # training pairs of the made-up prior
CG = 60  # iterations of conjugate gradients in a chain
AGREE = 1e-6  # of the fields' root mean square, between backends
CASES = [(64, 1), (64, 16)]
FULL = [(n, b) for n in (64, 128, 256) for b in (1, 8, 64)] + [(64, 16)]
UNGUIDED, DPS = "unguided", "DPS through the network"


@dataclass(frozen=True)
class Chain:
    """One row: `batch` members of `size` x `size` points and two fields in `steps` steps. Seconds are medians of whole
    chains; `ratio` to the unguided chain; `inside`: see above; `setup`: of the first chain beyond the others, the sums
    that all members share."""

    direction: str
    backend: str
    size: int
    batch: int
    steps: int
    weights: int
    seconds: float
    seconds_least: float
    seconds_most: float
    ratio: float
    inside: float
    setup: float
    residual: float


class Timed:
    """Guidance that counts its seconds."""

    def __init__(self, guidance: Guidance) -> None:
        self.guidance, self.seconds = guidance, 0.0

    def __call__(self, *given: Any) -> Any:
        start = time.perf_counter()
        found = self.guidance(*given)
        self.seconds += time.perf_counter() - start
        return found


class Everywhere:
    """A constraint that acts at every noise level and on the finished field."""

    def __init__(self, constraint: Constraint) -> None:
        self._constraint = constraint

    def __getattr__(self, name: str) -> Any:
        return getattr(self._constraint, name)

    def acts(self, index: int, last: int) -> bool:
        return True


@cache
def made_up_model(size: int, width: int) -> Model:
    """Poisson pairs (f, phi) on size x size points."""
    pairs = samples("poisson", size, 0, SAMPLES)
    fields = np.stack([pairs["f"], pairs["phi"]], 1)
    normaliser = Normaliser(fields.mean((0, 2, 3)), fields.std((0, 2, 3)), np.zeros(2, bool), ("f", "phi"))
    mask = np.ones(fields.shape[1:], bool)
    prior = fit_prior("eof", normaliser.encode(torch.tensor(fields)), torch.from_numpy(mask))
    options = {"boundary": ["open", "open"], "width": width, "multipliers": [1, 2, 2], "blocks": 2}
    torch.manual_seed(0)
    network = build_network(2, options)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    operator = poisson.operator(size)
    physical = torch.tensor(fields[:, [1, 0]])
    operator = operator.scaled(operator.scale_square(physical).mean(0).sqrt().tolist())
    s2 = float(operator.energy(physical).mean())
    return Model(
        denoiser=Denoiser(prior, network).eval().requires_grad_(False),
        network=options,
        normaliser=normaliser,
        layout=SimpleNamespace(names=["f", "phi"], mask=mask, static={}),
        grid=operator.grid,
        sigma_min=0.01,
        sigma_max=3 * prior.largest**0.5,
        error=NetworkError([0.01, 30.0], [[1e-4, 2e-4], [0.5, 0.9]]),
        effective=float(SAMPLES),
        fingerprint="made up",
        equations=[EquationRecord(operator.to_dict(), [1, 0], s2, 1e-6)],
    )


def directions(model: Model, steps: int) -> dict[str, Constraint]:
    """The constraints to time, by name."""
    equation, each = model.constraints()[0], CG // steps
    return {
        "fused gradient, one at every step": Everywhere(GradientStep(model, equation, iterations=1)),
        "fused gradient, as shipped": GradientStep(model, equation),
        "preconditioned gradient, every step": EquationStep(model, equation, when="always", iterations=1),
        f"kriging at the end, {CG} CG": EquationStep(model, equation, iterations=CG, tolerance=0),
        f"kriging at every step, {each * (steps + 1)} CG in all": EquationStep(
            model, equation, when="always", iterations=each, tolerance=0
        ),
    }


def through_network(model: Model, equation: EquationOnModel) -> Callable[[Tensor, Tensor], Tensor]:
    """The denoiser of diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687): x0 moved against the gradient
    of R(x0(x)) with respect to the noisy x, by half of the length that would end at 0 to first order."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0 = model.denoiser(x, sigma)
            R = equation.energy(x0)
            (g,) = torch.autograd.grad(R.sum(), x)
        length = 0.5 * R.detach() / g.square().sum((1, 2, 3)).clamp(min=1e-300)
        return x0.detach() - length[:, None, None, None] * g

    return denoise


def run_chain(model: Model, noise: Tensor, steps: int, denoise: Callable, guide: Any) -> tuple[Tensor, float]:
    """The finished fields, and the seconds that they took."""
    start = time.perf_counter()
    *_, last = sample(denoise, model.prior, noise, model.sigmas(steps), guide)
    return last.guided, time.perf_counter() - start


def time_case(size: int, batch: int, steps: int, width: int, repeats: int) -> list[Chain]:
    """All directions by both backends on one case."""
    model = made_up_model(size, width)
    equation, count = model.constraints()[0], sum(p.numel() for p in model.denoiser.network.parameters())
    noise = torch.from_numpy(normals(0, range(batch), 0, model.shape, np.float64))
    runs: dict[tuple[str, str], Callable[[], tuple[Tensor, float, float]]] = {}

    def plain(denoise: Callable) -> Callable[[], tuple[Tensor, float, float]]:
        return lambda: (*run_chain(model, noise, steps, denoise, None), 0.0)

    def guided(constraint: Constraint) -> Callable[[], tuple[Tensor, float, float]]:
        def run() -> tuple[Tensor, float, float]:
            guide = Timed(Guidance([constraint], None, model.layout.names, steps))
            return (*run_chain(model, noise, steps, model.denoise, guide), guide.seconds)

        return run

    runs[UNGUIDED, "-"] = plain(model.denoise)
    for backend in ("auto", "reference"):
        for name, constraint in directions(model, steps).items():
            runs[name, backend] = guided(constraint)
    runs[DPS, "auto"] = plain(through_network(model, equation))
    first = {key: under(key[1], run) for key, run in runs.items()}
    agree(model, steps, noise)
    check(equation, {key: found[0] for key, found in first.items()})
    found: dict[tuple[str, str], list[tuple[Tensor, float, float]]] = {key: [] for key in runs}
    for turn in range(repeats):
        for key, run in runs.items():
            if turn == 0 or key[1] != "reference":
                found[key].append(under(key[1], run))
    alone = median(seconds for _, seconds, _ in found[UNGUIDED, "-"])
    rows = []
    for (name, backend), taken in found.items():
        seconds = [s for _, s, _ in taken]
        rows.append(
            Chain(
                direction=name,
                backend=backend,
                size=size,
                batch=batch,
                steps=steps,
                weights=count,
                seconds=median(seconds),
                seconds_least=min(seconds),
                seconds_most=max(seconds),
                ratio=median(seconds) / alone,
                inside=median(s / (s - g) for _, s, g in taken),
                setup=max(0.0, first[name, backend][1] - median(seconds)),
                residual=float(equation.energy(taken[-1][0]).mean().sqrt()),
            )
        )
    return rows


def under(backend: str, run: Callable[[], Any]) -> Any:
    with using("auto" if backend == "-" else backend):
        return run()


def agree(model: Model, steps: int, noise: Tensor) -> None:
    """Raises AssertionError where backends disagree on a correction, at the levels where it acts. Whole chains are not
    compared: the network's single precision and the choice of the best field on the way let rounding grow."""
    x0, sigmas = model.prior.sample(noise), model.sigmas(steps)
    for index in (0, steps // 2, steps):
        for name in directions(model, steps):
            found = []
            for backend in ("auto", "reference"):
                constraint = directions(model, steps)[name]
                if constraint.acts(index, steps):
                    with using(backend):
                        found.append(constraint.correct(x0, sigmas[min(index, steps - 1)]))
            if found:
                off = float((found[0] - found[1]).square().mean().sqrt() / found[1].square().mean().sqrt())
                assert off < AGREE, f"{name}: the backends differ by {off:.1e}"


def check(equation: EquationOnModel, finished: dict[tuple[str, str], Tensor]) -> None:
    """Raises AssertionError where a field is not finite, or guidance did not lower the residual."""
    before = equation.energy(finished[UNGUIDED, "-"])
    for (name, _), x in finished.items():
        assert x.isfinite().all(), f"{name}: a field is not finite"
        if name != UNGUIDED and name != DPS:
            assert (equation.energy(x) < before).all(), f"{name}: the residual did not fall"


def bench_sampling(full: bool, small: bool, csv: str | None, json: str | None, command: str) -> int:
    """Print a line for every direction and write what is asked for."""
    cases, steps, width, repeats = (FULL if full else CASES), 20, 44, 3
    if small:
        cases, steps, width, repeats = [(16, 2)], 3, 8, 1
    about, rows = header(command, "cpu"), []
    print(f"{'members':<14}{'direction':<40}{'backend':<12}{'s':>9}{'ratio':>8}{'inside':>8}{'residual':>10}")
    for size, batch in cases:
        for r in time_case(size, batch, steps, width, repeats):
            rows.append(asdict(r))
            label = f"{batch} x {size}^2"
            print(
                f"{label:<14}{r.direction:<40}{r.backend:<12}{r.seconds:>9.3f}{r.ratio:>8.3f}{r.inside:>8.3f}"
                f"{r.residual:>10.2g}",
                flush=True,
            )
    about["load at the end"] = header(command, "cpu")["load"]
    about["network"] = "random weights, whose values do not matter for the time; " + Chain.__doc__.split("\n")[0]
    if csv:
        write_csv(Path(csv), about, rows)
    if json:
        write_json(Path(json), about, rows)
    return 0
