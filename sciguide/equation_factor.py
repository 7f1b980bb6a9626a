"""J V J^T + s^2 of a small system with constant J, factorised once per noise level."""

from functools import lru_cache

import torch
from torch import Tensor

from sciguide.equation_metric import Metric
from sciguide.jacobian import Jacobian


class Factor:
    """(sum_f a_f J V_f J^T + b s^2)^-1 for members whose scales differ, from one factor: exact where one field moves,
    or two and s^2 goes with the second."""

    def __init__(self, J: Jacobian, metric: Metric) -> None:
        self.J, self.metric = J, metric
        self.at = lru_cache(maxsize=32)(self._at)

    def solve(self, r: Tensor, sigma: float, field: Tensor, least: Tensor) -> Tensor:
        """For rows r (B, L, Y, X), scales `field` (B, F) and s^2 `least` (L,)."""
        vectors, share = self.at(sigma, tuple(least.tolist()))
        first, *others = self.J.moving
        rest = field[:, others].mean(1) if others else field[:, first]
        scale = field[:, first, None] * share + rest[:, None] * (1 - share)
        out = torch.zeros_like(r)
        out[:, self.J.valid] = ((r[:, self.J.valid] @ vectors) / scale) @ vectors.T
        return out

    def _at(self, sigma: float, least: tuple[float, ...]) -> tuple[Tensor, Tensor]:
        """U (m, m) and shares (m,) with U^T K U = 1 and U^T K_1 U = diag(shares), K = sum_f J V_f J^T + s^2 and K_1 its
        part from the first field that moves."""
        J, rows = self.J, self.J.valid.nonzero()
        parts: list[list[Tensor]] = [[] for _ in J.moving]
        for part in rows.split(256):
            unit = J.std.new_zeros(len(part), *J.valid.shape)
            unit[range(len(part)), *part.T] = 1
            back = J.transpose(unit)
            for f, found in zip(J.moving, parts, strict=True):
                alone = unit.new_zeros(len(part), len(J.channels.of))
                alone[:, f] = 1
                found.append(J.forward(self.metric(back, sigma, alone))[:, J.valid])
        matrices = [torch.cat(found) for found in parts]
        first = (matrices[0] + matrices[0].T) / 2
        whole = sum(matrices)
        whole = (whole + whole.T) / 2
        # a hard projection has no s^2, and a prior may leave rows without variance: rounding must not decide
        noise = whole.new_tensor(least).clamp(min=1e-12 * float(whole.diagonal().mean()))
        whole.diagonal().add_(noise[rows[:, 0]])
        lower = torch.linalg.cholesky(whole)
        half = torch.linalg.solve_triangular(lower, first, upper=False)
        shares, q = torch.linalg.eigh(torch.linalg.solve_triangular(lower, half.T, upper=False))
        return torch.linalg.solve_triangular(lower.T, q, upper=True), shares.clamp(0, 1)
