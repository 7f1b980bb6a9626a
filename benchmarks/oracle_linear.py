"""A linear constraint on two Gaussian fields: when it acts, which field it moves, and by what direction.

The truth obeys f = lap(u) - k2 u. The denoiser is exact for a slightly wrong Gaussian, the truth's plus white errors of
standard deviations du on u and df on f, both fields normalised. Guidance is a hard projection along V = diag(w, 1),
x0 <- x0 - V J^T (J V J^T)^-1 r. Everything is diagonal in wavenumbers, two fields by two, so the distribution of the
guided chain is known from two fields of noise, and its W2 distance to the truth's, over the truth's standard deviation,
is exact. By Gauss and Markov the metric of the errors themselves, w = (du / df)^2, leaves the least variance.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from benchmarks.oracle_fields import SIGMA_MIN, power_law, widest
from benchmarks.oracle_rows import Row, Sheet
from benchmarks.policy_fields import K2, Elliptic
from sciguide.constraints import EquationOnModel, EquationRecord
from sciguide.datasets.normaliser import Normaliser
from sciguide.device import CPU
from sciguide.equation_step import EquationStep
from sciguide.gradient_step import GradientStep
from sciguide.grid import Grid
from sciguide.model import NetworkError
from sciguide.prior import Spectral
from sciguide.sampler import karras_sigmas, sample

NEVER = 1e-12  # a share of the metric that moves nothing
ERRORS = {"u errs most": (0.2, 0.02), "both err": (0.1, 0.1), "f errs most": (0.02, 0.2)}

Correct = Callable[[Tensor, float], Tensor]


class Relation:
    """What `EquationStep` asks of a model, n x n, with the errors `du`, `df`, on a device."""

    def __init__(self, du: float, df: float, n: int = 32, device: torch.device = CPU) -> None:
        self.shape, self.du, self.df = (2, n, n), du, df
        self.grid = Grid.uniform((n, n), boundary=("periodic", "periodic"))
        half = np.pi * torch.fft.fftfreq(n, dtype=torch.float64)
        symbol = -(4 * half.sin()[:, None] ** 2 + 4 * half.sin() ** 2 + K2).to(device)
        self.S = power_law(n, 3.0).to(device)
        std = [1.0, float((symbol**2 * self.S).mean().sqrt())]
        self.symbol = symbol / std[1]  # of u to f, both normalised
        self.normaliser = Normaliser(np.zeros(2), np.array(std), np.zeros(2, bool), ("u", "f"))
        self.layout = SimpleNamespace(names=["u", "f"])
        self.error = NetworkError([SIGMA_MIN, 10.0], [[du**2, df**2]] * 2)
        self.along = torch.stack([torch.ones_like(symbol), self.symbol])  # the truth's direction at each wavenumber
        C = self.S * self.along[:, None] * self.along
        C = C + self.fixed(0.0)
        values, vectors = torch.linalg.eigh(C.permute(2, 3, 0, 1))
        vectors = vectors.permute(2, 3, 0, 1).to(torch.complex128)
        mean = torch.zeros(self.shape, dtype=torch.float64, device=device)
        self.prior = Spectral(mean, values.permute(2, 0, 1), vectors, ("fft", "fft"))
        operator = Elliptic().on(self.grid, scale=std[1])
        record = EquationRecord(operator.to_dict(), [0, 1], [1e-12], 1e-6)
        self.equation = EquationOnModel(record, self.normaliser, self.grid)

    def projection(self, w: float = 1.0, when: str = "end", only: str = "") -> EquationStep:
        """The project's step, with `w` times the best ratio of the fields' errors, or moving `only` one field."""
        error = [self.du**2 * w, self.df**2]
        if only:
            error = [1.0, NEVER] if only == "u" else [NEVER, 1.0]
        model = SimpleNamespace(**{**vars(self), "error": NetworkError([SIGMA_MIN, 10.0], [error] * 2)})
        return EquationStep(model, self.equation, scales="told", when=when, hard=True, tolerance=1e-12)

    def chain(self, noise: Tensor, steps: int, correct: Correct | None, always: bool = False) -> Tensor:
        """The finished fields, corrected there or at every noise level too."""

        def guide(index: int, x0: Tensor, sigma: float) -> tuple[Tensor, None]:
            acts = correct is not None and (always or index == steps)
            return (correct(x0, sigma) if acts else x0), None

        for step in sample(self.prior.filter, self.prior, noise, self.levels(steps), guide):
            last = step.guided
        return last

    def levels(self, steps: int) -> list[float]:
        return karras_sigmas(steps, SIGMA_MIN, widest(self.prior))

    def judge(self, sampler: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Exact numbers of a linear map from white noise to fields: W2 to the truth, the rms residual over the rms of
        f, and both std ratios."""
        n = self.shape[-1]
        impulse = self.S.new_zeros(2, *self.shape)
        impulse[0, 0, 0, 0] = impulse[1, 1, 0, 0] = n  # all Fourier modes 1
        T = torch.fft.fft2(sampler(impulse), norm="ortho").real  # (noise, field, k)
        C = torch.einsum("nakl,nbkl->abkl", T, T)
        truth = self.S * self.along.square().sum(0)
        overlap = (self.S * torch.einsum("akl,abkl,bkl->kl", self.along, C, self.along)).clamp(min=0).sqrt()
        W2 = (C[0, 0] + C[1, 1] + truth - 2 * overlap).sum().clamp(min=0) / truth.sum()
        residual = (self.symbol * T[:, 0] - T[:, 1]).square().sum(0).mean()
        std = [float((C[c, c].sum() / (self.S * self.along[c] ** 2).sum()).sqrt()) for c in (0, 1)]
        return {"W2": float(W2.sqrt()), "rms_residual": float(residual.sqrt()), "std_u": std[0], "std_f": std[1]}

    def fixed(self, sigma: float) -> Tensor:
        """diag(du^2, df^2) at every wavenumber, (2, 2, n, n)."""
        return self.S.new_tensor([self.du**2, self.df**2]).diag()[..., None, None].expand(2, 2, *self.shape[1:])

    def joint(self, sigma: float) -> Tensor:
        """M of the joint prior at every wavenumber, (2, 2, n, n)."""
        vectors, m = self.prior.vectors.real, self.prior.error_variances(sigma)[0]
        return torch.einsum("ckyx,kyx,dkyx->cdyx", vectors, m, vectors)

    def projected(self, x0: Tensor, sigma: float, metric: Callable[[float], Tensor]) -> Tensor:
        """x0 - V J^T (J V J^T)^-1 J x0 in closed form."""
        J = torch.stack([self.symbol, -torch.ones_like(self.symbol)])
        VJ = torch.einsum("cdyx,dyx->cyx", metric(sigma), J)
        X = torch.fft.fft2(x0, norm="ortho")
        share = (J * X).sum(1, keepdim=True) / (J * VJ).sum(0)
        return torch.fft.ifft2(X - VJ * share, norm="ortho").real


