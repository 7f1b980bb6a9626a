"""The kriging step for an equation that is linear in the fields that it lets move, matrix-free.

    x0 <- x0 - V J^T (J V J^T + s^2)^-1 r(x0),        V_f = w_f(sigma) M_f block by block over the fields,

over the fields that the equation lets move and the rows of all its residuals, level by level where it has levels. M_f
is the Wiener error covariance of field f alone, w_f the network's own mean square error over its trace: data that obey
a linear equation give J M = 0 for the joint M, and the step would move nothing. The system is solved by conjugate
gradients in float64, preconditioned by the diagonal of J V J^T in the sine or Hartley transform of each residual, which
for constant coefficients is its symbol. One iteration is the spectrally preconditioned gradient, of the best length.

Where J depends on fields that stay, as Darcy's on K, it is each member's own; the preconditioner is then that of J at
the prior's mean, between factors that make rows here as large as rows there.

s^2 is the mean square of each residual on the training data; 0 makes the step a hard projection. `scales: ml`
multiplies each V_f and all s^2, per member and step, by what makes the transformed residuals most likely.
"""

from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sciguide.constraints import EquationOnModel
from sciguide.errors import InputError
from sciguide.likelihood import equation_scales
from sciguide.model import Model
from sciguide.octaves import BANDS, Octaves
from sciguide.solver import Solved, conjugate_gradients

PROBES = 16
MOST_FACTORED = 3000  # rows of a system that is factorised
LEAST_S2 = 1e-8  # of the mean predicted variance: an exact s^2 of 0 leaves rounding to be divided by


class Spectrum(NamedTuple):
    """Diagonals in the transform of the L residuals, on their box (Y', X'): `fields` (F, L, Y', X') of J_f V_f J_f^T,
    and `white` (L, Y', X') of J J^T."""

    fields: Tensor
    white: Tensor


class At(NamedTuple):
    """Where J is taken: the equation's fields (B, F, [Z,] Y, X), and `balance` (B, L, Y, X), what makes a row as large
    as at the prior's mean. Both None where J is constant."""

    fields: Tensor | None = None
    balance: Tensor | None = None

    def balanced(self, w: Tensor) -> Tensor:
        """balance * w."""
        return w if self.balance is None else self.balance * w


HERE = At()


