"""The kriging step for an equation, matrix-free.

    x0 <- x0 - V J^T (J V J^T + s^2)^-1 r(x0),        V_f = w_f(sigma) M_f block by block over the fields,

over the fields that the equation lets move. M_f is the Wiener error covariance of field f alone, w_f the network's own
mean square error over its trace: data that obey a linear equation give J M = 0 for the joint M, and the step would move
nothing. The system is solved by conjugate gradients in float64, preconditioned by the diagonal of J V J^T in the sine
or Hartley transform of the residual, which for constant coefficients is its symbol. No iterations at all is the
spectrally preconditioned gradient.

s^2 is the mean square of the residual on the training data; 0 makes the step a hard projection. `scales: ml` multiplies
each V_f and s^2, per member and step, by what makes the transformed residual most likely.
"""

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from scipy.fft import dst
from torch import Tensor

from sciguide.constraints import EquationOnModel
from sciguide.errors import InputError
from sciguide.likelihood import equation_scales
from sciguide.model import Model
from sciguide.solver import Solved, conjugate_gradients

PROBES = 16
MOST_FACTORED = 3000  # rows of a system that is factorised
BANDS = 4  # octaves of the wavenumber, the last holds all that is longer
LEAST_S2 = 1e-8  # of the mean predicted variance: an exact s^2 of 0 leaves rounding to be divided by


class Spectrum(NamedTuple):
    """Diagonals in the transform of the residual, on its box (Y', X'): `fields` (F, Y', X') of J_f V_f J_f^T, and
    `white` of J J^T."""

    fields: Tensor
    white: Tensor


