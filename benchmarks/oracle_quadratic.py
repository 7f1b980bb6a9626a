"""A quadratic constraint on a Gaussian field: the residual of the clean estimate is not the estimate of the residual.

Every form takes the step x0 <- x0 - M J^T (J M J^T + s^2 + v)^-1 r at every noise level, J the derivative at x0:

- naive         r = r(x0), v = 0; gated, only below the noise level that is best on other noise;
- antithetic    r and v = the mean over 8 pairs x0 +- M^(1/2) z and the variance of that mean (`sciguide.antithetic`),
                or v = the variance between pairs;
- exact         r = r(x0) + tr(H M) / 2, v = 0, or the covariance tr(H_j M H_k M) / 2 that a quadratic form has.

`energy_rows`: the mean square of a field is told, E +- s; draws of the prior kept with the likelihood's probability are
the posterior. `speed_rows`: squared speeds (U + x)^2 at points; the energy score against held-out truths, beside long
runs of elliptical slice sampling (Murray, Adams and MacKay 2010), which draw from the posterior.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.oracle_fields import SIGMA_MIN, gaussian, hartley, power_law, widest
from benchmarks.oracle_rows import Row, Sheet
from benchmarks.oracle_unguided import Judge
from sciguide.antithetic import error_draws, mean_residual
from sciguide.device import CPU
from sciguide.noise import normals
from sciguide.reward import Pointwise, energy_score
from sciguide.sampler import karras_sigmas, sample

N, EXPONENT = 16, 3.0
PAIRS = 8
POINTS, SPEED_ERROR = 40, 0.5


class Moments(NamedTuple):
    """Of r under N(x0, M) beyond the first order: `shift` tr(H_j M) / 2, (m,), and `covariance` (m, m)."""

    shift: Tensor
    covariance: Tensor


class Energy:
    """r = mean x^2 - E, m = 1."""

    def __init__(self, told: float, error: float) -> None:
        self.told, self.error = told, error

    def residual(self, x: Tensor) -> Tensor:
        return x.square().mean((1, 2, 3))[:, None] - self.told

    def jacobian(self, x: Tensor) -> Tensor:
        return 2 / x[0].numel() * x.flatten(1)[:, None]

    def moments(self, M: Tensor) -> Moments:
        return Moments(M.trace()[None] / len(M), (2 * M.square().sum() / len(M) ** 2)[None, None])


class Speeds:
    """r = (mean + x)^2 - y at points `index` (m,), `y` (B, m) for each member."""

    def __init__(self, mean: float, index: Tensor, y: Tensor, error: float) -> None:
        self.mean, self.index, self.y, self.error = mean, index, y, error

    def residual(self, x: Tensor) -> Tensor:
        return (self.mean + x.flatten(1)[:, self.index]).square() - self.y

    def jacobian(self, x: Tensor) -> Tensor:
        J = x.new_zeros(len(x), len(self.index), x[0].numel())
        J[:, range(len(self.index)), self.index] = 2 * (self.mean + x.flatten(1)[:, self.index])
        return J

    def log_likelihood(self, x: Tensor) -> Tensor:
        return -(self.residual(x) / self.error).square().sum(1) / 2

    def moments(self, M: Tensor) -> Moments:
        here = M[self.index][:, self.index]
        return Moments(here.diagonal(), 2 * here.square())


class Guide:
    """The step of one `form` on one constraint, below the noise level `gate`, for chains of `noise` keyed by seed, on a
    device."""

    FORMS = ("naive", "antithetic", "antithetic, spread", "exact mean", "exact mean and covariance")

    def __init__(
        self,
        constraint: Energy | Speeds,
        form: str,
        seed: int,
        gate: float = np.inf,
        device: torch.device = CPU,
    ) -> None:
        self.constraint, self.form, self.seed, self.gate = constraint, form, seed, gate
        self.prior = gaussian(power_law(N, EXPONENT)).to(device)
        eye = torch.eye(N * N, dtype=torch.float64, device=device).reshape(-1, 1, N, N)
        self.covariance = lru_cache(lambda sigma: self.prior.apply_M(eye, sigma).flatten(1))

    def expected(self, x0: Tensor, sigma: float, index: int, M: Tensor) -> tuple[Tensor, Tensor | float]:
        """r (B, m) and v (m, m), or (B, m, m)."""
        residual = self.constraint.residual
        if self.form.startswith("antithetic"):
            draws = error_draws(self.prior, sigma, self.seed, range(len(x0)), index, PAIRS)
            found = mean_residual(residual, x0, draws)
            return found.mean, torch.diag_embed(found.spread if "spread" in self.form else found.variance)
        moments = self.constraint.moments(M)
        if self.form == "naive":
            return residual(x0), 0.0
        return residual(x0) + moments.shift, moments.covariance if "covariance" in self.form else 0.0

    def __call__(self, index: int, x0: Tensor, sigma: float) -> tuple[Tensor, None]:
        if sigma > self.gate:
            return x0, None
        M = self.covariance(sigma)
        r, v = self.expected(x0, sigma, index, M)
        J = self.constraint.jacobian(x0)
        JM = J @ M
        S = JM @ J.mT + self.constraint.error**2 * torch.eye(r.shape[1]).to(r) + v
        step = (torch.linalg.solve(S, r[..., None]).mT @ JM)[:, 0]
        return x0 - step.reshape(x0.shape), None

    def chain(self, noise: Tensor, steps: int) -> Tensor:
        sigmas = karras_sigmas(steps, SIGMA_MIN, widest(self.prior))

        def guide(index: int, x0: Tensor, sigma: float) -> tuple[Tensor, None]:
            return self(index, x0, sigma) if index < steps else (x0, None)

        for step in sample(self.prior.filter, self.prior, noise, sigmas, guide):
            last = step.x
        return last


def white(seed: int, members: int, device: torch.device = CPU) -> Tensor:
    return torch.from_numpy(normals(seed, range(members), 0, (1, N, N), np.float64)).to(device)


def gated(make: Callable[..., Guide], steps: int, noise: Tensor, loss: Callable[[Tensor], float]) -> Guide:
    """The naive form with the best gate; the first noise level lets all steps act, a gate of 0 none."""
    gates = [0.0, *karras_sigmas(steps, SIGMA_MIN, widest(gaussian(power_law(N, EXPONENT))))]
    return min((make(form="naive", gate=g * 1.001) for g in gates), key=lambda g: loss(g.chain(noise, steps)))


def energy_posterior(constraint: Energy, samples: int, seed: int) -> Tensor:
    """So many draws of the prior, each kept with the likelihood's probability, (samples, 1, N, N)."""
    prior, rng, kept, found = gaussian(power_law(N, EXPONENT)), np.random.default_rng([seed, 5]), [], 0
    while found < samples:
        x = prior.sample(torch.from_numpy(rng.standard_normal((10_000, 1, N, N))))
        score = constraint.residual(x)[:, 0] / constraint.error
        kept.append(x[torch.from_numpy(rng.random(len(x))) < (-score.square() / 2).exp()])
        found += len(kept[-1])
    return torch.cat(kept)[:samples]