class EquationStep:
    """One equation, linear in what it moves, as a constraint on a model's clean estimate.

    `when`: "end" acts on the finished field alone, "always" at every step too, as observations beside it need;
    `iterations`: at most, of conjugate gradients, at least one, the preconditioned gradient; `hard`: s^2 = 0. Raises
    InputError for an equation that is not linear in the normalised fields that it moves.
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
        self.channels = equation.channels.of
        logs = [model.layout.names[c] for c in equation.moving if model.normaliser.log[c]]
        if logs or not equation.operator.linear_in_moves:
            why = f"{logs[0]} is log-transformed" if logs else "it is not linear in the fields that it moves"
            raise InputError(f"equation {equation.name} cannot guide by a kriging step: {why}")
        self.model, self.equation, self.prior = model, equation, model.prior
        self.scales, self.when, self.iterations, self.tolerance = scales, when, iterations, tolerance
        self.name, self.bands = equation.name, BANDS
        kinds = ("log innovation ratio", "log residual over white noise's")
        self.feature_names = tuple(f"{kind}, band {b}" for kind in kinds for b in range(BANDS))
        self.gain = equation.channels.gather(torch.as_tensor(model.normaliser.std)[None, :, None, None])  # du / dx
        K, grid = len(equation.operator.components), equation.operator.grid
        each = equation.operator.valid.expand(K, *grid.shape).flatten(0, -3)
        self.live = each.any((1, 2)).nonzero()[:, 0]  # a level may have no residual at all
        self.valid = each[self.live]
        told = torch.as_tensor(equation.record.s2, dtype=torch.float64).expand(K) * (not hard)
        self.s2 = told.repeat_interleave(len(each) // K)[self.live]
        self.octaves = Octaves(self.valid, model.grid.boundary)
        self.spectrum = lru_cache(maxsize=64)(self._spectrum)
        self.factor = lru_cache(maxsize=32)(self._factor)
        fields = equation.operator.fields
        self.moving = [f for f, name in enumerate(fields) if name in equation.operator.moves and self.channels[f]]
        self.constant = equation.operator.linear
        self.factored = self.constant and int(self.valid.sum()) <= MOST_FACTORED
        self.mean = At()
        if not self.constant:
            still = [f for f in range(len(fields)) if f not in self.moving]
            self.gain[:, still] = 0
            u = equation.physical(self.prior.mean[None].double())
            self.mean_sizes = self._sizes(u)
            self.mean = self.linearised(u)
        self.solved: Solved | None = None  # the last solve, for those who ask how many iterations it took

    def acts(self, index: int, last: int) -> bool:
        """On the finished field, and at every noise level where `when` says so."""
        return index == last or self.when == "always"

    # between normalised fields (B, C, Y, X) and rows (B, L, Y, X), the residuals or their levels over the scales

    def rows(self, x: Tensor) -> Tensor:
        """r(x)."""
        return self.equation.residual(x).flatten(1, -3)[:, self.live]

    def at(self, x: Tensor) -> At:
        """Where J is taken for the members x."""
        return At() if self.constant else self.linearised(self.equation.physical(x))

    def linearised(self, u: Tensor) -> At:
        """The same for the equation's fields u."""
        return At(u, torch.where(self.valid, self.mean_sizes / self._sizes(u).clamp(min=1e-300), 1))

    def _sizes(self, u: Tensor) -> Tensor:
        """sum_o |dr/du_o| over what moves, like the rows."""
        ones = torch.zeros_like(u)
        ones[:, self.moving] = 1
        found = self.equation.operator.kernels.reference.magnitude_along(u, ones)
        return self.equation.operator.relative(found).flatten(1, -3)[:, self.live]

    def forward(self, v: Tensor, at: At = HERE) -> Tensor:
        """J v."""
        v = self.equation.channels.gather(v) * self.gain
        u = v if at.fields is None else at.fields.expand_as(v)
        return self.equation.operator.relative(self.equation.operator.jvp(u, v)).flatten(1, -3)[:, self.live]

    def transpose(self, w: Tensor, at: At = HERE) -> Tensor:
        """J^T w, zero in the channels that are not the equation's."""
        operator, shape = self.equation.operator, self.equation.operator.grid.shape
        K, F = len(operator.components), len(operator.fields)
        r = w.new_zeros(len(w), K, *shape)
        r.view(len(w), -1, *w.shape[2:])[:, self.live] = w
        like = w.new_zeros(len(w), *self.model.shape)
        u = w.new_zeros(1, F, *shape) if at.fields is None else at.fields
        u = operator.vjp(u.expand(len(w), F, *shape), operator.relative(r)) * self.gain
        return self.equation.channels.scatter(u, like)

    def metric(self, v: Tensor, sigma: float, scale: Tensor | None = None) -> Tensor:
        """V v, (B, C, Y, X); `scale` (B, F) multiplies V_f of each of the equation's fields."""
        error = self.model.error.at(sigma)
        wiener = self.prior.error_std(sigma).flatten() ** 2
        out = torch.zeros_like(v)
        for f in self.moving:
            c = self.channels[f]
            weight = float(error[c].sum() / wiener[c].sum())
            block = weight * self.prior.apply_block(v[:, c], sigma, c)
            out[:, c] = block if scale is None else scale[:, f, None, None, None] * block
        return out

    def _spectrum(self, sigma: float) -> Spectrum:
        """By probes of one residual at a time: what others leave in it would be noise."""
        generator = torch.Generator().manual_seed(0)
        z = torch.randint(0, 2, (PROBES, *self.octaves.band.shape), generator=generator).to(torch.float64) * 2 - 1
        fields, white = [], []
        for k in range(len(self.valid)):
            probe = z.new_zeros(PROBES, len(self.valid), *self.octaves.band.shape)
            probe[:, k] = z
            back = self.transpose(self.octaves.inverse(probe, z.new_zeros(PROBES, *self.valid.shape)), self.mean)

            def diagonal(moved: Tensor, k: int = k) -> Tensor:
                found = (z * self.octaves.transform(self.forward(moved, self.mean)[:, k])).mean(0)
                # what few probes leave of off-diagonal noise is bounded by the mean over the octave
                means = self.octaves.means(found).clamp(min=1e-300)
                return torch.maximum(found, 0.05 * means[self.octaves.band])

            parts = []
            for c in self.channels:
                alone = torch.zeros_like(back)
                alone[:, c] = back[:, c]
                parts.append(diagonal(self.metric(alone, sigma)))
            fields.append(torch.stack(parts))
            white.append(diagonal(back))
        return Spectrum(torch.stack(fields, 1), torch.stack(white))

    def couples(self) -> bool:
        """Whether the prior does not know the equation yet, trace(J C J^T) > trace(s^2): then observations need it at
        every step, and M conditioned on it. Not where J varies: its factor would be each member's own."""
        if not self.constant:
            return False
        generator = torch.Generator().manual_seed(1)
        z = torch.randn(PROBES, *self.valid.shape, generator=generator, dtype=torch.float64)
        z = torch.where(self.valid, z, 0)
        trace = (z * self.forward(self.prior.apply_M(self.transpose(z), self.model.sigma_max))).sum() / PROBES
        return float(trace) > float(self.s2 @ self.valid.sum((1, 2)).double())

    def conditional(self, v: Tensor, sigma: float) -> Tensor:
        """V v - V J^T (J V J^T + s^2)^-1 J V v: the metric given the equation, for observations beside it."""
        moved = self.metric(v, sigma)
        r = self.forward(moved)
        field = r.new_ones(len(r), len(self.channels))
        if self.factored:
            return moved - self.metric(self.transpose(self._solve_factored(r, sigma, field)), sigma)
        s2 = self._least(self.spectrum(sigma))[:, None].expand(len(r), -1, BANDS)
        return moved - self.solve(r, sigma, field, s2).image

    def _solve_factored(self, r: Tensor, sigma: float, field: Tensor) -> Tensor:
        """(sum_f field_f J V_f J^T + s^2)^-1 r, exact where one field moves, or two and s^2 goes with the second."""
        vectors, share = self.factor(sigma)
        first, *others = self.moving
        rest = field[:, others].mean(1) if others else field[:, first]
        scale = field[:, first, None] * share + rest[:, None] * (1 - share)
        out = torch.zeros_like(r)
        out[:, self.valid] = ((r[:, self.valid] @ vectors) / scale) @ vectors.T
        return out

    def _factor(self, sigma: float) -> tuple[Tensor, Tensor]:
        """U (m, m) and shares (m,) with U^T K U = 1 and U^T K_1 U = diag(shares), K = sum_f J V_f J^T + s^2 and K_1 its
        part from the first field that moves: one factor then serves members whose scales differ."""
        rows = self.valid.nonzero()
        parts: list[list[Tensor]] = [[] for _ in self.moving]
        for part in rows.split(256):
            unit = torch.zeros(len(part), *self.valid.shape, dtype=torch.float64)
            unit[range(len(part)), *part.T] = 1
            back = self.transpose(unit)
            for f, found in zip(self.moving, parts, strict=True):
                alone = torch.zeros(len(part), len(self.channels), dtype=torch.float64)
                alone[:, f] = 1
                found.append(self.forward(self.metric(back, sigma, alone))[:, self.valid])
        matrices = [torch.cat(found) for found in parts]
        first = (matrices[0] + matrices[0].T) / 2
        whole = sum(matrices)
        whole = (whole + whole.T) / 2
        # a hard projection has no s^2, and a prior may leave rows without variance: rounding must not decide
        least = self._least(self.spectrum(sigma)).clamp(min=1e-12 * float(whole.diagonal().mean()))
        whole.diagonal().add_(least[rows[:, 0]])
        lower = torch.linalg.cholesky(whole)
        half = torch.linalg.solve_triangular(lower, first, upper=False)
        shares, q = torch.linalg.eigh(torch.linalg.solve_triangular(lower, half.T, upper=False))
        return torch.linalg.solve_triangular(lower.T, q, upper=True), shares.clamp(0, 1)

    def features(self, x0: Tensor, sigma: float) -> Tensor:
        """Per octave the log of the residuals' energy over its predicted variance, and over white noise's, (B, 8)."""
        energy = self.octaves.transform(self.at(x0).balanced(self.rows(x0))).square()
        spectrum = self.spectrum(sigma)
        predicted = spectrum.fields.sum(0) + self._least(spectrum)[:, None, None]
        ratios = [(energy / predicted).mean(1), (energy / spectrum.white).mean(1)]
        return torch.cat([self.octaves.means(ratio) for ratio in ratios], 1).clamp(1e-12, 1e12).log()

    def _least(self, spectrum: Spectrum) -> Tensor:
        """s^2 of every residual, (L,), never so small that rounding would be divided by it."""
        smallest = LEAST_S2 * spectrum.fields.sum(0).mean((1, 2))
        return torch.where(self.s2 == 0, self.s2, torch.maximum(self.s2, smallest))

    def correct(self, x0: Tensor, sigma: float, log_s2: Tensor | None = None, tilt: Tensor | None = None) -> Tensor:
        """The step. exp(`log_s2`) (B, 4) multiplies s^2 of each octave, exp(`tilt`) (B, C) the V_f of each channel."""
        r, at = self.rows(x0), self.at(x0)
        spectrum = self.spectrum(sigma)
        least = self._least(spectrum)
        field, noise = x0.new_ones(len(x0), len(self.channels)), least.expand(len(x0), -1)
        if self.scales == "ml" and bool((self.s2 > 0).all()):
            field, factor = self._likely(spectrum, self.octaves.transform(at.balanced(r)).square(), least)
            noise = noise * factor[:, None]
        s2 = noise[..., None].expand(-1, -1, BANDS)
        if log_s2 is not None:
            s2 = s2 * log_s2[:, None].exp()
        if tilt is not None:
            field = field * torch.stack([tilt[:, c].sum(1) / max(len(c), 1) for c in self.channels], 1).exp()
        self.solved = self.solve(r, sigma, field, s2, at)
        return x0 - self.solved.image

    def _likely(self, spectrum: Spectrum, energy: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
        """The most likely scales of V_f (B, F), 1 for fields that do not move, and of s^2 (B,)."""
        field = energy.new_ones(len(energy), len(self.channels))
        noise = least[:, None, None].expand_as(spectrum.white)
        field[:, self.moving], factor = equation_scales(spectrum.fields[self.moving], energy, noise)
        return field, factor

    def solve(self, r: Tensor, sigma: float, field: Tensor, s2: Tensor, at: At = HERE) -> Solved:
        """(sum_f field_f J V_f J^T + s^2)^-1 r for rows r (B, L, Y, X), `field` (B, F), `s2` (B, L, bands); its image
        is the step, sum_f field_f V_f J^T of it."""
        noise = s2[..., self.octaves.band]
        diagonal = torch.einsum("bf,flyx->blyx", field, self.spectrum(sigma).fields) + noise

        def system(w: Tensor) -> tuple[Tensor, Tensor]:
            step = self.metric(self.transpose(w, at), sigma, field)
            return self.forward(step, at) + self.octaves.inverse(noise * self.octaves.transform(w), w), step

        def precondition(w: Tensor) -> Tensor:
            if self.factored:
                return self._solve_factored(w, sigma, field)
            return at.balanced(self.octaves.inverse(self.octaves.transform(at.balanced(w)) / diagonal, w))

        return conjugate_gradients(system, precondition, r, self.iterations, self.tolerance)
