"""J V J^T + s^2 of a small system with constant J: factorised once per noise level, or for every member."""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from sciguide.equation_metric import Metric, only
from sciguide.jacobian import Jacobian
from sciguide.octaves import BANDS, Octaves

MOST_DIRECT, MOST_PAIRS = 400, 10  # rows, up to which a factor of each member's own is cheaper than conjugate gradients
TOGETHER = 16  # members that are factorised at once


class Factor:
    """(J V J^T + b s^2)^-1 for members whose scales a_f of V differ, from one factor: exact for blocks of one field, or
    of two where s^2 goes with the second; where V is joint, and the scales are not as told, near to it. `direct`:
    whether the system is so small that `own` is worth while."""

    def __init__(self, J: Jacobian, metric: Metric, waves: Octaves) -> None:
        self.J, self.metric, self.waves = J, metric, waves
        self.direct = int(J.valid.sum()) <= MOST_DIRECT and len(metric.pairs) <= MOST_PAIRS
        self.matrices = lru_cache(maxsize=32)(self._matrices)
        self.at = lru_cache(maxsize=32)(self._at)
        self.noise = lru_cache(maxsize=8)(self._noise)

    def solve(self, r: Tensor, sigma: float, field: Tensor, least: Tensor) -> Tensor:
        """For rows r (B, L, Y, X), scales `field` (B, F) and s^2 of each octave `least` (L, 4)."""
        vectors, share = self.at(sigma, tuple(map(tuple, least.tolist())))
        first, *others = self.J.moving
        rest = field[:, others].mean(1) if others else field[:, first]
        scale = field[:, first, None] * share + rest[:, None] * (1 - share)
        out = torch.zeros_like(r)
        out[:, self.J.valid] = ((r[:, self.J.valid] @ vectors) / scale) @ vectors.T
        return out

    def own(self, r: Tensor, sigma: float, field: Tensor, s2: Tensor) -> tuple[Tensor, Tensor]:
        """(J V J^T + s^2)^-1 r by a factor of every member's own, for scales `field` (B, F) and s^2 of each
        octave (B, L, 4), and the relative residual that is left, (B,)."""
        matrices, out, left = self.matrices(sigma), torch.zeros_like(r), []
        for members in torch.arange(len(r), device=r.device).split(TOGETHER):
            whole = torch.einsum("bp,pij->bij", self.metric.by_pair(sigma, field[members]), matrices)
            least = 1e-12 * whole.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]  # as in `_at`
            noise = torch.maximum(s2[members], least)
            for k, (rows, octaves) in enumerate(zip(self._rows, self._octaves, strict=True)):
                whole[:, rows, rows] += torch.einsum("bo,oij->bij", noise[:, k], octaves)
            told = r[members][:, self.J.valid]
            lower, failed = torch.linalg.cholesky_ex(whole)
            found = torch.cholesky_solve(told[..., None], lower)
            found[failed > 0] = torch.nan  # guidance then leaves these members as they are
            own = torch.zeros_like(r[members])
            own[:, self.J.valid] = found[..., 0]
            out[members] = own
            rest = (whole @ found)[..., 0] - told
            left.append(rest.norm(dim=1) / told.norm(dim=1).clamp(min=1e-300))
        return out, torch.cat(left)

    @cached_property
    def _rows(self) -> list[slice]:
        """Which rows are each residual's."""
        ends = self.J.valid.sum((1, 2)).cumsum(0).tolist()
        return [slice(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True)]

    @cached_property
    def _octaves(self) -> list[Tensor]:
        """Of each residual, the projections on its octaves, (4, rows, rows)."""
        band = self.waves.band.flatten()
        each = [[w[:, band == b] for b in range(BANDS)] for w in map(self._waves, range(len(self.J.valid)))]
        return [torch.stack([b @ b.T for b in parts]) for parts in each]

    def _waves(self, k: int) -> Tensor:
        """The transform of residual `k`, (rows, waves)."""
        cells = self.J.valid[k].nonzero()
        unit = self.J.std.new_zeros(len(cells), *self.J.valid.shape)
        unit[range(len(cells)), k, *cells.T] = 1
        return self.waves.transform(unit)[:, k].flatten(1)

    def _noise(self, k: int, s2: tuple[float, ...]) -> Tensor:
        """The covariance of residual `k` where its s^2 differs by octave, (rows, rows): the same at most noise levels,
        and to be made of as many waves as there are rows."""
        w = self._waves(k)
        return w * w.new_tensor(s2)[self.waves.band].flatten() @ w.T

    def _matrices(self, sigma: float) -> Tensor:
        """Of each of the metric's pairs its part of J M J^T, (pairs, m, m)."""
        of, M, found = self.metric.parts, self.metric.model.prior.apply_M, {}
        for q in range(len(of)):
            firsts = [p for p, other in self.metric.pairs if other == q]
            whole = self._rows_of(lambda v, q=q: M(only(v, of[q]), sigma), [of[p] for p in firsts])
            found |= {(p, q): whole[n] + whole[n].T for n, p in enumerate(firsts)}
        return torch.stack([found[p, q] / (2 if p == q else 1) for p, q in self.metric.pairs])

    def _rows_of(self, moved: Callable[[Tensor], Tensor], parts: Sequence[Sequence[int]]) -> Tensor:
        """J A J_c^T for a linear map A of fields and J_c of each of the parts c alone, (parts, m, m)."""
        J, found = self.J, []
        for rows in J.valid.nonzero().split(256):
            unit = J.std.new_zeros(len(rows), *J.valid.shape)
            unit[range(len(rows)), *rows.T] = 1
            image = moved(J.transpose(unit))
            found.append(torch.stack([J.forward(only(image, of))[:, J.valid] for of in parts]))
        return torch.cat(found, 1)

    def _at(self, sigma: float, least: tuple[tuple[float, ...], ...]) -> tuple[Tensor, Tensor]:
        """U (m, m) and shares (m,) with U^T K U = 1 and U^T K_1 U = diag(shares), K = J V J^T + s^2 and K_1 its part
        from the first field that moves; where V is joint any U, and equal shares."""
        first, whole = self._first_and_whole(sigma)
        # a hard projection has no s^2, and a prior may leave rows without variance: rounding must not decide
        noise = whole.new_tensor(least).clamp(min=1e-12 * float(whole.diagonal().mean()))
        for k, rows in enumerate(self._rows):
            if bool((noise[k] == noise[k, 0]).all()):
                whole[rows, rows].diagonal().add_(noise[k, 0])
            else:
                whole[rows, rows] += self.noise(k, tuple(noise[k].tolist()))
        lower = torch.linalg.cholesky(whole)
        if first is None:
            upper = torch.linalg.solve_triangular(lower.T, torch.eye(len(whole)).to(whole), upper=True)
            return upper, whole.new_full((len(whole),), 1 / len(self.J.moving))
        half = torch.linalg.solve_triangular(lower, first, upper=False)
        shares, q = torch.linalg.eigh(torch.linalg.solve_triangular(lower, half.T, upper=False))
        return torch.linalg.solve_triangular(lower.T, q, upper=True), shares.clamp(0, 1)

    def _first_and_whole(self, sigma: float) -> tuple[Tensor | None, Tensor]:
        """The part of J V J^T from the first field that moves, where V is in blocks, and all of it, (m, m)."""
        if self.metric.joint:
            every = range(len(self.metric.together))
            (whole,) = self._rows_of(lambda v: self.metric(v, sigma), [every])
            return None, (whole + whole.T) / 2
        weights = self.metric.by_pair(sigma, self.J.std.new_ones(1, len(self.J.channels.of)))[0]
        parts = weights[:, None, None] * (self.matrices(sigma) if self.direct else self._matrices(sigma))
        return parts[0], parts.sum(0)
