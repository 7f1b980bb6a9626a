"""The linear system of an equation's step, which is solved by what is quickest there.

    (J V J^T + s^2 + spread)^-1 r

By a Cholesky factor where J is constant and rows are few (`equation_factor.py`), in the space of what moves where J
varies and determines that (`field_step.py`), and else by conjugate gradients in float64, preconditioned by the diagonal
of J V J^T in the sine or Hartley transform of each residual, which for constant coefficients is its symbol; where J
varies, it is that of J at the prior's mean, between factors that make rows here as large as rows there.
"""

from functools import lru_cache, partial

import torch
from torch import Tensor

from sciguide.equation_factor import Factor
from sciguide.equation_metric import Metric, only
from sciguide.equation_spectrum import spectrum_of
from sciguide.field_step import FieldStep
from sciguide.jacobian import At, Jacobian
from sciguide.octaves import Octaves
from sciguide.solver import Solved, conjugate_gradients

MOST_FACTORED = 3000  # rows of a system that is factorised
LEAST_S2 = 1e-8  # of the mean predicted variance: an exact s^2 of 0 leaves rounding to be divided by


class EquationSystem:
    """Rows of `J` in the metric V, their transform `waves`, and what they are told of: `s2` (L, 4), of every residual
    in each octave, and `told` (L,), their mean squares on the data, also where the former is 0. `iterations`: at most,
    and `tolerance`: the share of the residual that they may leave."""

    def __init__(
        self, J: Jacobian, metric: Metric, waves: Octaves, s2: Tensor, told: Tensor, iterations: int, tolerance: float
    ) -> None:
        self.J, self.metric, self.waves, self.s2 = J, metric, waves, s2
        self.iterations, self.tolerance = iterations, tolerance
        self.spectrum = lru_cache(maxsize=64)(partial(spectrum_of, J, metric, waves))
        small = J.constant and int(J.valid.sum()) <= MOST_FACTORED
        self.factor = Factor(J, metric, waves) if small else None
        self.field_step = FieldStep(J, metric, waves, told) if J.determines else None

    def least(self, sigma: float) -> Tensor:
        """s^2 of every residual in each octave, (L, 4), never so small that rounding would be divided by it."""
        smallest = LEAST_S2 * self.spectrum(sigma).fields.sum(0).mean((1, 2))[:, None]
        return torch.where(self.s2 == 0, self.s2, torch.maximum(self.s2, smallest))

    def solve(
        self,
        r: Tensor,
        sigma: float,
        field: Tensor,
        s2: Tensor,
        at: At,
        spread: Tensor | None = None,
        iterations: int | Tensor | None = None,
    ) -> Solved:
        """(J V J^T + s^2 + spread)^-1 r for rows r (B, L, Y, X), V with the scales `field` (B, F), or by octaves
        (B, F, 4), `s2` (B, L, 4); its image is the step, V J^T of it."""
        most = self.iterations if iterations is None else iterations
        if self.field_step is not None:
            return self.field_step.solve(r, sigma, field, s2, at, most, self.tolerance)
        if self.factor is not None and self.factor.direct and at is self.J.mean and field.ndim == 2:
            if bool((field != 1).any()) or bool((s2 != self.least(sigma)).any()):
                weights, left = self.factor.own(r, sigma, field, s2)
                image = self.metric(self.J.transpose(weights, at), sigma, field)
                return Solved(weights, image, torch.ones_like(left, dtype=torch.long), left)
        noise, spectra = s2[..., self.waves.band], self.spectrum(sigma).fields
        if field.ndim == 2:
            diagonal = torch.einsum("bf,flyx->blyx", field, spectra) + noise
        else:
            diagonal = torch.einsum("bfyx,flyx->blyx", field[..., self.waves.band], spectra) + noise
        if spread is not None:
            diagonal = diagonal + _mean(spread, self.J.valid)[..., None, None]

        def system(w: Tensor) -> tuple[Tensor, Tensor]:
            step = self.metric(self.J.transpose(w, at), sigma, field)
            told = self.waves.inverse(noise * self.waves.transform(w), w)
            return self.J.forward(step, at) + (told if spread is None else told + spread * w), step

        def precondition(w: Tensor) -> Tensor:
            if self.factor is not None and field.ndim == 2:
                return self.factor.solve(w, sigma, field, self.least(sigma))
            return at.balanced(self.waves.inverse(self.waves.transform(at.balanced(w)) / diagonal, w))

        return conjugate_gradients(system, precondition, r, most, self.tolerance)

    def conditional(self, v: Tensor, sigma: float) -> Tensor:
        """V v - V J^T (J V J^T + s^2)^-1 J V v: the metric given the equation, for observations beside it. Channels
        that V does not reach have the prior's M, among themselves."""
        moved = self.metric(v, sigma)
        r = self.J.forward(moved)
        field, least = r.new_ones(len(r), len(self.J.channels.of)), self.least(sigma)
        if self.factor is not None:
            found = moved - self.metric(self.J.transpose(self.factor.solve(r, sigma, field, least)), sigma)
        else:
            found = moved - self.solve(r, sigma, field, least.expand(len(r), -1, -1), self.J.mean).image
        prior = self.metric.model.prior
        held = [c for c in range(len(prior.mask)) if c not in self.metric.reaches]
        if held:
            found[:, held] = prior.apply_M(only(v, held), sigma)[:, held]
        return found


def _mean(rows: Tensor, valid: Tensor) -> Tensor:
    """Of rows (B, L, Y, X) over the valid cells, (B, L)."""
    return torch.where(valid, rows, 0).sum((-2, -1)) / valid.sum((-2, -1)).clamp(min=1)