def metric_rows(
    n: int = 32, budgets: Sequence[int] = (10, 20), cases: Sequence[str] = tuple(ERRORS), device: torch.device = CPU
) -> list[Row]:
    """Which field moves, and whether the projection acts at the end or at every step."""
    sheet = Sheet("A2 linear constraint: which field moves, and when")
    for case in cases:
        relation = Relation(*ERRORS[case], n, device)
        methods: dict[str, tuple[Correct | None, bool]] = {"unguided": (None, False)}
        for power in (-4, -2, 0, 2, 4):
            methods[f"at the end, w = 1e{power:+d} of the best"] = relation.projection(10.0**power).correct, False
        methods["at the end, re-solving u"] = relation.projection(only="u").correct, False
        methods["at the end, re-solving f"] = relation.projection(only="f").correct, False
        methods["at every step, V of the project"] = relation.projection().correct, True
        methods["at every step, diag(w, 1)"] = partial(relation.projected, metric=relation.fixed), True
        methods["at every step, M of the joint prior"] = partial(relation.projected, metric=relation.joint), True
        for (name, (correct, always)), steps in product(methods.items(), budgets):
            found = relation.judge(partial(relation.chain, steps=steps, correct=correct, always=always))
            sheet.exact(case, name, steps, "", **found)
    return sheet.rows


