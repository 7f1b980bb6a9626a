"""What a case's answers must be, and how far off they may be."""

from typing import Any

import torch
from torch import Tensor

from sciguide.kernels.reference import Reference
from sciguide.kernels.site import Site

TOLERANCE = dict.fromkeys(("energy_and_gradient", "residual", "jvp", "vjp"), 2e-6)
LOOSE = 10  # times these for rivals, which round as they happen to be written
CHECKED = 4  # samples of a batch that are compared, the first and the last among them


class WrongAnswer(AssertionError):
    """A kernel or a rival whose result is not that of the float64 reference."""


class Truth:
    """The float64 answers at x, v (B, F, ...) and w (B, K, ...), and the sums of their absolute terms."""

    def __init__(self, site: Site, x: Tensor, v: Tensor, w: Tensor) -> None:
        self.site, self.reference = site, Reference(site)
        B = len(x)
        self.samples = sorted({0, B // 3, 2 * B // 3, B - 1} if B > CHECKED else range(B))
        self.inputs = [tuple(t[b : b + 1].double() for t in (x, v, w)) for b in self.samples]
        self._known: dict[str, list[list[tuple[Tensor, Tensor]]]] = {}

    def error(self, operation: str, out: Any, box: tuple = (...,)) -> float:
        """The largest error of `out` over its bound; infinity where something else than 0 or a number stands where all
        terms are 0. Rows, of residual and jvp, may be given on `box` alone."""
        if operation not in self._known:
            self._known[operation] = [self._expected(operation, *inputs) for inputs in self.inputs]
        outs, worst = out if isinstance(out, tuple) else (out,), 0.0
        rows = operation in ("residual", "jvp")
        for b, expected in zip(self.samples, self._known[operation], strict=True):
            for found, (value, size) in zip(outs, expected, strict=True):
                if rows:
                    value, size = value[box], size[box]
                off = (found[b : b + 1].double() - value).abs()
                ratio = torch.where(size > 0, off / size, torch.where(off == 0, 0.0, torch.inf))
                worst = max(worst, float(ratio.nan_to_num(nan=torch.inf).max()))
        return worst

    def require(self, operation: str, out: Any, who: str, slack: float = 1, box: tuple = (...,)) -> float:
        """The error of `out`. Raises WrongAnswer where it is beyond the tolerance times `slack`."""
        error = self.error(operation, out, box)
        if error > slack * TOLERANCE[operation]:
            raise WrongAnswer(f"{operation} by {who} is off by {error:.2g} of the sum of its absolute terms")
        return error

    def _expected(self, operation: str, x: Tensor, v: Tensor, w: Tensor) -> list[tuple[Tensor, Tensor]]:
        reference = self.reference
        if operation == "residual":
            return [(reference.residual(x), reference.magnitude(x))]
        if operation == "jvp":
            return [(reference.jvp(x, v), reference.magnitude_along(x, v))]
        if operation == "vjp":
            return [(reference.vjp(x, w), reference.magnitude_transposed(x, w))]
        energy, gradient = reference.energy_and_gradient(x)
        size = reference.magnitude(x)
        parts = torch.from_numpy(self.site.share / self.site.scale**2).to(x)
        weight = torch.from_numpy(self.site.cell_weight).to(x).reshape(reference.valid.shape)
        pulled = parts.reshape(-1, *(1,) * self.site.axes) * weight * size
        bound = (pulled * size).flatten(1).sum(1)
        return [(energy, bound), (gradient, reference.magnitude_transposed(x, 2 * pulled))]
