"""A step down the gradient of any equation's energy, nonlinear and log-transformed fields included.

    x <- x - a m dR/dx,        a = strength (R(x) - R_data)+ / <dR/dx, m dR/dx>,

m one weight per field, the network's mean square error there (which field moves), 0 for those that may not. The length
is Polyak's: to first order a step of strength 1 ends at R_data, where there is nothing left to win, so the step is
dimensionless, needs no curvature, differs from member to member, and vanishes for a member that has arrived. On
perturbed solutions of the shipped equations it was within a factor of two of Barzilai and Borwein's step and of exact
line searches after the same number of launches, and unlike them it stops. It is not monotonic: the best field is kept.

Each iteration is one launch, of the fused update: the energy of x, and x moved by the length of the last step. How far
that went gives the norm of the gradient, and the move is stretched to the right length. A plain gradient first removes
what is rough. It lowers R by one to three orders in twenty steps, not to rounding as the kriging step does where the
equation is linear.
"""

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from sciguide.constraints import EquationOnModel
from sciguide.model import Model

LATE = 0.75  # of the chain: from there on the estimate is sharp enough for its residual to mean something
MOST = 20  # iterations
STRONGEST = 1.9  # Polyak's step converges below 2
POWER_ITERATIONS = 10


class GradientStep:
    """One equation as a constraint on a model's clean estimate, by fused gradient steps.

    `when`: "end" acts on the finished field alone, "late" on the last quarter of the steps too; `iterations`: at most,
    and never more than 20; `hard`: towards R = 0 instead of R_data.
    """

    bands, octaves, iterative = 1, 1, False
    feature_names = ("log energy over the data's", "log distance to it")

    def __init__(
        self,
        model: Model,
        equation: EquationOnModel,
        when: Literal["end", "late"] = "late",
        iterations: int = MOST,
        strength: float = 1.0,
        hard: bool = False,
    ) -> None:
        self.model, self.equation, self.name = model, equation, equation.name
        self.when, self.iterations, self.strength = when, min(max(1, iterations), MOST), strength
        self.floor = 0.0 if hard else equation.record.floor
        operator = equation.operator
        self.kernels, self.channels = equation.kernels, equation.channels
        self.mask = None if operator.grid.mask is None else torch.from_numpy(operator.grid.mask)
        moves = [float(f in operator.moves and bool(c)) for f, c in zip(operator.fields, self.channels.of, strict=True)]
        self.moves = torch.tensor(moves, dtype=torch.float64)

    def acts(self, index: int, last: int) -> bool:
        """On the finished field, and late in the chain where `when` says so."""
        return index == last or (self.when == "late" and index >= LATE * last)

    def metric(self, x: Tensor, sigma: float, tilt: Tensor | None = None) -> Tensor:
        """m (B, F), at most 1 without a tilt; exp(`tilt`) (B, C) multiplies it."""
        each = self.channels.each(self.model.error.at(sigma), 0.0)
        error = torch.from_numpy(each).reshape(len(self.moves), -1).mean(1) * self.moves
        m = (error / error.max()).to(x).expand(len(x), -1)
        if tilt is None:
            return m
        return m * self.channels.gather(tilt[..., None, None]).reshape(*m.shape, -1).mean(-1).to(x).exp()

    def features(self, x0: Tensor, sigma: float) -> Tensor:
        """log R / R_data, and the log of the rms change of x0 that would take R there, to first order; (B, 2)."""
        R, g = self.kernels.energy_and_gradient(self.channels.fields(x0))
        moved = _each(self.metric(g, sigma), g) * g
        least = self.equation.record.floor
        length = (R - least).clamp(min=0) / (moved * g).flatten(1).sum(1).clamp(min=1e-300)
        distance = length * moved.square().flatten(1).mean(1).sqrt()
        return torch.stack([(R / least).clamp(1e-12, 1e12).log(), distance.clamp(1e-6, 1e6).log()], 1)

    def correct(self, x0: Tensor, sigma: float, log_s2: Tensor | None = None, tilt: Tensor | None = None) -> Tensor:
        """The field of least R on the way. exp(-`log_s2`) (B, 1) multiplies the strength, exp(`tilt`) (B, C) what each
        channel moves by."""
        strength = x0.new_full((len(x0),), self.strength)
        if log_s2 is not None:
            strength = (strength * (-log_s2[:, 0]).exp()).clamp(max=STRONGEST)
        found = self.descend(self.channels.fields(x0), self.metric(x0, sigma, tilt), strength)
        return self.channels.replace(x0, found)

    def descend(self, x: Tensor, m: Tensor, strength: Tensor) -> Tensor:
        """From x (B, F, [Z,] Y, X), each member by itself."""
        best, least = x, x.new_full((len(x),), torch.inf)
        step = x.new_full((len(x),), 1 / self.curvature)
        mask = None if self.mask is None else self.mask.to(x.device)
        for _ in range(self.iterations + 1):
            R, proposed = self.kernels.update(x, step[:, None] * m)
            better = R < least
            best, least = torch.where(_each(better, x), x, best), torch.where(better, R, least)
            if x.device.type == "cpu" and not bool((R > self.floor).any()):
                break  # on other devices the question would cost more than the launches that it saves
            moved = proposed - x if mask is None else torch.where(mask, proposed - x, 0)
            square = torch.where(_each(m, x) > 0, moved.square() / _each(m, x), 0).flatten(1).sum(1) / step.square()
            length = strength * (R - self.floor).clamp(min=0) / square
            length = torch.where(torch.isfinite(length), length, 0)
            x = x + _each(length / step, x) * moved
            step = torch.where(length > 0, length, step)
        return best

    @cached_property
    def curvature(self) -> float:
        """The largest of R at the data's mean, roughly: the first launch moves by its inverse, which only has to be of
        the right order."""
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(1, len(self.moves), *self.kernels.shape, generator=generator, dtype=torch.float64)
        at, size = torch.zeros_like(v), 1.0
        for _ in range(POWER_ITERATIONS):
            v = self.kernels.hvp(at, v / v.norm()) * _each(self.moves[None], v)
            size = float(v.norm())
            if not 0 < size < torch.inf:
                return 1.0
        return size


def _each(v: Tensor, x: Tensor) -> Tensor:
    """(B,) or (B, F) to broadcast over fields x."""
    return v.reshape(*v.shape, *(1,) * (x.ndim - v.ndim))
