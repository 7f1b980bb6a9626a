"""The kriging step for an equation, matrix-free, and its Gauss-Newton form where the equation is not linear.

    x0 <- x0 - V J^T (J V J^T + s^2)^-1 r(x0)

over the fields that the equation lets move and the rows of all its residuals (`sciguide/jacobian.py`), with the metric
V of `sciguide/equation_metric.py`. The system is solved by `sciguide/equation_system.py`; one iteration of that is the
spectrally preconditioned gradient, of the best length.

s^2 is the mean square of each residual on the training data, of each octave of the wavenumber where a record has them;
0 makes the step a hard projection. `scales: ml` multiplies each V_f and all s^2, per member and step, by what makes the
transformed residuals most likely.

An equation that is not linear in what it moves is linearised at x0. Before the end r(x0) is not the residual to
expect: it is replaced by its mean over antithetic draws of the posterior, whose scatter is added to s^2
(`sciguide/antithetic.py`), and the step is multiplied by the calibrated strength s*(sigma), left out below .2. On the
finished field it is taken again until it gains no more.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from sciguide.antithetic import PAIRS, mean_residual
from sciguide.constraints import EquationOnModel
from sciguide.equation_metric import Metric
from sciguide.equation_spectrum import PROBES, Spectrum
from sciguide.equation_system import EquationSystem
from sciguide.jacobian import Jacobian
from sciguide.likelihood import equation_scales
from sciguide.model import Model
from sciguide.octaves import BANDS, Octaves
from sciguide.solver import Solved

MOST_ITERATIONS = 1000  # whatever a policy asks for
LEAST_STRENGTH = 0.2  # below, a nonlinear equation leaves the estimate alone
EXACT, INEXACT = 1e-6, 0.1  # share of the residual that solves may leave
MOST_NEWTON, NEWTON_GAIN = 4, 0.9  # steps on the finished field, while each leaves less than this of R
MOST_SCALES = 3  # fields whose scales are sought one by one


class EquationStep:
    """One equation as a constraint on a model's clean estimate.

    `when`: "end" acts on the finished field alone, "always" at every step too, as observations beside it need, and as
    nonlinear equations do by themselves; `iterations`: at most, of conjugate gradients, at least one, the
    preconditioned gradient; `tolerance`: the share of the residual that they may leave, 1e-6 where not told, .1 in a
    system that is linearised anew at the next step anyway; `hard`: s^2 = 0; `ratio(x0, sigma)`: the variances of
    members' errors over those of M, (B, C, Y, X), with which V becomes E V E; not where only the finished field is
    solved for coefficients that vary; `beside`: that there are observations. An equation that the prior does not know
    is `coupled` to them: it acts at every step, with scales as told and no `ratio`, and V is joint where there are
    channels that it says nothing of. `taken` (B,): iterations of the last correction of each member; `parts`: names of
    the equations that it is of, one, or several that are solved together (`sciguide/together.py`).
    """

    bands, iterative = BANDS, True

    def __init__(
        self,
        model: Model,
        equation: EquationOnModel,
        scales: Literal["told", "ml"] = "ml",
        when: Literal["end", "always"] = "end",
        iterations: int = 200,
        tolerance: float | None = None,
        hard: bool = False,
        ratio: Callable[[Tensor, float], Tensor] | None = None,
        beside: bool = False,
    ) -> None:
        self.model, self.equation, self.prior = model, equation, model.prior
        self.scales, self.iterations = scales, iterations
        self.name, self.channels = equation.name, equation.channels.of
        self.parts = equation.parts
        kinds = ("log innovation ratio", "log residual over white noise's")
        of = [f"{part}, " for part in self.parts] if len(self.parts) > 1 else [""]
        self.feature_names = tuple(f"{part}{kind}, band {b}" for kind in kinds for part in of for b in range(BANDS))
        self.J = Jacobian(model, equation)
        self.linear = equation.operator.linear_in_moves and not bool(self.J.log[:, self.J.moving].any())
        least = EXACT if self.linear or hard else INEXACT
        self.tolerance = least if tolerance is None else tolerance
        K = len(equation.operator.components)
        told = self.J.std.new_tensor(equation.record.s2).expand(K)
        levels = equation.operator.grid.shape[0] if len(equation.operator.grid.shape) == 3 else 1
        told = told.repeat_interleave(levels)[self.J.live]
        self.s2 = told * (not hard)
        # of residuals as the data have them; those of a logarithm's slopes are balanced otherwise from place to place
        octaves = equation.record.octaves if self.J.constant else []
        shares = self.s2.new_tensor(octaves or [[1.0] * BANDS] * K)
        self.shares = shares.repeat_interleave(levels, 0)[self.J.live]
        part_of = torch.as_tensor(equation.part_of, device=self.s2.device)
        self.part_of = part_of.repeat_interleave(levels)[self.J.live]
        self.waves = Octaves(self.J.valid, model.grid.boundary)
        self.coupled = beside and self.couples()
        if self.coupled:
            # Likelihood takes the fields' errors for independent. On the finished field they nearly are; in the middle
            # of the chain they are not, and scales fitted there were measured to make both fields worse.
            when, self.scales, ratio = "always", "told", None
        self.when = when if self.linear else "always"
        self.ratio = ratio if self.J.constant or not self.linear else None
        known = {c for own in self.channels for c in own}
        self.metric = Metric(model, self.J, self.coupled and len(known) < model.shape[0])
        s2 = self.s2[:, None] * self.shares
        self.system = EquationSystem(self.J, self.metric, self.waves, s2, told, iterations, self.tolerance)
        self.draws = lru_cache(maxsize=64)(self._draws)
        self.octaves = BANDS if self.J.constant else 1
        self.taken = self.s2.new_zeros(0)
        self.solved: Solved | None = None  # the last solve, for those who ask how it went

    def acts(self, index: int, last: int) -> bool:
        """On the finished field, and at every noise level where `when` says so; a nonlinear equation only where it has
        some strength, and not at the last one, which is the finished field's and whose step the multistep rule would
        stretch."""
        if index == last or self.when != "always":
            return index == last
        return self.linear or (index < last - 1 and self._strength(self.model.sigmas(last)[index]) > 0)

    def _strength(self, sigma: float) -> float:
        """Of a nonlinear step before the end, 0 where it is left out."""
        strength = self.equation.record.strength_at(sigma)
        return strength if strength >= LEAST_STRENGTH else 0.0

    def _draws(self, sigma: float) -> Tensor:
        """Draws of the posterior's error at `sigma`, (P, 1, C, Y, X), the same for all members and runs."""
        z = torch.randn(PAIRS, *self.model.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        return self.prior.sqrt_M(z.to(self.prior.mean.device), sigma)[:, None]

    def couples(self) -> bool:
        """Whether the prior does not know the equation yet, trace(J C J^T) > trace(s^2): then observations need it at
        every step, and M conditioned on it. Not where J varies: its factor would be each member's own."""
        if not self.J.constant:
            return False
        valid = self.J.valid
        generator = torch.Generator().manual_seed(1)
        z = torch.randn(PROBES, *valid.shape, generator=generator, dtype=torch.float64)
        z = torch.where(valid, z.to(valid.device), 0)
        moved = self.prior.apply_M(self.J.transpose(z), self.model.sigma_max)
        trace = (z * self.J.forward(moved)).sum() / PROBES
        return float(trace) > float(self.s2 @ valid.sum((1, 2)).double())

    def conditional(self, v: Tensor, sigma: float) -> Tensor:
        """The metric given the equation, for observations beside it."""
        return self.system.conditional(v, sigma)

    def features(self, x0: Tensor, sigma: float) -> Tensor:
        """Per octave the log of the residuals' energy over its predicted variance, and over white noise's, (B, 8); of
        each of the P equations where there are several, (B, 8 P)."""
        energy = self.waves.transform(self.J.at(x0).balanced(self.J.rows(x0))).square()
        spectrum = self.system.spectrum(sigma)
        predicted = spectrum.fields.sum(0) + self.system.least(sigma)[:, self.waves.band]
        rows = [self.part_of == p for p in range(len(self.parts))]
        ratios = [ratio[:, of].mean(1) for ratio in (energy / predicted, energy / spectrum.white) for of in rows]
        return torch.cat([self.waves.means(ratio) for ratio in ratios], 1).clamp(1e-12, 1e12).log()

    def correct(
        self,
        x0: Tensor,
        sigma: float,
        log_s2: Tensor | None = None,
        tilt: Tensor | None = None,
        effort: Tensor | None = None,
    ) -> Tensor:
        """The step. exp(`log_s2`), (B, P) or (B, 4 P), multiplies s^2 of each of the P equations, all of it or of each
        octave, exp(`tilt`) the V_f of each channel (B, C), or of each channel and octave (B, C, 4), exp(`effort`) (B,)
        the iterations."""
        bend = log_s2, tilt, effort
        self.taken = x0.new_zeros(len(x0))
        if self.linear:
            step = self.step(x0, sigma, self.J.rows(x0), *bend)
            self.taken = self.solved.iterations
            return x0 - step
        if sigma > (1 + 1e-6) * self.model.sigma_min:  # sigmas are rounded
            strength = self._strength(sigma)
            if not strength:
                return x0
            step = self.expected(x0, sigma, *bend)
            self.taken = self.solved.iterations
            return x0 - strength * step
        best, least = x0, self.equation.energy(x0)
        for _ in range(MOST_NEWTON):
            x = best - self.step(best, sigma, self.J.rows(best), *bend)
            self.taken = self.taken + self.solved.iterations
            R = self.equation.energy(x)
            better = R < NEWTON_GAIN * least
            best = torch.where(better[:, None, None, None], x, best)
            least = torch.where(better, R, least)
            if not bool(better.any()):
                break
        return best

    def expected(self, x0: Tensor, sigma: float, *bend: Tensor | None) -> Tensor:
        """The full step of the residual that the posterior at `sigma` leads to expect; `bend`: as of `correct`."""
        found = mean_residual(self.J.rows, x0, self.draws(sigma))
        return self.step(x0, sigma, found.mean, *bend, spread=found.spread)

    def step(
        self,
        x0: Tensor,
        sigma: float,
        r: Tensor,
        log_s2: Tensor | None = None,
        tilt: Tensor | None = None,
        effort: Tensor | None = None,
        spread: Tensor | None = None,
    ) -> Tensor:
        """V J^T (J V J^T + s^2)^-1 r with J at x0, for rows r (B, L, Y, X), bent as in `correct`; `spread`, like r, is
        added to s^2."""
        at, e = self.J.at(x0), None
        if self.ratio is not None:
            e = self.metric.roots(self.ratio(x0, sigma), sigma)
            at = at.after(self.J.channels.gather(e))
        least = self.system.least(sigma)
        field, s2 = x0.new_ones(len(x0), len(self.channels)), least.expand(len(x0), -1, -1)
        if self.scales == "ml" and spread is None and bool((self.s2 > 0).all()):
            energy = self.waves.transform(at.balanced(r)).square()
            field, factor = self._likely(self.system.spectrum(sigma), energy, least)
            s2 = s2 * factor[:, None, None]
        if log_s2 is not None:
            s2 = s2 * log_s2.unflatten(1, (len(self.parts), -1))[:, self.part_of].exp()
        if tilt is not None:
            each = torch.stack([tilt[:, c].sum(1) / max(len(c), 1) for c in self.channels], 1).exp()
            field = field.reshape(*field.shape, *(1,) * (each.ndim - 2)) * each
        most = self.iterations
        if effort is not None:
            most = (most * effort.exp()).round().clamp(1, MOST_ITERATIONS).long()
        self.solved = self.system.solve(r, sigma, field, s2, at, spread, most)
        return self.solved.image if e is None else e * self.solved.image

    def _likely(self, spectrum: Spectrum, energy: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
        """The most likely scales of V_f (B, F), 1 for fields that do not move, and of s^2 (B,); one for all fields
        where they are many."""
        field = energy.new_ones(len(energy), len(self.channels))
        noise = least[:, self.waves.band]
        spectra = spectrum.fields[self.J.moving]
        if len(spectra) > MOST_SCALES:
            spectra = spectra.sum(0, keepdim=True)
        field[:, self.J.moving], factor = equation_scales(spectra, energy, noise)
        return field, factor