class Directions:
    """Corrections of another kind for the same constraint, with the metric of the errors."""

    def __init__(self, relation: Relation) -> None:
        self.relation, self.step = relation, relation.projection()
        self.V = relation.S.new_tensor([relation.du**2, relation.df**2])[:, None, None]

    def gradient(self, x0: Tensor, sigma: float, size: float, power: float, turned: bool) -> Tensor:
        """Down the normalised gradient of R, `turned` by the metric, by `size` sigma^power, rms over the points."""
        g = self.step.J.transpose(self.step.J.rows(x0)) * (self.V if turned else 1)
        return x0 - size * sigma**power * g / g.square().mean((1, 2, 3), keepdim=True).sqrt()

    def conjugate(self, x0: Tensor, sigma: float, iterations: int) -> Tensor:
        """So many iterations of plain conjugate gradients on J V J^T w = r (Hestenes and Stiefel 1952)."""
        step = self.step
        r = p = step.J.rows(x0)
        moved, size = torch.zeros_like(x0), (r * r).sum((1, 2, 3), keepdim=True)
        for _ in range(iterations):
            back = self.V * step.J.transpose(p)
            along = step.J.forward(back)
            length = size / (p * along).sum((1, 2, 3), keepdim=True).clamp(min=1e-300)
            moved, r = moved + length * back, r - length * along
            before, size = size, (r * r).sum((1, 2, 3), keepdim=True)
            p = r + size / before.clamp(min=1e-300) * p
        return x0 - moved


def direction_rows(
    n: int = 32, steps: int = 10, members: int = 32, fused: bool = True, device: torch.device = CPU
) -> list[Row]:
    """The rms residual over the rms of f that each direction leaves. The normalised gradient acts at every step, with
    the best of 54 settings of `Directions.gradient`, on other noise; `fused`: also the project's gradient step."""
    sheet = Sheet("A2 linear constraint: directions")
    draws = torch.from_numpy(np.random.default_rng(0).standard_normal((2, members, 2, n, n))).to(device)
    for case in ERRORS:
        relation = Relation(*ERRORS[case], n, device)
        directions = Directions(relation)

        def left(
            correct: Correct | None, always: bool, noise: Tensor = draws[1], of: Relation = relation
        ) -> np.ndarray:
            return of.equation.energy(of.chain(noise, steps, correct, always)).sqrt().cpu().numpy()

        schedules = list(product(np.geomspace(1e-4, 1, 9).tolist(), (0.0, 0.5, 1.0), (False, True)))

        def gradient(schedule: tuple[float, float, bool], of: Directions = directions) -> Correct:
            return partial(of.gradient, **dict(zip(("size", "power", "turned"), schedule, strict=True)))

        best = min(schedules, key=lambda s: left(gradient(s), True, draws[0]).mean())
        sheet.mean(case, "unguided", steps, "", rms_residual=left(None, False))
        sheet.mean(case, "normalised gradient, best schedule", steps, "", rms_residual=left(gradient(best), True))
        for name, always in (("at the end", False), ("at every step", True)):
            found = left(partial(directions.conjugate, iterations=8), always)
            sheet.mean(case, f"8 conjugate gradients {name}", steps, "", rms_residual=found)
        if fused:
            found = left(GradientStep(relation, relation.equation, hard=True).correct, False)
            sheet.mean(case, "20 fused gradient steps of Polyak's length at the end", steps, "", rms_residual=found)
        sheet.mean(case, "kriging step at the end", steps, "", rms_residual=left(directions.step.correct, False))
    return sheet.rows
