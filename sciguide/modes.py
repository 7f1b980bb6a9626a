"""Leading modes of a covariance of several channels, for the `eof` prior."""

from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

MOST_MODES = 768
NEGLIGIBLE_SHARE = 1e-3  # of the mean variance, at most, is what modes that are not kept leave at a point


class Span(NamedTuple):
    """Orthonormal `vectors` (D, r), the variances `leading` (r,) along them, and `tau2` (C,), of what they leave."""

    vectors: Tensor
    leading: Tensor
    tau2: Tensor


class Spans:
    """Modes of the covariance C of D points with `variance` and area `weights` (D,), `sizes` of them in each channel.
    `covariance(v, part)`: C v within a part of the points alone, (d, k) -> (d, k). `negligible`: standard deviation of
    what need not be told apart, where it is smaller than that of NEGLIGIBLE_SHARE."""

    def __init__(
        self,
        covariance: Callable[[Tensor, slice], Tensor],
        variance: Tensor,
        weights: Tensor,
        sizes: list[int],
        negligible: float,
    ) -> None:
        self.covariance, self.weights, self.sizes = covariance, weights, sizes
        self.parts = [slice(stop - size, stop) for size, stop in zip(sizes, accumulate(sizes), strict=True)]
        self.total = torch.stack([variance[part].sum() for part in self.parts])
        self.whole, self.negligible = slice(0, sum(sizes)), negligible

    def least(self, total: Tensor, points: int) -> float:
        """The variance of a point that need not be told apart, of so many with the variance `total`."""
        return min(NEGLIGIBLE_SHARE * float(total) / points, self.negligible**2)

    def joint(self) -> Span:
        """Leading modes of all channels together, and one tau2 for all."""
        v, variances, left = self._leading(self.whole, self.total.sum())
        r = self._needed(left, self.least(self.total.sum(), self.whole.stop))
        return Span(v[:, :r].contiguous(), variances[:r], left[r - 1].expand(len(self.sizes)))

    def by_channel(self) -> Span:
        """Leading modes of each channel, with all covariances between them, and each channel's own tau2: of two fields,
        the smoother is then as smooth in draws. What needs few modes leaves room for what needs many."""
        found = []
        for part, total in zip(self.parts, self.total, strict=True):
            v, _, left = self._leading(part, total)
            found.append((self._needed(left, self.least(total, part.stop - part.start)), part, v, left))
        room, columns, tau2 = MOST_MODES, [], self.total.clone()
        for position, c in enumerate(sorted(range(len(found)), key=lambda c: found[c][0])):
            need, part, v, left = found[c]
            kept = max(1, min(need, room // (len(found) - position)))
            room -= kept
            tau2[c] = left[kept - 1]
            whole = v.new_zeros(self.whole.stop, kept)
            whole[part] = v[:, :kept]
            columns.append(whole)
        v, variances = self._diagonal(torch.cat(columns, 1), self.whole)
        return Span(v.contiguous(), variances, tau2)

    def log_det(self, span: Span) -> float:
        """Of the covariance that a span stands for: the smaller, the likelier are fields of the covariance itself
        (their quadratic form is D either way). Variances as small as what need not be told apart are that."""
        least = torch.tensor([self.least(t, n) for t, n in zip(self.total, self.sizes, strict=True)])
        kept = torch.stack([span.vectors[part].square().sum() for part in self.parts])
        rest = torch.tensor(self.sizes) - kept
        leading = span.leading.clamp(min=float(least.min())).log().sum()
        return float(leading + rest @ torch.maximum(span.tau2, least.to(span.tau2)).log())

    def _leading(self, part: slice, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Orthonormal modes (d, r) of the points of `part` alone, their variances, and the mean variance that as many
        as so far leave at a point, (r,)."""
        d, root = part.stop - part.start, self.weights[part].sqrt()[:, None]

        def apply(v: Tensor) -> Tensor:
            return root * self.covariance(root * v, part)

        v = leading_directions(apply, d, min(MOST_MODES, d - 1))
        # orthonormal without the weights, and diagonal within their span
        v, variances = self._diagonal(torch.linalg.qr(v / root)[0], part)
        left = (total - variances.cumsum(0)) / (d - torch.arange(1, len(variances) + 1))
        return v, variances, left.clamp(min=0)

    def _diagonal(self, v: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """The directions within the span of `v` in which the covariance of a part is diagonal, and their variances."""
        variances, rotation = torch.linalg.eigh(v.T @ self.covariance(v, part))
        return v @ rotation.flip(1), variances.flip(0).clamp(min=0)

    @staticmethod
    def _needed(left: Tensor, least: float) -> int:
        enough = (left <= least).nonzero()[:1].flatten().tolist()
        return enough[0] + 1 if enough else len(left)


def leading_directions(apply: Callable[[Tensor], Tensor], d: int, r: int, iterations: int = 2) -> Tensor:
    """The r leading eigenvectors (d, r) of a symmetric positive operator on (d, k) matrices, by subspace iteration from
    a fixed random start (Halko, Martinsson and Tropp 2011); exact where r + 64 reaches d."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(d, min(d, r + 64), generator=generator, dtype=torch.float64)
    for _ in range(iterations):
        q = torch.linalg.qr(apply(torch.linalg.qr(q)[0]))[0]
    values, vectors = torch.linalg.eigh(q.T @ apply(q))
    return q @ vectors.flip(1)[:, :r]