def energy_rows(
    samples: int = 2048,
    steps: int = 20,
    told: tuple[float, ...] = (0.5, 1.0, 2.0),
    n: int = 100,
    device: torch.device = CPU,
) -> list[Row]:
    """Distances to the posterior of a field whose mean square is told; `n`: of the bootstrap."""
    sheet = Sheet("A2 quadratic constraint: mean square told")
    judge = Judge(power_law(N, EXPONENT).flatten())
    for E in told:
        constraint, case = Energy(E, 0.05 * E), f"E = {E:g} +- 5 %, prior 1"
        posterior, other = (energy_posterior(constraint, samples, seed) for seed in (0, 1))
        reference = judge.leading_modes(hartley(posterior).flatten(1))

        def distance(x: Tensor, reference: np.ndarray = reference) -> float:
            return judge.w1(judge.leading_modes(hartley(x).flatten(1)), reference[: len(x)])

        def rows(name: str, x: Tensor, E: float = E, case: str = case, reference: np.ndarray = reference) -> None:
            over = (x.square().mean((1, 2, 3)) / E).cpu().numpy()
            sheet.mean(case, name, steps, "", mean_square_over_told=over)
            sheet.statistic(
                case, name, steps, "", "rms_residual_over_told", over, lambda q: ((q - 1) ** 2).mean() ** 0.5
            )
            pair = judge.leading_modes(hartley(x).flatten(1)), reference
            sheet.statistic(case, name, steps, "", "W1", pair, judge.w1, n)

        rows("posterior, other draws", other)
        make, noise = partial(Guide, constraint, seed=11, device=device), white(11, samples, device)
        rows("unguided", make("naive", gate=0.0).chain(noise, steps))
        other = partial(Guide, constraint, seed=12, device=device)
        best = gated(other, steps, white(12, samples // 4, device), distance)
        rows("naive, best gate", best.chain(noise, steps))
        for form in Guide.FORMS:
            rows(form, make(form).chain(noise, steps))
    return sheet.rows


def slice_sampling(constraint: Speeds, start: Tensor, sweeps: int, seed: int) -> Tensor:
    """Elliptical slice sampling of every member by itself from `start` (B, 1, N, N)."""
    prior, rng = gaussian(power_law(N, EXPONENT)).to(start.device), np.random.default_rng([seed, 6])

    def drawn(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(start.device)

    x, current = start, constraint.log_likelihood(start)
    for _ in range(sweeps):
        other = prior.sample(drawn(rng.standard_normal(x.shape)))
        least = current + drawn(rng.random(len(x))).log()
        angle = drawn(rng.uniform(0, 2 * np.pi, len(x)))
        low, high, open_ = angle - 2 * np.pi, angle.clone(), torch.ones_like(angle, dtype=torch.bool)
        while bool(open_.any()):
            turn = angle[open_, None, None, None]
            proposed = x[open_] * turn.cos() + other[open_] * turn.sin()
            part = Speeds(constraint.mean, constraint.index, constraint.y[open_], constraint.error)
            found = part.log_likelihood(proposed)
            good = found > least[open_]
            rows = open_.nonzero()[:, 0]
            x = x.index_copy(0, rows[good], proposed[good])
            current = current.index_copy(0, rows[good], found[good])
            bad = rows[~good]
            negative = angle[bad] < 0
            low[bad[negative]], high[bad[~negative]] = angle[bad[negative]], angle[bad[~negative]]
            angle[bad] = low[bad] + (high[bad] - low[bad]) * drawn(rng.random(len(bad)))
            open_[rows[good]] = False
    return x


class SpeedProblems:
    """`problems` truths with squared speeds at points of their own field, `members` of each, on a device."""

    def __init__(self, mean: float, problems: int, members: int, seed: int, device: torch.device = CPU) -> None:
        rng = np.random.default_rng([seed, 7])
        prior = gaussian(power_law(N, EXPONENT)).to(device)
        self.truth = prior.sample(torch.from_numpy(rng.standard_normal((problems, 1, N, N))).to(device))
        index = torch.from_numpy(rng.choice(N * N, POINTS, replace=False)).to(device)
        y = (mean + self.truth.flatten(1)[:, index]).square()
        y = y + SPEED_ERROR * torch.from_numpy(rng.standard_normal(y.shape)).to(device)
        self.members, self.noise = members, white(seed, problems * members, device)
        self.constraint = Speeds(mean, index, y.repeat_interleave(members, 0), SPEED_ERROR)

    def scores(self, x: Tensor) -> np.ndarray:
        """The energy score of each problem, (problems,)."""
        distance = Pointwise(torch.ones(x.shape[1:], dtype=x.dtype))
        each = x.unflatten(0, (-1, self.members))[:, :, None]
        return np.array([float(energy_score(a, b[None], distance)) for a, b in zip(each, self.truth, strict=True)])


def speed_rows(
    problems: int = 128,
    members: int = 8,
    steps: int = 20,
    sweeps: int = 1000,
    means: tuple[float, ...] = (1.0, 2.0),
    device: torch.device = CPU,
) -> list[Row]:
    """Energy scores, and their differences from the unguided chain's over the same problems. The two runs of slice
    sampling, from draws of the prior and from guided members, say how well it mixes."""
    sheet = Sheet("A2 quadratic constraint: squared speeds told")
    for mean in means:
        case = f"(U + x)^2 at {POINTS} points of {N * N}, U = {mean:g}, errors {SPEED_ERROR:g}"
        tuned, judged = (SpeedProblems(mean, p, members, s, device) for p, s in ((problems // 4, 21), (problems, 22)))
        make, guided = partial(Guide, tuned.constraint, seed=21, device=device), partial(Guide, judged.constraint)
        best = gated(make, steps, tuned.noise, lambda x, of=tuned: float(of.scores(x).mean()))
        forms = {"unguided": ("naive", 0.0), "naive, best gate": ("naive", best.gate)}
        forms |= {form: (form, np.inf) for form in Guide.FORMS}
        members_of = {n: guided(f, 22, g, device).chain(judged.noise, steps) for n, (f, g) in forms.items()}
        for origin, start in (("N(0, C)", judged.noise), ("guided members", members_of["antithetic"])):
            start = gaussian(power_law(N, EXPONENT)).to(device).sample(start) if origin == "N(0, C)" else start
            members_of[f"slice sampling from {origin}"] = slice_sampling(judged.constraint, start, sweeps, 0)
        found = {name: judged.scores(x) for name, x in members_of.items()}
        for name, scores in found.items():
            sheet.mean(case, name, steps, "", energy_score=scores)
            sheet.difference(case, name, steps, "", "energy_score minus unguided", scores, found["unguided"])
    return sheet.rows