class EquationStep:
    """One linear equation as a constraint on a model's clean estimate.

    `when`: "end" acts on the finished field alone, "always" at every step too, as observations beside it need;
    `iterations`: at most, of conjugate gradients, 0 for the preconditioned gradient; `hard`: s^2 = 0. Raises InputError
    for an equation that is not linear in the normalised fields.
    """

    def __init__(
        self,
        model: Model,
        equation: EquationOnModel,
        scales: Literal["told", "ml"] = "ml",
        when: Literal["end", "always"] = "end",
        iterations: int = 200,
        tolerance: float = 1e-6,
        hard: bool = False,
    ) -> None:
        logs = [model.layout.names[c] for c in equation.channels if model.normaliser.log[c]]
        if logs or not equation.operator.linear:
            why = f"{logs[0]} is log-transformed" if logs else "it is not linear in its fields"
            raise InputError(f"equation {equation.name} cannot guide by a kriging step: {why}")
        self.model, self.equation, self.prior = model, equation, model.prior
        self.scales, self.when, self.iterations, self.tolerance = scales, when, iterations, tolerance
        self.s2 = 0.0 if hard else equation.record.s2
        self.name, self.bands, self.channels = equation.name, BANDS, list(equation.channels)
        kinds = ("log innovation ratio", "log residual over white noise's")
        self.feature_names = tuple(f"{kind}, band {b}" for kind in kinds for b in range(BANDS))
        std = torch.as_tensor(model.normaliser.std)[self.channels, None, None]
        self.gain = std / equation.operator.scale[0]  # dr / dx of a normalised channel, before the operator's J
        valid = equation.operator.valid
        rows, columns = valid.any(1).nonzero()[:, 0], valid.any(0).nonzero()[:, 0]
        self.box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        sizes = [s.stop - s.start for s in self.box]
        self.transforms = [_transform(n, rule) for n, rule in zip(sizes, model.grid.boundary, strict=True)]
        self.band = _bands(*sizes, model.grid.boundary)
        self.spectrum = lru_cache(maxsize=64)(self._spectrum)
        self.factor = lru_cache(maxsize=32)(self._factor)
        fields = equation.operator.fields
        self.moving = [f for f, name in enumerate(fields) if name in equation.operator.moves]
        self.factored = int(valid.sum()) <= MOST_FACTORED
        self.solved: Solved | None = None  # the last solve, for those who ask how many iterations it took

    def acts(self, index: int, last: int) -> bool:
        """On the finished field, and at every noise level where `when` says so."""
        return index == last or self.when == "always"

    # the operator, between normalised fields (B, C, Y, X) and rows (B, Y, X)

    def forward(self, v: Tensor) -> Tensor:
        """J v."""
        u = v[:, self.channels] * self.gain
        return self.equation.operator.jvp(u, u)[:, 0]

    def transpose(self, w: Tensor) -> Tensor:
        """J^T w, zero in the channels that are not the equation's."""
        out = w.new_zeros(len(w), *self.model.shape)
        like = w.new_zeros(len(w), len(self.channels), *w.shape[1:])
        out[:, self.channels] = self.equation.operator.vjp(like, w[:, None]) * self.gain
        return out

    def metric(self, v: Tensor, sigma: float, scale: Tensor | None = None) -> Tensor:
        """V v, (B, C, Y, X); `scale` (B, F) multiplies V_f of each of the equation's fields."""
        error = self.model.error.at(sigma)
        wiener = self.prior.error_std(sigma).flatten() ** 2
        out = torch.zeros_like(v)
        for f, c in enumerate(self.channels):
            if self.equation.operator.fields[f] not in self.equation.operator.moves:
                continue
            alone = torch.zeros_like(v)
            alone[:, c] = v[:, c]
            weight = float(error[c] / wiener[c])
            block = weight * self.prior.apply_M(alone, sigma)[:, c]
            out[:, c] = block if scale is None else scale[:, f, None, None] * block
        return out

    def to_bands(self, r: Tensor) -> Tensor:
        """The orthonormal transform of rows (B, Y, X) on their box, (B, Y', X')."""
        left, right = self.transforms
        return left @ r[:, self.box[0], self.box[1]] @ right.T

    def from_bands(self, rho: Tensor, like: Tensor) -> Tensor:
        """The inverse of `to_bands`, zero where rows are not valid."""
        left, right = self.transforms
        out = torch.zeros_like(like)
        out[:, self.box[0], self.box[1]] = left.T @ rho @ right
        return torch.where(self.equation.operator.valid, out, 0)

    def _spectrum(self, sigma: float) -> Spectrum:
        generator = torch.Generator().manual_seed(0)
        shape = (PROBES, *self.band.shape)
        z = torch.randint(0, 2, shape, generator=generator).to(torch.float64) * 2 - 1
        like = z.new_zeros(PROBES, *self.equation.operator.valid.shape)
        back = self.transpose(self.from_bands(z, like))

        def diagonal(fields: Tensor) -> Tensor:
            found = (z * self.to_bands(self.forward(fields))).mean(0)
            # what few probes leave of off-diagonal noise is bounded by the mean over the octave
            means = torch.stack([found[self.band == b].mean().clamp(min=1e-300) for b in range(BANDS)])[self.band]
            return torch.maximum(found, 0.05 * means)

        parts = []
        for c in self.channels:
            alone = torch.zeros_like(back)
            alone[:, c] = back[:, c]
            parts.append(diagonal(self.metric(alone, sigma)))
        return Spectrum(torch.stack(parts), diagonal(back))

    def couples(self) -> bool:
        """Whether the prior does not know the equation yet, trace(J C J^T) > trace(s^2): then observations need it at
        every step, and M conditioned on it."""
        generator = torch.Generator().manual_seed(1)
        valid = self.equation.operator.valid
        z = torch.where(valid, torch.randn(PROBES, *valid.shape, generator=generator, dtype=torch.float64), 0)
        trace = (z * self.forward(self.prior.apply_M(self.transpose(z), self.model.sigma_max))).sum() / PROBES
        return float(trace) > self.s2 * int(valid.sum())

    def conditional(self, v: Tensor, sigma: float) -> Tensor:
        """V v - V J^T (J V J^T + s^2)^-1 J V v: the metric given the equation, for observations beside it."""
        moved = self.metric(v, sigma)
        return moved - self.metric(self.transpose(self._solve_formula(self.forward(moved), sigma)), sigma)

    def _solve_formula(self, r: Tensor, sigma: float) -> Tensor:
        """(J V J^T + s^2)^-1 r for rows r (B, Y, X), with the formula's own scales."""
        field = r.new_ones(len(r), len(self.channels))
        if self.factored:
            return self._solve_factored(r, sigma, field)
        return self.solve(r, sigma, field, r.new_full((len(r), BANDS), self._least(self.spectrum(sigma)))).weights

    def _solve_factored(self, r: Tensor, sigma: float, field: Tensor) -> Tensor:
        """(sum_f field_f J V_f J^T + s^2)^-1 r, exact where one field moves, or two and s^2 goes with the second."""
        valid, (vectors, share) = self.equation.operator.valid, self.factor(sigma)
        first, *others = self.moving
        rest = field[:, others].mean(1) if others else field[:, first]
        scale = field[:, first, None] * share + rest[:, None] * (1 - share)
        out = torch.zeros_like(r)
        out[:, valid] = ((r[:, valid] @ vectors) / scale) @ vectors.T
        return out

    def _factor(self, sigma: float) -> tuple[Tensor, Tensor]:
        """U (m, m) and shares (m,) with U^T K U = 1 and U^T K_1 U = diag(shares), K = sum_f J V_f J^T + s^2 and K_1 its
        part from the first field that moves: one factor then serves members whose scales differ."""
        valid = self.equation.operator.valid
        rows = valid.nonzero()
        parts: list[list[Tensor]] = [[] for _ in self.moving]
        for part in rows.split(256):
            unit = torch.zeros(len(part), *valid.shape, dtype=torch.float64)
            unit[range(len(part)), part[:, 0], part[:, 1]] = 1
            back = self.transpose(unit)
            for f, found in zip(self.moving, parts, strict=True):
                alone = torch.zeros(len(part), len(self.channels), dtype=torch.float64)
                alone[:, f] = 1
                found.append(self.forward(self.metric(back, sigma, alone))[:, valid])
        matrices = [torch.cat(found) for found in parts]
        first = (matrices[0] + matrices[0].T) / 2
        whole = sum(matrices)
        whole = (whole + whole.T) / 2
        # a hard projection has no s^2, and a prior may leave rows without variance: rounding must not decide
        whole.diagonal().add_(max(self._least(self.spectrum(sigma)), 1e-12 * float(whole.diagonal().mean())))
        lower = torch.linalg.cholesky(whole)
        half = torch.linalg.solve_triangular(lower, first, upper=False)
        shares, q = torch.linalg.eigh(torch.linalg.solve_triangular(lower, half.T, upper=False))
        return torch.linalg.solve_triangular(lower.T, q, upper=True), shares.clamp(0, 1)

    def features(self, x0: Tensor, sigma: float) -> Tensor:
        """Per octave the log of the residual's energy over its predicted variance, and over white noise's, (B, 8)."""
        energy = self.to_bands(self.equation.residual(x0)[:, 0]).square()
        spectrum = self.spectrum(sigma)
        predicted = spectrum.fields.sum(0) + self._least(spectrum)
        ratios = [energy / predicted, energy / spectrum.white]
        means = [ratio[:, self.band == b].mean(1) for ratio in ratios for b in range(BANDS)]
        return torch.stack(means, 1).clamp(1e-12, 1e12).log()

    def _least(self, spectrum: Spectrum) -> float:
        return max(self.s2, 0.0 if self.s2 == 0 else LEAST_S2 * float(spectrum.fields.sum(0).mean()))

    def correct(self, x0: Tensor, sigma: float, log_s2: Tensor | None = None, tilt: Tensor | None = None) -> Tensor:
        """The step. exp(`log_s2`) (B, 4) multiplies s^2 of each octave, exp(`tilt`) (B, C) the V_f of each channel."""
        r = self.equation.residual(x0)[:, 0]
        spectrum = self.spectrum(sigma)
        field, noise = x0.new_ones(len(x0), len(self.channels)), x0.new_full((len(x0),), self._least(spectrum))
        if self.scales == "ml" and self.s2 > 0:
            field, factor = equation_scales(spectrum.fields, self.to_bands(r).square(), float(noise[0]))
            noise = noise * factor
        s2 = noise[:, None].expand(-1, BANDS)
        if log_s2 is not None:
            s2 = s2 * log_s2.exp()
        if tilt is not None:
            field = field * tilt[:, self.channels].exp()
        self.solved = self.solve(r, sigma, field, s2)
        return x0 - self.metric(self.transpose(self.solved.weights), sigma, field)

    def solve(self, r: Tensor, sigma: float, field: Tensor, s2: Tensor) -> Solved:
        """(sum_f field_f J V_f J^T + s^2)^-1 r for rows r (B, Y, X), `field` (B, F), `s2` (B, bands)."""
        noise = s2[:, self.band]
        diagonal = torch.einsum("bf,fyx->byx", field, self.spectrum(sigma).fields) + noise

        def system(w: Tensor) -> Tensor:
            moved = self.forward(self.metric(self.transpose(w), sigma, field))
            return moved + self.from_bands(noise * self.to_bands(w), w)

        def precondition(w: Tensor) -> Tensor:
            if self.factored and self.iterations:
                return self._solve_factored(w, sigma, field)
            return self.from_bands(self.to_bands(w) / diagonal, w)

        return conjugate_gradients(system, precondition, r, self.iterations, self.tolerance)


def _transform(n: int, rule: str) -> Tensor:
    """An orthonormal real transform of n points: Hartley on periodic axes, sine (DST-I) on others."""
    if rule == "periodic":
        angle = 2 * math.pi * torch.arange(n, dtype=torch.float64)[:, None] * torch.arange(n) / n
        return (angle.cos() + angle.sin()) / math.sqrt(n)
    return torch.from_numpy(dst(torch.eye(n, dtype=torch.float64).numpy(), type=1, axis=0, norm="ortho"))


def _bands(ny: int, nx: int, boundary: tuple[str, str]) -> Tensor:
    """The octave of every transformed row, (ny, nx): 0 the shortest waves."""
    ky, kx = (_wavenumber(n, rule) for n, rule in zip((ny, nx), boundary, strict=True))
    k = (ky[:, None] ** 2 + kx**2).sqrt() / math.sqrt(2)
    return (-k.log2()).floor().clamp(0, BANDS - 1).long()


def _wavenumber(n: int, rule: str) -> Tensor:
    """Of the rows of `_transform`, over the shortest wave's."""
    i = torch.arange(n, dtype=torch.float64)
    return torch.minimum(i, n - i) / (n / 2) if rule == "periodic" else (i + 1) / n
